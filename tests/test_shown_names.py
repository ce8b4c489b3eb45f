"""Names from files cannot steer the terminal or add lines of their own: they are escaped wherever they are shown."""

import ast
from collections.abc import Callable
from pathlib import Path

import miniature
import noise
import pytest

from eval import main_classifier
from utils import launch
from utils.console import log_file, printable, say, warn
from utils.files import read_json

ROOT = Path(__file__).parents[1]
CLEAR, TURN = "\x1b[2J", "\u202e"  # clears a terminal; shows what follows from right to left
NAME = f"Evil{CLEAR}class{TURN}gnp"
SHOWN = "Evil\\x1b[2Jclass\\u202egnp"
SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2"]
MOCO = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "-j", "0", "--moco-k", "8", "--moco-dim", "8"]
FRAMES = 120  # one damaged frame is less than 1 %


def is_plain(text: str) -> bool:
    return not any(character in text for character in ("\x1b", TURN))


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Call a main function in an empty folder; returns what it printed, and its errors."""
    monkeypatch.chdir(tmp_path)

    def call(main: Callable[[], int | None], code: int) -> tuple[str, str]:
        capsys.readouterr()
        assert launch.exit_code(main) == code
        out, err = capsys.readouterr()
        assert is_plain(out + err)
        return out, err
    return call


def evil_dataset(damaged: int) -> None:
    """Make a dataset whose class has an evil name; the first frames of its one test video do not decode."""
    videos = [f"{NAME}/v_g{group:02d}_c01" for group in (1, 2)]
    made = miniature.Miniature("mine", Path("data"), Path("splits"), [NAME], videos[1:], videos[:1],
                               dict.fromkeys(videos, FRAMES))
    miniature._write_splits(made)
    images = {video: [miniature.jpeg(miniature.frame(video, i)) for i in range(FRAMES)] for video in videos}
    images[videos[0]][:damaged] = [b"no JPEG"] * damaged
    miniature.write_lmdb(Path("data/mine/mine_frame.lmdb"), images)


@pytest.fixture
def retrieve(run, monkeypatch):
    """Run a retrieval on that dataset."""
    noise.install_network(monkeypatch.setattr)
    words = ["--dataset", "mine", "--data_root", "data", "--split_root", "splits", "--test", "random", "--retrieval"]
    return lambda workers, code: run(lambda: main_classifier.main([*words, *SMALL, "-j", workers]), code)


def test_a_class_name_on_the_console_and_in_files(retrieve):
    evil_dataset(damaged=1)
    out, _ = retrieve("0", 0)
    [log] = Path().rglob("*-test.log")
    assert f"video {SHOWN}/v_g01_c01: frame 0" in out and is_plain(log.read_text())
    assert f"video {SHOWN}/v_g01_c01: frame 0" in log.read_text()
    written = next(Path().rglob("mine_test_vname.json"))
    assert written.read_text().isascii() and read_json(written) == [f"/somewhere/frame/{NAME}/v_g01_c01/"]


def test_a_class_name_in_an_error(retrieve):
    evil_dataset(damaged=FRAMES)
    _, err = retrieve("1", 2)  # raised in a loader's worker
    assert f"video {SHOWN}/v_g01_c01, frame 0 " in err and err.count("\n") == 1
    Path("splits/mine/ClassInd.txt").write_text("Other\n")
    _, err = retrieve("0", 2)
    assert SHOWN in err and err.count("\n") == 1


@pytest.mark.parametrize("is_main", [True, False])
def test_a_warning_stays_one_line(monkeypatch, capsys, is_main):
    monkeypatch.setattr("utils.console.is_main", lambda: is_main)
    warn(f"video {NAME}\nerror: all is well")
    shown = "".join(capsys.readouterr())
    assert f"{SHOWN}\\nerror: all is well\n" in shown and shown.count("\n") == 1


def test_a_name_that_is_not_utf8_is_shown_and_logged(tmp_path, capsys):
    with log_file(tmp_path / "log"):
        say("a\udc80b")
    assert (tmp_path / "log").read_text() == capsys.readouterr().out == "a\\udc80b\n" == printable("a\udc80b\n")


def prints(source: str) -> bool:
    """Return whether a source prints to the terminal by itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called, files = ast.unparse(node.func), [ast.unparse(k.value) for k in node.keywords if k.arg == "file"]
            if called in ("sys.stdout.write", "sys.stderr.write", "tqdm.write"):
                return True
            if called == "print" and (not files or files[0].startswith("sys.")):
                return True
    return False


def test_only_the_console_prints():
    packages = ("backbone", "dataset", "engine", "eval", "model", "process_data", "utils")
    files = [*ROOT.glob("*.py"), *(file for package in packages for file in (ROOT / package).rglob("*.py"))]
    moved = {ROOT / "eval" / "search.py", ROOT / "dataset" / "inspect.py"}  # say where a command is now
    found = [file for file in files if file not in moved and prints(file.read_text())]
    assert [str(file.relative_to(ROOT)) for file in found] == ["utils/console.py"]
    assert prints("print(name)") and prints("if x:\n    sys.stderr.write(name)") and not prints("say(name)")
