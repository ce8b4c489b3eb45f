"""Compare what pairs of encoders would mine, without training.

    python -m experiments.study --result study.json --own RGB_A.pth.tar RGB_B.pth.tar \\
        --other FLOW_A.pth.tar FLOW_B.pth.tar --cascades 3,0.5 3,0.8 7,0.5

Measures for each pair of an encoder to be trained and the one that would mine for it the positive mining recall (PMR)
of plain top-k and of each cascade, in the same queues, and the label-free health measures, on --health_clips videos.
The options of main_coclr.py (--dataset, --moco-k, --topk, ...) apply as well. PMR needs labels.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

import main_coclr
from dataset.transforms.presets import PretrainTransform
from engine.config import DataConfig, ModelConfig, TrainConfig, take
from engine.health import HealthProbe
from experiments.plan import cascade_title
from model.cascade import cascade_topk
from utils import launch
from utils.console import say
from utils.distributed import DistInfo
from utils.errors import OptionError
from utils.files import write_json
from utils.parser import Parser

DRAWS = 8  # queues per query
CPU = torch.device("cpu")


def cascade(text: str) -> tuple[int, float]:
    """Argparse type: stages and ratio of a cascade, such as "7,0.5"."""
    stage, _, ratio = text.partition(",")
    return int(stage), float(ratio)


def recalls(other: Tensor, own: Tensor, labels: Tensor, sources: Tensor, K: int, topk: int,
            cascades: Sequence[tuple[int, float]], seed: int) -> dict[str, float]:
    """Measure the share of mined entries with the query's class: by chance, by each view's top-k, by each cascade.

    Args:
        other, own: similarities of each video's first clip to all second clips, by both encoders, (N, N). A queue is
            the second clips of K random videos, drawn ``DRAWS`` times for each query.
        labels, sources: of the videos, int64 (N,); entries of the query's source are not mined.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {}
    for _ in range(DRAWS):
        queue = torch.stack([torch.randperm(len(labels), generator=generator)[:K] for _ in labels])  # (N, K)
        views = other.gather(1, queue), own.gather(1, queue)
        excluded = sources[queue] == sources[:, None]
        right = labels[queue] == labels[:, None]
        mined = {"top-k": cascade_topk(*views, excluded, topk, 0.5, 1),
                 "own top-k": cascade_topk(*views[::-1], excluded, topk, 0.5, 1),
                 **{cascade_title(stage, ratio): cascade_topk(*views, excluded, topk, ratio, stage)
                    for stage, ratio in cascades}}
        found.setdefault("chance", []).append(float(right[~excluded].float().mean()))
        for name, entries in mined.items():
            found.setdefault(name, []).append(float(right.gather(1, entries).float().mean()))
    return {name: fmean(values) for name, values in found.items()}


def make_parser() -> Parser:
    """Define the options of this script, besides those of main_coclr.py."""
    parser = Parser(description=__doc__)
    add = parser.topic("checkpoints")
    add("--own", nargs="+", required=True, metavar="CKPT", help="checkpoints that would be trained")
    add("--other", nargs="+", required=True, metavar="CKPT", help="for each of them, the checkpoint that would mine")
    parser.topic("method")("--cascades", nargs="+", type=cascade, default=[], metavar="STAGE,RATIO",
                           help="cascades to compare with plain top-k")
    parser.topic("output")("--result", type=Path, required=True, metavar="FILE", help="file to write")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all pairs and write the results."""
    args, rest = make_parser().parse_known_args(argv)
    if len(args.own) != len(args.other):
        raise OptionError("--own and --other form pairs: give as many of each")
    found = []
    for pair in zip(args.own, args.other, strict=True):
        options = vars(main_coclr.parse([*rest, "--pretrain", *pair]))
        config, data, train = take(ModelConfig, options), take(DataConfig, options), take(TrainConfig, options)
        dataset = data.build("train", PretrainTransform(data.img_dim))
        task = main_coclr.CoclrTask(config, data, train, DistInfo(0, 0, 1, CPU))
        task.load_pretrained(*pair)
        probe = HealthProbe(dataset, options["health_clips"], device=CPU, img_dim=data.img_dim,
                            batch_size=train.batch_size, workers=train.workers, seed=train.seed, network=config.net,
                            dim=config.moco_dim, dtype=task.precision.dtype)
        if len(probe.rows) < config.moco_k:  # else cascades of other sizes would be measured
            raise OptionError(f"--moco-k {config.moco_k} needs as many videos, but only {len(probe.rows)} are used: "
                              "take a larger --health_clips, or a smaller --moco-k")
        labels, sources = (torch.as_tensor(np.asarray(values))[probe.rows]
                           for values in (dataset.index.labels, dataset.index.sources))
        signs = {name: value for name, value in probe.before(task.model).items() if not name.endswith("_own")}
        other, own = (first @ second.T for first, second in (probe.miner(task.model), probe.trained(task.model)))
        values = recalls(other, own, labels, sources, config.moco_k, config.topk, args.cascades, train.seed)
        numbers = ", ".join(f"{name} {value:.3g}" for name, value in (values | signs).items())
        say(f"{pair[0]} with positives by {pair[1]}: PMR {numbers}")
        found.append({"own_file": pair[0], "other_file": pair[1], **values, "signs": signs})
    args.result.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.result, found)
    return 0


if __name__ == "__main__":
    launch.run(main)
