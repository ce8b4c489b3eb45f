"""What evaluations say at their start: what will run, where it starts from, on what, with how much data."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from dataset.video_dataset import VideoDataset, videos_of
from eval.crops import TITLES
from eval.options import RANDOM
from utils import run_folder, startup
from utils.precision import Precision
from utils.training import Place

KINDS = {"last": "linear probe on a frozen", "ft": "finetuning of everything, a tenth of the learning rate for"}
CROPS = {1: TITLES["center"], 5: TITLES["five"], 10: TITLES["ten"]}


def training(args: Namespace, devices: Sequence[torch.device], precision: Precision, loaders: Sequence[DataLoader],
             folder: Path, origin: str, place: Place) -> None:
    """The block of a linear probe or finetuning. loaders: training and validation. origin: of the weights, in words."""
    train, val = map(videos_of, loaders)
    data = (f"{_clips(args)}: {len(train)} training and {len(val)} validation videos; {len(loaders[0])} "
            f"steps per epoch of {loaders[0].batch_size}")
    falls = "falling as a cosine" if args.cos else f"a tenth from epochs {' '.join(map(str, args.schedule))}" \
        if args.schedule else "constant"
    course = f"epochs {place.epoch} to {args.epochs - 1}, {args.optim}, lr {args.lr:g} ({falls}), weight decay " \
        f"{args.wd:g}"
    start = f"resumed from {args.resume} after {place.iteration} steps" if args.resume else origin
    startup.announce(
        run=f"{KINDS.get(args.train_what, 'training of everything at one learning rate,')} {args.net}",
        data=[data, *_reports({"train": train, "val": val})], start=[start or _random(args)],
        training=course if place.epoch < args.epochs else "nothing is left to train",
        on=_machine(args, devices, precision), into=folder)


def test(args: Namespace, devices: Sequence[torch.device], precision: Precision, sets: Mapping[str, VideoDataset],
         path: Path, origin: str) -> None:
    """The block of a test. sets: of videos, by name. path: of the checkpoint, beside which the results go."""
    videos = " and ".join(f"{len(each)} {name}" for name, each in sets.items())
    what = "retrieval by backbone features" if args.retrieval else f"test with {CROPS[args.crops]}"
    startup.announce(run=f"{what} of {args.net}, test of {args.test}",
                     data=[f"{_clips(args)}: {videos} videos, batches of {args.batch_size * len(devices)} windows",
                           *_reports(sets)],
                     start=[origin or _random(args)], on=_machine(args, devices, precision), into=path.parent)


def _clips(args: Namespace) -> str:
    every = f", every {args.ds}th" if args.ds > 1 else ""
    return (f"{run_folder.dataset_name(args)}, split {args.which_split}, clips of {args.seq_len} frames{every}, "
            f"{args.img_dim} px")


def _reports(sets: Mapping[str, VideoDataset]) -> list[str]:
    """Of each set, the rows that were left out."""
    return [f"{name}: {report}" for name, each in sets.items() if (report := each.index.report)]


def _random(args: Namespace) -> str:
    return f"{RANDOM} weights, seed {args.seed}"


def _machine(args: Namespace, devices: Sequence[torch.device], precision: Precision) -> str:
    return startup.machine(devices, precision, args.workers, asked_gpu=bool(args.gpu))
