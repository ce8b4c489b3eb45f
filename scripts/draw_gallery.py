"""Draws a retrieval as a picture: test videos, and the nearest training videos of each (needs matplotlib):

    python scripts/draw_gallery.py --dataset mine --features RGB_RUN/model/feature FLOW_RUN/model/feature \\
        --output gallery.jpg

A folder of features is what `eval/main_classifier.py --retrieval` leaves beside a checkpoint; of two, the first of RGB
and the second of flow, the similarities are added, as `eval/merge_2stream_prob.py --mode s` does. The --queries are
drawn by --seed, of different classes where there are enough; none is chosen by hand. A video is shown by frames in
equal steps.
"""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

import launch
from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from dataset.residual import ResidualReader
from dataset.split_files import video_name
from eval import feature_files, protocols
from eval.feature_files import FeatureSet
from eval.merge_2stream_prob import match
from utils.console import printable, say
from utils.errors import OptionError
from utils.options import ROOT, Parser, positive_int, seed

GAP = 2  # pixels
QUERY, HIT, MISS = "#333333", "#1a7f37", "#c62828"


@dataclass(frozen=True)
class Ranking:
    """Queries and gallery with the similarities between them, (Q, G)."""

    query: FeatureSet
    gallery: FeatureSet
    sim: Tensor


def rank(args: Namespace) -> Ranking:
    """The similarities of one stream, or the sum of both."""
    base = catalog.parse(args.dataset).base
    names = [args.dataset] if len(args.features) == 1 else [base, f"{base}-f"]
    loaded = [[feature_files.load(folder, name, split) for folder, name in zip(args.features, names, strict=True)]
              for split in ("test", "train")]
    query, gallery = (match(*sets) if len(sets) == 2 else sets for sets in loaded)
    sims = [protocols.similarity(q.features, g.features) for q, g in zip(query, gallery, strict=True)]
    return Ranking(query[0], gallery[0], sum(sims[1:], sims[0]))


def choose(ranking: Ranking, count: int, number: int) -> list[int]:
    """Queries drawn from a seed, of as many different classes as there are; in the order of their classes."""
    labels = ranking.query.labels.tolist()
    seen: Counter[int] = Counter()
    drawn = []
    for query in np.random.default_rng(number).permutation(len(labels)).tolist():
        drawn.append((seen[labels[query]], query))
        seen[labels[query]] += 1
    drawn.sort(key=lambda each: each[0])  # the first of every class, then the second, ...
    return sorted((query for _, query in drawn[:count]), key=lambda query: labels[query])


def film(reader: LmdbReader | ResidualReader, path: str, count: int) -> np.ndarray:
    """Frames of a video in equal steps, side by side with a gap, (H, count*(W+GAP)-GAP, 3) uint8."""
    name = video_name(path)
    steps = np.linspace(0, reader.num_frames(name) - 1, count).round().astype(int)
    frames = np.pad(reader.frames(name, steps), ((0, 0), (0, 0), (0, GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(frames), axis=1)[:, :-GAP]


def show(ax: Axes, picture: np.ndarray, title: str, colour: str) -> None:
    """A film with its title and a border."""
    ax.imshow(picture)
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set(color=colour, linewidth=3)
    ax.set_title(printable(title), fontsize=8, color=colour, parse_math=False, pad=4)


def draw(args: Namespace) -> None:
    """Write the picture."""
    ranking = rank(args)
    if args.neighbours > len(ranking.gallery.names):
        raise OptionError(f"--neighbours {args.neighbours}: there are {len(ranking.gallery.names)} training videos")
    recall = protocols.recall_at_k(ranking.sim, ranking.query.labels, ranking.gallery.labels)
    spec = catalog.parse(args.dataset.removesuffix("-f"))
    [test], [train] = (spec.readers(args.data_root, train=side) for side in (False, True))
    queries = choose(ranking, args.queries, args.seed)
    strip = film(test, ranking.query.names[0], args.frames)
    width = strip.shape[1] / strip.shape[0]
    figure, axes = plt.subplots(len(queries), args.neighbours + 1, squeeze=False, facecolor="white", figsize=(
        10, (10 / (args.neighbours + 1) / width + 0.24) * len(queries) + 0.3))
    for row, query in zip(axes, queries, strict=True):
        path = ranking.query.names[query]
        show(row[0], film(test, path, args.frames), f"query: {video_name(path).split('/')[0]}", QUERY)
        for ax, near in zip(row[1:], ranking.sim[query].topk(args.neighbours).indices.tolist(), strict=True):
            hit = bool(ranking.gallery.labels[near] == ranking.query.labels[query])
            name = ranking.gallery.names[near]
            show(ax, film(train, name, args.frames), f"{'✓' if hit else '✗'} {video_name(name).split('/')[0]}",
                 HIT if hit else MISS)
    figure.tight_layout(pad=0.4, h_pad=0.5, w_pad=0.6)
    figure.savefig(args.output, dpi=90)
    plt.close(figure)
    say(f"{args.output}: {len(queries)} of {len(ranking.query.names)} queries in {len(ranking.gallery.names)} videos; "
        f"R@1 of all queries {100 * recall[1]:.1f}%")


def make_parser() -> Parser:
    """The options."""
    parser = Parser(description=__doc__)
    add = parser.topic("data")
    add("--dataset", required=True, metavar="NAME", help="dataset name, as given for --retrieval (of two folders, "
        "without -f)")
    add("--features", type=Path, nargs="+", required=True, metavar="FOLDER", help="one or two folders of features")
    add("--data_root", type=Path, default=ROOT / "data", metavar="FOLDER", help="folder of the LMDB files (default: "
        "data/ of the repository)")
    add = parser.topic("output")
    add("--output", type=Path, required=True, metavar="FILE", help="picture to write, .png or .jpg")
    add("--queries", type=positive_int, default=6, metavar="ROWS", help="rows, of different classes where there are "
        "enough")
    add("--neighbours", type=positive_int, default=5, metavar="VIDEOS", help="nearest training videos shown of each")
    add("--frames", type=positive_int, default=3, metavar="FRAMES", help="frames shown of a video")
    add("--seed", type=seed, default=0, help="seed of the choice of queries")
    return parser


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, checked."""
    args = make_parser().parse_args(argv)
    spec = catalog.parse(args.dataset)
    if spec.clips != 1 or len(spec.streams) != 1 or (len(args.features) == 2 and args.dataset != spec.base):
        raise OptionError(f"--dataset {args.dataset}: give the name that --retrieval had, of two folders {spec.base}")
    if len(args.features) > 2:
        raise OptionError(f"--features takes one folder, or two of RGB and flow, not {len(args.features)}")
    if args.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OptionError(f"--output {args.output}: give a name that ends in .png or .jpg")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options, and draw."""
    draw(parse(argv))
    return 0


if __name__ == "__main__":
    launch.run(main)
