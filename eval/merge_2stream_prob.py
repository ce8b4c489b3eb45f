"""Fuse the RGB and the flow stream of a dataset, by class probabilities or by retrieval similarities.

Mode c averages the probabilities that `main_classifier.py --test` (or `feature_linear_probe.py`) wrote:

    python merge_2stream_prob.py --mode c --dataset ucf101 \\
        --prob1 RGB_CKPT.pth.tar-prob-ten.json --prob2 FLOW_CKPT.pth.tar-prob-ten.json

Mode s adds the similarities of the feature folders that `main_classifier.py --test --retrieval` wrote, RGB first:

    python merge_2stream_prob.py --mode s --dataset ucf101 --prob1 RGB_RUN/model/feature --prob2 FLOW_RUN/model/feature
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from dataset import catalog
from dataset.video_index import class_labels, name_key, require_labels, video_name
from engine.health import NEAREST, overlap
from engine.options import SPLIT_ROOT
from eval import protocols
from eval.retrieval import FeatureSet, load_both, refuse_other_origin, report_recall
from eval.windows import report_shares
from utils import launch
from utils.console import one_line, percent, percentages, say
from utils.errors import CheckpointError, OptionError
from utils.files import read_json, write_json
from utils.parser import Parser

LEAST_COMMON = 0.95  # of the videos of either stream
EXAMPLES = 3
ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")
# Settings that the features of both streams must share; network and checkpoint may differ.
SETTINGS = ("which_split", "seq_len", "ds", "img_dim", "normalised", "mean_of")


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--prob1", required=True, metavar="RGB_FILE", help="mode c: probability file; mode s: feature folder")
    add("--prob2", required=True, metavar="FLOW_FILE", help="the same for flow")
    add("--dataset", default="ucf101", metavar="NAME", help="dataset name")
    add("--split_root", default=SPLIT_ROOT, metavar="FOLDER", help="folder of splits (default: process_data/data/)")
    parser.topic("evaluation")("--mode", choices=["c", "s"], default="c", help="c: classification; s: similarities")
    parser.topic("output")("--output", default="", metavar="FILE", help="also write the numbers into this JSON file")
    return parser


def read_probabilities(path: Path) -> dict[str, Tensor]:
    """Read a file {csv path: {"mean_prob": [[...]]}} or {csv path: [[...]]} as {csv path: (classes,) float64}."""
    content = read_json(path)
    try:
        rows = {name: torch.tensor(value["mean_prob"] if isinstance(value, dict) else value, dtype=torch.float64)
                .reshape(-1) for name, value in content.items()}
        broken = [one_line(name) for name, row in rows.items() if not row.isfinite().all()]
        if broken or len({len(row) for row in rows.values()}) != 1:
            raise ValueError(f"those of {broken[0]} are not finite" if broken else f"{len(rows)} videos")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a probability file ({error}): it must hold equally many finite numbers "
                              'for each video, as a list or {"mean_prob": ...} of one') from error
    return rows


def label_probabilities(rows: dict[str, Tensor], classes: list[str]) -> FeatureSet:
    """Build a set from probabilities {csv path: (classes,)}; labels are indices into `classes`."""
    names = [video_name(path).split("/")[0] for path in rows]
    label_of = class_labels(classes, names)
    unknown = ", ".join(map(repr, sorted(set(names) - label_of.keys())[:EXAMPLES]))
    prob = torch.stack(list(rows.values()))
    if unknown or prob.shape[1] != len(classes):
        raise OptionError(f"the probability files have {prob.shape[1]} classes, the dataset {len(classes)}"
                          f"{f', without {unknown}' if unknown else ''}: check --dataset")
    return FeatureSet(prob, torch.tensor([label_of[name] for name in names]), list(rows))


def match(rgb: FeatureSet, flow: FeatureSet, *, what: str = "videos") -> tuple[FeatureSet, FeatureSet]:
    """Return the videos that both sets hold, in the order of the first, and print their number.

    Videos match by class and video, whatever the file's ending and the spaces and underscores of the class. UserError:
    fewer than 95 % of either set are in both, or the sets were made or labelled differently.
    """
    rgb_names, flow_names = (_bare_names(each.names) for each in (rgb, flow))
    known = {name_key(name): name for name in rgb_names} | {name: name for name in rgb_names}
    flow_names = [known.get(name, known.get(name_key(name), name)) for name in flow_names]  # classes in one notation
    place = {name: i for i, name in enumerate(flow_names)}
    keep = [i for i, name in enumerate(rgb_names) if name in place]
    counts = f"{len(rgb_names)} {what} of RGB and {len(flow_names)} of flow, {len(keep)} in common"
    if len(keep) < LEAST_COMMON * max(len(rgb_names), len(flow_names)):
        pairs = (("RGB", {*rgb_names} - {*flow_names}), ("flow", {*flow_names} - {*rgb_names}))
        alone = [f"{stream} alone has {', '.join(sorted(only)[:EXAMPLES])}" for stream, only in pairs if only]
        raise OptionError(f"{counts}, less than {LEAST_COMMON:.0%}; {'; '.join(alone)}: make both of one dataset and "
                          "split")
    refuse_other_origin({"RGB": rgb, "flow": flow}, SETTINGS, what)
    rgb, flow = rgb.rows(keep), flow.rows([place[rgb_names[i]] for i in keep])
    if not torch.equal(rgb.labels, flow.labels):
        raise CheckpointError("the two feature folders label the same videos differently: recompute them with one "
                              "ClassInd.txt")
    say(counts)
    return rgb, flow


def _bare_names(paths: list[str]) -> list[str]:
    """Return "Class/video" of csv paths, without file suffixes unless two videos differ in nothing else."""
    names = [video_name(path) for path in paths]
    bare = [ENDING.sub("", name) for name in names]
    if len(set(bare)) == len(bare):
        return bare
    for name, count in Counter(names).items():
        if count > 1:
            raise CheckpointError(f"{one_line(name)} is listed twice, under other folders: remove one of them")
    return names


def merge_probabilities(rgb: FeatureSet, flow: FeatureSet) -> dict[str, dict[Any, float]]:
    """Compute {"RGB" | "flow" | "both": {1: top-1 in 0-1, 5: top-5}} of matched probabilities and of their mean."""
    streams = {"RGB": rgb.features, "flow": flow.features, "both": (rgb.features + flow.features) / 2}
    return {name: protocols.topk_accuracy(prob, rgb.labels) for name, prob in streams.items()}


def merge_similarities(query: tuple[FeatureSet, FeatureSet], gallery: tuple[FeatureSet, FeatureSet]
                       ) -> dict[str, dict[Any, float]]:
    """Compute {"RGB" | "flow" | "both": {k: recall@k in 0-1}} of matched features, "both" by summed similarities.

    Without labels, "both" has only "agreement", the share of the 5 nearest videos that the streams have in common, and
    "agreement_chance", the share that two random lists would.
    """
    rgb, flow = (protocols.similarity(q.features, g.features) for q, g in zip(query, gallery, strict=True))
    if len(torch.cat([query[0].labels, gallery[0].labels]).unique()) < 2:
        near = min(NEAREST, rgb.shape[1])
        return {"both": {"agreement": float(overlap(rgb, flow, near).mean()), "agreement_chance": near / rgb.shape[1]}}
    return {name: protocols.recall_at_k(sim, query[0].labels, gallery[0].labels)
            for name, sim in (("RGB", rgb), ("flow", flow), ("both", rgb + flow))}


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    one, two = Path(args.prob1), Path(args.prob2)
    if args.mode == "c":
        classes = catalog.class_names(args.dataset, args.split_root)
        require_labels(classes, "--mode c")
        rgb, flow = match(*(label_probabilities(read_probabilities(path), classes) for path in (one, two)))
        videos, shares = len(rgb.names), merge_probabilities(rgb, flow)
        report_shares(f"{videos} videos", "top-{} %", shares)
    else:
        base = catalog.parse(args.dataset).base
        streams = [(path if path.is_dir() else path.parent, name) for path, name in ((one, base), (two, f"{base}-f"))]
        (rgb, rgb_gallery), (flow, flow_gallery) = (load_both(folder, name) for folder, name in streams)
        query, gallery = match(rgb, flow, what="queries"), match(rgb_gallery, flow_gallery, what="gallery videos")
        videos, shares = len(query[0].names), merge_similarities(query, gallery)
        if "agreement" in shares["both"]:
            say(f"no labels: the streams share {percent(shares['both']['agreement'])} % of the {NEAREST} nearest, "
                f"{percent(shares['both']['agreement_chance'])} % by chance")
        else:
            report_recall(shares, len(gallery[0].names))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(args.output), {"videos": videos} | {name: percentages(each) for name, each in shares.items()})
    return 0


if __name__ == "__main__":
    launch.run(main)
