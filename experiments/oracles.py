"""Signs of mining health, which need no labels, beside the positive mining recall (PMR), which does, of many miners.

    python experiments/oracles.py --result signs.json --miners FLOW_A.pth.tar FLOW_B.pth.tar --own RGB.pth.tar \\
        --dataset mine-2stream-2clip --moco-k 128 --topk 5 ...

Takes the options of main_coclr.py on top. Each miner is looked at as a co-training would look at it before its first
step (`pretrain_health.py`); its PMR is that of plain top-k in a queue of --moco-k keys, on the same clips: embedded by
the frozen network's projection, in --precision, augmented as in training, clips of the query's own source left out.
The encoder that would be trained, --own, is there for its agreement with the miner.
"""

import argparse
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

import launch
import main_coclr
from dataset.video_dataset import VideoDataset, videos_of
from eval.report import write_json
from model.pretrain import CoCLR
from pretrain_health import Clips, HealthProbe
from pretrain_script import build_loader
from utils.console import say
from utils.distributed import Launch
from utils.errors import OptionError
from utils.options import Parser
from utils.precision import choose

CPU = torch.device("cpu")


def parse(argv: Sequence[str] | None = None) -> tuple[Namespace, Namespace]:
    """The options of this script, and those of main_coclr.py."""
    parser = Parser(description=__doc__)
    add = parser.topic("checkpoints")
    add("--miners", nargs="+", required=True, metavar="CKPT", help="checkpoints that would mine")
    add("--early", action="store_true", help="look at the previous-*.pth.tar beside each, too")
    add("--own", required=True, metavar="CKPT", help="the checkpoint that they would mine for")
    parser.topic("output")("--result", type=Path, required=True, metavar="FILE", help="file to write")
    own, rest = parse_on_top(parser, argv)
    return own, coclr_options(rest, [(own.own, miner) for miner in own.miners])


def parse_on_top(parser: Parser, argv: Sequence[str] | None) -> tuple[Namespace, list[str]]:
    """A script's own options, and the words that are left for main_coclr.py; --help is of the script alone."""
    words = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(words):
        parser.parse_args(["--help"])
    return argparse.ArgumentParser.parse_known_args(parser, words)


def coclr_options(words: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Namespace:
    """The options of main_coclr.py, with the first pair of checkpoints (own, other).

    Raises:
        CheckpointError: one of any pair is not there.
    """
    first, *_ = [main_coclr.parse([*words, "--pretrain", *pair]) for pair in pairs]
    return first


def load(args: Namespace, own: str, other: str) -> CoCLR:
    """The model that a co-training with these options would start from, computing in its --precision."""
    model = main_coclr.build(args)
    main_coclr.load_pretrained(model, own, other, args.second_view)
    model.dtype = choose(args.precision, CPU).dtype
    return model


def make_probe(args: Namespace, dataset: VideoDataset) -> HealthProbe:
    """What embeds the clips that miners are compared on.

    Raises:
        OptionError: they are fewer than a queue of --moco-k holds.
    """
    probe = HealthProbe(dataset, args.health_clips, img_dim=args.img_dim, batch_size=args.batch_size,
                        workers=args.workers, seed=args.seed, network=args.net, dim=args.moco_dim,
                        device=CPU)
    if len(probe.rows) < args.moco_k:
        raise OptionError(f"--moco-k {args.moco_k} needs as many videos, but {len(probe.rows)} videos are looked at: "
                          f"take a larger --health_clips ({args.health_clips}; the training set has {len(dataset)}), "
                          "or a smaller --moco-k")
    return probe


def labels_and_sources(dataset: VideoDataset, probe: HealthProbe) -> tuple[Tensor, Tensor]:
    """Of a probe's videos, (N,) int64 each."""
    labels, sources = (torch.as_tensor(np.asarray(values))[probe.rows]
                       for values in (dataset.index.labels, dataset.index.sources))
    return labels, sources


def queue_recall(clips: Clips, labels: Tensor, sources: Tensor, K: int, topk: int, seed: int) -> float:
    """Share of mined entries that are of the query's class, when the first clip of each video mines top-k in a queue.

    Args:
        clips: embeddings of two clips of each video, (N, D) each; the queue is second ones of K random videos, drawn
            for each query. labels, sources: (N,) int64; entries of the query's source are not mined.
    """
    generator = torch.Generator().manual_seed(seed)
    sim = clips[0] @ clips[1].T
    hits = []
    for i, row in enumerate(sim):
        queue = torch.randperm(len(sim), generator=generator)[:K]
        queue = queue[sources[queue] != sources[i]]
        mined = queue[row[queue].topk(min(topk, len(queue))).indices]
        hits += (labels[mined] == labels[i]).tolist()
    return float(np.mean(hits))


def measure(args: Namespace, miners: Sequence[str]) -> list[dict[str, float | str]]:
    """Of each miner its signs, "PMR" and "chance" as shares, and "miner", its file."""
    torch.manual_seed(args.seed)
    dataset = videos_of(build_loader(args, Launch(0, 0, 1, CPU, None)))
    found: list[dict[str, float | str]] = []
    for path in miners:
        model = load(args, args.pretrain[0], path)
        probe = make_probe(args, dataset)
        signs = {name: value for name, value in probe.before(model).items() if not name.endswith("_own")}
        labels, sources = labels_and_sources(dataset, probe)
        other = sources[:, None] != sources[None, :]
        chance = ((labels[:, None] == labels[None, :]) & other).sum() / other.sum()
        recall = queue_recall(probe.miner(model), labels, sources, args.moco_k, args.topk, args.seed)
        say(f"{path}: PMR {recall:.3f}, chance {chance:.3f}, " + ", ".join(f"{k} {v:.3g}" for k, v in signs.items()))
        found.append({"miner": path, "PMR": recall, "chance": float(chance), **signs})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write."""
    own, args = parse(argv)
    early = [str(path) for miner in own.miners for path in sorted(Path(miner).parent.glob("previous-epoch*.pth.tar"))]
    found = measure(args, [*(early if own.early else []), *own.miners])
    own.result.parent.mkdir(parents=True, exist_ok=True)
    write_json(own.result, found)
    return 0


if __name__ == "__main__":
    launch.run(main)
