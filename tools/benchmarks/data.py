"""Sizes of the benchmarks, and synthetic videos with UCF101's file sizes: 12 kB per frame, 8 kB per flow frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from dataset import catalog
from dataset.video_dataset import Transform, VideoDataset
from process_data.src.lmdb_file import pack, write_lmdb
from utils.errors import OptionError

NAME = "bench"
CYCLE = 48  # different frames of a video; longer videos repeat them
QUALITY = {"rgb": 75, "flow": 85}
GRAIN = {"rgb": 3.0, "flow": 0.5}  # grey levels of noise, which set the size of the JPEGs
SPEED = 3  # pixels a frame


@dataclass(frozen=True)
class Sizes:
    """Sizes to measure; by default the published settings, as far as two CPU cores allow."""

    queues: tuple[int, ...] = (2048, 16384)  # K of the cascade; also 1024 ... 262144, to see it grow
    batches: tuple[int, ...] = (16, 32)  # B of the cascade
    stage: int = 7
    ratio: float = 0.5
    topk: int = 5
    height: int = 240  # of stored frames
    width: int = 320
    frames: int = 32  # of a clip
    img_dim: int = 128  # side of a view
    samples: int = 8  # in a call of the loader rows
    length: int = 180  # frames of the loader's video; UCF101's mean is 186
    batch: int = 2  # clips of a training step
    queue: int = 2048  # of the training step
    steps: int = 20  # whose losses are compared
    precision: str = ""  # second measurement of our step (default: fp16 on a GPU, none on a CPU)
    videos: int = 3  # in an evaluation
    video_frames: int = 120  # per video
    eval_batch: int = 8  # windows in a batch
    classes: int = 101
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


TINY = ("queues=64", "batches=2", "stage=3", "topk=2", "height=24", "width=32", "frames=8", "img_dim=32", "samples=2",
        "length=18", "batch=2", "queue=16", "steps=2", "videos=2", "video_frames=18", "eval_batch=2", "classes=3")


def parse_sizes(settings: Sequence[str], device: torch.device) -> Sizes:
    """Read `NAME=VALUE` settings; `tiny` stands for sizes at which every row is quick.

    Raises:
        OptionError: there is no such size, or its value is not a number.
    """
    defaults = {each.name: getattr(Sizes(), each.name) for each in fields(Sizes) if each.name != "device"}
    changed: dict = {}
    for setting in [each for word in settings for each in (TINY if word == "tiny" else [word])]:
        name, _, value = setting.partition("=")
        if name not in defaults:
            raise OptionError(f"no size {name!r}: give tiny, or NAME=VALUE with NAME one of {', '.join(defaults)}")
        default = defaults[name]
        try:
            changed[name] = (tuple(map(int, value.split(","))) if isinstance(default, tuple) else type(default)(value))
        except ValueError:
            raise OptionError(f"{setting}: {value!r} is not a number") from None
    return replace(Sizes(device=device), **changed)


def jpegs(stream: str, height: int, width: int, seed: int) -> list[bytes]:
    """Make the different frames of a video: a moving texture with noise; flow is smooth, with 128 in channel 0."""
    rng = np.random.default_rng(seed)
    cells = {"rgb": 12, "flow": 40}[stream]  # pixels between the texture's random values
    wide = width + SPEED * CYCLE
    coarse = rng.integers(0, 256, (height // cells + 2, wide // cells + 2, 3)).astype(np.uint8)
    texture = cv2.resize(coarse, (wide, height), interpolation=cv2.INTER_CUBIC)
    images = []
    for start in range(0, SPEED * CYCLE, SPEED):
        image = texture[:, start:start + width] + rng.normal(0, GRAIN[stream], (height, width, 1))
        image = np.clip(image, 0, 255).astype(np.uint8)
        if stream == "flow":
            image[..., 2] = 128
        images.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY[stream]])[1].tobytes())
    return images


def make_set(folder: Path, sizes: Sizes, lengths: Sequence[int]) -> None:
    """Write a dataset `bench` with videos of these lengths: two streams, and the same videos to train and to test."""
    names = {f"class/v_class_g{number:02d}_c01": length for number, length in enumerate(lengths)}
    for stream, file in (("rgb", f"{NAME}_frame.lmdb"), ("flow", f"{NAME}_tvl1_frame.lmdb")):
        def load(name: str, stream: str = stream) -> bytes:
            images = jpegs(stream, sizes.height, sizes.width, seed=list(names).index(name))
            return pack(images[i % CYCLE] for i in range(names[name]))
        write_lmdb(folder / "data" / NAME / file, names, load)
    splits = folder / "splits" / NAME
    splits.mkdir(parents=True)
    classes = ["class", *(f"empty{number}" for number in range(1, sizes.classes))]
    (splits / "ClassInd.txt").write_text("".join(f"{name}\n" for name in classes))
    for part in ("train", "test"):
        (splits / f"{part}_split01.csv").write_text("".join(f"{name},{count}\n" for name, count in names.items()))


def build(folder: Path, suffix: str, mode: str, transform: Transform, sizes: Sizes) -> VideoDataset:
    """Build a dataset on what :func:`make_set` wrote; the suffix ends its name: "" or "-2stream-2clip"."""
    return catalog.build(NAME + suffix, mode, transform=transform, data_root=folder / "data",
                         split_root=folder / "splits", seq_len=sizes.frames, ds=1)
