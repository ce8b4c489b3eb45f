"""The command itself: exit codes, the file it writes, hostile lists and names, and its name, which is Python's too."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import miniature
import pytest
from test_data_faults import change_video, without_frames
from test_inspect import EVERYTHING, listed, made, place_of

import launch
from dataset import inspect
from inspection import split, survey

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("kind", ["video", "group", "source"])
def test_a_planted_leak_is_named_and_is_the_exit_code(tmp_path, capsys, kind):
    mini = made(tmp_path)
    expected = {"video": f"  video {mini.train[0]}", "group": "  group 04 of class ApplyEyeMakeup",
                "source": f"  source 0: in train {mini.train[0]} (2), in test {mini.test[0]} (2)"}[kind]
    if kind == "video":
        listed(mini, "test", [*mini.test, mini.train[0]])
    elif kind == "group":
        listed(mini, "train", [v for v in mini.train if v != "ApplyEyeMakeup/v_ApplyEyeMakeup_g04_c02"])
        listed(mini, "test", [*mini.test, "ApplyEyeMakeup/v_ApplyEyeMakeup_g04_c02"])
    else:
        keys = [name.split("/")[1].rsplit("_", 1)[0] for name in (mini.train[0], mini.test[0])]
        file = mini.split_root / "mine" / "video_source.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | dict.fromkeys(keys, 0)))
    words = ["mine", *mini.options, "--seq_len", "8", "--clips", "0", "--json", str(tmp_path / "x.json")]
    assert launch.exit_code(lambda: inspect.main([*words, "--which_split", "1"])) == inspect.LEAK == 1
    shown = capsys.readouterr().out
    assert expected in shown.splitlines() and "split 1 leaks: " in shown
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["any_leak"] is True and written["splits"][0]["leaks"][f"{kind}s"]
    assert launch.exit_code(lambda: inspect.main([*words, "--which_split", "2"])) == (1 if kind == "source" else 0)


def run(*words: str) -> int:
    return launch.exit_code(lambda: inspect.main([*words, "--seq_len", "8", "--clips", "0"]))


def test_exit_codes(tmp_path, capsys):
    mini = made(tmp_path)
    assert run("mine", *mini.options, "--strict") == 0 and "nothing to worry about" in capsys.readouterr().out
    change_video(mini.data_root / "mine" / "mine_frame.lmdb", mini.train[0], without_frames(2))
    assert run("mine", *mini.options, "--all") == 0
    assert run("mine", *mini.options, "--all", "--strict") == inspect.WORRY == 3
    listed(mini, "test", mini.train[:2])
    assert run("mine", *mini.options, "--all", "--strict") == inspect.LEAK


@pytest.mark.parametrize(("words", "reason"), [
    (["nothing"], "no list of videos"), (["mine-f"], "no LMDB"), (["ucf101", "--which_split", "4"], "no split 4"),
    (["mine", "--which_split", "7"], "no list of videos, such as"), (["mine", "--img_dim", "1"], "'1'"),
    (["mine", "--clips", "65"], "between 0 and 64"),
    (["mine", "--which_split", "x"], "whole number"), (["mine-2stream"], "two clips"),
    (["mine", "--seq_len", "0"], "'0'"),
    (["mine", "--second_view", "residual"], "no effect"), (["../mine"], "no dataset name"), ([], "NAME")])
def test_what_cannot_be_looked_at_is_one_line(tmp_path, capsys, words, reason):
    mini = made(tmp_path, frames=3, groups=2, clips=1)
    (mini.data_root / "mine" / "mine_tvl1_frame.lmdb").unlink()
    assert launch.exit_code(lambda: inspect.main([*words, *mini.options])) == 2
    shown = capsys.readouterr()
    assert reason in shown.err and shown.err.count("\n") == 1 and shown.out == ""


@pytest.mark.parametrize(("file", "content", "code"), [
    ("train_split01.csv", "no list at all\n", 0), ("train_split01.csv", "", 0), ("ClassInd.txt", "", 2),
    ("video_source.json", "[]", 2), ("train_split01.csv", "A/\x1b[2Jb\ufeff\n,,,\n", 0)])
def test_damaged_lists_are_one_line(tmp_path, capsys, file, content, code):
    mini = made(tmp_path)
    (mini.split_root / "mine" / file).write_text(content)
    assert run("mine", *mini.options, "--which_split", "1") == code
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and shown.err.count("\n") == (1 if code else 0)
    if not code:
        assert "refuse the list" in shown.out


def test_names_do_not_steer_the_terminal(tmp_path, capsys):
    evil = "Ev\x1b[2Jil\u202egnp"
    names = [f"{evil}/v_g{group:02d}_c01" for group in (1, 2)]
    mini = miniature.Miniature("mine", tmp_path / "data", tmp_path / "splits", [evil], names[1:], names,
                               dict.fromkeys([*names, f"{evil}/new\nline"], 12))
    miniature._write_splits(mini)
    miniature._write_lmdbs(mini)
    assert run("mine", *mini.options, "--json", str(tmp_path / "x.json")) == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\u202e" not in shown and "  video Ev\\x1b[2Jil\\u202egnp/v_g02_c01" in shown
    assert (tmp_path / "x.json").read_text().isascii()
    assert json.loads((tmp_path / "x.json").read_text())["splits"][0]["leaks"]["videos"] == names[1:]


def test_the_file_holds_what_was_found(tmp_path):
    mini = made(tmp_path)
    assert run("mine-f", *mini.options, "--json", str(tmp_path / "new" / "x.json"), "--all") == 0
    found = survey.make(place_of(mini, "-f"), [1, 2, 3], EVERYTHING)
    assert json.loads((tmp_path / "new" / "x.json").read_text()) == json.loads(json.dumps(found.as_json()))
    assert len(found.splits) == 3 and isinstance(found.splits[0], split.Split)


def test_as_a_program_whose_output_nobody_reads_to_its_end(tmp_path):
    mini = made(tmp_path)
    listed(mini, "test", mini.train[:2])
    words = ["-m", "dataset.inspect", "mine", *mini.options, "--seq_len", "8", "--json", str(tmp_path / "x.json"),
             "--out", str(tmp_path / "out"), "--clips", "1", "--img_dim", "16"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True,
                          timeout=120, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
    assert (tmp_path / "x.json").is_file() and len(list((tmp_path / "out").glob("*.png"))) == 2


def test_the_script_takes_the_place_of_no_module_of_python(tmp_path):
    done = subprocess.run([sys.executable, "dataset/inspect.py", "mine"], cwd=ROOT, capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1 and "python -m dataset.inspect" in done.stderr and done.stderr.count("\n") == 1
    assert not any(Path(entry).resolve() == ROOT / "dataset" for entry in sys.path)
    inserted = 0
    for path in [path for path in ROOT.rglob("*.py") if ".venv" not in path.parts and "tests" not in path.parts]:
        for words in re.findall(r"sys\.path\.\w+\((.*)\)", path.read_text()):
            [level] = re.fullmatch(r"0, str\(Path\(__file__\)\.resolve\(\)\.parents\[(\d)\]\)", words).groups()
            assert path.parents[int(level)] == ROOT
            inserted += 1
    assert inserted > 5
