"""Run commands one after another in a work folder; stop at any point, and continue with the same call.

A step whose product exists is skipped. A step that was interrupted resumes if its command says so (``--resume auto``).
While a step runs, its latest progress is shown: on a terminal in one line, elsewhere in a line every half minute.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from utils.console import PERIOD, duration, printable, say, say_progress, shows_bars
from utils.errors import OptionError, TrainingError
from utils.files import lock, read_json, write_json
from utils.stop import EXIT_CODE, StopRequested, end_with_parent, handle_signals

# The first word of a command, and the program that runs in its place.
PROGRAMS = {"python": (sys.executable,), "torchrun": (sys.executable, "-m", "torch.distributed.run")}
RECORD = "steps.json"  # in the work folder: {step: {"command": ..., "seconds": ...}}
SECONDS_TO_END = 5  # after Ctrl-C, which the terminal also sends to the step
LINES_OF_FAILURE = 20
WIDTH = 150  # longer log lines are cut on the console
POLL = 1.0  # seconds between looks at a running step
# A line of a training ("train epoch 3 [5/12]  loss 4.21  ...  12 min left"), or of `utils.console.Progress`.
PROGRESS = re.compile(r"(?P<done>\w+ epoch \d+ \[\d+/\d+\]|[\w ]+: \d+ of \d+ \w+)"
                      r"(?:.*?\b(?P<loss>loss [\d.e+-]+))?(?:.*?(?P<left>(?:\b\d+ [a-z]+ )+)left)?")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Step:
    """One command; its paths are absolute or relative to the work folder."""

    name: str  # also of the log, logs/NAME.log
    command: tuple[str, ...]  # the first word is python or torchrun
    product: Path | None = None  # file that the step writes; without one it always runs
    inputs: tuple[Path, ...] = ()  # the step runs again if one of these is newer than the product
    shown: int = 1  # log lines to show at the end
    seconds: float = 0.0  # how long it will take; 0 if that is not known
    advice: str = ""  # added where it fails
    rest: str = ""  # pattern of files beside the product that are removed once it exists

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

    def tidy(self, out: Path) -> None:
        """Remove the files that are no longer needed."""
        if self.product and self.rest:
            for path in set((out / self.product).parent.glob(self.rest)) - {out / self.product}:
                path.unlink()


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
        self._ran = set[str]()  # names of steps

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

    def run(self, steps: Sequence[Step], after: float = 0.0) -> None:
        """Run the steps that are not done, in order; ``after``: seconds of what follows them.

        OptionError: a product was made by a different command. TrainingError: a step failed. StopRequested: SIGTERM or
        SIGUSR1 arrived, and the running step has ended.
        """
        self.check(steps)
        for number, step in enumerate(steps, start=1):
            title = f"[{number}/{len(steps)} {step.name}]"
            if not step.is_done(self.out):
                later = [each for each in steps[number:] if not each.is_done(self.out)]
                self._run_step(step, title, [*later, Step("rest", (), seconds=after)] if after else later)
            elif step.name not in self._ran:
                say(f"{title} done already")
            step.tidy(self.out)

    def warnings(self, steps: Sequence[Step]) -> list[str]:
        """Return the warnings in the steps' logs, each once, with the step's name."""
        found = [f"{step.name}: {text}" for step in steps if self.log(step).is_file() for text in re.findall(
            "^warning: *(.*)$", self.log(step).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)]
        return list(dict.fromkeys(map(printable, found)))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of what happens in the context to the record, under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            before, seconds = self.record().get(name, {}), time.perf_counter() - start
            write_json(self.out / RECORD, self.record() | {
                name: before | {"seconds": round(before.get("seconds", 0.0) + seconds, 1)}}, indent=1)

    def log(self, step: Step) -> Path:
        return self.out / "logs" / f"{step.name.replace(' ', '_')}.log"

    def check(self, steps: Sequence[Step]) -> None:
        """Raise OptionError if a step was done by a different command."""
        record = self.record()
        for step in steps:
            before, now = _options(record.get(step.name, {}).get("command", step.shell)), _options(step.shell)
            if before != now and step.product is not None and step.is_done(self.out):
                old, new = (" ".join(sorted(only)) or "nothing" for only in (before - now, now - before))
                raise OptionError(f"step {step.name!r} was run with {old}, but the options now give {new}: use "
                                  f"the same options, another --out, or remove {self.out / step.product}")

    def _run_step(self, step: Step, title: str, later: Sequence[Step]) -> None:
        """Run a step, with others to come; raises like :meth:`run`."""
        if self._stop:
            say(f"stopping on {signal.Signals(self._stop[0]).name}: the same command continues from here")
            raise StopRequested
        log = self.log(step)
        say(f"\n{title}\n$ {step.shell}")
        self._ran.add(step.name)
        write_json(self.out / RECORD, self.record() | {
            step.name: self.record().get(step.name, {}) | {"command": step.shell}}, indent=1)
        start = time.perf_counter()
        with self.timed(step.name):
            self._progress = ProgressLine(title, log, step, later)
            code = self._execute(step, log)
        seconds = time.perf_counter() - start
        if code == EXIT_CODE or (code and self._stop):
            say(f"  stopped: the same command continues from here; log {log}")
            raise StopRequested
        lines = _last_lines(log, LINES_OF_FAILURE if code else step.shown)
        for line in lines:
            say(f"  {line[:WIDTH]}")
        if code:
            reasons = [line for line in lines if line.startswith("error")] or lines[-1:] or ["no output"]
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            raise TrainingError(f"step {step.name!r} {how}: {reasons[-1]} ({step.advice}log: {log}; the same command "
                                "continues)")
        say(f"  {seconds:.0f} s, log {log}")
        if step.product is not None and not step.is_done(self.out):
            raise TrainingError(f"step {step.name!r} has not written {self.out / step.product}: see {log}")

    def record(self) -> dict[str, dict]:
        """Return the command of each step that has run, and its seconds over all starts."""
        return read_json(self.out / RECORD, {})

    def _execute(self, step: Step, log: Path) -> int:
        """Run a step's command and append its output to the log; return the exit code, negative for a signal."""
        words = (*PROGRAMS[step.command[0]], *step.command[1:])
        with open(log, "a", encoding="utf-8") as file:
            print(f"$ {step.shell}", file=file, flush=True)
            self._child = child = subprocess.Popen(
                words, cwd=self.out, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                # Threads that spin while they wait take the cores from the loader.
                env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"NO_COLOR": "1"},
                preexec_fn=lambda: end_with_parent(signal.SIGTERM))
        try:
            if self._stop:  # it arrived before the child did
                child.send_signal(signal.SIGTERM)
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return child.wait(POLL)
                self._progress.update()
        except KeyboardInterrupt:
            say(f"  waiting for {step.name} to end; another Ctrl-C kills it")
            try:
                child.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                child.terminate()
                child.wait()
            raise
        finally:
            self._progress.close()
            child.kill()  # does nothing if it has ended
            child.wait()
            self._child = None


class ProgressLine:
    """The progress of a running step, read from its log, and the time that it and the steps after it will take."""

    def __init__(self, title: str, log: Path, step: Step, later: Sequence[Step]) -> None:
        self.title, self.log, self.step, self.later = title, log, step, later
        self._offset = log.stat().st_size if log.is_file() else 0
        self._start = self._shown = time.monotonic()
        self._found: re.Match[str] | None = None
        self._bars = shows_bars()

    def update(self) -> None:
        """Show the latest progress; without a terminal at most every half minute."""
        with open(self.log, "rb") as file:
            file.seek(self._offset)
            lines = file.read().rpartition(b"\n")[0] + b"\n"
        self._offset += len(lines) if len(lines) > 1 else 0
        for line in lines.decode(errors="replace").splitlines():
            self._found = PROGRESS.match(line) or self._found
        now = time.monotonic()
        if self._bars:
            line = f"{self.title} {self.text(now)}"[:os.get_terminal_size(sys.stderr.fileno()).columns - 1]
            say_progress(line, over=True)
        elif now - self._shown >= PERIOD:
            self._shown = now
            say_progress(f"{self.title} {self.text(now)}")

    def text(self, now: float) -> str:
        """Format the progress, the loss, and the time left for the step and for all steps."""
        passed, found = now - self._start, self._found
        known = self.step.seconds > 0 or bool(found and found["left"])
        left = _seconds(found["left"]) if found and found["left"] else max(0.0, self.step.seconds - passed)
        parts = [found["done"], found["loss"]] if found else [f"running for {duration(passed)}"]
        parts.append(f"about {duration(left)} left" if left else "")
        if known and all(step.seconds for step in self.later):
            parts.append(f"in all {duration(left + sum(step.seconds for step in self.later))}" if self.later else "")
        else:
            parts.append(f"then {len(self.later)} more step{'s' * (len(self.later) > 1)}" if self.later else "")
        return ", ".join(filter(None, parts))

    def close(self) -> None:
        if self._bars:
            say_progress("", over=True)


def _seconds(text: str) -> float:
    """Parse the output of `utils.console.duration`, in seconds."""
    return sum(int(number) * UNITS[unit[0]] for number, unit in re.findall(r"(\d+) ([a-z]+)", text))


def _options(command: str) -> set[str]:
    """Return a command's options, each with its values, and its first words."""
    return set(re.findall(r"--?[a-z]\S*(?: (?!-\D)\S+)*|\S+", command))


def _last_lines(log: Path, count: int) -> list[str]:
    """Return the last non-empty lines of the log's latest run, but for the hint at what comes next."""
    latest = ("\n" + log.read_text(encoding="utf-8", errors="replace")).rpartition("\n$ ")[2]
    lines = [printable(line) for line in latest.splitlines()[1:] if line.strip() and not line.startswith("next:")]
    return lines[-count:]
