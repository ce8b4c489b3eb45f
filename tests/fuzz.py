"""Feeds every reader of outside bytes with damaged and odd input, for some minutes:

    python -m tests.fuzz --minutes 10 [--seed 0] [--inputs 30000] [--only checkpoints]

Each input must end in a result that passes its target's checks, or in an error of the project's own of one line.
Anything else is a finding, and so is an input that takes over 5 s, ends the process, or grows its memory by more than
403 MB. Findings are written to --findings, with the input; then the exit code is 1.
"""

import argparse
import itertools
import math
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from fuzz_targets import Target, all_targets
from fuzz_watch import Count, Watched

SHARE_OF_STRATEGIES = 0.3  # of the inputs, Hypothesis's; the rest are of the mutator
ROUND = 100  # inputs of a target before the next one has its turn


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="time in all")
    parser.add_argument("--seed", type=int, default=0, help="of the mutator and of the strategies")
    parser.add_argument("--inputs", type=int, default=0, help="stop after so many inputs; 0: by --minutes alone")
    parser.add_argument("--only", default="", help="targets whose name has this in it")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for what is found")
    return parser.parse_args()


def run(targets: list[Target], options: argparse.Namespace) -> list[Count]:
    """Give the targets their turns until the time or the inputs are spent."""
    counts = [Count(target.name) for target in targets]
    end = time.monotonic() + 60 * options.minutes
    share = math.ceil(options.inputs / sum(target.weight for target in targets)) or ROUND
    for turn in itertools.count():
        for target, count in zip(targets, counts, strict=True):
            spent = sum(each.inputs for each in counts)
            if time.monotonic() > end or 0 < options.inputs <= spent:
                return counts
            size = round(min(share, ROUND) * target.weight)
            size = min(size, options.inputs - spent) if options.inputs else size
            Watched(target, count, options.findings).run(f"{options.seed}/{turn}", size, SHARE_OF_STRATEGIES, end)
    return counts


def report(counts: list[Count], seconds: float) -> None:
    """A line per target."""
    print(f"{'target':34}{'inputs':>8}{'results':>9}{'refused':>9}{'findings':>10}{'slowest':>9}{'memory':>9}")
    for each in counts:
        print(f"{each.name:34}{each.inputs:8}{each.results:9}{each.refused:9}{each.findings:10}{each.slowest:8.2f}s"
              f"{each.grown / 2**20:7.0f}MB")
    print(f"{sum(each.inputs for each in counts)} inputs in {seconds:.0f} s, "
          f"{sum(each.findings for each in counts)} findings")


def main() -> int:
    options = parse()
    multiprocessing.set_start_method("fork")
    start, memory = time.monotonic(), Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        targets = [target for target in all_targets(Path(folder)) if options.only in target.name]
        if not targets:
            raise SystemExit(f"no target has {options.only!r} in its name")
        for target in targets:  # what is imported on first use is there then, in all processes
            target.read(target.seeds[0])
        counts = run(targets, options)
    report(counts, time.monotonic() - start)
    return 1 if any(each.findings for each in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
