"""Commands in a work folder: order, skipped steps, failures, other commands, and every way of being stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import interrupted
import pytest

from utils import launch, runner
from utils.runner import Runner, Step, as_script
from utils.stop import EXIT_CODE, StopRequested

# A step that on SIGTERM takes half a second to save, and is done then; first it sends its runner a signal.
STOPPED = """
import os, signal, sys, time
def save(*_):
    time.sleep(0.5)
    open("{name}", "w").close()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.{signal})
time.sleep(60)
"""


def step(name: str, code: str = "", **settings) -> Step:
    """A step that is done when the file of its name is there; by default it makes it, and adds a line to "order"."""
    code = code or (f"import os; open({name!r}, 'w').close(); print({name!r}, file=open('order', 'a')); "
                    f"print('made', {name!r}, os.environ['NO_COLOR'])")
    return Step(name, ("python", "-c", code.format(name=name)), Path(name), **settings)


def run(out: Path, *steps: Step) -> int:
    """Return the exit code of a script that runs these steps."""
    def main() -> None:
        with Runner(out).open() as opened:
            opened.run(steps)
    return launch.exit_code(main)


def test_steps_run_in_order_and_those_done_do_not(tmp_path, capsys):
    (tmp_path / "two").touch()
    steps = [step(name) for name in ("one", "two", "three words")]
    assert run(tmp_path, *steps) == 0
    assert (tmp_path / "order").read_text().splitlines() == ["one", "three words"]
    out = capsys.readouterr().out
    assert "[2/3 two] done already" in out and f"$ {steps[2].shell}" in out and "  made three words" in out
    assert (tmp_path / "logs/three_words.log").read_text() == f"$ {steps[2].shell}\nmade three words 1\n"
    assert run(tmp_path, *steps) == 0
    assert (tmp_path / "order").read_text().splitlines() == ["one", "three words"]


def test_the_plan_is_a_shell_script_of_what_is_left(tmp_path):
    """A shell runs it; its python is this test's own by way of PATH."""
    (tmp_path / "one").touch()
    steps = [step(name) for name in ("one", "it's", "$three")]
    subprocess.run(["bash", "-e"], input=as_script(steps, tmp_path), text=True, check=True,
                   env={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": ""})
    assert (tmp_path / "order").read_text().splitlines() == ["it's", "$three"]
    assert "# 1. one: done already" in as_script(steps, tmp_path)


@pytest.mark.parametrize(("code", "words"), [
    ("print('before'); raise SystemExit('error: no such --thing')", "failed with exit code 1: error: no such --thing"),
    ("import sys; print('the end'); sys.exit(3)", "failed with exit code 3: the end"),
    ("import os; os.abort()", "was ended by SIGABRT: no output"),
    ("print('fine')", "has not written")])
def test_a_failed_step_is_one_line_with_its_reason_and_its_log(code, words, tmp_path, capsys):
    assert run(tmp_path, step("one"), step("bad", code), step("never")) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: step 'bad' ") and captured.err.count("\n") == 1 and words in captured.err
    assert f"{tmp_path}/logs/bad.log" in captured.err
    assert (tmp_path / "order").read_text() == "one\n"
    assert run(tmp_path, step("one"), step("bad")) == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_goes_to_the_running_step_whose_exit_code_is_passed_on(name, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    steps = [step("one", STOPPED.replace("{signal}", name)), step("two")]
    assert run(tmp_path, *steps) == EXIT_CODE
    assert (tmp_path / "one").exists() and not (tmp_path / "two").exists()
    assert "continues from here" in capsys.readouterr().out and signal.getsignal(signal.SIGTERM) is before
    assert run(tmp_path, *steps) == 0 and (tmp_path / "two").exists()


def test_a_step_that_a_signal_kills_at_once_counts_as_stopped(tmp_path):
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    assert run(tmp_path, step("one", code)) == EXIT_CODE


def test_a_signal_between_two_steps_is_not_lost(tmp_path, monkeypatch):
    done = Step.is_done

    def interrupted_look(self: Step, out: Path) -> bool:
        if self.name == "one":
            signal.raise_signal(signal.SIGTERM)
        return done(self, out)
    (tmp_path / "one").touch()
    with pytest.raises(StopRequested), Runner(tmp_path).open() as opened:
        monkeypatch.setattr(Step, "is_done", interrupted_look)
        opened.run([step("one"), step("two")])
    assert not (tmp_path / "two").exists()


def test_control_c_ends_the_step_too(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SECONDS_TO_END", 0.2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    try:
        assert run(tmp_path, step("one", STOPPED.replace("{signal}", "SIGINT"))) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "one").exists()


def test_a_folder_belongs_to_one_runner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Runner(tmp_path).open():
        assert interrupted.train(lambda: run(tmp_path, step("one"))) == [2]
    assert "another process" in interrupted.said() and not (tmp_path / "one").exists()


def test_a_product_counts_while_it_is_not_older_than_its_inputs(tmp_path):
    source, product = tmp_path / "source", tmp_path / "product"
    made = Step("one", ("python",), Path("product"), (Path("source"),))
    assert not made.is_done(tmp_path)
    product.touch()
    assert not made.is_done(tmp_path)
    source.touch()
    os.utime(product, (100, 100))
    os.utime(source, (100, 100))
    assert made.is_done(tmp_path)
    os.utime(source, (101, 101))
    assert not made.is_done(tmp_path)


def test_progress_and_warnings_of_a_running_step(tmp_path, capsys, monkeypatch):
    """A plain pipe gets a line now and then; the times of the steps to come are added."""
    log = tmp_path / "one.log"
    later = [[Step("two", (), seconds=60)], [Step("three", (), seconds=120), Step("beside it", (), seconds=90)]]
    log.write_text("train epoch 0 [1/2]  loss 9  3 h left\n")  # of an earlier start
    line = runner.ProgressLine("[1/3 one]", log, Step("one", (), seconds=600), later, 2)
    line.seconds = 30
    assert line.text() == "[1/3 one] running for 30 s, about 10 min left, in all 12 min"
    for text, shown in (
            ("train epoch 3 [5/12]  loss 4.21  top1 0.1  data 0.1s  step 0.2s  2 h 20 min left\nhalf a l",
             "train epoch 3 [5/12], loss 4.21, about 2 h 20 min left, in all 2 h 23 min"),
            ("ine\nframes: 3 of 20 videos, about 42 s left\n", "frames: 3 of 20 videos, about 42 s left, in all 4 min"),
            ("frames: 20 of 20 videos\nwarning: odd\n", "frames: 20 of 20 videos, about 10 min left, in all 13 min")):
        with open(log, "a") as file:
            file.write(text)
        line.read()
        assert line.text() == f"[1/3 one] {shown}"
    later[0] = [Step("two", ())]
    assert line.text().endswith("then 3 more steps")


# Ends after the other step has begun, and would wait for ever without it.
MEETS = """
import os, time
open("{name} began", "w").close()
while not os.path.exists("{other} began"):
    time.sleep(0.01)
print("with", os.environ["OMP_NUM_THREADS"])
open("{name}", "w").close()
"""


def test_steps_side_by_side_share_the_cores(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "allotted_cores", lambda: 6)
    monkeypatch.setattr(runner, "PERIOD", 0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    steps = [step("zero"), step("one", MEETS.replace("{other}", "two")),
             step("two", MEETS.replace("{other}", "one"), beside=True), step("three")]
    assert run(tmp_path, *steps) == 0
    captured = capsys.readouterr()
    record = Runner(tmp_path).record()
    assert Runner(tmp_path).taken() == pytest.approx(sum(
        record[name]["wall"] for name in ("zero", "one", "three"))) and record["two"]["wall"] == 0.0
    assert record["one"]["wall"] >= max(record["one"]["seconds"], record["two"]["seconds"])
    assert captured.out.count("  with 3\n") == 2 and "[3/4 two] running for" in captured.err


def test_a_step_begins_when_one_beside_it_has_ended(tmp_path, monkeypatch):
    """Two at once: the first ends only when the third has begun, which has to wait for the second."""
    monkeypatch.setattr(runner, "allotted_cores", lambda: 2)
    ends = "open('two began', 'w').close(); open('two', 'w').close()"
    assert run(tmp_path, step("one", MEETS.replace("{other}", "three")), step("two", ends, beside=True),
               step("three", MEETS.replace("{other}", "two"), beside=True)) == 0


def test_a_step_that_fails_stops_the_one_beside_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runner, "allotted_cores", lambda: 2)
    waits = "import time; print('waiting'); time.sleep(60)"
    steps = [step("one", waits), step("two", "raise SystemExit('error: no')", beside=True), step("three")]
    assert run(tmp_path, *steps) == 2
    captured = capsys.readouterr()
    assert "stopped: the same command continues" in captured.out and "error: step 'two' failed" in captured.err
    steps[:2] = [step("one"), step("two", beside=True)]
    assert run(tmp_path, *steps) == 0 and (tmp_path / "three").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_that_run_side_by_side_are_stopped(number, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "allotted_cores", lambda: 2)
    monkeypatch.setattr(runner, "SECONDS_TO_END", 0.2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    saves = STOPPED.replace("os.kill(os.getppid(), signal.{signal})", "open('ready', 'w')")
    sends = STOPPED.replace("os.kill", "while not os.path.exists('ready'): time.sleep(.01)\nos.kill")
    try:
        steps = [step("one", sends.replace("{signal}", number.name)), step("two", saves, beside=True),
                 step("three", beside=True)]  # does not begin
        assert run(tmp_path, *steps) == (EXIT_CODE if number == signal.SIGTERM else 130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [(tmp_path / each.name).exists() for each in steps] == [True, True, False]
    assert run(tmp_path, *steps) == 0 and (tmp_path / "three").exists()


def test_warnings_of_all_steps_and_files_that_are_of_no_use(tmp_path):
    code = "open('one', 'w').close(); open('one.old', 'w').close(); print('warning:  slow 1\\nwarning: slow 2.5')"
    warned = step("one", code)
    steps = [Step(warned.name, warned.command, warned.product, rest="one*"), step("two")]
    assert run(tmp_path, *steps) == 0
    assert Runner(tmp_path).warnings(steps) == ["one: slow 2.5"] and not (tmp_path / "one.old").exists()
    assert (tmp_path / "one").exists()


def test_a_product_of_another_command_is_refused(tmp_path, capsys):
    code = "open('one', 'w').close()"
    commands = [("python", "-c", code, "--lr", lr, "--seed", "0") for lr in "12"]
    assert run(tmp_path, Step("one", commands[0], Path("one"))) == 0
    assert run(tmp_path, Step("one", commands[1], Path("one"))) == 2
    error = capsys.readouterr().err
    assert "step 'one' was run with --lr 1, but the options now give --lr 2" in error and error.count("\n") == 1
    assert run(tmp_path, Step("one", commands[0], Path("one"))) == 0
