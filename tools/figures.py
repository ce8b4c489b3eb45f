"""Draw the two figures of the documentation.

The cascade of CPR, from the stages of model/cascade.py:

    python -m tools.figures cascade --output docs/cascade.png

A retrieval: test videos, and the nearest training videos of each:

    python -m tools.figures gallery --dataset mine --features RGB_RUN/model/feature FLOW_RUN/model/feature \\
        --output gallery.jpg
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from dataset import catalog
from dataset.video_index import video_name
from engine.options import DATA_ROOT, TOPK, open_share, positive_int, seed
from eval import protocols
from eval.merge_2stream_prob import match
from eval.retrieval import FeatureSet, load_both
from model.cascade import cascade_stages, stage_sizes, stage_views
from tools import pictures
from tools.pictures import RIGHT, WRONG, Tile
from utils import launch
from utils.console import printable, say
from utils.errors import OptionError
from utils.parser import Parser

GALLERY = """Draw test videos and the nearest training videos of each.

    python -m tools.figures gallery --dataset mine --features RGB_RUN/model/feature FLOW_RUN/model/feature \\
        --output gallery.jpg

`eval/main_classifier.py --retrieval` writes a folder of features beside a checkpoint. Given two, RGB first and flow
second, their similarities are added, as `eval/merge_2stream_prob.py --mode s` does. The queries are drawn
by --seed, of different classes if there are enough; none is chosen by hand. A video is shown as evenly spaced frames.
"""
SHARES = {"class": 0.08, "looks": 0.10, "moves": 0.10, "source": 0.004}  # of the queue
CENTRES = {"class": (0.45, 0.45), "looks": (0.45, 0.0), "moves": (0.0, 0.45), "source": (0.8, 0.75)}  # own, other
SPREAD = 0.17
VIEWS = {"other": ("other view", "#1f77b4"), "own": ("own view", "#d95f02")}
CLASS, REST, GONE, SOURCE = "#111111", "#9a9a9a", "#e4e4e4", "#b00020"
COLUMNS = 4
STRIP_HEIGHT = 48  # pixels, of a video in the gallery


@dataclass(frozen=True)
class Queue:
    """Synthetic similarities of one query to K entries, (K,), in which each view knows a little of the classes.

    Some entries have the query's class, some only look alike (close in the own view), some only move alike (close in
    the other view), and some come from the query's own source and are never mined.
    """

    other: Tensor
    own: Tensor
    excluded: Tensor  # of the query's source
    of_class: Tensor


def make_queue(K: int, number: int) -> Queue:
    """Draw the entries of a queue from a seed."""
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


def survivors(queue: Queue, topk: int, ratio: float, stage: int) -> list[Tensor]:
    """Return the entries that survive each stage, bool (K,) each."""
    kept = []
    for indices in cascade_stages(queue.other[None], queue.own[None], queue.excluded[None], topk, ratio, stage):
        kept.append(torch.zeros_like(queue.excluded))
        kept[-1][indices[0]] = True
    return kept


def draw_cascade(output: Path, K: int, topk: int, ratio: float, stage: int, number: int) -> None:
    """Draw a panel for the queue, and one for each stage with what it drops and keeps, and its threshold."""
    sizes, views = stage_sizes(K, topk, ratio, stage), stage_views(stage)
    queue = make_queue(K, number)
    kept = [~queue.excluded, *survivors(queue, topk, ratio, stage)]
    rows = -(-len(kept) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(10, 2.75 * rows + 0.5), sharex=True, sharey=True,
                                facecolor="white")
    first, *others = axes.flat
    _scatter(first, queue, [(~(queue.of_class | queue.excluded), 2, REST, "queue entry"),
                            (queue.of_class, 5, CLASS, "of the query's class"),
                            (queue.excluded, 14, SOURCE, "same source, not mined")])
    first.legend(fontsize=7, loc="lower right", markerscale=1.5, framealpha=0.9)
    first.set_title(f"the queue\n{K}, {100 * float(queue.of_class.float().mean()):.0f}% of the class", fontsize=9)
    for i, (ax, view, before, after) in enumerate(zip(others, views, kept, kept[1:], strict=False), start=1):
        title, colour = VIEWS[view]
        _scatter(ax, queue, [(~before & ~queue.excluded, 1, GONE, ""), (before & ~after, 2, REST, ""),
                             (after & ~queue.of_class, 7, colour, ""), (after & queue.of_class, 11, CLASS, ""),
                             (queue.excluded, 14, SOURCE, "")])
        cut = float((queue.other if view == "other" else queue.own)[after].min())
        (ax.axhline if view == "other" else ax.axvline)(cut, color=colour, linewidth=1)
        share = 100 * float((after & queue.of_class).sum()) / int(after.sum())
        ax.set_title(f"stage {i}: by the {title}\nkeeps {int(after.sum())}, {share:.0f}% of the class", fontsize=9,
                     color=colour)
    for ax in others[len(views):]:
        ax.set_axis_off()
    figure.supxlabel("similarity in the own view, q · queue", fontsize=9)
    figure.supylabel("similarity in the other view, kf · queue_second", fontsize=9)
    figure.tight_layout()
    metadata = {"Software": None} if output.suffix == ".png" else None  # no matplotlib version: same bytes each time
    figure.savefig(output, dpi=90, metadata=metadata)
    plt.close(figure)
    say(f"{output}: stages keep {', '.join(map(str, sizes))} of {K}, ranked by {', '.join(views)}")


def _scatter(ax: Axes, queue: Queue, layers: Sequence[tuple[Tensor, float, str, str]]) -> None:
    """Draw entries as (which, size, colour, label)."""
    ax.set(xlim=(-0.65, 1), ylim=(-0.65, 1), xticks=[], yticks=[])
    for which, size, colour, label in layers:
        cross = colour == SOURCE
        ax.scatter(queue.own[which], queue.other[which], s=size, color=colour, marker="x" if cross else "o",
                   linewidths=0.8 if cross else 0, label=label or None)


def rank(dataset: str, folders: Sequence[Path]) -> tuple[FeatureSet, FeatureSet, Tensor]:
    """Load queries and gallery, and their similarities (Q, G), of one stream or summed over both."""
    spec = catalog.parse(dataset)
    if len(folders) > 2:
        raise OptionError(f"--features takes one folder, or two (RGB and flow), not {len(folders)}")
    if spec.clips != 1 or len(spec.streams) != 1 or (len(folders) == 2 and dataset != spec.base):
        raise OptionError(f"--dataset {dataset}: give the name used for --retrieval; for two folders, {spec.base}")
    names = [dataset] if len(folders) == 1 else [dataset, f"{dataset}-f"]
    loaded = [load_both(folder, name) for folder, name in zip(folders, names, strict=True)]
    query, gallery = (match(*sets) if len(sets) == 2 else sets for sets in zip(*loaded, strict=True))
    sims = [protocols.similarity(q.features, g.features) for q, g in zip(query, gallery, strict=True)]
    return query[0], gallery[0], sum(sims[1:], sims[0])


def choose_queries(labels: Sequence[int], count: int, number: int) -> list[int]:
    """Draw queries of as many different classes as possible, seeded, ordered by class."""
    seen: Counter[int] = Counter()
    drawn = []
    for query in np.random.default_rng(number).permutation(len(labels)).tolist():
        drawn.append((seen[labels[query]], query))
        seen[labels[query]] += 1
    drawn.sort(key=lambda each: each[0])  # the first of every class, then the second, ...
    return sorted((query for _, query in drawn[:count]), key=lambda query: labels[query])


def draw_gallery(output: Path, dataset: str, folders: Sequence[Path], data_root: Path, count: int, neighbours: int,
                 frames: int, number: int) -> None:
    """Draw one row for each of ``count`` queries: the query and its nearest training videos."""
    query, gallery, sim = rank(dataset, folders)
    if neighbours > len(gallery.names):
        raise OptionError(f"--neighbours {neighbours}: there are {len(gallery.names)} training videos")
    spec = catalog.parse(dataset.removesuffix("-f"))
    [test], [train] = (spec.readers(data_root, train=side) for side in (False, True))

    def tile(videos: FeatureSet, i: int, title: str, colour: pictures.Colour = pictures.INK) -> Tile:
        name, reader = video_name(videos.names[i]), test if videos is query else train
        steps = np.linspace(0, reader.num_frames(name) - 1, frames).round().astype(int)
        return Tile(pictures.film_strip(reader.frames(name, steps), STRIP_HEIGHT),
                    [f"{title}: {printable(name.split('/')[0])}"], colour)

    rows = []
    for i in choose_queries(query.labels.tolist(), count, number):
        rows.append([tile(query, i, "query")])
        for near in sim[i].topk(neighbours).indices.tolist():
            hit = bool(gallery.labels[near] == query.labels[i])
            rows[-1].append(tile(gallery, near, *(("right", RIGHT) if hit else ("wrong", WRONG))))
    pictures.contact_sheet(rows).save(output)
    recall = protocols.recall_at_k(sim, query.labels, gallery.labels)
    say(f"{output}: {len(rows)} of {len(query.names)} queries in {len(gallery.names)} videos; R@1 of all queries "
        f"{100 * recall[1]:.1f}%")


def make_parser() -> Parser:
    """Define the options of both commands."""
    parser = Parser(prog="python -m tools.figures", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    cascade = commands.add_parser("cascade", description=__doc__, help="draw the cascade of CPR")
    add = cascade.topic("method")
    add("--moco-k", type=positive_int, default=2048, metavar="K", help="queue length, in clips")
    add("--topk", type=positive_int, default=TOPK, metavar="N", help="positives mined per query")
    add("--ratio", type=open_share, default=0.5, metavar="SHARE", help="share that each stage keeps, 0-1")
    add("--stage", type=positive_int, default=7, metavar="N", help="stages of the cascade")
    gallery = commands.add_parser("gallery", description=GALLERY, help="draw a retrieval")
    add = gallery.topic("data")
    add("--dataset", required=True, metavar="NAME", help="dataset name, as given for --retrieval; for two folders, "
        "without -f")
    add("--features", type=Path, nargs="+", required=True, metavar="FOLDER", help="one or two folders of features")
    add("--data_root", type=Path, default=Path(DATA_ROOT), metavar="FOLDER", help="folder of the LMDB files (default: "
        "data/ of the repository)")
    add = gallery.topic("output")
    add("--queries", type=positive_int, default=6, metavar="N", help="rows, of different classes if there are enough")
    add("--neighbours", type=positive_int, default=5, metavar="N", help="nearest training videos per query")
    add("--frames", type=positive_int, default=3, metavar="N", help="frames per video")
    for command in (cascade, gallery):
        command.set_defaults(draw_gallery=command is gallery)
        add = command.topic("output")
        add("--output", type=Path, required=True, metavar="FILE", help="picture to write, .png or .jpg")
        add("--seed", type=seed, default=0, help="seed of the random draws")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a figure."""
    args = make_parser().parse_args(argv)
    if args.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OptionError(f"--output {args.output}: give a name that ends in .png or .jpg")
    if args.draw_gallery:
        draw_gallery(args.output, args.dataset, args.features, args.data_root, args.queries, args.neighbours,
                     args.frames, args.seed)
    else:
        draw_cascade(args.output, args.moco_k, args.topk, args.ratio, args.stage, args.seed)
    return 0


if __name__ == "__main__":
    launch.run(main)
