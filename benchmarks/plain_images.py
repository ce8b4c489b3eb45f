"""Samples as they are usually made: whole values unpacked, Pillow for every frame and step, float tensors.

Draws are taken in the same order as ours, so both ways make the same sample up to rounding.
"""

import io
import shutil
from pathlib import Path

import lmdb
import msgpack
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from dataset.video_dataset import VideoDataset
from utils import geometry
from utils.augmentation import MEAN, STD
from utils.photo import BRIGHTNESS, CONTRAST, HUE, SATURATION, PhotoRecipe
from utils.presets import CROP, P_FLIP, PretrainTransform

ENHANCE = {BRIGHTNESS: ImageEnhance.Brightness, CONTRAST: ImageEnhance.Contrast, SATURATION: ImageEnhance.Color}


class PlainReader:
    """Reads a video by unpacking its whole value.

    path: of the LMDB, a file. It is copied, as LMDB opens a file once in a process.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path + ".plain")
        if not self.path.exists():
            shutil.copyfile(path, self.path)
        self.env = lmdb.open(str(self.path), readonly=True, lock=False, subdir=False, readahead=False)
        with self.env.begin() as transaction:
            order = msgpack.unpackb(transaction.get(b"__order__"), raw=True)
        self.keys = {name.decode(): b"%09d" % number for number, name in enumerate(order)}

    def value(self, name: str) -> list[bytes]:
        """The JPEGs of all frames of a video."""
        with self.env.begin() as transaction:
            return msgpack.unpackb(transaction.get(self.keys[name]), raw=True)

    def frames(self, name: str, indices: np.ndarray) -> list[Image.Image]:
        """The frames of a clip."""
        images = self.value(name)
        return [Image.open(io.BytesIO(images[i])).convert("RGB") for i in indices]


def turn_hue(image: Image.Image, factor: float) -> Image.Image:
    """Turn the hue by a share of the circle."""
    h, s, v = image.convert("HSV").split()
    turned = (np.asarray(h).astype(np.int16) + int(factor * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")


def photometric(image: Image.Image, photo: dict, channel: int) -> Image.Image:
    """Jitter in the drawn order, channel replacement and blur of one frame."""
    if photo["jitter"]:
        for operation in photo["order"]:
            factor = float(photo["factor"][operation])
            image = turn_hue(image, factor) if operation == HUE else ENHANCE[int(operation)](image).enhance(factor)
    if channel >= 0:
        image = Image.merge("RGB", [image.split()[channel]] * 3)
    if photo["sigma"] > 0:
        image = image.filter(ImageFilter.GaussianBlur(float(photo["sigma"])))
    return image


def to_tensor(images: list[Image.Image]) -> Tensor:
    """Frames to a normalised float clip (3, T, h, w), contiguous."""
    frames = []
    for image in images:
        frame = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        frames.append((frame - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
    return torch.stack(frames, dim=1)


def cropped(image: Image.Image, box: geometry.Box | None, size: int) -> Image.Image:
    """A window of a frame, or all of it, at `size`."""
    if box is not None:
        image = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return image.resize((size, size), Image.Resampling.BICUBIC)


def pretraining_sample(dataset: VideoDataset, readers: list[PlainReader], epoch: int, row: int) -> Tensor:
    """Two views of a video, float (V, S, 3, T, h, w); both clips of both streams are decoded, whatever is used."""
    rng = dataset.rng(epoch, row)
    clips = dataset.sampler(int(dataset.index.num_frames[row]), rng)
    transform = dataset.transform
    assert isinstance(transform, PretrainTransform)
    plan = transform.plan(rng)
    decoded = [[reader.frames(dataset.index.names[row], clip) for reader in readers] for clip in clips]
    return torch.stack([_view(decoded[clip], recipe, transform.img_dim, rng) for clip, recipe in plan.views])


def _view(streams: list[list[Image.Image]], recipe: PhotoRecipe, size: int, rng: np.random.Generator) -> Tensor:
    box = geometry.draw_box(streams[0][0].height, streams[0][0].width, rng)
    photo = recipe.draw(rng, len(streams), len(streams[0]))
    flip = rng.random() < P_FLIP
    made = []
    for number, images in enumerate(streams):
        images = [photometric(cropped(image, box, size), photo, int(channel))
                  for image, channel in zip(images, photo["channel"][number], strict=True)]
        if flip:
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        made.append(to_tensor(images))
    return torch.stack(made)


def crop_window(images: list[Image.Image], crop: int, photo: dict, size: int) -> Tensor:
    """A window of a video in one of ten crops, jittered, float (3, T, h, w)."""
    images = [_at_least(image, CROP) for image in images]
    box = geometry.corner_boxes(images[0].height, images[0].width, CROP)[crop % 5]
    made = []
    for image in images:
        image = cropped(image, box, size)
        if crop >= 5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        made.append(photometric(image, photo, -1))
    return to_tensor(made)


def _at_least(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if min(width, height) >= size:
        return image
    shape = (int(size * width / height), size) if height < width else (size, int(size * height / width))
    return image.resize(shape, Image.Resampling.BICUBIC)
