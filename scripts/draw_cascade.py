"""Draws the cascade of CPR, from the stages of model/cascade.py itself (needs matplotlib):

    python scripts/draw_cascade.py --output docs/cascade.png

One query and a queue of made-up similarities, in which each view knows the classes a little: some entries are of the
query's class, some only look alike (close in the own view), some only move alike (close in the other view), and some
are of the query's own source and never mined. Each panel shows what a stage keeps.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("agg")

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

import launch
from model.cascade import cascade_stages, stage_sizes, stage_views
from utils.console import say
from utils.errors import OptionError
from utils.options import TOPK, Parser, open_share, positive_int, seed

SHARES = {"class": 0.08, "looks": 0.10, "moves": 0.10, "source": 0.004}  # of the queue
CENTRES = {"class": (0.45, 0.45), "looks": (0.45, 0.0), "moves": (0.0, 0.45), "source": (0.8, 0.75)}  # own, other
SPREAD = 0.17
VIEWS = {"other": ("other view", "#1f77b4"), "own": ("own view", "#d95f02")}
CLASS, REST, GONE = "#111111", "#9a9a9a", "#e4e4e4"
COLUMNS = 4


@dataclass(frozen=True)
class Queue:
    """Similarities of one query to K entries in both views, (K,), and which are of its source and of its class."""

    other: Tensor
    own: Tensor
    excluded: Tensor
    of_class: Tensor


def make_queue(K: int, number: int) -> Queue:
    """Entries drawn from a seed."""
    generator = torch.Generator().manual_seed(number)
    points = SPREAD * torch.randn(K, 2, generator=generator)
    kinds, start = {}, 0
    for kind, share in SHARES.items():
        kinds[kind] = torch.zeros(K, dtype=torch.bool)
        kinds[kind][start:start + max(1, round(share * K))] = True
        start += int(kinds[kind].sum())
        points[kinds[kind]] += torch.tensor(CENTRES[kind])
    points = points.tanh()  # similarities lie between -1 and 1
    return Queue(points[:, 1], points[:, 0], kinds["source"], kinds["class"])


def panels(queue: Queue, topk: int, ratio: float, stage: int) -> list[Tensor]:
    """Which entries survive each stage, (K,) bool."""
    other, own, excluded = (each[None] for each in (queue.other, queue.own, queue.excluded))
    kept = []
    for indices in cascade_stages(other, own, excluded, topk, ratio, stage):
        kept.append(torch.zeros_like(queue.excluded))
        kept[-1][indices[0]] = True
    return kept


def draw_panel(ax: Axes, queue: Queue, before: Tensor, after: Tensor, view: str) -> None:
    """A stage: what it drops, what it keeps, and where its cut lies."""
    gone, kept = before & ~after, after
    for which, colour, size in ((~before & ~queue.excluded, GONE, 1), (gone, REST, 2)):
        ax.scatter(queue.own[which], queue.other[which], s=size, color=colour, linewidths=0)
    colour = VIEWS[view][1]
    ax.scatter(queue.own[kept & ~queue.of_class], queue.other[kept & ~queue.of_class], s=7, color=colour, linewidths=0)
    ax.scatter(queue.own[kept & queue.of_class], queue.other[kept & queue.of_class], s=11, color=CLASS, linewidths=0)
    ax.scatter(queue.own[queue.excluded], queue.other[queue.excluded], s=14, color="#b00020", marker="x",
               linewidths=0.8)
    cut = float((queue.other if view == "other" else queue.own)[kept].min())
    (ax.axhline if view == "other" else ax.axvline)(cut, color=colour, linewidth=1)


def title(number: int, view: str, kept: Tensor, queue: Queue) -> str:
    """Above a stage's panel."""
    size = int(kept.sum())
    share = 100 * float((kept & queue.of_class).sum()) / size
    return f"stage {number}: by the {VIEWS[view][0]}\nkeeps {size}, {share:.0f}% of the class"


def draw(args: Namespace) -> None:
    """Write the picture."""
    sizes, views = stage_sizes(args.moco_k, args.topk, args.ratio, args.stage), stage_views(args.stage)
    queue = make_queue(args.moco_k, args.seed)
    kept = panels(queue, args.topk, args.ratio, args.stage)
    assert [int(each.sum()) for each in kept] == sizes
    rows = -(-(len(kept) + 1) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(10, 2.75 * rows + 0.5), sharex=True, sharey=True,
                                facecolor="white")
    everything = [~queue.excluded, *kept]
    for i, ax in enumerate(axes.flat):
        ax.set(xlim=(-0.65, 1), ylim=(-0.65, 1), xticks=[], yticks=[])
        if i == 0:
            first(ax, queue)
        elif i < len(everything):
            draw_panel(ax, queue, everything[i - 1], everything[i], views[i - 1])
            ax.set_title(title(i, views[i - 1], everything[i], queue), fontsize=9, color=VIEWS[views[i - 1]][1])
        else:
            ax.set_axis_off()
    figure.supxlabel("similarity in the own view, q · queue", fontsize=9)
    figure.supylabel("similarity in the other view, kf · queue_second", fontsize=9)
    figure.tight_layout()
    figure.savefig(args.output, dpi=90, metadata={"Software": None})
    plt.close(figure)
    say(f"{args.output}: stages keep {', '.join(map(str, sizes))} of {args.moco_k}, ranked by {', '.join(views)}")


def first(ax: Axes, queue: Queue) -> None:
    """The queue before any stage, with the meaning of the marks."""
    rest = ~(queue.of_class | queue.excluded)
    ax.scatter(queue.own[rest], queue.other[rest], s=2, color=REST, linewidths=0, label="queue entry")
    ax.scatter(queue.own[queue.of_class], queue.other[queue.of_class], s=5, color=CLASS, linewidths=0,
               label="of the query's class")
    ax.scatter(queue.own[queue.excluded], queue.other[queue.excluded], s=14, color="#b00020", marker="x",
               linewidths=0.8, label="same source, not mined")
    ax.legend(fontsize=7, loc="lower right", markerscale=1.5, framealpha=0.9)
    share = 100 * float(queue.of_class.float().mean())
    ax.set_title(f"the queue\n{len(queue.own)}, {share:.0f}% of the class", fontsize=9)


def make_parser() -> Parser:
    """The options."""
    parser = Parser(description=__doc__)
    add = parser.topic("method")
    add("--moco-k", type=positive_int, default=2048, metavar="K", help="queue length, in clips")
    add("--topk", type=positive_int, default=TOPK, metavar="K", help="positives mined per query")
    add("--ratio", type=open_share, default=0.5, metavar="SHARE", help="share that each stage keeps, 0-1")
    add("--stage", type=positive_int, default=7, metavar="STAGES", help="stages of the cascade")
    add("--seed", type=seed, default=0, help="seed of the made-up similarities")
    parser.topic("output")("--output", type=Path, required=True, metavar="FILE", help="picture to write, .png")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, and draw."""
    args = make_parser().parse_args(argv)
    if args.output.suffix.lower() != ".png":
        raise OptionError(f"--output {args.output}: give a name that ends in .png")
    draw(args)
    return 0


if __name__ == "__main__":
    launch.run(main)
