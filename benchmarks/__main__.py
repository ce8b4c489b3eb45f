"""Measure ours against straightforward versions of the same work, side by side.

    python -m benchmarks                                          # every row, about an hour on two cores
    python -m benchmarks --rows cascade loader --rounds 7 --json results.json
    python -m benchmarks batch=4 frames=16 img_dim=64 --rows step   # other sizes, see sizes.py
    python -m benchmarks tiny --rounds 1                          # does it all run?
    python -m benchmarks --device cuda --rows cascade step retrieval ten_crop

Each row runs both ways in turn in this process, `--rounds` times after a warm-up, and checks that they give the same
result. A ratio is the median over rounds of straightforward / ours, so other load on the machine touches both sides.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.measure import Result
    from benchmarks.sizes import Sizes
    from utils.parser import Parser

os.environ.setdefault("TQDM_DISABLE", "1")  # bars of the work that is measured
# What is heavy is imported where it is used: processes that the flow rows start import this module too.


def rows() -> dict[str, Callable]:
    """Every row by its name."""
    from benchmarks import (
        rows_cascade,
        rows_evaluation,
        rows_loader,
        rows_preparation,
        rows_startup,
        rows_step,
    )
    return {"cascade": rows_cascade.cascade, "scaling": rows_cascade.scaling, "loader": rows_loader.sample,
            "lengths": rows_loader.lengths, "bytes": rows_loader.message, "pages": rows_loader.pages,
            "step": rows_step.step, "retrieval": rows_evaluation.retrieval, "ten_crop": rows_evaluation.ten_crop,
            "flow_workers": rows_preparation.flow_workers, "flow_methods": rows_preparation.flow_methods,
            "startup": rows_startup.startup}


# Rows that look at one core at a time, as a loader's process has it.
ONE_THREAD = ("loader", "lengths", "bytes", "pages", "flow_methods", "flow_workers")


def results(names: Sequence[str], sizes: "Sizes", rounds: int) -> Iterator["Result"]:
    """Measure rows one after the other."""
    import cv2
    import torch

    from benchmarks.measure import measure

    threads = torch.get_num_threads()
    for name in names:
        one = name in ONE_THREAD
        torch.set_num_threads(1 if one else threads)
        cv2.setNumThreads(1 if one else threads)
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            for case in rows()[name](sizes, Path(folder)):
                yield measure(case, rounds, sizes.device)
    torch.set_num_threads(threads)


def make_parser() -> "Parser":
    """The options."""
    from utils.parser import Parser

    parser = Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sizes", nargs="*", help="tiny, or NAME=VALUE[,VALUE]; see benchmarks/sizes.py")
    add = parser.topic("method")
    add("--rows", nargs="+", choices=list(rows()), default=list(rows()), help="what to measure (default: all)")
    add("--rounds", type=int, default=5, metavar="ROUNDS", help="rounds of both ways in turn, after a warm-up")
    parser.topic("hardware")("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure")
    parser.topic("output")("--json", type=Path, metavar="FILE", help="write all measurements to this file, too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line as each result comes, then the table; with --json write everything to a file."""
    import torch

    from benchmarks import report
    from benchmarks.sizes import parse
    from utils.errors import OptionError

    args = make_parser().parse_args(argv)
    if args.rounds < 1:
        raise OptionError(f"--rounds {args.rounds}: give 1 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: there is no GPU here")
    device = torch.device(args.device)
    about = report.machine(device)
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    found = []
    for result in results(args.rows, parse(args.sizes, device), args.rounds):
        found.append(result)
        print(f"{result.row}, {result.size}: {result.ratio:.2f} x", flush=True)
        if args.json:
            everything = {"machine": about, "results": [each.as_dict() for each in found]}
            args.json.write_text(json.dumps(everything, indent=1))
    print("\n" + report.table(found))
    return 0


if __name__ == "__main__":
    import launch

    launch.run(main)
