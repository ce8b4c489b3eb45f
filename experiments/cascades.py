"""What cascades would mine with given encoders: positive mining recall (PMR) of each beside plain top-k.

    python experiments/cascades.py --result cascades.json --own RGB_A.pth.tar RGB_B.pth.tar \\
        --other FLOW_A.pth.tar FLOW_B.pth.tar --cascades 3,0.5 3,0.8 7,0.5 \\
        --dataset mine-2stream-2clip --moco-k 128 --topk 5 ...

Takes the options of main_coclr.py on top, and needs the training set's labels, but trains nothing: a minute tells
whether a cascade would mine better than plain top-k, before days of training do. --own and --other go in pairs: an
encoder that would be trained, and one that would mine for it. Clips are embedded as in `experiments/oracles.py`, of
--health_clips videos, which are at least as many as the queue holds.
"""

import argparse
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

import launch
from dataset.video_dataset import videos_of
from eval.report import write_json
from experiments.oracles import CPU, coclr_options, labels_and_sources, load, make_probe, parse_on_top
from experiments.settings import cascade_title
from model.cascade import cascade_topk, stage_sizes
from pretrain_script import build_loader
from utils.console import say
from utils.distributed import Launch
from utils.errors import OptionError
from utils.options import Parser

DRAWS = 8  # queues of each query
Cascade = tuple[int, float]  # stages, ratio


def cascade(text: str) -> Cascade:
    """The type of --cascades: "7,0.5"."""
    try:
        stage, ratio = text.split(",")
        return int(stage), float(ratio)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a cascade: give its stages and ratio as in 7,0.5") from None


def parse(argv: Sequence[str] | None = None) -> tuple[Namespace, Namespace]:
    """The options of this script, and those of main_coclr.py.

    Raises:
        OptionError: the checkpoints do not pair, or there is --cascade. CheckpointError: one is not there.
        ModelError: a cascade is too deep for the queue.
    """
    parser = Parser(description=__doc__)
    add = parser.topic("checkpoints")
    add("--own", nargs="+", required=True, metavar="CKPT", help="checkpoints that would be trained")
    add("--other", nargs="+", required=True, metavar="CKPT", help="for each, the checkpoint that would mine for it")
    parser.topic("method")("--cascades", nargs="+", type=cascade, required=True, metavar="STAGE,RATIO",
                           help="cascades to compare with plain top-k")
    parser.topic("output")("--result", type=Path, required=True, metavar="FILE", help="file to write")
    own, rest = parse_on_top(parser, argv)
    if len(own.own) != len(own.other):
        raise OptionError(f"--own has {len(own.own)} checkpoints and --other {len(own.other)}: give one of each a pair")
    if "--cascade" in rest:
        raise OptionError("--cascade is main_coclr.py's: here --cascades 3,0.5 7,0.8 tells which ones are compared")
    args = coclr_options(rest, list(zip(own.own, own.other, strict=True)))
    for stage, ratio in own.cascades:
        stage_sizes(args.moco_k, args.topk, ratio, stage)
    return own, args


def recalls(other: Tensor, own: Tensor, labels: Tensor, sources: Tensor, K: int, topk: int, cascades: Sequence[Cascade],
            seed: int) -> dict[str, float]:
    """Share of mined entries that are of the query's class, for each way to mine, all in the same queues.

    Args:
        other, own: similarities of each video's first clip to all second ones, in both views, (N, N). A queue is second
            ones of K random videos, drawn ``DRAWS`` times for each query.
        labels, sources: (N,) int64; entries of the query's source are not mined.

    Returns:
        "chance", "top-k" (by the other view), "own top-k" (by the own view), and each cascade's.
    """
    generator = torch.Generator().manual_seed(seed)
    ways = {cascade_title(*each): each for each in cascades}
    found: dict[str, list[float]] = {}
    for _ in range(DRAWS):
        queue = torch.stack([torch.randperm(len(labels), generator=generator)[:K] for _ in labels])  # (N, K)
        views = other.gather(1, queue), own.gather(1, queue)
        excluded = sources[queue] == sources[:, None]
        right = labels[queue] == labels[:, None]
        mined = {"top-k": cascade_topk(*views, excluded, topk, 0.5, 1),
                 "own top-k": cascade_topk(*views[::-1], excluded, topk, 0.5, 1),
                 **{name: cascade_topk(*views, excluded, topk, ratio, stage) for name, (stage, ratio) in ways.items()}}
        found.setdefault("chance", []).append(float(right[~excluded].float().mean()))
        for name, entries in mined.items():
            found.setdefault(name, []).append(float(right.gather(1, entries).float().mean()))
    return {name: fmean(values) for name, values in found.items()}


def measure(args: Namespace, pairs: Sequence[tuple[str, str]], cascades: Sequence[Cascade]
            ) -> list[dict[str, float | str]]:
    """Of each pair (own, other) its files and :func:`recalls`."""
    torch.manual_seed(args.seed)
    dataset = videos_of(build_loader(args, Launch(0, 0, 1, CPU, None)))
    found: list[dict[str, float | str]] = []
    for own_file, other_file in pairs:
        model = load(args, own_file, other_file)
        probe = make_probe(args, dataset)
        labels, sources = labels_and_sources(dataset, probe)
        other_sims, own_sims = (first @ second.T for first, second in (probe.miner(model), probe.trained(model)))
        values = recalls(other_sims, own_sims, labels, sources, args.moco_k, args.topk, cascades, args.seed)
        told = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        say(f"{own_file} with positives by {other_file}: PMR {told}")
        found.append({"own_file": own_file, "other_file": other_file, **values})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write."""
    own, args = parse(argv)
    found = measure(args, list(zip(own.own, own.other, strict=True)), own.cascades)
    own.result.parent.mkdir(parents=True, exist_ok=True)
    write_json(own.result, found)
    return 0


if __name__ == "__main__":
    launch.run(main)
