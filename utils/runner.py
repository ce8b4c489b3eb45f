"""Run commands one after another in a work folder; stop at any point, and continue with the same call.

A step whose product exists is skipped. A step that was interrupted resumes if its command says so (``--resume auto``).
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.console import printable, say
from utils.errors import OptionError, TrainingError
from utils.files import lock, read_json, write_json
from utils.stop import EXIT_CODE, StopRequested, end_with_parent, handle_signals

# The first word of a command, and the program that runs in its place.
PROGRAMS = {"python": (sys.executable,), "torchrun": (sys.executable, "-m", "torch.distributed.run")}
RECORD = "steps.json"  # in the work folder: {step: {"command": ..., "seconds": ...}}
SECONDS_TO_END = 5  # after Ctrl-C, which the terminal also sends to the step
LINES_OF_FAILURE = 20
WIDTH = 150  # longer log lines are cut on the console


@dataclass(frozen=True)
class Step:
    """One command; its paths are absolute or relative to the work folder."""

    name: str  # also of the log, logs/NAME.log
    command: tuple[str, ...]  # the first word is python or torchrun
    product: Path | None = None  # file that the step writes; without one it always runs
    inputs: tuple[Path, ...] = ()  # the step runs again if one of these is newer than the product
    shown: int = 1  # log lines to show at the end

    @property
    def shell(self) -> str:
        """The command as one would type it in the work folder."""
        return shlex.join(self.command)

    def is_done(self, out: Path) -> bool:
        """Return whether the product exists and no input is missing or newer."""
        if self.product is None or not all((out / path).is_file() for path in (self.product, *self.inputs)):
            return False
        made, *inputs = ((out / path).stat().st_mtime_ns for path in (self.product, *self.inputs))
        return made >= max(inputs, default=0)


def as_script(steps: Sequence[Step], out: Path) -> str:
    """Format steps as a shell script; those that are done are commented out."""
    lines = [f"cd {shlex.quote(str(out))}"]
    for number, step in enumerate(steps, start=1):
        done = step.is_done(out)
        lines += ["", f"# {number}. {step.name}{': done already' if done else ''}", f"{'# ' * done}{step.shell}"]
    return "\n".join(lines)


class Runner:
    """Runs steps in a work folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._stop: list[int] = []  # signals received
        self._child: subprocess.Popen | None = None

    @contextmanager
    def open(self) -> Iterator["Runner"]:
        """Lock the folder and forward signals to the running step; OptionError if another process holds the lock."""
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        with lock(self.out, "working"), handle_signals(self._forward):
            yield self

    def _forward(self, number: int, _: object) -> None:
        self._stop.append(number)
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)  # the only one that torchrun forwards in turn

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps that are not done, in order.

        Raises:
            OptionError: a product was made by a different command.
            TrainingError: a step failed; the message quotes its last line and names its log.
            StopRequested: SIGTERM or SIGUSR1 arrived, and the running step has ended.
        """
        self.check(steps)
        for number, step in enumerate(steps, start=1):
            title = f"[{number}/{len(steps)} {step.name}]"
            if step.is_done(self.out):
                say(f"{title} done already")
            else:
                self.run_step(step, title)

    def check(self, steps: Sequence[Step]) -> None:
        """Raise OptionError if a step was done by a different command."""
        record = self.record()
        for step in steps:
            before, now = _options(record.get(step.name, {}).get("command", step.shell)), _options(step.shell)
            if before != now and step.product is not None and step.is_done(self.out):
                old, new = (" ".join(sorted(only)) or "nothing" for only in (before - now, now - before))
                raise OptionError(f"step {step.name!r} was run with {old}, but the options now give {new}: use "
                                  f"the same options, another --out, or remove {self.out / step.product}")

    def run_step(self, step: Step, title: str = "") -> None:
        """Run a step, done or not; raises like :meth:`run`."""
        if self._stop:
            say(f"stopping on {signal.Signals(self._stop[0]).name}: the same command continues from here")
            raise StopRequested
        log = self.out / "logs" / f"{step.name.replace(' ', '_')}.log"
        say(f"\n{title or f'[{step.name}]'}\n$ {step.shell}")
        record, start = self.record(), time.perf_counter()
        code = self._execute(step, log)
        seconds = time.perf_counter() - start
        total = round(record.get(step.name, {}).get("seconds", 0.0) + seconds, 1)
        write_json(self.out / RECORD, record | {step.name: {"command": step.shell, "seconds": total}}, indent=1)
        if code == EXIT_CODE or (code and self._stop):
            say(f"  stopped: the same command continues from here; log {log}")
            raise StopRequested
        lines = _last_lines(log, LINES_OF_FAILURE if code else step.shown)
        for line in lines:
            say(f"  {line[:WIDTH]}")
        if code:
            reasons = [line for line in lines if line.startswith("error")] or lines[-1:] or ["no output"]
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            raise TrainingError(f"step {step.name!r} {how}: {reasons[-1]} (log: {log}; the same command continues)")
        say(f"  {seconds:.0f} s, log {log}")
        if step.product is not None and not step.is_done(self.out):
            raise TrainingError(f"step {step.name!r} has not written {self.out / step.product}: see {log}")

    def record(self) -> dict[str, dict]:
        """Return the command of each step that has run, and its seconds over all starts."""
        path = self.out / RECORD
        return read_json(path) if path.is_file() else {}

    def _execute(self, step: Step, log: Path) -> int:
        """Run a step's command and append its output to the log; return the exit code, negative for a signal."""
        words = (*PROGRAMS[step.command[0]], *step.command[1:])
        with open(log, "a", encoding="utf-8") as file:
            print(f"$ {step.shell}", file=file, flush=True)
            self._child = child = subprocess.Popen(
                words, cwd=self.out, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=os.environ | {"NO_COLOR": "1"}, preexec_fn=lambda: end_with_parent(signal.SIGTERM))
        try:
            if self._stop:  # it arrived before the child did
                child.send_signal(signal.SIGTERM)
            return child.wait()
        except KeyboardInterrupt:
            say(f"  waiting for {step.name} to end; another Ctrl-C kills it")
            try:
                child.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                child.terminate()
                child.wait()
            raise
        finally:
            child.kill()  # does nothing if it has ended
            child.wait()
            self._child = None


def _options(command: str) -> set[str]:
    """Return a command's options, each with its values, and its first words."""
    return set(re.findall(r"--?[a-z]\S*(?: (?!-\D)\S+)*|\S+", command))


def _last_lines(log: Path, count: int) -> list[str]:
    """Return the last non-empty lines of the log's latest run, but for the hint at what comes next."""
    latest = ("\n" + log.read_text(encoding="utf-8", errors="replace")).rpartition("\n$ ")[2]
    lines = [printable(line) for line in latest.splitlines()[1:] if line.strip() and not line.startswith("next:")]
    return lines[-count:]
