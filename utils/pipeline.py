"""Commands that are run one after another in a work folder: stopped at any point, and started again from there.

A plan is a list of steps. A step whose product is there is skipped; any other is run, and goes on from what it has left
behind if its command says so (``--resume auto``). The commands of a plan are what a user could paste into a shell.
Where there are cores or a GPU for it, several steps are run at a time, each after those whose products it takes.
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

from utils import step_log
from utils.console import say
from utils.errors import TrainingError
from utils.run_folder import hold
from utils.stop import EXIT_CODE, SIGNALS, StopRequested, end_with_parent

# What the first word of a command stands for: the programs of this environment, whatever the PATH says.
PROGRAMS = {"python": (sys.executable,), "torchrun": (sys.executable, "-m", "torch.distributed.run")}
SECONDS_TO_END = 5  # after Ctrl-C, which a terminal sends to the step too
SECONDS_TO_LOOK = 0.05  # between two looks at steps that run side by side


@dataclass(frozen=True)
class Step:
    """One command of a plan.

    name: the step's, and its log's: ``logs/NAME.log``. command: its words; the first is python or torchrun, paths are
    absolute or relative to the work folder. makes: tells whether what it makes is there and complete; without, it is
    run each time. shown: how many of its last lines are shown. after: names of the steps whose products it takes.
    """

    name: str
    command: tuple[str, ...]
    makes: Callable[[], bool] | None = None
    shown: int = 1
    after: tuple[str, ...] = ()

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
class _Started:
    """A step that runs. title: shown before what it says. log: its file. since: when it began, by perf_counter."""

    step: Step
    title: str
    log: Path
    process: subprocess.Popen
    since: float


@dataclass
class Runner:
    """Runs steps in a work folder. out: the folder. times: seconds of the steps that were run, by name."""

    out: Path
    times: dict[str, float] = field(default_factory=dict)
    _asked: list[int] = field(default_factory=list)  # signals to stop
    _children: list[subprocess.Popen] = field(default_factory=list)
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

    def run(self, steps: Sequence[Step], at_once: int = 1) -> None:
        """Run those steps of a plan that are not done, in order.

        Args:
            at_once: so many side by side, the first ones first whose predecessors (``after``) are done.

        Raises:
            TrainingError: a step failed; the message has its last words and its log. Those beside it were told to end,
                and have.
            StopRequested: SIGTERM or SIGUSR1 came; the running steps were told, and have ended.
        """
        if at_once > 1:
            self._run_side_by_side(steps, at_once)
            return
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
        log = self._log(step)
        say(f"\n{title or f'[{step.name}]'}\n$ {step.shell}")
        start = time.perf_counter()
        code = self._execute(step, log)
        self._conclude(step, log, code, time.perf_counter() - start)

    def _run_side_by_side(self, steps: Sequence[Step], at_once: int) -> None:
        waiting = dict(enumerate(steps, start=1))
        running: list[_Started] = []
        try:
            while waiting or running:
                self._stop_if_asked(running)
                self._start_ready(waiting, running, len(steps), at_once)
                self._conclude_ended(running)
        except (TrainingError, StopRequested):
            for each in running:
                each.process.terminate()
            self._wait_for_all(running)
            raise
        except KeyboardInterrupt:
            say(f"  waiting for {', '.join(each.step.name for each in running)} to end; another Ctrl-C kills them")
            for each in running:
                self._end_gently(each.process)
            raise
        finally:
            for each in running:
                self._bury(each.process)

    def _start_ready(self, waiting: dict[int, Step], running: list[_Started], count: int, at_once: int) -> None:
        """Start steps that take nothing of an unfinished one, while there is room; they leave ``waiting``."""
        unfinished = {step.name for step in waiting.values()} | {each.step.name for each in running}
        for number, step in list(waiting.items()):
            if len(running) == at_once:
                return
            if unfinished.intersection(step.after):
                continue
            del waiting[number]
            title = f"[{number}/{count} {step.name}]"
            if step.done:
                say(f"{title} done already")
                unfinished.remove(step.name)
            else:
                say(f"{title}\n$ {step.shell}")
                running.append(self._start(step, title, self._log(step)))

    def _conclude_ended(self, running: list[_Started]) -> None:
        """Conclude steps that have ended, which then leave ``running``; where there is none, wait a moment."""
        ended = [each for each in running if each.process.poll() is not None]
        if running and not ended:
            time.sleep(SECONDS_TO_LOOK)
        for each in ended:
            running.remove(each)
            self._children.remove(each.process)
            self._conclude(each.step, each.log, each.process.returncode, time.perf_counter() - each.since, each.title)

    def _log(self, step: Step) -> Path:
        return self.out / "logs" / f"{step.name.replace(' ', '_')}.log"

    def _start(self, step: Step, title: str, log: Path) -> _Started:
        """Start a step's command, its output at the end of its log."""
        words = (*PROGRAMS.get(step.command[0], step.command[:1]), *step.command[1:])
        with open(log, "a", encoding="utf-8") as file:
            print(f"$ {step.shell}", file=file, flush=True)
            process = subprocess.Popen(
                words, cwd=self.out, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=os.environ | {"NO_COLOR": "1"},  # whatever is asked for on the terminal, this is a file
                pass_fds=(self._lock,) if self._lock is not None else (),
                preexec_fn=lambda: end_with_parent(signal.SIGTERM))
        self._children.append(process)
        if self._asked:  # a moment ago, when there was no child yet to tell
            process.send_signal(signal.SIGTERM)
        return _Started(step, title, log, process, time.perf_counter())

    def _execute(self, step: Step, log: Path) -> int:
        """Run a step's command; the exit code, negative for a signal's number."""
        started = self._start(step, "", log)
        try:
            return started.process.wait()
        except KeyboardInterrupt:
            say(f"  waiting for {step.name} to end; another Ctrl-C kills it")
            self._end_gently(started.process)
            raise
        finally:
            self._bury(started.process)

    def _conclude(self, step: Step, log: Path, code: int, seconds: float, title: str = "") -> None:
        """Note how long a step took and show its last lines; raises what its end means for the plan."""
        self.times[step.name] = self.times.get(step.name, 0.0) + seconds
        if code == EXIT_CODE or (code and self._asked):
            say(f"  {f'{step.name} ' * bool(title)}stopped: the same command goes on from here; log {log}")
            raise StopRequested
        if title:
            say(f"{title} has ended")
        if code:
            raise step_log.failure(step.name, code, log)
        step_log.show(step_log.last_lines(log, step.shown))
        say(f"  {self.times[step.name]:.0f} s, log {log}")
        if step.makes is not None and not step.makes():
            raise TrainingError(f"step {step.name!r} ended well, but has not left what it should: see {log}")

    def _bury(self, child: subprocess.Popen) -> None:
        child.kill()  # nothing where it has ended
        child.wait()
        if child in self._children:
            self._children.remove(child)

    def _end_gently(self, child: subprocess.Popen) -> None:
        try:
            child.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait()

    def _forward(self, number: int, _: object) -> None:
        """A signal's handler. SIGUSR1 becomes SIGTERM, since torchrun knows only that."""
        self._asked.append(number)
        for child in self._children:
            child.send_signal(signal.SIGTERM)

    def _stop_if_asked(self, running: list[_Started] | None = None) -> None:
        if self._asked:
            self._wait_for_all(running or [])
            say(f"stopping on {signal.Signals(self._asked[0]).name}: the same command goes on from here")
            raise StopRequested

    def _wait_for_all(self, running: list[_Started]) -> None:
        """Steps that were told to end save what they have done; then ``running`` is empty."""
        while running:
            each = running[-1]
            each.process.wait()
            running.pop()
            self._children.remove(each.process)
            seconds = time.perf_counter() - each.since
            self.times[each.step.name] = self.times.get(each.step.name, 0.0) + seconds

    def _await_orphan(self, lock: int) -> None:
        """Wait for a step that a killed runner has left; it was told to end, and saves what it has done."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for the step of an earlier run, which is about to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
