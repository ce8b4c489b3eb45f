"""Loading a two-stream, two-clip training sample in one process, with and without the photometric steps.

The straightforward version works in the usual way: unpack whole values, Pillow for every frame and step, float tensors.
It draws in the same order as ours, so both give the same sample up to rounding.
"""

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import lmdb
import msgpack
import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms import InterpolationMode, functional

from dataset import catalog
from dataset.transforms import geometry
from dataset.transforms.photometric import BRIGHTNESS, CONTRAST, HUE, MEAN, SATURATION, STD
from dataset.transforms.presets import CROP, P_FLIP, PretrainTransform, Transform, to_blocks
from dataset.video_dataset import VideoDataset
from process_data.src.convert_video_to_lmdb import pack, write_lmdb
from tools.benchmarks import Case, Sizes, within

NAME = "bench"
CYCLE = 48  # different frames of a video; longer videos repeat them
# Pixels between the texture's random values; grey levels of noise, which set the size of the JPEGs; their quality.
STREAMS = {f"{NAME}_frame.lmdb": (12, 3.0, 75), f"{NAME}_tvl1_frame.lmdb": (40, 0.5, 85)}
SPEED = 3  # pixels a frame
ADJUST = {BRIGHTNESS: functional.adjust_brightness, CONTRAST: functional.adjust_contrast,
          SATURATION: functional.adjust_saturation, HUE: functional.adjust_hue}
BICUBIC = InterpolationMode.BICUBIC


def make_set(folder: Path, sizes: Sizes, lengths: Sequence[int]) -> None:
    """Write a dataset `bench` with videos of these lengths: two streams, and the same videos to train and to test."""
    names = {f"class/v_class_g{number:02d}_c01": length for number, length in enumerate(lengths)}
    for file, looks in STREAMS.items():
        jpegs = {name: _jpegs(sizes, *looks, seed) for seed, name in enumerate(names)}

        def load(name: str, jpegs: dict[str, list[bytes]] = jpegs) -> Iterator[bytes]:
            return pack(names[name], (jpegs[name][i % CYCLE] for i in range(names[name])))
        write_lmdb(folder / "data" / NAME / file, names, load)
    splits = folder / "splits" / NAME
    splits.mkdir(parents=True)
    classes = ["class", *(f"empty{number}" for number in range(1, sizes.classes))]
    (splits / "ClassInd.txt").write_text("".join(f"{name}\n" for name in classes))
    for part in ("train", "test"):
        (splits / f"{part}_split01.csv").write_text("".join(f"{name},{count}\n" for name, count in names.items()))


def _jpegs(sizes: Sizes, cell: int, grain: float, quality: int, seed: int) -> list[bytes]:
    """Make the different frames of a video: a moving texture with noise."""
    rng, height, width = np.random.default_rng(seed), sizes.height, sizes.width + SPEED * CYCLE
    coarse = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3)).astype(np.uint8)
    texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    images = (texture[:, start:start + sizes.width] + rng.normal(0, grain, (height, sizes.width, 1))
              for start in range(0, SPEED * CYCLE, SPEED))
    return [cv2.imencode(".jpg", np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            .tobytes() for image in images]


def build(folder: Path, suffix: str, mode: str, transform: Transform, sizes: Sizes) -> VideoDataset:
    """Build a dataset on what :func:`make_set` wrote; the suffix ends its name: "" or "-2stream-2clip"."""
    return catalog.build(NAME + suffix, mode, transform=transform, data_root=folder / "data",
                         split_root=folder / "splits", seq_len=sizes.frames, ds=1)


class PlainReader:
    """Reads videos by unpacking their whole values, from a copy: a process can open an LMDB only once."""

    def __init__(self, path: str) -> None:
        copy = shutil.copyfile(path, path + ".plain")
        self.env = lmdb.open(copy, readonly=True, lock=False, subdir=False, readahead=False)
        self.order = [name.decode() for name in self._unpack(b"__order__")]

    def _unpack(self, key: bytes) -> list[bytes]:
        with self.env.begin() as transaction:
            return msgpack.unpackb(transaction.get(key), raw=True)

    def jpegs(self, name: str) -> list[bytes]:
        return self._unpack(b"%09d" % self.order.index(name))

    def frames(self, name: str, indices: np.ndarray) -> list[Image.Image]:
        images = self.jpegs(name)
        return [Image.open(io.BytesIO(images[i])).convert("RGB") for i in indices]


def to_clip(images: Sequence[Image.Image], params: Mapping[str, np.ndarray], channels: Sequence[int], flipped: bool
            ) -> Tensor:
    """Flip frames, apply the photometric steps as drawn, and normalise; returns float (3, T, h, w), contiguous."""
    made = []
    for image, channel in zip(images, channels, strict=True):
        if flipped:
            image = functional.hflip(image)
        if params["jitter"]:
            for operation in params["order"]:
                image = ADJUST[operation](image, float(params["factor"][operation]))
        if channel >= 0:
            image = Image.merge("RGB", [image.getchannel(int(channel))] * 3)
        if params["sigma"] > 0:
            image = image.filter(ImageFilter.GaussianBlur(float(params["sigma"])))
        made.append(functional.normalize(functional.to_tensor(image), MEAN, STD))
    return torch.stack(made, dim=1)


def resized_crop(image: Image.Image, box: geometry.Box | None, size: int) -> Image.Image:
    """Resize a window of a frame, or all of it, to a square of this side."""
    if box is None:
        return functional.resize(image, [size, size], BICUBIC)
    return functional.resized_crop(image, *box, [size, size], BICUBIC)


def pretraining_sample(dataset: VideoDataset, readers: list[PlainReader], epoch: int) -> Tensor:
    """Make two views of the first video, float (V, S, 3, T, h, w); all clips are decoded in any case."""
    rng, name, transform = dataset.rng(epoch, 0), dataset.index.names[0], dataset.transform
    clips = dataset.sampler(int(dataset.index.num_frames[0]), rng)
    decoded = [[reader.frames(name, clip) for reader in readers] for clip in clips]
    views = []
    for clip, recipe in transform.plan(rng).views:
        box = geometry.draw_box(decoded[0][0][0].height, decoded[0][0][0].width, rng)
        params = recipe.draw(rng, len(readers), clips.shape[1])
        flipped = rng.random() < P_FLIP
        views.append(torch.stack([
            to_clip([resized_crop(image, box, transform.img_dim) for image in images], params, channels, flipped)
            for images, channels in zip(decoded[clip], params["channel"], strict=True)]))
    return torch.stack(views)


def crop_window(images: list[Image.Image], crop: int, params: Mapping[str, np.ndarray], size: int) -> Tensor:
    """Make one of the ten crops of a window of a video, jittered, float (3, T, h, w)."""
    if min(images[0].size) < CROP:
        images = [functional.resize(image, CROP, BICUBIC) for image in images]
    box = geometry.corner_boxes(images[0].height, images[0].width, CROP)[crop % 5]
    return to_clip([resized_crop(image, box, size) for image in images], params, [-1] * len(images), crop >= 5)


def cases(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Yield a worker's samples, and the same with the photometric steps that follow on the training device."""
    make_set(folder, sizes, [sizes.length])
    dataset = build(folder, "-2stream-2clip", "train", PretrainTransform(sizes.img_dim), sizes)
    readers = [PlainReader(reader.path) for reader in dataset.readers]
    used: list[bytes] = []  # the different frames of the samples, of both streams
    for epoch in range(sizes.samples):
        rng = dataset.rng(epoch, 0)
        clips = dataset.sampler(sizes.length, rng)
        frames = np.unique(clips[list(dataset.transform.plan(rng).clips)])
        used += [reader.jpegs(dataset.index.names[0])[i] for reader in readers for i in frames]

    def ours() -> list[dict]:
        return [dataset[epoch, 0] for epoch in range(sizes.samples)]

    def floats(samples: list[dict]) -> Tensor:
        return to_blocks(default_collate(samples), "cpu")

    def agree(plain: Tensor, ours: Tensor) -> str:
        apart = (plain - ours).abs().mean(dim=(-2, -1)) * 255 * torch.tensor(STD)[:, None]
        return within(1.5, float(apart.max()), "grey levels of a frame are on average")

    case = partial(Case, size=f"{sizes.width}x{sizes.height}, {sizes.frames} of {sizes.length} frames",
                   plain=lambda: torch.stack([pretraining_sample(dataset, readers, i) for i in range(sizes.samples)]),
                   clock="cpu", units=sizes.samples, bound=lambda: [simplejpeg.decode_jpeg(jpeg) for jpeg in used],
                   bound_of="bare decoding of the frames used (simplejpeg)")
    yield case("loader", ours=ours, agree=lambda plain, ours: agree(plain, floats(ours)))
    yield case("loader, photometric steps on the CPU", ours=lambda: floats(ours()), agree=agree)
