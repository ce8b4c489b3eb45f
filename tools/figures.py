"""Draw the pictures of the documentation.

    python -m tools.figures cascade --output docs/cascade.png
    python -m tools.figures gallery --run demo/run --output docs/gallery.jpg

The cascade shows model/cascade.py on made-up similarities; the gallery what both streams of cotrain.py find together.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from torch import Tensor

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from dataset import catalog
from dataset.video_index import video_name
from eval import protocols
from eval.retrieval import load_both
from model.cascade import cascade_stages, stage_views
from tools import pictures
from tools.report.run_reader import read_run
from utils import launch
from utils.console import say
from utils.files import read_json
from utils.parser import Parser

QUEUE, TOPK, RATIO, STAGE = 2048, 5, 0.5, 7
# Kinds of entries: of the class, alike in looks, alike in motion, of the query's source, and the rest.
SHARES = (0.08, 0.10, 0.10, 0.004)  # of the queue
CENTRES = ((0.45, 0.45), (0.45, 0.0), (0.0, 0.45), (0.8, 0.75), (0.0, 0.0))  # similarity in the own and the other view
SPREAD = 0.17
COLOURS = {"other": "#1f77b4", "own": "#d95f02"}  # of the entries that a view keeps
CLASS, REST, GONE, SOURCE = "#111111", "#9a9a9a", "#e4e4e4", "#b00020"
COLUMNS = 4
QUERIES, NEIGHBOURS = 5, 4  # of the gallery
SIZE = (128, 96)  # of a picture, in pixels
GREEN, RED, WHITE = (40, 160, 60), (200, 60, 60), (255, 255, 255)


def draw_cascade(output: Path) -> None:
    """Draw a panel for the queue, and one for each stage with what it drops and keeps, and its threshold.

    The similarities of the query to the entries are made up: each view knows a little of the classes.
    """
    generator = torch.Generator().manual_seed(0)
    counts = [round(share * QUEUE) for share in SHARES]
    kinds = torch.arange(5).repeat_interleave(torch.tensor([*counts, QUEUE - sum(counts)]))  # numbers of `CENTRES`
    points = torch.tensor(CENTRES)[kinds] + SPREAD * torch.randn(QUEUE, 2, generator=generator)
    own, other = points.tanh().T  # similarities lie between -1 and 1
    sims = {"own": own, "other": other}
    of_class, same_source = kinds == 0, kinds == 3
    stages = cascade_stages(other[None], own[None], same_source[None], TOPK, RATIO, STAGE)
    kept = [~same_source, *(torch.zeros_like(same_source).index_fill(0, rows[0], True) for rows in stages)]
    rows = -(-len(kept) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(10, 2.75 * rows + 0.5), sharex=True, sharey=True,
                                facecolor="white", subplot_kw={"xlim": (-0.65, 1), "ylim": (-0.65, 1), "xticks": [],
                                                               "yticks": []})

    def scatter(ax: Axes, which: Tensor, size: float, colour: str, label: str = "") -> None:
        ax.scatter(own[which], other[which], s=size, color=colour, linewidths=0, label=label or None)

    for ax in axes.flat[:len(kept)]:
        ax.scatter(own[same_source], other[same_source], s=14, color=SOURCE, marker="x", linewidths=0.8,
                   label="same source, not mined")
    first, *others = axes.flat
    scatter(first, kept[0] & ~of_class, 2, REST, "queue entry")
    scatter(first, of_class, 5, CLASS, "of the query's class")
    first.legend(fontsize=7, loc="lower right", markerscale=1.5, framealpha=0.9)
    first.set_title(f"the queue\n{QUEUE}, {100 * float(of_class.float().mean()):.0f}% of the class", fontsize=9)
    for i, (ax, view, before, after) in enumerate(zip(others, stage_views(STAGE), kept, kept[1:], strict=False), 1):
        colour = COLOURS[view]
        scatter(ax, kept[0] & ~before, 1, GONE)
        scatter(ax, before & ~after, 2, REST)
        scatter(ax, after & ~of_class, 7, colour)
        scatter(ax, after & of_class, 11, CLASS)
        (ax.axhline if view == "other" else ax.axvline)(float(sims[view][after].min()), color=colour, linewidth=1)
        share = 100 * float((after & of_class).sum()) / int(after.sum())
        ax.set_title(f"stage {i}: by the {view} view\nkeeps {int(after.sum())}, {share:.0f}% of the class", fontsize=9,
                     color=colour)
    figure.supxlabel("similarity in the own view, q · queue", fontsize=9)
    figure.supylabel("similarity in the other view, kf · queue_second", fontsize=9)
    figure.tight_layout()
    figure.savefig(output, dpi=90, metadata={"Software": None})  # no matplotlib version: same bytes each time
    plt.close(figure)
    say(f"drew {output}")


def draw_gallery(run: Path, output: Path) -> None:
    """Draw random test clips and their nearest training clips, those of the same class in green, RGB beside flow."""
    found = read_json(run / "results.json")
    root = Path(read_run(run / next(iter(found["runs"].values()))).options["data_root"])
    similarity, readers = torch.zeros(1), []
    for stream, suffix in (("RGB", ""), ("flow", "-f")):
        spec = catalog.parse(found["dataset"] + suffix)
        query, gallery = load_both(run / Path(found["models"][stream]).parent / "feature", found["dataset"] + suffix)
        similarity = similarity + protocols.similarity(query.features, gallery.features)
        readers += spec.readers(root, train=True)

    def picture(path: str, colour: tuple[int, int, int]) -> np.ndarray:
        name = video_name(path)
        rgb, flow = (reader.frames(name, [reader.num_frames(name) // 2])[0] for reader in readers)
        views = rgb, pictures.flow_to_colour(pictures.flow_from_frames(flow))
        both = np.concatenate([cv2.resize(view, SIZE, interpolation=cv2.INTER_CUBIC) for view in views], axis=1)
        return cv2.copyMakeBorder(cv2.copyMakeBorder(both, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=colour),
                                  3, 3, 5, 5, cv2.BORDER_CONSTANT, value=WHITE)

    lines = []
    for row in np.random.default_rng(0).permutation(len(query.names))[:QUERIES].tolist():
        near = similarity[row].topk(NEIGHBOURS).indices.tolist()
        right = [bool(gallery.labels[other] == query.labels[row]) for other in near]
        found = [picture(gallery.names[i], GREEN if good else RED) for i, good in zip(near, right, strict=True)]
        lines.append(np.concatenate([picture(query.names[row], WHITE), *found], axis=1))
    cv2.imwrite(str(output), np.concatenate(lines)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    say(f"drew {output}")


def make_parser() -> Parser:
    parser = Parser(prog="python -m tools.figures", description=__doc__)
    parser.add_argument("figure", choices=["cascade", "gallery"], help="what to draw")
    parser.topic("data")("--run", type=Path, default=Path("demo/run"), metavar="FOLDER", help="work folder to show")
    parser.topic("output")("--output", type=Path, required=True, metavar="FILE", help="picture to write, .png")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    if args.figure == "cascade":
        draw_cascade(args.output)
    else:
        draw_gallery(args.run, args.output)
    return 0


if __name__ == "__main__":
    launch.run(main)
