"""What the console shows: colours and bars on terminals alone, the start-up block, how long a training will take."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import noise
import pytest

import launch
import main_coclr
import main_nce
from eval.report import mark_best, table
from process_data.src import console as preparing
from utils import console, pipeline, step_log, terminal
from utils.errors import OptionError
from utils.pace import ENOUGH, Pace, duration
from utils.training import Training

ROOT = Path(__file__).parents[1]
ESCAPE = "\x1b["
SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "--moco-k", "8", "--moco-dim", "8", "-j", "0"]


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: is_terminal


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("size", [(80, 24), (0, 0), (80, 0)])
@pytest.mark.parametrize(("is_terminal", "environment", "colours", "bars"), [
    (True, {}, True, True), (False, {}, False, False), (True, {"TERM": "dumb"}, False, False),
    (True, {"NO_COLOR": "1"}, False, True), (True, {"NO_COLOR": ""}, True, True),
    (False, {"FORCE_COLOR": "1"}, True, False), (False, {"FORCE_COLOR": ""}, False, False),
    (False, {"FORCE_COLOR": "1", "TERM": "dumb"}, True, False),
    (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, True)])
def test_who_gets_colours_and_bars(is_terminal, environment, colours, bars, size, monkeypatch):
    monkeypatch.setattr(terminal, "_size", lambda stream: size)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal.has_colours(Stream(is_terminal)) == colours
    assert terminal.has_bars(Stream(is_terminal)) == (bars and size == (80, 24))  # else tqdm draws none


def test_warnings_are_yellow_and_errors_red_and_no_file_is_coloured(tmp_path, monkeypatch, capsys):
    def refuses():
        raise OptionError("a bad\x1b[2J value")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with console.log_file(tmp_path / "log"):
        console.warn("take\x1b[2J care")
        console.say(table(["name", "top-1 %"], mark_best([["a", "1.00"], ["b", "2.00"]])), paint=terminal.paint_table)
    assert launch.exit_code(refuses) == 2
    preparing.complain("left out a.avi: x")
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "\x1b[33mwarning: take\\x1b[2J care\x1b[0m"  # an escape of a name stays visible
    assert out.splitlines()[1].startswith("\x1b[1mname") and "\x1b[1;32m2.00*\x1b[0m" in out
    assert err.splitlines() == ["\x1b[31merror: a bad\\x1b[2J value\x1b[0m", "\x1b[33mleft out a.avi: x\x1b[0m"]
    text = (tmp_path / "log").read_text()
    assert ESCAPE not in text and "2.00*" in text and text.count("\n") == 5


def test_without_a_terminal_nothing_is_coloured(capsys):
    console.warn("x")
    console.say_rows([("run", "a"), ("", "b")])
    assert capsys.readouterr().out == "warning: x\nrun       a\n          b\n"


def test_the_steps_of_a_plan_write_no_colours_into_their_logs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils.console import warn; warn('x')"
    step = pipeline.Step("a step", ("python", "-c", code))
    with pipeline.Runner(tmp_path).open() as runner:
        runner.run([step])
    assert (tmp_path / "logs" / "a_step.log").read_text().splitlines()[1:] == ["warning: x"]


def test_a_plan_does_not_show_what_its_steps_would_run_next(tmp_path):
    (tmp_path / "log").write_text("$ a command\none\ntwo\nnext:\n  # retrieval\n  python x.py\n")
    assert step_log.last_lines(tmp_path / "log", 2) == ["one", "two"]


def test_the_best_of_each_column_is_marked():
    rows = [["a", "3.00", "-", "7.00"], ["b", "10.00", "-", "7.00"], ["c", "9.00", "1.00", "-"]]
    assert mark_best(rows) == [["a", "3.00 ", "- ", "7.00*"], ["b", "10.00*", "- ", "7.00*"],
                               ["c", "9.00 ", "1.00*", "- "]]
    assert mark_best(rows[:1]) == rows[:1]


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def paced(steps: int, warm_up: int, costs: list[float], every: int, done: int = 0, pauses: dict[int, float] = {},  # noqa: B006
          ) -> list[tuple[int, str]]:
    """The lines of a training whose steps cost so many seconds, read every so many steps: (steps done, line)."""
    clock, lines = Clock(), []
    pace = Pace(steps, warm_up, done, clock=clock, now=lambda: 0.0)
    for number, cost in enumerate(costs, start=1):
        if number in pauses:
            clock.seconds += pauses[number]
            pace.pause()
        clock.seconds += cost
        if number % every == 1 or every == 1:
            lines.append((number, pace.read(done + number)))
    return [(number, line) for number, line in lines if line]


def test_the_pace_leaves_out_warm_up_and_pauses_and_is_told_once():
    costs = [60.0] * 4 + [1, 2, 3, 4, 5] + [100.0] * 5
    [(number, line)] = paced(1009, 4, costs, 1)
    assert number == 9  # steps 5 to 9 take 15 s: 3 s a step, of which 1000 are left
    assert line.startswith("3 s a step: about 50 min for the 1000 steps left, until Thu 01 Jan, ")
    assert paced(1009, 4, costs, 1, done=500) == [(number, line)]
    [(later, paused)] = paced(1009, 4, costs, 1, pauses={7: 1e6})  # from the moment before step 7 until it is read
    assert later == 10 and paused.startswith(f"{(1 + 2 + 4 + 5 + 100) / 5:.3g} s a step: about ")


@pytest.mark.parametrize("every", [2, 5, 7])
def test_the_pace_is_the_mean_over_whole_windows(every):
    costs = [50.0, *map(float, range(1, 100))]
    [(number, line)] = paced(10_000, 1, costs, every)
    windows = [done for done in range(1, 100) if done % every == 1]
    end = next(done for done in windows if done - windows[0] >= ENOUGH)
    mean = sum(costs[1:end]) / (end - 1)
    assert number == end and line.startswith(f"{mean:.3g} s a step: about {duration(mean * (10_000 - end))} for")


def test_nothing_is_told_where_nothing_is_left():
    assert paced(6, 1, [1.0] * 6, 1) == [] and paced(5, 1, [1.0] * 9, 1) == [] and paced(99, 50, [1.0] * 40, 1) == []


@pytest.mark.parametrize(("seconds", "text"), [
    (0.2, "0 s"), (99, "99 s"), (100, "2 min"), (3500, "58 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"),
    (172_790, "2 days 0 h"), (187_200, "2 days 4 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def on_noise(monkeypatch, tmp_path):
    noise.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_block_says_what_from_where_on_what_and_where_to(on_noise, monkeypatch, capsys):
    reads = []
    monkeypatch.setattr(Pace, "read", lambda self, done: reads.append(done) or "")
    argv = [*SMALL, "--dataset", "noise-2clip", "--epochs", "2", "--schedule", "1", "--print_freq", "2", "--gpu", "0"]
    assert launch.exit_code(lambda: main_nce.work(main_nce.parse(argv))) == 0
    out = capsys.readouterr().out
    names = [line[:10].strip() for line in out.splitlines()[:6]]
    assert names == ["run", "data", "start", "training", "on", "into"]
    block = "\n".join(out.splitlines()[:6])
    for words in ("infonce with s3d on two clips of RGB; D 8, queue of 8, momentum 0.999, temperature 0.07",
                  "noise-2clip: 8 videos, clips of 8 frames, 32 px; 2 steps per epoch of 1 x 4",
                  "random weights, seed 0", "epochs 0 to 1, lr 0.001 (a tenth from epochs 1), weight decay 1e-05",
                  "cpu (no GPU found: running on the CPU) in fp32, 1 process with ", "0 loader workers, PyTorch 2",
                  "ckpt/log-pretrain/infonce_k8_noise-2clip-32_s3d_bs4_lr0.001_seq2_len8_ds1"):
        assert words in block
    assert reads == [1, 2, 3, 4]  # where the progress lines read the meters: number 0 and the last one of each epoch
    [log] = on_noise.rglob("train.log")
    assert log.read_text() == out and ESCAPE not in out
    monkeypatch.setattr(Training, "run", lambda self: None)
    assert launch.exit_code(lambda: main_nce.work(main_nce.parse([*argv, "--resume", "auto"]))) == 0
    assert "start     resumed after 4 steps\n" in capsys.readouterr().out


def test_coclr_says_who_learns_from_whom_and_times_no_step_before_its_queue_is_full(on_noise, monkeypatch, capsys):
    warm_ups = []
    monkeypatch.setattr(Training, "stand_at", lambda self, *_: warm_ups.append(self.plan.warm_up))
    monkeypatch.setattr(Training, "run", lambda self: None)
    for options in (["--reverse"], ["--cascade", "--stage", "2", "--fp32_steps", "9"]):
        argv = [*SMALL, "--dataset", "noise-2stream-2clip", "--topk", "2", "--health_clips", "0", *options]
        assert launch.exit_code(lambda argv=argv: main_coclr.work(main_coclr.parse(argv))) == 0
    out = capsys.readouterr().out
    assert "flow learns from the top 2 positives mined in RGB; D 8" in out
    assert "RGB learns from the top 2 positives mined in flow by a cascade of 2 stages of ratio 0.5; D 8" in out
    assert warm_ups == [1 + 8 // 4, 1 + 9]


def test_on_a_terminal_there_is_a_bar_and_piped_there_are_lines(tmp_path):
    """The same training on a pseudo-terminal and without one."""
    command = [sys.executable, str(ROOT / "tests" / "noise.py"), "main_nce", *SMALL, "--dataset", "noise-2clip",
               "--epochs", "1", "--print_freq", "1", "--schedule"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TERM": "xterm"}
    line = f"stty rows 40 cols 150 && exec {shlex.join([*command, '--prefix', 'tty'])}"
    script = f"import pty, sys; sys.exit(pty.spawn(['sh', '-c', {line!r}]) >> 8)"
    shown = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True,
                           text=True, stdin=subprocess.DEVNULL, check=True).stdout
    piped = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "train 0:" in shown and ("it/s" in shown or "s/it" in shown) and "\x1b[1mrun       \x1b[0minfonce" in shown
    assert "train epoch 0 [1/2]" not in shown and "train epoch 0 [1/2]" in piped
    assert ESCAPE not in piped and "\r" not in piped and "it/s" not in piped
    for log in tmp_path.rglob("train.log"):
        assert ESCAPE not in log.read_text() and "train epoch 0 [1/2]" in log.read_text()
