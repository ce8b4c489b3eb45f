"""Options of main_classifier.py: the shared ones of `engine.options`, and those of a classifier."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from engine import checkpoint
from engine.compatibility import PUBLISHED, trained_with
from engine.options import MAIN, add_shared, number, positive_int, seed
from utils.console import say
from utils.errors import OptionError
from utils.parser import HIDDEN, Parser

FEATURES = "feature"  # default of --dirname
RANDOM = "random"  # in place of a checkpoint: random weights


def parse(argv: Sequence[str] | None, description: str, planned: bool = False) -> argparse.Namespace:
    """Parse and check the command line; ``crops`` is 0 (no crop test), 1, 5 or 10.

    Network and clip sizes default to those of the checkpoint, unless the command is only planned.
    """
    args = make_parser(description).parse_args(argv)
    asked = 10 if args.ten_crop else 5 if args.five_crop else 1 if args.center_crop else 0
    if not args.test and (asked or args.retrieval):
        raise OptionError("--retrieval and the crop tests need a checkpoint: give --test CHECKPOINT")
    if args.retrieval and asked:
        raise OptionError("--retrieval always uses the centre crop: give either --retrieval or a crop test")
    args.crops = 0 if args.retrieval else asked or 1
    path = next((path for path in (args.resume, args.test, args.pretrain) if not planned and Path(path).is_file()), "")
    if args.second_view is None and not args.dataset.endswith("-f"):
        args.second_view = "flow"  # has no effect
    missing = [name for name in PUBLISHED if getattr(args, name) is None]
    saved = checkpoint.load(path).get("options") if path and missing else None
    found = trained_with(saved)
    vars(args).update((name, found[name]) for name in missing)
    if saved and missing:
        say(f"{' '.join(f'--{name} {found[name]}' for name in missing)}, as {path} was trained with")
    return args


def make_parser(description: str) -> Parser:
    parser = Parser(description, MAIN + "train_what test retrieval ten_crop")
    add_shared(parser, dataset="ucf101", num_seq=1, wd=1e-3, prefix="linclr", workers=8)
    parser.topic("data")("--which_split", type=positive_int, default=1, metavar="N", help="split of the dataset")
    add = parser.topic("checkpoints")
    add("--pretrain", default="", metavar="CKPT", help="start from its backbone; 'random': from none")
    add("--eval_freq", type=positive_int, default=1, metavar="EPOCHS", help="epochs between validated checkpoints")
    parser.topic("hardware")("--gpu", type=gpu_list, metavar="0,1", help="visible GPUs to use (default: all)")
    for option in parser._actions:
        if option.dest in PUBLISHED:
            option.default = None
            option.help = str(option.help).replace("(default: ", "(default: as the checkpoint says, or else ")
    add = parser.topic("method")
    add("--model", choices=["lincls"], default="lincls", help=HIDDEN)
    add("--num_fc", type=positive_int, default=1, metavar="LAYERS", help="fully connected layers of the classifier")
    below_one = number(float, 0, 1, open_high=True)
    add("--dropout", type=below_one, default=0.9, metavar="SHARE", help="before the last layer; not in linear probes")
    add("--final_bn", action="store_true", help="BatchNorm before the last layer, as a linear probe always has")
    add = parser.topic("training")
    add("--train_what", default="last", help="last: linear probe on the frozen backbone; ft: everything, the backbone "
        "at a tenth of the learning rate; anything else: everything at one learning rate")
    add("--optim", choices=["adam", "sgd"], default="adam", help="optimizer; sgd has momentum 0.9")
    add("--seed", type=seed, default=0, help="seed of weights, order of videos, clips and augmentation")
    add = parser.topic("evaluation")
    add("--center_crop", action="store_true", help="with --test: one crop (the default)")
    add("--five_crop", action="store_true", help="with --test: centre and corners")
    add("--ten_crop", action="store_true", help="with --test: five crops and their flips")
    add("--retrieval", action="store_true", help="with --test: nearest-neighbour retrieval on backbone features")
    parser.topic("output")("--dirname", default=FEATURES, metavar="FOLDER", help="with --retrieval: folder of the "
                           "features, beside the checkpoint; an absolute path receives log and probabilities, too, as "
                           "does any path if the checkpoint's folder is read-only")
    return parser


def output_folders(checkpoint: Path, dirname: str) -> tuple[Path, Path]:
    """Return the folder for log and probabilities (the checkpoint's), and that for features (``dirname`` in it).

    Both are ``dirname`` if it is absolute, or if the checkpoint's folder is read-only.
    """
    own = Path(dirname)
    if own.is_absolute() or not os.access(checkpoint.parent, os.W_OK):
        if dirname == FEATURES:
            raise OptionError(f"nothing can be written into {checkpoint.parent}: name another folder with --dirname")
        own.mkdir(parents=True, exist_ok=True)
        return own, own
    return checkpoint.parent, checkpoint.parent / own


def gpu_list(text: str) -> list[int]:
    """Argparse type: "0,1" -> [0, 1]."""
    try:
        gpus = [int(part) for part in text.split(",")]
    except ValueError:
        gpus = []
    if not gpus or min(gpus) < 0 or len(set(gpus)) < len(gpus):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GPU numbers such as 0 or 0,1")
    return gpus


def devices(gpus: list[int] | None) -> list[torch.device]:
    """Return the devices to compute on: the named or all visible GPUs, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return [torch.device("cpu")]
    count = torch.cuda.device_count()
    beyond = [gpu for gpu in gpus or [] if gpu >= count]
    if beyond:
        raise OptionError(f"--gpu names GPU {beyond[0]}, but only {count} are visible, counted from 0: use "
                          "others, or set CUDA_VISIBLE_DEVICES")
    return [torch.device("cuda", gpu) for gpu in (range(count) if gpus is None else gpus)]
