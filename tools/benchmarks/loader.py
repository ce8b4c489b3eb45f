"""Loading a two-stream, two-clip training sample in one process, with and without the photometric steps.

The straightforward version works in the usual way: unpack whole values, Pillow for every frame and step, float tensors.
It draws in the same order as ours, so both give the same sample up to rounding.
"""

import io
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import default_collate

from dataset.transforms import geometry
from dataset.transforms.photometric import BRIGHTNESS, CONTRAST, HUE, MEAN, SATURATION, STD, PhotometricRecipe
from dataset.transforms.presets import CROP, P_FLIP, PretrainTransform, to_blocks
from dataset.video_dataset import VideoDataset
from tools.benchmarks import data
from tools.benchmarks.data import Sizes
from tools.benchmarks.measure import Case, Disagreement

GREY_LEVEL = 1 / (255 * min(STD))  # of a normalised value
ENHANCE = {BRIGHTNESS: ImageEnhance.Brightness, CONTRAST: ImageEnhance.Contrast, SATURATION: ImageEnhance.Color}


class PlainReader:
    """Reads videos by unpacking their whole values, from a copy: a process can open an LMDB only once."""

    def __init__(self, path: str) -> None:
        copy = shutil.copyfile(path, path + ".plain")
        self.env = lmdb.open(copy, readonly=True, lock=False, subdir=False, readahead=False)
        with self.env.begin() as transaction:
            order = msgpack.unpackb(transaction.get(b"__order__"), raw=True)
        self.keys = {name.decode(): b"%09d" % number for number, name in enumerate(order)}

    def value(self, name: str) -> list[bytes]:
        """Return the JPEGs of all frames of a video."""
        with self.env.begin() as transaction:
            return msgpack.unpackb(transaction.get(self.keys[name]), raw=True)

    def frames(self, name: str, indices: np.ndarray) -> list[Image.Image]:
        """Decode the frames of a clip."""
        images = self.value(name)
        return [Image.open(io.BytesIO(images[i])).convert("RGB") for i in indices]


def shift_hue(image: Image.Image, factor: float) -> Image.Image:
    """Shift the hue by a share of the circle."""
    h, s, v = image.convert("HSV").split()
    shifted = (np.asarray(h).astype(np.int16) + int(factor * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted), s, v)).convert("RGB")


def photometric(image: Image.Image, params: dict, channel: int) -> Image.Image:
    """Apply to one frame the jitter in its drawn order, channel replacement and blur."""
    if params["jitter"]:
        for operation in params["order"]:
            factor = float(params["factor"][operation])
            image = shift_hue(image, factor) if operation == HUE else ENHANCE[int(operation)](image).enhance(factor)
    if channel >= 0:
        image = Image.merge("RGB", [image.split()[channel]] * 3)
    if params["sigma"] > 0:
        image = image.filter(ImageFilter.GaussianBlur(float(params["sigma"])))
    return image


def to_tensor(images: list[Image.Image]) -> Tensor:
    """Convert frames to a normalised float clip (3, T, h, w), contiguous."""
    frames = []
    for image in images:
        frame = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        frames.append((frame - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    return torch.stack(frames, dim=1)


def resized_crop(image: Image.Image, box: geometry.Box | None, size: int) -> Image.Image:
    """Resize a window of a frame, or all of it, to a square of this side."""
    if box is not None:
        image = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return image.resize((size, size), Image.Resampling.BICUBIC)


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
        made.append(to_tensor([ImageOps.mirror(image) for image in images] if flipped else images))
    return torch.stack(made)


def crop_window(images: list[Image.Image], crop: int, params: dict, size: int) -> Tensor:
    """Make one of the ten crops of a window of a video, jittered, float (3, T, h, w)."""
    images = [_at_least(image, CROP) for image in images]
    box = geometry.corner_boxes(images[0].height, images[0].width, CROP)[crop % 5]
    made = [resized_crop(image, box, size) for image in images]
    if crop >= 5:
        made = [ImageOps.mirror(image) for image in made]
    return to_tensor([photometric(image, params, -1) for image in made])


def _at_least(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if min(width, height) >= size:
        return image
    shape = (int(size * width / height), size) if height < width else (size, int(size * height / width))
    return image.resize(shape, Image.Resampling.BICUBIC)


class Samples:
    """The same samples made in both ways, from one video."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        data.make_set(folder, sizes, [sizes.length])
        self.dataset = data.build(folder, "-2stream-2clip", "train", PretrainTransform(sizes.img_dim), sizes)
        self.readers = [PlainReader(reader.path) for reader in self.dataset.readers]
        self.items = [(epoch, 0) for epoch in range(sizes.samples)]

    def ours(self) -> list[dict]:
        """Make the samples that a worker sends."""
        return [self.dataset[item] for item in self.items]

    def ours_as_floats(self) -> Tensor:
        """Make samples, then apply photometric steps and normalisation as the training device does."""
        return to_blocks(default_collate(self.ours()), "cpu")

    def plain(self) -> list[Tensor]:
        """Make float views."""
        return [pretraining_sample(self.dataset, self.readers, *item) for item in self.items]

    def used_jpegs(self) -> list[bytes]:
        """Return the different frames that the samples use, of both streams."""
        found = []
        for epoch, row in self.items:
            rng = self.dataset.rng(epoch, row)
            clips = self.dataset.sampler(int(self.dataset.index.num_frames[row]), rng)
            used = np.unique(clips[list(self.dataset.transform.plan(rng).clips)])
            found += [reader.value(self.dataset.index.names[row])[i] for reader in self.readers for i in used]
        return found


def cases(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Yield a worker's samples, and the same with the photometric steps that follow on the training device."""
    samples = Samples(folder, sizes)
    case = partial(Case, size=f"{sizes.width}x{sizes.height}, {sizes.frames} of {sizes.length} frames",
                   plain=samples.plain, clock="cpu", units=sizes.samples, bound=partial(_decode, samples.used_jpegs()),
                   bound_of="bare decoding of the frames used (simplejpeg)")
    yield case("loader", ours=samples.ours,
               agree=lambda plain, ours: _agree(plain, to_blocks(default_collate(ours), "cpu")))
    yield case("loader, photometric steps on the CPU", ours=samples.ours_as_floats, agree=_agree)


def _decode(jpegs: list[bytes]) -> None:
    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg)


def _agree(plain: list[Tensor], ours: Tensor) -> str:
    theirs = torch.stack(plain)
    apart = float((theirs.mean(dim=(-2, -1)) - ours.mean(dim=(-2, -1))).abs().max()) / GREY_LEVEL
    far = float(((theirs - ours).abs() > 4 * GREY_LEVEL).float().mean())
    if apart > 1 or far > 0.01:
        raise Disagreement(f"a frame's mean is {apart:.2f} grey levels apart, {far:.2%} of the pixels more than 4")
    return f"frame means within 1 grey level ({apart:.2f}); {1 - far:.2%} of the pixels within 4"
