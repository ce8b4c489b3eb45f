"""Loading a two-stream, two-clip training sample in one process, with and without the photometric steps.

The straightforward version works in the usual way: unpack whole values, Pillow for every frame and step, float tensors.
It draws in the same order as ours, so both give the same sample up to rounding.
"""

import io
import shutil
from collections.abc import Iterator, Sequence
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
from dataset.transforms.photometric import BRIGHTNESS, CONTRAST, HUE, MEAN, SATURATION, STD, PhotometricRecipe
from dataset.transforms.presets import CROP, P_FLIP, PretrainTransform, Transform, to_blocks
from dataset.video_dataset import VideoDataset
from process_data.src.convert_video_to_lmdb import Value, pack, write_lmdb
from tools.benchmarks import Case, Sizes

NAME = "bench"
CYCLE = 48  # different frames of a video; longer videos repeat them
# Pixels between the texture's random values; grey levels of noise, which set the size of the JPEGs; their quality.
STREAMS = {"rgb": (12, 3.0, 75), "flow": (40, 0.5, 85)}
SPEED = 3  # pixels a frame
GREY_LEVEL = 1 / (255 * min(STD))  # of a normalised value
ADJUST = {BRIGHTNESS: functional.adjust_brightness, CONTRAST: functional.adjust_contrast,
          SATURATION: functional.adjust_saturation, HUE: functional.adjust_hue}
BICUBIC = InterpolationMode.BICUBIC


def jpegs(stream: str, height: int, width: int, seed: int) -> list[bytes]:
    """Make the different frames of a video: a moving texture with noise; flow is smooth, with 128 in channel 0."""
    rng, (cells, grain, quality) = np.random.default_rng(seed), STREAMS[stream]
    wide = width + SPEED * CYCLE
    coarse = rng.integers(0, 256, (height // cells + 2, wide // cells + 2, 3)).astype(np.uint8)
    texture = cv2.resize(coarse, (wide, height), interpolation=cv2.INTER_CUBIC)
    images = []
    for start in range(0, SPEED * CYCLE, SPEED):
        image = texture[:, start:start + width] + rng.normal(0, grain, (height, width, 1))
        image = np.clip(image, 0, 255).astype(np.uint8)
        if stream == "flow":
            image[..., 2] = 128
        images.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    return images


def make_set(folder: Path, sizes: Sizes, lengths: Sequence[int]) -> None:
    """Write a dataset `bench` with videos of these lengths: two streams, and the same videos to train and to test."""
    names = {f"class/v_class_g{number:02d}_c01": length for number, length in enumerate(lengths)}
    for stream, file in (("rgb", f"{NAME}_frame.lmdb"), ("flow", f"{NAME}_tvl1_frame.lmdb")):
        def load(name: str, stream: str = stream) -> Value:
            images = jpegs(stream, sizes.height, sizes.width, seed=list(names).index(name))
            return pack(names[name], (images[i % CYCLE] for i in range(names[name])))
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


class PlainReader:
    """Reads videos by unpacking their whole values, from a copy: a process can open an LMDB only once."""

    def __init__(self, path: str) -> None:
        copy = shutil.copyfile(path, path + ".plain")
        self.env = lmdb.open(copy, readonly=True, lock=False, subdir=False, readahead=False)
        with self.env.begin() as transaction:
            order = msgpack.unpackb(transaction.get(b"__order__"), raw=True)
        self.keys = {name.decode(): b"%09d" % number for number, name in enumerate(order)}

    def value(self, name: str) -> list[bytes]:
        with self.env.begin() as transaction:
            return msgpack.unpackb(transaction.get(self.keys[name]), raw=True)

    def frames(self, name: str, indices: np.ndarray) -> list[Image.Image]:
        images = self.value(name)
        return [Image.open(io.BytesIO(images[i])).convert("RGB") for i in indices]


def photometric(image: Image.Image, params: dict, channel: int) -> Image.Image:
    """Apply to one frame the jitter in its drawn order, channel replacement and blur."""
    if params["jitter"]:
        for operation in params["order"]:
            image = ADJUST[operation](image, float(params["factor"][operation]))
    if channel >= 0:
        image = Image.merge("RGB", [image.getchannel(channel)] * 3)
    if params["sigma"] > 0:
        image = image.filter(ImageFilter.GaussianBlur(float(params["sigma"])))
    return image


def to_tensor(images: list[Image.Image]) -> Tensor:
    return torch.stack([functional.normalize(functional.to_tensor(image), MEAN, STD) for image in images], dim=1)


def resized_crop(image: Image.Image, box: geometry.Box | None, size: int) -> Image.Image:
    if box is None:
        return functional.resize(image, [size, size], BICUBIC)
    return functional.resized_crop(image, *box, [size, size], BICUBIC)


def pretraining_sample(dataset: VideoDataset, readers: list[PlainReader], epoch: int, row: int) -> Tensor:
    """Make two views of a video, float (V, S, 3, T, h, w); both clips of both streams are decoded in any case."""
    rng = dataset.rng(epoch, row)
    clips = dataset.sampler(int(dataset.index.num_frames[row]), rng)
    transform = dataset.transform
    assert isinstance(transform, PretrainTransform)
    plan = transform.plan(rng)
    decoded = [[reader.frames(dataset.index.names[row], clip) for reader in readers] for clip in clips]
    return torch.stack([_view(decoded[clip], recipe, transform.img_dim, rng) for clip, recipe in plan.views])


def _view(streams: list[list[Image.Image]], recipe: PhotometricRecipe, size: int, rng: np.random.Generator) -> Tensor:
    box = geometry.draw_box(streams[0][0].height, streams[0][0].width, rng)
    params = recipe.draw(rng, len(streams), len(streams[0]))
    flipped = rng.random() < P_FLIP
    made = []
    for images, channels in zip(streams, params["channel"], strict=True):
        images = [photometric(resized_crop(image, box, size), params, int(channel))
                  for image, channel in zip(images, channels, strict=True)]
        made.append(to_tensor([functional.hflip(image) for image in images] if flipped else images))
    return torch.stack(made)


def crop_window(images: list[Image.Image], crop: int, params: dict, size: int) -> Tensor:
    """Make one of the ten crops of a window of a video, jittered, float (3, T, h, w)."""
    if min(images[0].size) < CROP:
        images = [functional.resize(image, CROP, BICUBIC) for image in images]
    box = geometry.corner_boxes(images[0].height, images[0].width, CROP)[crop % 5]
    made = [resized_crop(image, box, size) for image in images]
    if crop >= 5:
        made = [functional.hflip(image) for image in made]
    return to_tensor([photometric(image, params, -1) for image in made])


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
        used += [reader.value(dataset.index.names[0])[i] for reader in readers for i in frames]

    def ours() -> list[dict]:
        return [dataset[epoch, 0] for epoch in range(sizes.samples)]

    def floats(samples: list[dict]) -> Tensor:
        return to_blocks(default_collate(samples), "cpu")

    case = partial(Case, size=f"{sizes.width}x{sizes.height}, {sizes.frames} of {sizes.length} frames",
                   plain=lambda: [pretraining_sample(dataset, readers, epoch, 0) for epoch in range(sizes.samples)],
                   clock="cpu", units=sizes.samples, bound=lambda: [simplejpeg.decode_jpeg(jpeg) for jpeg in used],
                   bound_of="bare decoding of the frames used (simplejpeg)")
    yield case("loader", ours=ours, agree=lambda plain, ours: _agree(plain, floats(ours)))
    yield case("loader, photometric steps on the CPU", ours=lambda: floats(ours()), agree=_agree)


def _agree(plain: list[Tensor], ours: Tensor) -> str:
    theirs = torch.stack(plain)
    apart = float((theirs.mean(dim=(-2, -1)) - ours.mean(dim=(-2, -1))).abs().max()) / GREY_LEVEL
    far = float(((theirs - ours).abs() > 4 * GREY_LEVEL).float().mean())
    if apart > 1 or far > 0.01:
        raise AssertionError(f"a frame's mean is {apart:.2f} grey levels apart, {far:.2%} of the pixels more than 4")
    return f"frame means within 1 grey level ({apart:.2f}); {1 - far:.2%} of the pixels within 4"
