"""Run commands in a work folder, in order or side by side; stop at any point, and continue with the same call.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from utils.console import PERIOD, duration, one_line, printable, say, say_progress, shows_bars
from utils.errors import OptionError, TrainingError
from utils.files import lock, read_json, write_json
from utils.launch import allotted_cores
from utils.stop import EXIT_CODE, StopRequested, end_with_parent, handle_signals

# The first word of a command, and the program that runs in its place.
PROGRAMS = {"python": (sys.executable,), "torchrun": (sys.executable, "-m", "torch.distributed.run")}
# In the work folder: {step: {"command", "seconds", "wall"}}; the first of a group has the wall time of the group.
RECORD = "steps.json"
SECONDS_TO_END = 5  # after Ctrl-C, which the terminal also sends to the step
LINES_OF_FAILURE = 20
WIDTH = 150  # longer log lines are cut on the console
POLL = 1.0  # seconds between looks at a running step
# A line of a training ("train epoch 3 [5/12]  loss 4.21  ...  12 min left"), or of `utils.console.track`.
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
    beside: bool = False  # may run side by side with the step before it, and with those beside that one

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


def groups(steps: Sequence[Step]) -> list[list[Step]]:
    """Group steps that may run side by side."""
    found: list[list[Step]] = []
    for step in steps:
        if step.beside and found:
            found[-1].append(step)
        else:
            found.append([step])
    return found


class Runner:
    """Runs steps in the folder ``out``, at most ``most`` at once (default: one per core)."""

    def __init__(self, out: Path, most: int = 0) -> None:
        self.out, self.most = out, min(most or allotted_cores(), allotted_cores())
        self._stop: list[int] = []  # signals received
        self._children: list[subprocess.Popen] = []
        self._ran = set[str]()  # names of steps

    @contextmanager
    def open(self) -> Iterator["Runner"]:
        """Lock the folder and forward signals to running steps; OptionError if another process holds the lock."""
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        with lock(self.out, "working"), handle_signals(self._forward):
            try:
                yield self
            except KeyboardInterrupt:
                say("\ninterrupted: the same command continues from here")
                raise

    def _forward(self, number: int, _: object) -> None:
        self._stop.append(number)
        self._terminate()

    def _terminate(self) -> None:
        for child in self._children:
            child.send_signal(signal.SIGTERM)  # the only one that torchrun forwards in turn

    def run(self, steps: Sequence[Step], after: float = 0.0) -> None:
        """Run the steps that are not done, in order; ``after``: estimated seconds of the work after them.

        OptionError: a product was made by a different command. TrainingError: a step failed, and those beside it were
        stopped. StopRequested: SIGTERM or SIGUSR1 arrived, and the running steps have ended.
        """
        self.check(steps)
        titles = {step.name: f"[{number}/{len(steps)} {step.name}]" for number, step in enumerate(steps, start=1)}
        left = groups(steps)
        while left:
            group = left.pop(0)
            missing = [step for step in group if not step.is_done(self.out)]
            for step in group:
                if step not in missing and step.name not in self._ran:
                    say(f"{titles[step.name]} done already")
            if missing:
                later = [[step for step in each if not step.is_done(self.out)] for each in left]
                later += [[Step("rest", (), seconds=after)]] if after else []
                self._run_group(missing, titles, [each for each in later if each])
                if self._stop:  # some may not have begun
                    left.insert(0, group)
            for product, rest in ((self.out / step.product, step.rest) for step in group if step.product and step.rest):
                for path in set(product.parent.glob(rest)) - {product}:
                    path.unlink()

    def warnings(self, steps: Sequence[Step]) -> list[str]:
        """Return the warnings in the steps' logs; where several differ only in numbers, only the last."""
        found = [f"{step.name}: {text}" for step in steps if self.log(step).is_file() for text in re.findall(
            "^warning: *(.*)$", self.log(step).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)]
        return list({re.sub(r"\d[\d.]*", "0", line): line for line in map(printable, found)}.values())

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time of what happens in the context to the record, under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.note(name, time.perf_counter() - start, time.perf_counter() - start)

    def note(self, name: str, seconds: float, wall: float, **values: str) -> None:
        """Add a step's seconds, its share of the run's time, and its command to the record."""
        record = self.record()
        before = record.get(name, {})
        record[name] = before | values | {key: round(before.get(key, 0.0) + value, 1)
                                          for key, value in (("seconds", seconds), ("wall", wall))}
        write_json(self.out / RECORD, record, indent=1)

    def taken(self) -> float:
        """Return the seconds of all steps so far, those side by side counted once."""
        return sum(step["wall"] for step in self.record().values())

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

    def _run_group(self, steps: Sequence[Step], titles: Mapping[str, str], later: Sequence[Sequence[Step]]) -> None:
        """Run one group of steps; ``later`` are the groups still to come. Raises like :meth:`run`."""
        if self._stop:
            say(f"stopping on {signal.Signals(self._stop[0]).name}: the same command continues from here")
            raise StopRequested
        for step in steps:
            say(f"\n{titles[step.name]}\n$ {step.shell}")
            self._ran.add(step.name)
            self.note(step.name, 0.0, 0.0, command=step.shell)
        lines = [ProgressLine(titles[step.name], self.log(step), step, later, self.most) for step in steps]
        begun = time.monotonic()
        try:
            codes = self._execute(steps, lines)
        finally:
            wall = time.monotonic() - begun
            for line in lines:
                self.note(line.step.name, line.seconds, wall if line is lines[0] else 0.0)
        for step, line, code in zip(steps, lines, codes, strict=False):  # the last may not have begun
            self._report(step, code, line.seconds)
        if any(codes):
            raise StopRequested
        for step in steps[:len(codes)]:
            if step.product is not None and not step.is_done(self.out):
                raise TrainingError(f"step {step.name!r} has not written {self.out / step.product}: see "
                                    f"{self.log(step)}")

    def _report(self, step: Step, code: int, seconds: float) -> None:
        """Print the end of a step's log and its time; TrainingError if it failed, rather than being stopped."""
        log = self.log(step)
        if code == EXIT_CODE or code == -signal.SIGTERM or (code and self._stop):
            say(f"  stopped: the same command continues from here; log {log}")
            return
        lines = _last_lines(log, LINES_OF_FAILURE if code else step.shown)
        for line in lines:
            say(f"  {one_line(line, WIDTH)}")
        if code:
            reasons = [line for line in lines if line.startswith("error")] or lines[-1:] or ["no output"]
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
            raise TrainingError(f"step {step.name!r} {how}: {reasons[-1]} ({step.advice}log: {log}; the same command "
                                "continues)")
        say(f"  {seconds:.0f} s, log {log}")

    def record(self) -> dict[str, dict]:
        return read_json(self.out / RECORD, {})

    def _execute(self, steps: Sequence[Step], lines: Sequence["ProgressLine"]) -> list[int]:
        """Run the steps' commands with their output in their logs; return exit codes of those that began.

        The code is negative for a signal.
        """
        shown, failed = time.monotonic(), False
        try:
            while True:
                running = [line for line, child in zip(lines, self._children, strict=False) if child.poll() is None]
                if not failed and any(child.poll() for child in self._children):
                    failed = True  # the others end, too, and continue with the same command
                    self._terminate()
                begun = len(self._children)
                if begun < len(steps) and len(running) < self.most and not (failed or self._stop):
                    lines[begun].begin()
                    self._children.append(self._start(steps[begun], min(len(steps), self.most)))
                    if self._stop:  # it arrived before the child did
                        self._terminate()
                    continue
                if not running:
                    break
                with suppress(subprocess.TimeoutExpired):
                    self._children[lines.index(running[0])].wait(POLL)
                for line in running:
                    line.read()
                if shows_bars():
                    text = "   ".join(line.text() for line in running)
                    say_progress(text[:os.get_terminal_size(sys.stderr.fileno()).columns - 1], over=True)
                elif time.monotonic() - shown >= PERIOD:
                    shown = time.monotonic()
                    for line in running:
                        say_progress(line.text())
        except KeyboardInterrupt:
            say(f"  waiting for {' and '.join(step.name for step in steps)} to end; another Ctrl-C kills it")
            deadline = time.monotonic() + SECONDS_TO_END
            for child in self._children:
                try:
                    child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.terminate()
                    child.wait()
            raise
        finally:
            if shows_bars():
                say_progress("", over=True)
            for child in self._children:
                child.kill()  # does nothing if it has ended
            codes = [child.wait() for child in self._children]
            self._children = []
        return codes

    def _start(self, step: Step, count: int) -> subprocess.Popen:
        """Start a step's command as one of ``count`` that run side by side."""
        words = (*PROGRAMS[step.command[0]], *step.command[1:])
        # Threads that spin while they wait take the cores from the loader.
        threads = {"OMP_WAIT_POLICY": "PASSIVE"}
        if count > 1:
            threads["OMP_NUM_THREADS"] = str(max(1, allotted_cores() // count))
        with open(self.log(step), "a", encoding="utf-8") as file:
            print(f"$ {step.shell}", file=file, flush=True)
            return subprocess.Popen(words, cwd=self.out, stdin=subprocess.DEVNULL, stdout=file,
                                    stderr=subprocess.STDOUT, env=threads | os.environ | {"NO_COLOR": "1"},
                                    preexec_fn=lambda: end_with_parent(signal.SIGTERM))


class ProgressLine:
    """The progress of a running step, read from its log, and the time left for it and the ``later`` groups of steps."""

    def __init__(self, title: str, log: Path, step: Step, later: Sequence[Sequence[Step]], most: int) -> None:
        self.title, self.log, self.step, self.later, self.most = title, log, step, later, most
        self.seconds = 0.0  # from the start to the last reading
        self._offset = log.stat().st_size if log.is_file() else 0
        self._start = time.monotonic()
        self._found: re.Match[str] | None = None

    def begin(self) -> None:
        self._start = time.monotonic()

    def read(self) -> None:
        """Read what the step has logged since the last call."""
        with open(self.log, "rb") as file:
            file.seek(self._offset)
            lines = file.read().rpartition(b"\n")[0] + b"\n"
        self._offset += len(lines) if len(lines) > 1 else 0
        for line in lines.decode(errors="replace").splitlines():
            self._found = PROGRESS.match(line) or self._found
        self.seconds = time.monotonic() - self._start

    def text(self) -> str:
        found, later = self._found, self.later
        known = self.step.seconds > 0 or bool(found and found["left"])
        left = _seconds(found["left"]) if found and found["left"] else max(0.0, self.step.seconds - self.seconds)
        parts = [found["done"], found["loss"]] if found else [f"running for {duration(self.seconds)}"]
        parts.append(f"about {duration(left)} left" if left else "")
        if known and all(step.seconds for group in later for step in group):
            times = [[step.seconds for step in group] for group in later]
            left += sum(max(*group, sum(group) / self.most) for group in times)
            parts.append(f"in all {duration(left)}" if later else "")
        else:
            count = sum(map(len, later))
            parts.append(f"then {count} more step{'s' * (count > 1)}" if later else "")
        return f"{self.title} {', '.join(filter(None, parts))}"


def _seconds(text: str) -> float:
    """Parse the output of `utils.console.duration`, in seconds."""
    return sum(int(number) * UNITS[unit[0]] for number, unit in re.findall(r"(\d+) ([a-z]+)", text))


def _options(command: str) -> set[str]:
    """Split a command into its options, each with its values, and its other words."""
    return set(re.findall(r"--?[a-z]\S*(?: (?!-\D)\S+)*|\S+", command))


def _last_lines(log: Path, count: int) -> list[str]:
    """Return the last non-empty lines of the log's latest run, without the hint at the next command."""
    latest = ("\n" + log.read_text(encoding="utf-8", errors="replace")).rpartition("\n$ ")[2]
    lines = [printable(line) for line in latest.splitlines()[1:] if line.strip() and not line.startswith("next:")]
    return lines[-count:]
