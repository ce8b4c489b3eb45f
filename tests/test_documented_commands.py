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
    options = ("--dataset", "ucf101-2stream-2clip", "--cascade")
    for words, name, product in ((("main_nce.py",), "epoch7.pth.tar", "ckpt/log-pretrain/*/model/epoch0.pth.tar"),
                                 (("main_coclr.py", *options), "RUN", "ckpt/log-pretrain/*"),
                                 (("-m", "eval.search", "index", "CKPT", "videos"), "video_index", "made")):
        run = folder.with_name(f"for-{name}")
        run.mkdir()
        for each in ("data", "splits", "CKPT", "videos"):
            (run / each).symlink_to(folder / each)
        code, output = server.run(documented_runs.smaller(Command(("python", *words))), run)
        assert code == 0, output
        [made] = run.glob(product)
        (folder / name).symlink_to(made)
    documented_place.add_runs(folder, folder / "RUN")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_bash_reads_a_page(page):
    commands(page.read_text())


@pytest.mark.parametrize("command", everything(), ids=lambda command: str(command)[:90])
def test_a_documented_command_runs(command, server, place, tmp_path):
    assert documented_runs.check(server, command, place, tmp_path / "run") == ""


# What a page may have wrong, and a word of what is said of it.
WRONG = {
    "```\npython main_nce.py --no_such_option 3\n```": "no_such_option",
    "```\npython main_nce.py --dataset nowhere-2clip\n```": "nowhere",
    "```\npython eval/main_classifier.py --dataset ucf101 --test CHECKPOINT_OF_NOBODY --retrieval\n```": "OF_NOBODY",
    "```\npython main_nothing.py\n```": "tests/documented_runs.py",
    "```\nmake everything\n```": "tests/documented_runs.py",
    "Run `python -m benchmarks.soak --hours 3`.": "--hours",
    "```\npython -m torch.distributed.launch --no_such_option main_nce.py\n```": "2",
    "```\nbash scripts/no_such.sh\n```": "no_such.sh",
    "```\nconda env create -f no_such.yml\n```": "no_such.yml",
}


@pytest.mark.parametrize("page", WRONG, ids=lambda page: page.strip("`\n")[:60])
def test_a_wrong_command_is_noticed(page, server, place, tmp_path):
    [command] = commands(page)
    try:
        wrong = documented_runs.check(server, command, place, tmp_path / "run")
    except (documented_runs.Unlisted, SystemExit, Unreadable) as error:
        wrong = str(error)
    assert WRONG[page] in wrong


@pytest.mark.parametrize("page", ["```\npython main_nce.py $UNSET\n```", "```\npython 'main_nce.py\n```",
                                  "```fish\npython main_nce.py\n```", "```\npython main_nce.py\n"])
def test_a_page_that_no_shell_reads_is_noticed(page):
    with pytest.raises(Unreadable):
        commands(page)


def test_bash_takes_a_page_apart():
    page = ("Set `SIZE=\"--a 1 --b 'x y'\"`, then\n```\nexport KEPT=1\nX=2 python one.py $SIZE \\\n  --c  # none\n```\n"
            "or `python two.py ...`, not `python` and not\n```text\npython three.py\n```\n"
            "```\n$ python four.py \\\n   --d\nIt (says) so\n$ python five.py\n```\n")
    assert commands(page) == [
        Command(("python", "one.py", "--a", "1", "--b", "'x", "y'", "--c"), ("KEPT=1", "X=2")),
        *(Command(words, ("KEPT=1",)) for words in (("python", "two.py", "..."), ("python", "four.py", "--d"),
                                                    ("python", "five.py")))]


def test_nothing_is_left_out_that_no_page_has():
    """An exception that is not needed any more goes."""
    found = everything()
    texts = [f"{' '.join(command.words)} " for command in found]
    assert [start for start in documented_runs.NOT_RUN if not any(text.startswith(f"{start} ") for text in texts)] == []
    assert documented_runs.FAILS.keys() <= {text.strip() for text in texts}
    assert [name for name in documented_runs.TOO_LONG if not any(f"python {name} " in text for text in texts)] == []
