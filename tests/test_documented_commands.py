"""Every command in README.md and docs/*.md runs, on miniature data and with a small network."""

import shutil
import subprocess
from pathlib import Path

import documented_place
import noise
import pytest
from documented import NOT_RUN, PAGES, ROOT, Command, check, commands, run, shell_text

from model import classifier, momentum
from utils import launch

COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page.read_text())))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Miniature data and files, of which each command gets a copy."""
    folder = tmp_path_factory.mktemp("documented") / "place"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        small_network(patch)
        documented_place.make(folder, lambda command: run(command, folder, patch))
    return folder


def small_network(patch: pytest.MonkeyPatch) -> None:
    for module in (classifier, momentum):
        patch.setattr(module, "select_backbone", noise.small_backbone)


@pytest.fixture
def attempt(place, tmp_path, monkeypatch, capfd):
    """Run a command in a copy of the place; what is wrong with it, "" for nothing."""
    small_network(monkeypatch)
    monkeypatch.setattr(launch, "_started", False)

    def attempt(command: Command) -> str:
        shutil.copytree(place, tmp_path / "run", symlinks=True)
        return check(command, tmp_path / "run", monkeypatch, capfd)
    return attempt


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command)[:90])
def test_documented_command_runs(command, attempt):
    assert attempt(command) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_bash_reads_a_page(page):
    done = subprocess.run(["bash", "-n", "-c", shell_text(page.read_text())], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("text", "words"), [
    ("python main_nce.py --no_such_option 3", "no_such_option"), ("python main_nce.py --dataset none-2clip", "none"),
    ("bash scripts/no_such.sh", "no_such.sh"), ("conda env create -f no_such.yml", "no_such.yml")])
def test_wrong_command_is_noticed(text, words, attempt):
    [command] = commands(f"```\n{text}\n```")
    assert words in attempt(command)


def test_commands_of_a_page():
    page = ("Set `SIZE=\"--a 1 --b x\"`, then\n```\nX=2 python one.py $SIZE \\\n  --c  # none\n```\n"
            "or `python two.py ...`, not `python` and not\n```text\npython three.py\n```\n"
            "```\n$ python four.py \\\n   --d > out && bash e.sh\nIt (says) so\n$ python five.py\n```\n")
    assert commands(page) == [
        Command(("python", "one.py", "--a", "1", "--b", "x", "--c"), ("X=2",)), Command(("python", "two.py", "...")),
        Command(("python", "four.py", "--d")), Command(("bash", "e.sh")), Command(("python", "five.py",))]


def test_no_exception_is_left_over():
    texts = [f"{' '.join(command.words)} " for command in COMMANDS]
    assert [start for start in NOT_RUN if not any(text.startswith(f"{start} ") for text in texts)] == []
