"""Whether a long training stays as it is: ``python -m benchmarks.soak --minutes 30``.

Trains CoCLR+CPR on generated videos with loader workers, checkpoints inside and at the ends of epochs, and watches it
from outside: memory and file handles of all its processes, every five seconds, and the time of its steps, by the clock
and of the processors. Then it asks the run to stop (SIGUSR1), and compares the second tenth of the time, when all is
allocated, with the last. The exit code is 1 if anything grew by 2 % or more.

Memory is anonymous and shared memory, each page counted once; pages of files, which the system drops at will, are not.
"""

import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import launch
from benchmarks.data import NAME, make_set
from benchmarks.processes import Look, cpu_seconds, look, tree
from benchmarks.sizes import Sizes
from utils.console import say
from utils.errors import TrainingError
from utils.options import ROOT, Parser, positive_float, positive_int, whole_number
from utils.stop import EXIT_CODE

SECONDS = 5.0  # between two looks, or less in a short run
LOOKS = 100
POLL = 0.2  # seconds between two readings of metrics.jsonl
LIMIT = 0.02  # growth
HEAD = f"{'':<14}{'start':>12}{'end':>12}{'growth':>10}"


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, checked."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--minutes", type=positive_float, default=30.0, help="of training (default 30)")
    add("--seq_len", type=positive_int, default=8, help="frames per clip")
    add("--img_dim", type=positive_int, default=64, help="side of the input frames in pixels")
    add("--batch_size", type=positive_int, default=4, help="clips per step")
    add("--videos", type=positive_int, default=64, help="generated videos")
    add("-j", "--workers", type=whole_number, default=2, help="loader processes")
    add("--json", default="", metavar="FILE", help="write everything that was seen")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Steps:
    """A line of metrics.jsonl. second: when it was seen. done: steps so far. step: seconds each, since the line before.
    cpu: processor seconds of all processes so far."""

    second: float
    done: int
    step: float
    cpu: float


def windows(values: Sequence[tuple[float, float]], length: float) -> tuple[float, float]:
    """Medians of (second, value) pairs in the second tenth and in the last tenth of a time.

    Raises:
        TrainingError: nothing was seen in one of them.
    """
    parts = [[value for second, value in values if low * length <= second <= high * length]
             for low, high in ((0.1, 0.2), (0.9, 1.0))]
    if not all(parts):
        raise TrainingError("the run was too short to compare its beginning with its end: take more --minutes")
    return statistics.median(parts[0]), statistics.median(parts[1])


def command(args: Namespace, folder: Path) -> list[str]:
    """The training: CoCLR+CPR, which has all parts."""
    return [sys.executable, str(ROOT / "main_coclr.py"), "--net", "s3d", "--dataset", f"{NAME}-2stream-2clip",
            "--seq_len", str(args.seq_len), "--img_dim", str(args.img_dim), "--batch_size", str(args.batch_size),
            "--moco-k", str(8 * args.batch_size), "--topk", "2", "--cascade", "--stage", "2",
            "--health_clips", "0", "-j", str(args.workers),
            "--epochs", "1000000", "--save_freq", "25", "--save_steps", "100", "--print_freq", "10",
            "--data_root", str(folder / "data"), "--split_root", str(folder / "splits")]


class Lines:
    """The lines of a run's metrics.jsonl that tell of steps; each one is handed out once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._place = folder, 0

    def new(self) -> list[dict]:
        """Those that were written since the last call."""
        [*found] = self._folder.glob("ckpt/*/*/metrics.jsonl")
        if not found:
            return []
        with open(found[0], "rb") as file:
            file.seek(self._place)
            complete = file.read().rpartition(b"\n")[0]
        self._place += len(complete) + (len(complete) > 0)
        return [line for line in map(json.loads, complete.splitlines()) if line["kind"] == "steps"]


def watch(args: Namespace, folder: Path) -> tuple[list[Look], list[Steps]]:
    """Train for the time and stop; what was seen.

    Raises:
        TrainingError: the run ended by itself, or not as it should.
    """
    log = folder / "log.txt"
    with open(log, "w") as output:
        run = subprocess.Popen(command(args, folder), cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        seen = _watch(run, Lines(folder), 60 * args.minutes)
        if run.poll() is not None:
            raise TrainingError(f"the run ended by itself: {log.read_text()[-2000:]}")
        run.send_signal(signal.SIGUSR1)
        if run.wait(timeout=120) != EXIT_CODE:
            raise TrainingError(f"the run ended with {run.returncode} on SIGUSR1: {log.read_text()[-2000:]}")
    finally:
        run.kill()
    return seen


def _watch(run: subprocess.Popen, lines: Lines, length: float) -> tuple[list[Look], list[Steps]]:
    """Look at a run for so many seconds from its first step on."""
    while not lines.new() and run.poll() is None:
        time.sleep(POLL)
    looks: list[Look] = []
    steps: list[Steps] = []
    begin, between = time.monotonic(), min(SECONDS, length / LOOKS)
    while (second := time.monotonic() - begin) < length and run.poll() is None:
        for line in lines.new():
            cpu = sum(map(cpu_seconds, tree(run.pid)))
            steps.append(Steps(second, line["done"], line["seconds"]["step"], cpu))
        if second >= between * len(looks):
            seen = look(run.pid, second)
            looks += [seen] if seen else []
        time.sleep(POLL)
    return looks, steps


def cpu_a_step(steps: Sequence[Steps], length: float) -> tuple[float, float]:
    """Processor seconds of a step in the second tenth and in the last tenth of a time."""
    parts = [[each for each in steps if low * length <= each.second <= high * length]
             for low, high in ((0.1, 0.2), (0.9, 1.0))]
    if not all(part and part[-1].done > part[0].done for part in parts):
        raise TrainingError("the run was too short to compare its beginning with its end: take more --minutes")
    start, end = ((part[-1].cpu - part[0].cpu) / (part[-1].done - part[0].done) for part in parts)
    return start, end


def report(looks: Sequence[Look], steps: Sequence[Steps], length: float) -> dict[str, tuple[float, float]]:
    """Print start, end and growth of each measure, and return start and end."""
    rows = {"memory, MB": windows([(each.second, each.memory / 2**20) for each in looks], length),
            "file handles": windows([(each.second, each.handles) for each in looks], length),
            "processes": windows([(each.second, each.processes) for each in looks], length),
            "step, s": windows([(each.second, each.step) for each in steps], length),
            "step, CPU s": cpu_a_step(steps, length)}
    say(HEAD)
    for name, (start, end) in rows.items():
        say(f"{name:<14}{start:>12.4g}{end:>12.4g}{end / start - 1:>+10.2%}")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Train, watch, compare."""
    args = parse(argv)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        make_set(folder, Sizes(height=120, width=160), [40] * args.videos)
        say(" ".join(command(args, folder)[1:]))
        looks, steps = watch(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"{steps[-1].done - steps[0].done} steps in {args.minutes:g} minutes, {len(looks)} looks")
    rows = report(looks, steps, 60 * args.minutes)
    if args.json:
        Path(args.json).write_text(json.dumps({"options": vars(args), "looks": [asdict(each) for each in looks],
                                               "steps": [asdict(each) for each in steps], "windows": rows}, indent=1))
    grown = [name for name, (start, end) in rows.items() if end / start - 1 >= LIMIT]
    say(f"grew by {LIMIT:.0%} or more: {', '.join(grown)}" if grown else f"nothing grew by {LIMIT:.0%}")
    return 1 if grown else 0


if __name__ == "__main__":
    launch.run(main)
