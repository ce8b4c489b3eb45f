"""Fuse the RGB and the flow stream of a dataset, by class probabilities or by retrieval similarities.

Probabilities that `main_classifier.py --test` (or `feature_linear_probe.py`) wrote; prints the accuracy of each stream
and of their mean:

    python merge_2stream_prob.py --mode c --dataset ucf101 \\
        --prob1 RGB_CKPT.pth.tar-prob-ten.json --prob2 FLOW_CKPT.pth.tar-prob-ten.json

Feature folders that `main_classifier.py --test --retrieval` wrote, RGB first; prints recall@k of the added
similarities:

    python merge_2stream_prob.py --mode s --dataset ucf101 --prob1 RGB_RUN/model/feature --prob2 FLOW_RUN/model/feature
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

import launch
import next_commands
from dataset import catalog
from dataset.split_files import video_name
from eval import feature_files, protocols
from eval.feature_files import FeatureSet
from eval.report import mark_best, percent, percentages, read_json, table, write_json
from eval.retrieval import report_recall
from utils.console import one_line, say
from utils.errors import CheckpointError, OptionError
from utils.options import SPLIT_ROOT
from utils.parser import Parser
from utils.terminal import paint_table


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--prob1", required=True, metavar="RGB_FILE", help="mode c: probability file; mode s: feature folder")
    add("--prob2", required=True, metavar="FLOW_FILE", help="the same of the flow stream")
    add("--dataset", default="ucf101", metavar="NAME", help="dataset name")
    add("--split_root", default=SPLIT_ROOT, metavar="FOLDER", help="folder of the splits, for ClassInd.txt (default: "
        "process_data/data/ of the repository)")
    parser.topic("evaluation")("--mode", choices=["c", "s"], default="c", help="c: classification; s: similarities "
                               "(retrieval)")
    parser.topic("output")("--output", default="", metavar="FILE", help="also write the table's numbers into this JSON "
                           "file, in percent")
    return parser


def parse(argv: Sequence[str] | None) -> Namespace:
    """Parse the command line."""
    return make_parser().parse_args(argv)


def read_probabilities(path: Path) -> dict[str, Tensor]:
    """{csv path: (classes,) probabilities} from a file {path: {"mean_prob": [[...]]}} or {path: [[...]]}.

    Raises CheckpointError where the file is missing, of another shape, or holds rows of different lengths, a video
    twice, or numbers that are not finite.
    """
    content = read_json(path)
    try:
        rows = {name: torch.tensor(value["mean_prob"] if isinstance(value, dict) else value, dtype=torch.float64)
                .reshape(-1) for name, value in content.items()}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a probability file: it must hold a list of numbers for each video, or "
                              '{"mean_prob": ...} of one') from error
    feature_files.refuse_twice(rows, path)
    odd = next((name for name, row in rows.items() if not row.isfinite().all()), None)
    if odd is not None:
        raise CheckpointError(f"{path}: the probabilities of {one_line(odd)} are not finite: make it again with a "
                              "checkpoint of a sound training")
    lengths = sorted({len(row) for row in rows.values()})
    if len(lengths) != 1:
        raise CheckpointError(f"{path}: rows of {lengths} classes, they must all have as many" if rows
                              else f"{path} holds no video")
    return rows


def merge_probabilities(rgb: dict[str, Tensor], flow: dict[str, Tensor], classes: list[str]) -> list[tuple]:
    """(name, {1: top-1, 5: top-5}, videos) of RGB, of flow and of their mean; of videos that both files hold.

    rgb, flow: {csv path: (classes,)}, matched by the last two components of the path, class and video; a label is the
    number of the class in `classes`.
    """
    flow = {video_name(path): row for path, row in flow.items()}
    rgb = {video_name(path): row for path, row in rgb.items()}
    pairs = {key: (row, flow[key]) for key, row in rgb.items() if key in flow}
    if not pairs:
        raise OptionError("the two files have no video in common: are they of the same dataset and split?")
    number = {name: i for i, name in enumerate(classes)}
    unknown = sorted({key.split("/")[0] for key in pairs} - set(number))
    if unknown:
        raise OptionError(f"class {unknown[0]!r} of the probability files is not in ClassInd.txt: check --dataset")
    label = torch.tensor([number[key.split("/")[0]] for key in pairs])
    one, two = (torch.stack([pair[i] for pair in pairs.values()]) for i in range(2))
    if not one.shape[1] == two.shape[1] == len(classes):
        raise OptionError(f"the files have {one.shape[1]} and {two.shape[1]} classes, the dataset {len(classes)}")
    return [(name, protocols.topk_accuracy(prob, label), len(pairs))
            for name, prob in (("RGB", one), ("flow", two), ("both", (one + two) / 2))]


def match(rgb: FeatureSet, flow: FeatureSet) -> tuple[FeatureSet, FeatureSet]:
    """The videos that both sets hold, in the order of the first."""
    place = {video_name(name): i for i, name in enumerate(flow.names)}
    keep = [i for i, name in enumerate(rgb.names) if video_name(name) in place]
    if not keep:
        raise OptionError("the two feature folders have no video in common: are they of the same dataset and split?")
    rgb, flow = rgb.rows(keep), flow.rows([place[video_name(rgb.names[i])] for i in keep])
    if not torch.equal(rgb.labels, flow.labels):
        raise CheckpointError("the two feature folders label the same videos differently: make them again with one "
                              "ClassInd.txt")
    if rgb.labels.min() < 0:
        raise CheckpointError("the feature folders have labels below 0, of no class: make them again with --retrieval")
    return rgb, flow


def merge_similarities(query: tuple[FeatureSet, FeatureSet], gallery: tuple[FeatureSet, FeatureSet]) -> dict:
    """{"RGB" | "flow" | "both": {k: recall}} of matched sets; each stream's set is centred and normalised by itself."""
    sims = [protocols.similarity(q.features, g.features) for q, g in zip(query, gallery, strict=True)]
    named = {"RGB": sims[0], "flow": sims[1], "both": sims[0] + sims[1]}
    return {name: protocols.recall_at_k(sim, query[0].labels, gallery[0].labels) for name, sim in named.items()}


def merge_files(args: Namespace) -> tuple[int, dict[str, dict[int, float]]]:
    """Run one fusion and print its table; how many videos were tested, and {"RGB" | "flow" | "both": {k: share}}."""
    one, two = Path(args.prob1), Path(args.prob2)
    if args.mode == "c":
        classes = catalog.class_names(args.dataset, args.split_root)
        results = merge_probabilities(read_probabilities(one), read_probabilities(two), classes)
        rows = [[name, percent(top[1]), percent(top[5])] for name, top, _ in results]
        say(table([f"{results[0][2]} videos", "top-1 %", "top-5 %"], mark_best(rows)), paint=paint_table)
        return results[0][2], {name: top for name, top, _ in results}
    base = catalog.parse(args.dataset).base
    folders = [path if path.is_dir() else path.parent for path in (one, two)]
    streams = [(folder, base + suffix) for folder, suffix in zip(folders, ("", "-f"), strict=True)]
    query, gallery = (match(*(feature_files.load(folder, name, split) for folder, name in streams))
                      for split in ("test", "train"))
    say(f"{len(query[0].names)} queries, {len(gallery[0].names)} gallery videos in both streams")
    recall = merge_similarities(query, gallery)
    report_recall(recall, len(gallery[0].names))
    return len(query[0].names), recall


def main(argv: Sequence[str] | None = None) -> int:
    """Run one fusion, print its table, and write it if asked."""
    args = parse(argv)
    videos, shares = merge_files(args)
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(args.output), {"videos": videos} | {name: percentages(each) for name, each in shares.items()})
    rgb = Path(args.prob1)
    next_commands.show(next_commands.after_evaluations(rgb if rgb.is_dir() else rgb.parent))
    return 0


if __name__ == "__main__":
    launch.run(main)
