"""Commands that are run one after another in a work folder: stopped at any point, and started again from there.

A plan is a list of steps. A step whose product is there is skipped; any other is run, and goes on from what it has left
behind if its command says so (``--resume auto``). The commands of a plan are what a user could paste into a shell.
"""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from utils.console import NEXT, printable, say
from utils.errors import TrainingError
from utils.run_folder import hold
from utils.stop import EXIT_CODE, SIGNALS, StopRequested, end_with_parent

# What the first word of a command stands for: the programs of this environment, whatever the PATH says.
PROGRAMS = {"python": (sys.executable,), "torchrun": (sys.executable, "-m", "torch.distributed.run")}
LINES_OF_FAILURE = 20
WIDTH = 150  # of a shown line
SECONDS_TO_END = 5  # after Ctrl-C, which a terminal sends to the step too


@dataclass(frozen=True)
class Step:
    """One command of a plan.

    name: the step's, and its log's: ``logs/NAME.log``. command: its words; the first is python or torchrun, paths are
    absolute or relative to the work folder. makes: tells whether what it makes is there and complete; without, it is
    run each time. shown: how many of its last lines are shown.
    """

    name: str
    command: tuple[str, ...]
    makes: Callable[[], bool] | None = None
    shown: int = 1

    @property
    def shell(self) -> str:
        """The command as it is pasted into a shell in the work folder."""
        return shlex.join(self.command)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.makes is not None and self.makes()


def newer(product: Path, *sources: Path) -> bool:
    """Whether a file is there, and all that it is made from is there and not younger."""
    return all(path.is_file() for path in (product, *sources)) and all(
        product.stat().st_mtime_ns >= source.stat().st_mtime_ns for source in sources)


def as_script(steps: Sequence[Step], out: Path) -> str:
    """A plan as a shell script, with what is done already commented out."""
    lines = [f"cd {shlex.quote(str(out))}"]
    for number, step in enumerate(steps, start=1):
        done = step.done
        lines += ["", f"# {number}. {step.name}{': done already' if done else ''}", f"{'# ' * done}{step.shell}"]
    return "\n".join(lines)


@dataclass
class Runner:
    """Runs steps in a work folder. out: the folder. times: seconds of the steps that were run, by name."""

    out: Path
    times: dict[str, float] = field(default_factory=dict)
    _asked: list[int] = field(default_factory=list)  # signals to stop
    _child: subprocess.Popen | None = None
    _lock: int | None = None  # the steps inherit it, so it tells that one is still running

    @contextmanager
    def open(self) -> Iterator["Runner"]:
        """Hold the folder, and listen to signals, while steps are run.

        Raises:
            OptionError: another process works in the folder.
        """
        (self.out / "logs").mkdir(parents=True, exist_ok=True)
        with hold(self.out):
            self._lock = os.open(self.out / ".step", os.O_WRONLY | os.O_CREAT)
            try:
                self._await_orphan(self._lock)
                before = {number: signal.signal(number, self._forward) for number in SIGNALS}
                try:
                    yield self
                finally:
                    for number, handler in before.items():
                        signal.signal(number, handler)
            finally:
                os.close(self._lock)

    def run(self, steps: Sequence[Step]) -> None:
        """Run those steps of a plan that are not done, in order.

        Raises:
            TrainingError: a step failed; the message has its last words and its log.
            StopRequested: SIGTERM or SIGUSR1 came; the running step was told, and has ended.
        """
        for number, step in enumerate(steps, start=1):
            self._stop_if_asked()
            title = f"[{number}/{len(steps)} {step.name}]"
            if step.done:
                say(f"{title} done already")
                continue
            self.run_step(step, title)

    def run_step(self, step: Step, title: str = "") -> None:
        """Run a step whether it is done or not. title: shown before it. Raises as :meth:`run` does."""
        self._stop_if_asked()
        log = self.out / "logs" / f"{step.name.replace(' ', '_')}.log"
        say(f"\n{title or f'[{step.name}]'}\n$ {step.shell}")
        start = time.perf_counter()
        code = self._execute(step, log)
        self.times[step.name] = self.times.get(step.name, 0.0) + time.perf_counter() - start
        if code == EXIT_CODE or (code and self._asked):
            say(f"  stopped: the same command goes on from here; log {log}")
            raise StopRequested
        if code:
            raise failure(step, code, log)
        for line in last_lines(log, step.shown):
            say(f"  {line[:WIDTH]}")
        say(f"  {self.times[step.name]:.0f} s, log {log}")
        if step.makes is not None and not step.makes():
            raise TrainingError(f"step {step.name!r} ended well, but has not left what it should: see {log}")

    def _execute(self, step: Step, log: Path) -> int:
        """Run a step's command, its output at the end of its log; the exit code, negative for a signal's number."""
        words = (*PROGRAMS.get(step.command[0], step.command[:1]), *step.command[1:])
        with open(log, "a", encoding="utf-8") as file:
            print(f"$ {step.shell}", file=file, flush=True)
            self._child = subprocess.Popen(
                words, cwd=self.out, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=os.environ | {"NO_COLOR": "1"},  # whatever is asked for on the terminal, this is a file
                pass_fds=(self._lock,) if self._lock is not None else (),
                preexec_fn=lambda: end_with_parent(signal.SIGTERM))
            try:
                if self._asked:  # a moment ago, when there was no child yet to tell
                    self._child.send_signal(signal.SIGTERM)
                return self._child.wait()
            except KeyboardInterrupt:
                say(f"  waiting for {step.name} to end; another Ctrl-C kills it")
                self._end_gently(self._child)
                raise
            finally:
                self._child.kill()  # nothing where it has ended
                self._child.wait()
                self._child = None

    def _end_gently(self, child: subprocess.Popen) -> None:
        try:
            child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait()

    def _forward(self, number: int, _: object) -> None:
        """A signal's handler. SIGUSR1 becomes SIGTERM, since torchrun knows only that."""
        self._asked.append(number)
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)

    def _stop_if_asked(self) -> None:
        if self._asked:
            say(f"stopping on {signal.Signals(self._asked[0]).name}: the same command goes on from here")
            raise StopRequested

    def _await_orphan(self, lock: int) -> None:
        """Wait for a step that a killed runner has left; it was told to end, and saves what it has done."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for the step of an earlier run, which is about to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks


def failure(step: Step, code: int, log: Path) -> TrainingError:
    """What to raise for a step that failed, after showing its last lines: one line with the reason it gave."""
    lines = last_lines(log, LINES_OF_FAILURE)
    for line in lines:
        say(f"  {line[:WIDTH]}")
    reasons = [line for line in lines if line.startswith("error")] or lines[-1:] or ["it said nothing"]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    return TrainingError(f"step {step.name!r} {how}: {reasons[-1]} (its log: {log}; once that is mended, the same "
                         "command goes on with this step)")


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log's last run that are not empty, without what its first line says."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [printable(line) for line in text.splitlines() if line.strip()]
    start = max((i for i, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    lines = lines[start + 1:]
    if NEXT in lines:  # the plan itself knows what comes next
        lines = lines[:lines.index(NEXT)]
    return lines[-count:] if count else []
