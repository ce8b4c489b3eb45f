"""Crop, resize and flip frames, uint8 (T, H, W, 3), as Pillow does; the random crop is that of CoCLR's code."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

AREA, ASPECT = (0.2, 1.0), (3 / 4, 4 / 3)


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


def size_of(frames: np.ndarray) -> tuple[int, int]:
    height, width = frames.shape[1:3]
    return height, width


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 (T, H, W, 3) to (T, height, width, 3), bicubic and antialiased, within one grey level of Pillow's.

    Rarely it is two levels off: on 320x240 video, in 0.5 of a million values at 128 pixels and 5 of a million at 224.
    Pillow does the vertical pass first where it shrinks the height much more than the width; the order shows where the
    first pass overshoots 0 or 255.
    """
    old_height, old_width = size_of(frames)
    if (old_height, old_width) == (height, width):
        return frames
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)  # (T, 3, H, W), channels last in memory
    sizes = [(height, width)]
    if height < old_height and 2 * (old_width - width) < old_height - height:
        sizes.insert(0, (height, old_width))
    for size in sizes:
        images = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
    return images.permute(0, 2, 3, 1).numpy()


def cut(frames: np.ndarray, box: Box) -> np.ndarray:
    """Cut a window out of frames; the result is a view."""
    return frames[:, box.top:box.top + box.height, box.left:box.left + box.width]


def flip(frames: np.ndarray) -> np.ndarray:
    """Mirror frames (T, H, W, 3) left to right; all rows at once, as one tall image."""
    rows = np.ascontiguousarray(frames).reshape(-1, *frames.shape[2:])
    return cv2.flip(rows, 1).reshape(frames.shape)


def draw_box(height: int, width: int, rng: np.random.Generator) -> Box | None:
    """Draw a window of a share 0.2-1 of the frame and aspect 3/4-4/3; None if the draw does not fit."""
    area = rng.uniform(*AREA) * height * width
    aspect = rng.uniform(*ASPECT)
    w, h = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
    if rng.random() < 0.5:
        w, h = h, w
    if w > width or h > height or not w or not h:
        return None
    return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)


def corner_boxes(height: int, width: int, size: int) -> list[Box]:
    """Return squares of `size`: the middle, then top left, top right, bottom left and bottom right."""
    middle = round((height - size) / 2), round((width - size) / 2)
    corners = [(top, left) for top in (0, height - size) for left in (0, width - size)]
    return [Box(top, left, size, size) for top, left in (middle, *corners)]


def short_side_to(frames: np.ndarray, size: int) -> np.ndarray:
    height, width = size_of(frames)
    short = min(height, width)
    return resize(frames, int(size * height / short), int(size * width / short))


def scaled_box(box: Box, old: tuple[int, int], new: tuple[int, int]) -> Box:
    """Return the same window in frames of another size (height, width): streams may differ in size."""
    y, x = new[0] / old[0], new[1] / old[1]
    height, width = max(1, round(box.height * y)), max(1, round(box.width * x))
    return Box(min(round(box.top * y), new[0] - height), min(round(box.left * x), new[1] - width), height, width)
