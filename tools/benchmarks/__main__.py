"""Compare the speed of our code with straightforward implementations of the same work.

    python -m tools.benchmarks                                            # all rows, about an hour on two cores
    python -m tools.benchmarks --rows cascade loader --rounds 7 --json results.json
    python -m tools.benchmarks batch=4 frames=16 img_dim=64 --rows step   # other sizes: tools/benchmarks/__init__.py
    python -m tools.benchmarks tiny --rounds 1                            # a quick check that everything runs

Both versions of a row run alternately in this process, after a warm-up, and must give the same result. The ratio is
the median time of the straightforward version over that of ours.
"""

import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from engine.device import keep_freed_memory
from engine.options import positive_int
from tools.benchmarks import THREADS, Case, Sizes, evaluation, loader, measure, step
from utils import launch
from utils.console import say
from utils.errors import OptionError
from utils.files import write_json
from utils.parser import Parser

ROWS: dict[str, Callable[[Sizes, Path], Iterator[Case]]] = {
    "cascade": step.cascade_cases, "loader": loader.cases, "step": step.cases, "evaluation": evaluation.cases}
TINY = Sizes(queues=(64,), batches=(2,), stage=3, topk=2, height=24, width=32, frames=8, img_dim=32, samples=2,
             length=18, batch=2, queue=16, steps=2, videos=2, video_frames=18, eval_batch=2, classes=3)


def parse_sizes(settings: Sequence[str], device: torch.device) -> Sizes:
    """Read `NAME=VALUE` settings; `tiny` stands for sizes at which every row is quick."""
    kinds = {each.name: type(getattr(TINY, each.name)) for each in fields(Sizes) if each.name != "device"}
    changed: dict = {}
    for name, _, value in (setting.partition("=") for setting in settings if setting != "tiny"):
        if name not in kinds:
            raise OptionError(f"no size {name!r}: give tiny, or NAME=VALUE with NAME one of {', '.join(kinds)}")
        try:
            changed[name] = tuple(map(int, value.split(","))) if kinds[name] is tuple else kinds[name](value)
        except ValueError:
            raise OptionError(f"{name}={value}: {value!r} is not a number") from None
    return replace(TINY if "tiny" in settings else Sizes(), device=device, **changed)


def make_parser() -> Parser:
    parser = Parser(prog="python -m tools.benchmarks", description=__doc__)
    parser.add_argument("sizes", nargs="*", help="tiny, or NAME=VALUE[,VALUE]; see tools/benchmarks/__init__.py")
    add = parser.topic("method")
    add("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="what to measure (default: all)")
    add("--rounds", type=positive_int, default=5, metavar="ROUNDS", help="timed rounds, after a warm-up")
    parser.topic("hardware")("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure")
    parser.topic("output")("--json", type=Path, metavar="FILE", help="also write all measurements to this file")
    return parser


def machine(device: torch.device) -> dict[str, str | int]:
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {"cpu": model[1] if model else platform.machine(), "cores": os.cpu_count() or 0, "threads": THREADS,
            "torch": torch.__version__, "load at the start": f"{os.getloadavg()[0]:.2f}",
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| what | size | straightforward | ours | ratio | bound | agreement |", "|---" * 7 + "|"]
    for found in results:
        plain, ours, bound = (_seconds(found[name]) for name in ("plain", "ours", "bound"))
        lines.append(f"| {found['row']} | {found['size']} | {plain} | {ours} | {found['ratio']:.2f} | {bound}: "
                     f"{found['bound_of']} | {found['agreement']} |")
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: there is no GPU here")
    sizes = parse_sizes(options.sizes, torch.device(options.device))
    if options.device == "cpu":
        keep_freed_memory()  # as training and evaluation do
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
    say(f"\n{markdown(found)}")
    return 0


if __name__ == "__main__":
    launch.run(main)
