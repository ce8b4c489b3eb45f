"""Compare the speed of our code with straightforward implementations of the same work.

    python -m tools.benchmarks                                            # all rows, about an hour on two cores
    python -m tools.benchmarks --rows cascade loader --rounds 7 --json results.json
    python -m tools.benchmarks batch=4 frames=16 img_dim=64 --rows step   # other sizes: tools/benchmarks/data.py
    python -m tools.benchmarks tiny --rounds 1                            # a quick check that everything runs
    python -m tools.benchmarks --device cuda --rows cascade step evaluation

Both versions of a row run alternately in this process, after a warm-up, and must give the same result. The ratio is
the median time of the straightforward version over that of ours.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from tools.benchmarks import cascade, evaluation, loader, step
from tools.benchmarks.data import Sizes, parse_sizes
from tools.benchmarks.measure import Case, machine, markdown, measure
from utils import launch
from utils.console import say
from utils.errors import OptionError
from utils.files import write_json
from utils.parser import Parser

ROWS: dict[str, Callable[[Sizes, Path], Iterator[Case]]] = {
    "cascade": cascade.cases, "loader": loader.cases, "step": step.cases, "evaluation": evaluation.cases}


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(prog="python -m tools.benchmarks", description=__doc__)
    parser.add_argument("sizes", nargs="*", help="tiny, or NAME=VALUE[,VALUE]; see tools/benchmarks/data.py")
    add = parser.topic("method")
    add("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="what to measure (default: all)")
    add("--rounds", type=int, default=5, metavar="ROUNDS", help="timed rounds of both versions, after a warm-up")
    parser.topic("hardware")("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure")
    parser.topic("output")("--json", type=Path, metavar="FILE", help="also write all measurements to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line per result, then the table; with --json also write everything to a file."""
    options = make_parser().parse_args(argv)
    if options.rounds < 1:
        raise OptionError(f"--rounds {options.rounds}: give 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: there is no GPU here")
    sizes = parse_sizes(options.sizes, torch.device(options.device))
    about = machine(sizes.device)
    say(", ".join(f"{name} {value}" for name, value in about.items()))
    found = []
    for name in options.rows:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
            for case in ROWS[name](sizes, Path(folder)):
                result = measure(case, options.rounds, sizes.device)
                found.append(result)
                say(f"{result['row']}, {result['size']}: {result['ratio']:.2f} x")
                if options.json:  # after each row, so that an interrupted run loses nothing
                    write_json(options.json, {"machine": about, "results": found})
    say("\n" + markdown(found))
    return 0


if __name__ == "__main__":
    launch.run(main)
