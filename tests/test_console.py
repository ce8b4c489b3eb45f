"""Colours and bars on terminals alone, the block that a run starts with, its progress lines and its logs."""

import io
import os
import pty
import sys
import time
from pathlib import Path

import pytest
from processes import Fork, fork

import main_nce
from engine.trainer import Trainer
from utils import console, launch
from utils.console import duration, mark_best, paint_table, table
from utils.errors import OptionError

ESCAPE = "\x1b["
SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "--moco-k", "8", "--moco-dim", "8", "-j", "0"]


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.isatty, self.fileno = lambda: is_terminal, lambda: 2


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(("is_terminal", "environment", "colours", "bars"), [
    (True, {}, True, True), (False, {}, False, False), (True, {"TERM": "dumb"}, False, False),
    (True, {"NO_COLOR": "1"}, False, True), (True, {"NO_COLOR": ""}, True, True),
    (False, {"FORCE_COLOR": "1"}, True, False), (False, {"FORCE_COLOR": ""}, False, False),
    (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, True)])
def test_colours_and_bars_depend_on_terminal_and_environment(is_terminal, environment, colours, bars, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(is_terminal))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert console.has_colours(Stream(is_terminal)) == colours
    for size in ((80, 24), (80, 0)):
        monkeypatch.setattr(os, "get_terminal_size", lambda handle, size=size: os.terminal_size(size))
        assert console.shows_bars() == (bars and size == (80, 24))  # tqdm draws none without a size


def test_warnings_are_yellow_and_errors_red_and_no_file_is_coloured(tmp_path, monkeypatch, capsys):
    def refuses():
        raise OptionError("a bad\x1b[2J value")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with console.log_file(tmp_path / "log"):
        console.warn("take\x1b[2J care")
        console.say(table(["name", "top-1 %"], mark_best([["a", "1.00"], ["b", "2.00"]])), paint=paint_table)
    assert launch.exit_code(refuses) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "\x1b[33mwarning: take\\x1b[2J care\x1b[0m"  # an escape of a name stays visible
    assert out.splitlines()[1].startswith("\x1b[1mname") and "\x1b[1;32m2.00*\x1b[0m" in out
    assert err.splitlines() == ["\x1b[31merror: a bad\\x1b[2J value\x1b[0m"]
    text = (tmp_path / "log").read_text()
    assert ESCAPE not in text and "2.00*" in text and text.count("\n") == 5


def test_the_best_of_each_column_is_marked():
    rows = [["a", "3.00", "-", "7.00"], ["b", "10.00", "-", "7.00"], ["c", "9.00", "1.00", "-"]]
    assert mark_best(rows) == [["a", "3.00 ", "- ", "7.00*"], ["b", "10.00*", "- ", "7.00*"],
                               ["c", "9.00 ", "1.00*", "- "]]
    assert mark_best(rows[:1]) == rows[:1]


@pytest.mark.parametrize(("seconds", "text"), [
    (0.2, "0 s"), (99, "99 s"), (100, "2 min"), (3500, "58 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"),
    (172_790, "2 days 0 h"), (187_200, "2 days 4 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_pipe_gets_a_line_every_period_even_while_one_item_lasts(monkeypatch, capsys):
    assert list(console.track("ab", 2, "quick")) == ["a", "b"]
    monkeypatch.setattr(console, "PERIOD", 0.1)
    for _ in console.track("ab", 2, "long"):
        time.sleep(0.25)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "long: 0 of 2 videos" and lines[-1].startswith("long: 1 of 2 videos, about ")


def test_a_run_starts_with_a_block_and_estimates_its_end(on_noise, monkeypatch, capsys):
    argv = [*SMALL, "--dataset", "noise-2clip", "--epochs", "2", "--schedule", "1", "--print_freq", "2", "--gpu", "0"]
    assert launch.exit_code(lambda: main_nce.work(main_nce.parse(argv))) == 0
    first, _, out = capsys.readouterr().out.partition("\n")
    assert first == "no GPU found: running on the CPU"
    lines = out.splitlines()
    assert [line[:10].strip() for line in lines[:6]] == ["run", "data", "start", "training", "on", "into"]
    block = "\n".join(lines[:6])
    for words in ("infonce with s3d on two clips of RGB; D 8, queue of 8, momentum 0.999, temperature 0.07",
                  "noise-2clip: 8 videos, clips of 8 frames, 32 px; 2 steps per epoch of 1 x 4",
                  "random weights, seed 0", "epochs 0 to 1, lr 0.001 (a tenth from epochs 1), weight decay 1e-05",
                  "cpu in fp32; processes: 1, threads: ", "loader workers: 0; PyTorch 2",
                  "ckpt/log-pretrain/infonce_k8_noise-2clip-32_s3d_bs4_lr0.001_seq2_len8_ds1"):
        assert words in block
    steps = [line for line in lines if line.startswith("train epoch") and "[" in line]
    assert [" left" in line for line in steps] == [True, True, True, False]
    [log] = on_noise.rglob("train.log")
    assert log.read_text() == out and ESCAPE not in out and "\r" not in out and "it/s" not in out
    monkeypatch.setattr(Trainer, "fit", lambda self, task: None)
    assert launch.exit_code(lambda: main_nce.work(main_nce.parse([*argv, "--resume", "auto"]))) == 0
    assert "start     resumed after 4 steps\n" in capsys.readouterr().out


# Consoles that are not UTF-8, and that nobody reads


def speak() -> None:
    for number in range(3):
        console.say(f"走る Größe \udcff {number}")
        console.warn("vidéo")
    with open("work", "w") as file:
        file.write("done")


def end_of(before, monkeypatch, tmp_path, code: int = 0) -> Fork:
    """Run `speak` to its end after a change of the standard streams."""
    monkeypatch.chdir(tmp_path)
    node = fork(speak, "node", before=before)
    assert node.end() == code and Path("work").read_text() == "done"
    return node


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_console_cannot_show_is_escaped(encoding, monkeypatch, tmp_path):
    def before() -> None:
        sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding)
    out = end_of(before, monkeypatch, tmp_path).out.read_bytes().decode(encoding)
    shown = {"ascii": "\\u8d70\\u308b Gr\\xf6\\xdfe", "latin-1": "\\u8d70\\u308b Größe"}.get(encoding, "走る Größe")
    assert out.startswith(f"{shown} \\udcff 0\nwarning: vid") and out.count("\n") == 6


@pytest.mark.parametrize("stream", ["pipe", "terminal", "closed"])
def test_work_goes_on_where_nobody_reads(stream, monkeypatch, tmp_path):
    def before() -> None:
        if stream == "closed":
            sys.stdout = None
        else:
            other, own = os.pipe() if stream == "pipe" else pty.openpty()
            os.close(other)
            sys.stdout = os.fdopen(own, "w")
    assert end_of(before, monkeypatch, tmp_path).err.read_text() == ""


def test_work_goes_on_where_the_disk_of_the_output_is_full(monkeypatch, tmp_path):
    def before() -> None:
        sys.stdout = open("/dev/full", "w")  # noqa: SIM115
    found = end_of(before, monkeypatch, tmp_path, code=2).errors()
    assert found == ["error: cannot read or write standard output (No space left on device): check the path, the "
                     "rights and the space"]
