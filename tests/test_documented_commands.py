"""Every command in README.md, docs/ and recipes/README.md runs, on miniature data, as bash would start it.

tests/documented_runs.py has the table of how each script is made smaller, and of what is not run.
"""

from pathlib import Path

import documented_place
import documented_runs
import pytest
import test_seed_commands
from documented import PAGES, ROOT, Command, Unreadable, commands
from documented_server import Server


def everything() -> list[Command]:
    """Each command of the pages once, in order; of a page that bash does not read, none: a test says so.

    Without the published ones, which test_seed_commands.py runs as they stand, on two processes.
    """
    found: dict[Command, None] = {}
    elsewhere = {test_seed_commands.published(name) for name in test_seed_commands.PUBLISHED}
    for page in PAGES:
        try:
            found |= dict.fromkeys(commands(page.read_text()))
        except Unreadable:
            continue
    return [command for command in found if str(command) not in elsewhere]


@pytest.fixture(scope="module")
def server():
    with Server().open() as server:
        yield server


@pytest.fixture(scope="module")
def place(server, tmp_path_factory) -> Path:
    """Miniature data and files, of which each command gets a copy."""
    folder = tmp_path_factory.mktemp("documented") / "place"
    folder.mkdir()
    documented_place.make(folder)
    trained = Command(("python", "main_nce.py"))
    mined = Command(("python", "main_coclr.py", "--cascade", "--dataset", "ucf101-2stream-2clip"))
    for command, name, product in ((trained, "epoch7.pth.tar", "*/model/epoch0.pth.tar"),
                                   (mined, "ckpt/log-pretrain/RUN", "*")):
        run = folder.with_name(Path(name).name)
        run.mkdir()
        for each in ("data", "splits"):
            (run / each).symlink_to(folder / each)
        code, output = server.run(documented_runs.smaller(command), run)
        assert code == 0, output
        [made] = run.glob(f"ckpt/log-pretrain/{product}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(made)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_bash_reads_a_page(page):
    commands(page.read_text())


@pytest.mark.parametrize("command", everything(), ids=lambda command: str(command)[:90])
def test_a_documented_command_runs(command, server, place, tmp_path):
    assert documented_runs.check(server, command, place, tmp_path / "run") == ""
