"""Command-line options shared by the scripts, and checks of their values."""

import argparse
import math
from collections.abc import Callable, Sequence

from backbone.select_backbone import NETWORKS
from dataset import catalog
from engine.device import STEPS
from model.pretrain import MINING, OWN_VIEWS
from utils.distributed import TIMEOUT
from utils.launch import allotted_cores
from utils.parser import HIDDEN, Parser

DATA_ROOT, SPLIT_ROOT = str(catalog.DATA_ROOT), str(catalog.SPLIT_ROOT)  # as text: checkpoints hold the options
SECOND_VIEWS = catalog.SECOND_VIEWS


def number(kind: type, low: float, high: float = math.inf, *, open_low: bool = False,
           open_high: bool = False) -> Callable[[str], float]:
    """Return an argparse type: an int or float from low to high, bounds included unless open."""
    noun = "a whole number" if kind is int else "a number"
    bounds = f"{'above' if open_low else 'of at least'} {low}"
    if math.isfinite(high):
        bounds = f"between {low} and {high}"

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        inside = (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
        if inside and value != math.inf:
            return value
        raise argparse.ArgumentTypeError(f"{text!r} is not {noun} {bounds}")
    return convert


positive_int = number(int, 1)
whole_number = number(int, 0)
positive_float = number(float, 0, open_low=True)
non_negative_float = number(float, 0)
share = number(float, 0, 1)
TOPK = 5
seed = number(int, 0, (1 << 43) - 1)  # generators take 63 bits: 43 for the seed, 20 for the epoch
# Options of every training script that --help shows; --help-all shows all.
MAIN = "dataset data_root net batch_size lr epochs pretrain resume precision workers "
open_share = number(float, 0, 1, open_low=True, open_high=True)


def add_roots(parser: Parser, data_root: str | None = DATA_ROOT, split_root: str | None = SPLIT_ROOT) -> None:
    add = parser.topic("data")
    add("--data_root", default=data_root, metavar="FOLDER", help="folder of LMDBs (default: the repository's data/)")
    add("--split_root", default=split_root, metavar="FOLDER", help="folder of splits (default: process_data/data/)")


def add_clips(parser: Parser) -> None:
    parser.topic("method")("--net", choices=list(NETWORKS), default="s3d", help="backbone")
    add = parser.topic("data")
    add("--second_view", choices=SECOND_VIEWS, default="flow", help="second view of NAME-f and NAME-2stream-2clip: "
        "flow, read from its own LMDB, or residual, the difference of neighbouring RGB frames")
    add("--seq_len", type=positive_int, default=32, metavar="FRAMES", help="frames per clip")
    add("--ds", type=positive_int, default=1, metavar="FRAMES", help="temporal stride: take every ds-th frame")
    add("--img_dim", type=positive_int, default=128, metavar="PIXELS", help="side of the input frames in pixels")


def add_shared(parser: Parser, *, dataset: str, num_seq: int, wd: float, prefix: str, workers: int) -> None:
    """Add what pretraining and evaluation share; each script adds its own ``--model``, ``--pretrain`` and ``--gpu``."""
    add = parser.topic("data")
    add("--dataset", default=dataset, metavar="NAME", help="dataset name, with its views")
    add_clips(parser)
    add("--num_seq", type=positive_int, default=num_seq, metavar="CLIPS", help=HIDDEN)
    add_roots(parser)
    add = parser.topic("training")
    add("--batch_size", type=positive_int, default=32, metavar="CLIPS", help="clips per process and step")
    add("--lr", type=positive_float, default=1e-3, help="initial learning rate")
    add("--schedule", type=whole_number, nargs="*", metavar="EPOCH", help="epochs at which lr drops to a tenth; "
        "without a number, never (default: four fifths of --epochs; a resumed run keeps its own)")
    add("--cos", action="store_true", help="cosine learning rate instead of --schedule")
    add("--wd", type=non_negative_float, default=wd, help="weight decay")
    add("--epochs", type=positive_int, default=10, help="number of epochs")
    add("--start_epoch", type=whole_number, default=0, metavar="EPOCH", help="first epoch of a new run")
    add = parser.topic("checkpoints")
    add("--resume", default="", metavar="CKPT", help="resume this checkpoint in its run folder; auto: the newest "
        "complete one in the run folder of these options, or a new run")
    add("--accept_changes", action="store_true", help="use a checkpoint even if it was made with options that affect "
        "the result (--resume), or on another stream, split or class list")
    add("--reset_lr", action="store_true", help="with --resume: use --lr instead of the checkpoint's learning rate")
    add("--save_steps", type=whole_number, default=0, metavar="STEPS", help="steps between extra checkpoints; 0: none")
    parser.topic("evaluation")("--test", default="", metavar="CKPT", help="evaluate this checkpoint, without training")
    add = parser.topic("hardware")
    add("--precision", choices=list(STEPS), help="precision of the encoders (default: fp32 on a CPU, tf32 on a GPU)")
    add("--compile", action="store_true", help="compile the encoders with torch.compile, which takes minutes")
    add("--deterministic", action="store_true", help="prefer deterministic kernels on GPUs, and warn where there "
        "are none (max pooling); a CPU is always deterministic")
    add("-j", "--workers", type=whole_number, default=min(workers, allotted_cores()), metavar="PROCESSES",
        help=f"loader processes; 0 loads in the main process (default: one per allotted core, up to {workers})")
    add = parser.topic("output")
    add("--prefix", default=prefix, help="first part of the run folder's name")
    add("--print_freq", type=positive_int, default=5, metavar="STEPS", help="steps between progress lines")


def pretraining_parser(description: str, *, dataset: str, models: Sequence[str], main: str) -> Parser:
    """Build the options that main_nce.py and main_coclr.py share; ``--pretrain`` differs in form."""
    parser = Parser(description, MAIN + main)
    add_shared(parser, dataset=dataset, num_seq=2, wd=1e-5, prefix="pretrain", workers=16)
    add = parser.topic("method")
    add("--model", default=models[0], choices=models, help="contrastive model" if len(models) > 1 else HIDDEN)
    add("--moco-dim", type=positive_int, default=128, metavar="D", help="embedding size")
    add("--moco-k", type=positive_int, default=2048, metavar="K", help="queue length, in clips")
    add("--moco-m", type=share, default=0.999, metavar="SHARE", help="momentum of the key encoder, 0-1")
    add("--moco-t", type=positive_float, default=0.07, metavar="T", help="temperature of the logits")
    add = parser.topic("training")
    add("--seed", type=seed, default=0, help="seed of weights, order and augmentation")
    add("--fp32_steps", type=whole_number, default=0, metavar="STEPS", help="run the first steps in float32: an "
        "untrained network magnifies rounding errors")
    add = parser.topic("checkpoints")
    add("--save_freq", type=positive_int, default=1, metavar="EPOCHS", help="epochs between checkpoints")
    parser.topic("evaluation")("--knn_freq", type=whole_number, default=0, metavar="EPOCHS", help="epochs between "
                               "measurements of kNN accuracy and R@1, test against training videos; 0: never")
    parser.topic("output")("--name_prefix", default="", help="prefix of the run folder's name, before the model")
    add = parser.topic("hardware")
    add("--gpu", type=whole_number, metavar="N", help="GPU to use without a launcher (default: the first)")
    add("--world-size", type=int, default=-1, metavar="N", help="number of processes, or with "
        "--multiprocessing-distributed of nodes; -1: as the launcher says")
    add("--rank", type=int, default=-1, metavar="N", help="rank of this process, or with "
        "--multiprocessing-distributed of this node; -1: as the launcher says")
    add("--dist-url", default="env://", metavar="URL", help="rendezvous: env://, tcp://HOST:PORT or file:///PATH")
    add("--dist-backend", default="nccl", choices=["nccl", "gloo"], help="backend; always gloo on CPUs")
    add("--dist-timeout", type=positive_float, default=TIMEOUT, metavar="SECONDS", help="longest wait for a process")
    add("--multiprocessing-distributed", action="store_true", help="start one process per GPU of this node")
    add("--local_rank", "--local-rank", type=int, help=HIDDEN)  # by torch.distributed.launch
    return parser


def add_mining(parser: Parser) -> None:
    add = parser.topic("method")
    add("--topk", type=whole_number, default=TOPK, metavar="N", help="positives mined per query")
    add("--progressive", type=positive_int, nargs="+", default=[], metavar="TOPK", help="train in phases of increasing "
        "topk, such as 1 2 5, each for all --epochs, from the previous one's weights")
    add("--reverse", action="store_true", help="train the flow encoder and mine in RGB")
    add("--cascade", action="store_true", help="mine by cascade positive retrieval")
    add("--mining", choices=MINING, help="how to mine: topk, by the other view alone (CoCLR); cascade (CPR), like "
        "--cascade; or fused, by the sum of both views' ranks (default: topk, or as --cascade says)")
    add("--own_view", choices=OWN_VIEWS, default="current", help="encoder that ranks the own view in cascade and "
        "fused: the trained one (CPR), or a copy frozen at the start of the run, at one more forward per step")
    add("--ratio", type=open_share, default=0.5, metavar="SHARE", help="share that each stage of the cascade keeps")
    add("--stage", type=positive_int, default=7, metavar="N", help="stages of the cascade")
    add("--cascade_anchor", choices=["query", "key"], default="query", help="what the cascade compares with the "
        "own view's queue: the query (released code) or the key (paper)")
    add("--cascade_first", choices=["other", "own"], default="other", help="view that the cascade's first stage ranks "
        "by; the last one always ranks by the other view")
    add("--self_mask", type=share, default=0.9, metavar="SHARE", help="share of steps (0-1) that drop a query's own "
        "key from its positives if it has others; 0.9 in the released code, 0 in the paper")
    add = parser.topic("evaluation")
    add("--health_clips", type=whole_number, default=256, metavar="VIDEOS", help="to measure health on; 0: none")
    add("--health_freq", type=positive_int, default=10, metavar="EPOCHS", help="epochs between health measurements")
