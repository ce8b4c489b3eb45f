"""A plan of commands: order, what is skipped, what a failure says, and every way of being stopped in the middle."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import interrupted
import pytest

import launch
from utils import pipeline
from utils.pipeline import Runner, Step
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


def step(out: Path, name: str, code: str = "", **settings) -> Step:
    """A step that is done when the file of its name is there; by default it makes it, and adds a line to "order"."""
    code = code or f"open({name!r}, 'w').close(); print({name!r}, file=open('order', 'a')); print('made', {name!r})"
    return Step(name, ("python", "-c", code.format(name=name)), lambda: (out / name).exists(), **settings)


def run(out: Path, *steps: Step, at_once: int = 1) -> int:
    """What a script's exit code would be."""
    def main() -> None:
        with Runner(out).open() as runner:
            runner.run(steps, at_once)
    return launch.exit_code(main)


def test_steps_run_in_order_and_those_done_do_not(tmp_path, capsys):
    (tmp_path / "two").touch()
    steps = [step(tmp_path, name) for name in ("one", "two", "three words")]
    assert run(tmp_path, *steps) == 0
    assert (tmp_path / "order").read_text().splitlines() == ["one", "three words"]
    out = capsys.readouterr().out
    assert "[2/3 two] done already" in out and f"$ {steps[2].shell}" in out and "  made three words" in out
    assert (tmp_path / "logs/three_words.log").read_text() == f"$ {steps[2].shell}\nmade three words\n"
    assert run(tmp_path, *steps) == 0
    assert (tmp_path / "order").read_text().splitlines() == ["one", "three words"]


def test_the_plan_is_a_shell_script_of_what_is_left(tmp_path):
    """A shell runs it; its python is this test's own by way of PATH."""
    (tmp_path / "one").touch()
    steps = [step(tmp_path, name) for name in ("one", "it's", "$three")]
    subprocess.run(["bash", "-e"], input=pipeline.as_script(steps, tmp_path), text=True, check=True,
                   env={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"})
    assert (tmp_path / "order").read_text().splitlines() == ["it's", "$three"]
    assert "# 1. one: done already" in pipeline.as_script(steps, tmp_path)


@pytest.mark.parametrize(("code", "words"), [
    ("print('before'); raise SystemExit('error: no such --thing')", "failed with exit code 1: error: no such --thing"),
    ("import sys; print('the end'); sys.exit(3)", "failed with exit code 3: the end"),
    ("import os; os.abort()", "was ended by SIGABRT: it said nothing"),
    ("print('fine')", "has not left what it should")])
def test_a_failed_step_is_one_line_with_its_reason_and_its_log(code, words, tmp_path, capsys):
    assert run(tmp_path, step(tmp_path, "one"), step(tmp_path, "bad", code), step(tmp_path, "never")) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: step 'bad' ") and captured.err.count("\n") == 1 and words in captured.err
    assert f"{tmp_path}/logs/bad.log" in captured.err
    assert (tmp_path / "order").read_text() == "one\n"
    assert run(tmp_path, step(tmp_path, "one"), step(tmp_path, "bad")) == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_goes_to_the_running_step_whose_exit_code_is_passed_on(name, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    steps = [step(tmp_path, "one", STOPPED.replace("{signal}", name)), step(tmp_path, "two")]
    assert run(tmp_path, *steps) == EXIT_CODE
    assert (tmp_path / "one").exists() and not (tmp_path / "two").exists()
    assert "goes on from here" in capsys.readouterr().out and signal.getsignal(signal.SIGTERM) is before
    assert run(tmp_path, *steps) == 0 and (tmp_path / "two").exists()


def test_a_step_that_a_signal_kills_at_once_counts_as_stopped(tmp_path):
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    assert run(tmp_path, step(tmp_path, "one", code)) == EXIT_CODE


def test_a_signal_between_two_steps_is_not_lost(tmp_path):
    def asks() -> bool:
        signal.raise_signal(signal.SIGTERM)
        return True
    with pytest.raises(StopRequested), Runner(tmp_path).open() as runner:
        runner.run([Step("one", ("python", "-c", ""), asks), step(tmp_path, "two")])
    assert not (tmp_path / "two").exists()


def test_control_c_ends_the_step_too(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "SECONDS_TO_END", 0.2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    try:
        assert run(tmp_path, step(tmp_path, "one", STOPPED.replace("{signal}", "SIGINT"))) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "one").exists()


def test_after_a_kill_the_next_run_waits_for_the_step_that_is_left(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    steps = [step(tmp_path, "one", STOPPED.replace("{signal}", "SIGKILL")), step(tmp_path, "two")]
    assert interrupted.train(lambda: run(tmp_path, *steps)) == [-signal.SIGKILL]
    assert not (tmp_path / "one").exists()  # it is still saving
    assert run(tmp_path, *steps) == 0
    assert "waiting for the step of an earlier run" in (out := capsys.readouterr().out) and "one] done already" in out


def test_a_folder_belongs_to_one_runner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Runner(tmp_path).open():
        assert interrupted.train(lambda: run(tmp_path, step(tmp_path, "one"))) == [2]
    assert "another process" in interrupted.said() and not (tmp_path / "one").exists()


# Waits until a file of another step is there, and then leaves its own.
MEETS = """
import pathlib, time
pathlib.Path("{name} began").touch()
end = time.monotonic() + 60
while not pathlib.Path("{other}").exists() and time.monotonic() < end: time.sleep(0.01)
assert pathlib.Path("{other}").exists()
pathlib.Path("{name}").touch()
"""


def meets(name: str, other: str) -> str:
    return MEETS.replace("{other}", other)


def test_side_by_side_two_steps_can_wait_for_each_other(tmp_path, capsys):
    (tmp_path / "done").touch()
    steps = [step(tmp_path, "done"), step(tmp_path, "one", meets("one", "two began"), after=("done",)),
             step(tmp_path, "two", meets("two", "one began")), step(tmp_path, "three", after=("one", "two"))]
    assert run(tmp_path, *steps, at_once=2) == 0
    assert (tmp_path / "order").read_text() == "three\n"
    out = capsys.readouterr().out
    assert "[1/4 done] done already" in out and "[2/4 one] has ended" in out and "  made three" in out
    assert run(tmp_path, *steps, at_once=2) == 0 and capsys.readouterr().out.count("done already") == 4


def test_side_by_side_no_step_begins_before_what_it_takes_is_there(tmp_path):
    needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": (), "f": ("e", "d")}
    looks = ("import pathlib; assert all(pathlib.Path(name).exists() for name in {needs}); "
             "pathlib.Path({name!r}).touch()")
    steps = [step(tmp_path, name, looks.replace("{needs}", repr(before)), after=before)
             for name, before in needs.items()]
    assert run(tmp_path, *steps, at_once=3) == 0
    assert all(each.done for each in steps)


def test_side_by_side_no_more_steps_run_than_were_asked_for(tmp_path):
    """Each step counts those that have begun and have not ended yet."""
    counts = ("import pathlib, time; here = pathlib.Path({name!r} + '.runs'); here.touch(); time.sleep(0.2); "
              "found = len(list(pathlib.Path().glob('*.runs'))); here.unlink(); print(found, file=open('seen', 'a')); "
              "pathlib.Path({name!r}).touch()")
    assert run(tmp_path, *(step(tmp_path, name, counts) for name in "abcdef"), at_once=2) == 0
    assert max(map(int, (tmp_path / "seen").read_text().split())) == 2


def test_side_by_side_a_failure_stops_the_others_which_save(tmp_path, capsys):
    fails = "raise SystemExit('error: no such --thing')"
    saves = STOPPED.replace("os.kill(os.getppid(), signal.{signal})", "open('saving', 'w').close()")
    waits = f"import pathlib, time\nwhile not pathlib.Path('saving').exists(): time.sleep(0.01)\n{fails}"
    steps = [step(tmp_path, "one", saves), step(tmp_path, "bad", waits), step(tmp_path, "never", after=("bad",))]
    assert run(tmp_path, *steps, at_once=2) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "step 'bad' failed with exit code 1: error: no such --thing" in error
    assert (tmp_path / "one").exists() and not (tmp_path / "never").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_side_by_side_a_signal_reaches_every_step(name, tmp_path, capsys):
    saves = STOPPED.replace("os.kill(os.getppid(), signal.{signal})", "open('saving', 'w').close()")
    sends = ("import pathlib, time\nwhile not pathlib.Path('saving').exists(): time.sleep(0.01)\n"
             + STOPPED.replace("{signal}", name))
    steps = [step(tmp_path, "one", saves), step(tmp_path, "two", sends), step(tmp_path, "three")]
    assert run(tmp_path, *steps, at_once=2) == EXIT_CODE
    assert (tmp_path / "one").exists() and (tmp_path / "two").exists() and not (tmp_path / "three").exists()
    assert "goes on from here" in capsys.readouterr().out
    assert run(tmp_path, *steps, at_once=2) == 0 and (tmp_path / "three").exists()


def test_side_by_side_a_step_that_was_stopped_by_itself_stops_the_others_which_save(tmp_path):
    saves = STOPPED.replace("os.kill(os.getppid(), signal.{signal})", "open('saving', 'w').close()")
    ends = f"import pathlib, time\nwhile not pathlib.Path('saving').exists(): time.sleep(0.01)\nexit({EXIT_CODE})"
    steps = [step(tmp_path, "one", saves), step(tmp_path, "two", ends), step(tmp_path, "three")]
    assert run(tmp_path, *steps, at_once=2) == EXIT_CODE
    assert (tmp_path / "one").exists() and not (tmp_path / "three").exists()


def test_side_by_side_control_c_ends_every_step(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "SECONDS_TO_END", 0.2)
    saves = STOPPED.replace("os.kill(os.getppid(), signal.{signal})", "open('saving', 'w').close()")
    sends = ("import pathlib, time\nwhile not pathlib.Path('saving').exists(): time.sleep(0.01)\n"
             + STOPPED.replace("{signal}", "SIGINT"))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run(tmp_path, step(tmp_path, "one", saves), step(tmp_path, "two", sends), at_once=2) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "one").exists() and (tmp_path / "two").exists()


def test_a_result_counts_while_it_is_not_older_than_what_it_is_made_from(tmp_path):
    source, product = tmp_path / "source", tmp_path / "product"
    assert not pipeline.newer(product, source)
    product.touch()
    assert not pipeline.newer(product, source)
    source.touch()
    os.utime(product, (100, 100))
    os.utime(source, (100, 100))
    assert pipeline.newer(product, source)
    os.utime(source, (101, 101))
    assert not pipeline.newer(product, source)
