"""What a recipe costs, RECIPE as of experiments.verify.

    python -m experiments.cost RECIPE --rate 20

Operations and samples by benchmarks.needs; hours on 2 processor cores by their measured rates (docs/performance.md).
Hours on GPUs are operations over what a GPU sustains: one was measured in training, see docs/performance.md.
"""

from collections.abc import Sequence

import launch
from benchmarks.needs import Job
from eval.report import table
from experiments import recipe as recipes
from experiments.recipe import Cost
from utils.console import say
from utils.options import Parser, positive_float

GPU_RATE = 28e12  # operations a second: main_coclr.py on an NVIDIA H200 in TF32, 16 clips a step in 66 ms


def job(cost: Cost) -> Job:
    """A part of a recipe as a training of so many samples."""
    return Job(videos=cost.videos * cost.clips, epochs=cost.epochs, batch=cost.batch, processes=cost.processes,
               passes=cost.passes)


def operations(cost: Cost) -> float:
    """Operations of a part, all in all."""
    return job(cost).samples * job(cost).sample_operations


def cpu_hours(cost: Cost) -> float:
    """Hours on the 2 cores that were measured."""
    costs = job(cost).costs
    return operations(cost) / {"train": costs.train_rate, "test": costs.test_rate}[cost.work] / 3600


def gpu_hours(cost: Cost, rate: float = GPU_RATE) -> float:
    """Hours on as many GPUs as there are processes, which sustain ``rate`` operations a second each."""
    return operations(cost) / (rate * cost.processes) / 3600


def make_parser() -> Parser:
    """The options."""
    parser = Parser(description=__doc__)
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of {', '.join(recipes.names())}, or a .toml file")
    parser.topic("hardware")("--rate", type=positive_float, default=GPU_RATE / 1e12, metavar="TFLOPS", help="TFLOP/s "
                             "that a GPU sustains (default: 28, an H200 in TF32)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print a recipe's costs."""
    args = make_parser().parse_args(argv)
    rows = [[cost.what, f"{job(cost).samples:,}", f"{operations(cost):.3g}", f"{cpu_hours(cost):,.1f}",
             f"{gpu_hours(cost, 1e12 * args.rate):,.2f}", str(cost.processes)]
            for cost in recipes.load(args.recipe).cost]
    say(table(["part", "clips", "operations", "hours, 2 cores", "hours, GPUs", "GPUs"], rows))
    return 0


if __name__ == "__main__":
    launch.run(main)
