"""Names of classes and videos do not steer the terminal, nor make lines of their own: they are escaped where shown."""

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path

import miniature
import noise
import pytest
import torch

import launch
import main_nce
from eval import main_classifier, merge_2stream_prob
from eval.report import read_json, write_json
from process_data.src import errors, extract_ff, k400_splits
from utils import checkpoint
from utils.console import log_file, printable, say, warn

ROOT = Path(__file__).parents[1]
CLEAR, TURN = "\x1b[2J", "\u202e"  # clears a terminal; shows what follows from right to left
NAME = f"Evil{CLEAR}class{TURN}gnp"
SHOWN = "Evil\\x1b[2Jclass\\u202egnp"
SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2"]
FRAMES = 120  # one that is damaged is less than 1 %
MOCO = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "-j", "0", "--moco-k", "8", "--moco-dim", "8"]


def is_plain(text: str) -> bool:
    return not any(character in text for character in (CLEAR, "\x1b", TURN))


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A dataset with a class of an evil name; some frames of its one test video do not decode."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_started", False)

    def make(damaged: int) -> list[str]:
        """The options that lead to it."""
        videos = [f"{NAME}/v_g{group:02d}_c01" for group in (1, 2)]
        made = miniature.Miniature("mine", tmp_path / "data", tmp_path / "splits", [NAME], videos[1:], videos[:1],
                                   dict.fromkeys(videos, FRAMES))
        miniature._write_splits(made)
        images = {video: [miniature.jpeg(miniature.frame(video, i)) for i in range(FRAMES)] for video in videos}
        images[videos[0]][:damaged] = [b"no JPEG"] * damaged
        miniature.write_lmdb(tmp_path / "data/mine/mine_frame.lmdb", images)
        return ["--dataset", "mine", *made.options, "--test", "random", "--retrieval"]
    return make


def test_a_name_is_escaped_on_the_console_and_in_the_log(evil, capsys):
    options = evil(damaged=1)
    assert launch.exit_code(lambda: main_classifier.main([*SMALL, *options, "-j", "0"])) == 0
    shown = capsys.readouterr()
    [log] = Path().rglob("*-test.log")
    assert f"video {SHOWN}/v_g01_c01: frame 0" in shown.out and is_plain(shown.out) and is_plain(shown.err)
    assert f"video {SHOWN}/v_g01_c01: frame 0" in log.read_text() and is_plain(log.read_text())
    written = next(Path().rglob("mine_test_vname.json"))
    assert written.read_text().isascii() and read_json(written) == [f"/somewhere/frame/{NAME}/v_g01_c01/"]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_name_is_escaped_on_standard_error(evil, capsys, workers):
    options = evil(damaged=FRAMES)
    assert launch.exit_code(lambda: main_classifier.main([*SMALL, *options, "-j", workers])) == 2
    shown = capsys.readouterr()
    assert f"video {SHOWN}/v_g01_c01, frame 0 " in shown.err and shown.err.count("\n") == 1
    assert is_plain(shown.err) and is_plain(shown.out)


def test_a_class_that_a_list_lacks_is_escaped(evil, capsys):
    options = evil(damaged=0)
    Path("splits/mine/ClassInd.txt").write_text("Other\n")
    assert launch.exit_code(lambda: main_classifier.main([*SMALL, *options, "-j", "0"])) == 2
    shown = capsys.readouterr().err
    assert SHOWN in shown and is_plain(shown) and shown.count("\n") == 1


@pytest.mark.parametrize("is_main", [True, False])
def test_a_warning_is_escaped_and_stays_one_line(monkeypatch, capsys, is_main):
    monkeypatch.setattr("utils.console.is_main", lambda: is_main)
    warn(f"video {NAME}\nerror: all is well")
    shown = "".join(capsys.readouterr())
    assert f"{SHOWN}\\nerror: all is well\n" in shown and shown.count("\n") == 1


def test_a_line_break_in_a_name_makes_no_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("splits/ucf101").mkdir(parents=True)
    Path("splits/ucf101/ClassInd.txt").write_text("A\nB\n")
    Path("p.json").write_text(json.dumps({f"{NAME}\nall is well/v": [[0.5, 0.5]]}))
    argv = ["--prob1", "p.json", "--prob2", "p.json", "--split_root", "splits"]
    assert launch.exit_code(lambda: merge_2stream_prob.main(argv)) == 2
    shown = capsys.readouterr().err
    assert f"class '{SHOWN}\\nall is well' of" in shown and shown.count("\n") == 1


@pytest.mark.parametrize("words", ["--resume X", "--test X", "--pretrain X"])
def test_what_a_checkpoint_holds_is_escaped(tmp_path, monkeypatch, capsys, words):
    noise.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> int:
        return launch.exit_code(lambda: main_nce.work(main_nce.parse(
            [*MOCO, "--dataset", "noise-2clip", "--epochs", "1", *words.split()])))
    assert run("") == 0
    [path] = Path("ckpt").rglob("epoch0.pth.tar")
    content = checkpoint.load(path)
    evil_text = f"{NAME}\nall is well"
    if words == "--resume X":
        content["options"] |= {"net": evil_text}
        content["made_with"] |= {"training set": evil_text}
    else:
        content["state_dict"][evil_text] = torch.ones(1)
    torch.save(content, path)
    capsys.readouterr()
    assert run(words.replace("X", str(path))) == 2
    shown = capsys.readouterr()
    assert SHOWN in shown.err and shown.err.count("\n") == 1 and is_plain(shown.out + shown.err)


def ended(capsys, main: Callable[[], None]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        errors.run(main)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


def test_data_preparation_escapes_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("A", f"Evil{TURN}gnp"):
        Path("videos", name).mkdir(parents=True)
        Path("videos", name, "v.avi").write_bytes(b"no video")
    monkeypatch.setattr(sys, "argv", ["", "--videos", "videos", "--out", "frames", "--workers", "1"])
    shown = ended(capsys, extract_ff.main)
    assert "left out videos/Evil\\u202egnp/v.avi: does not decode" in shown and is_plain(shown)
    Path("videos", NAME).mkdir()
    Path("videos", NAME, "v.avi").touch()
    shown = ended(capsys, extract_ff.main)
    assert SHOWN in shown and "rename" in shown and is_plain(shown) and shown.count("\n") == 1


def test_data_preparation_makes_no_line_of_a_line_break(tmp_path, capsys):
    rows = f'label,youtube_id,time_start,time_end\nabseiling,"{CLEAR}x\nerror: all is well",1,11\n'
    (tmp_path / "train.csv").write_text(rows)
    shown = ended(capsys, lambda: k400_splits.k400_files(tmp_path, {}))
    assert "\\x1b[2Jx\\nerror: all is well" in shown and shown.count("\n") == 1


def test_json_is_plain_text_whatever_names_it_holds(tmp_path):
    names = [NAME, "a\nb", "\udc80", "\0"]
    write_json(tmp_path / "x.json", names)
    assert (tmp_path / "x.json").read_text().isascii() and read_json(tmp_path / "x.json") == names


def test_a_name_that_is_no_text_is_shown_and_logged(tmp_path, capsys):
    with log_file(tmp_path / "log"):
        say("a\udc80b")
    assert (tmp_path / "log").read_text() == capsys.readouterr().out == "a\\udc80b\n" == printable("a\udc80b\n")


SPEAKERS = {"launch.py", "utils/console.py", "process_data/src/console.py",
            "utils/pipeline.py",  # writes commands, quoted, into their logs
            "utils/parser.py",  # prints completions, which hold names of options alone
            "utils/distributed.py"}  # says a line of its own, before there is a main process


def speaks(source: str) -> bool:
    """Whether a source prints by itself."""
    direct = ("print", "sys.stdout.write", "sys.stderr.write", "tqdm.write", "sys.stdout.buffer.write")
    return any(isinstance(node, ast.Call) and ast.unparse(node.func) in direct for node in ast.walk(ast.parse(source)))


def test_everything_is_said_through_what_escapes_names():
    packages = ("backbone", "dataset", "eval", "inspection", "model", "process_data", "utils")
    files = [*ROOT.glob("*.py"), *(file for package in packages for file in (ROOT / package).rglob("*.py"))]
    assert {str(file.relative_to(ROOT)) for file in files if speaks(file.read_text())} <= SPEAKERS
    assert speaks("print(name)") and speaks("if x:\n    sys.stderr.write(name)") and not speaks("say(name)")
