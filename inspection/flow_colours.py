"""Optical flow in colours: the hue is the direction, the saturation the speed (Baker et al., "A Database and Evaluation
Methodology for Optical Flow", IJCV 2011, whose colour wheel torchvision draws)."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.utils import flow_to_image

from inspection.canvas import FAINT, FONTS, INK, LINE, PAPER, TEXT

BOUND = 20.0  # pixels a frame either way, of which the JPEGs' 0-255 are made, see docs/data.md
STEP = 2 * BOUND / 255  # pixels; 0 lies between 127 and 128
STILL = 2 * STEP  # pixels: a JPEG's colours may be a step from what went into it, on top of half a step's rounding
RADIUS = 55  # pixels of the legend's wheel


def decoded(frames: np.ndarray) -> np.ndarray:
    """Motion (x, y) in pixels a frame, float32 (T, H, W, 2), to the right and down; less than `STILL` is 0.

    frames: of flow as they are read, uint8 (T, H, W, 3), which are (128, y, x).
    """
    motion = frames[..., [2, 1]] * np.float32(STEP) - np.float32(BOUND)
    return np.where(np.abs(motion) < STILL, np.float32(0), motion)


def scale_of(motions: list[np.ndarray]) -> float:
    """The speed that gets the full colour: the 99th percentile of all, at least a pixel a frame, in tenths above it."""
    speeds = np.concatenate([np.hypot(motion[..., 0], motion[..., 1]).ravel() for motion in motions])
    return max(1.0, float(np.ceil(10 * np.percentile(speeds, 99)) / 10))


def coloured(motion: np.ndarray, scale: float) -> np.ndarray:
    """Motion (..., H, W, 2) as colours, uint8 (..., H, W, 3): white where nothing moves; from `scale` on, in pixels a
    frame, full colours."""
    speed = np.hypot(motion[..., 0], motion[..., 1])[..., None]
    limited = motion * np.minimum(1, scale / np.maximum(speed, 1e-9))
    flat = torch.from_numpy(limited.reshape(-1, 2).astype(np.float32))
    with_scale = torch.cat([flat, torch.tensor([[scale, 0.0]])])  # torchvision takes the fastest for the full colour
    colours = flow_to_image(with_scale.T[:, None])  # (3, 1, N + 1)
    return colours[:, 0, :-1].T.reshape(*motion.shape[:-1], 3).numpy()


def legend(scale: float) -> Image.Image:
    """The wheel: the colour of a motion lies where the motion leads to from the middle."""
    axis = np.linspace(-scale, scale, 2 * RADIUS + 1)
    motion = np.stack(np.meshgrid(axis, axis), axis=-1)  # (h, w, 2): x to the right, y down
    wheel = coloured(motion, scale)
    wheel[np.hypot(motion[..., 0], motion[..., 1]) > scale] = PAPER
    image = Image.new("RGB", (2 * RADIUS + 130, 2 * RADIUS + 1 + 3 * LINE), PAPER)
    left = 65
    image.paste(Image.fromarray(wheel), (left, LINE))
    draw = ImageDraw.Draw(image)
    middle = left + RADIUS
    low = LINE + 2 * RADIUS + 2
    for text, place, anchor in (("up", (middle, 0), "ma"), ("down", (middle, low), "ma"),
                                ("left", (left - 6, LINE + RADIUS), "rm"),
                                ("right", (left + 2 * RADIUS + 6, LINE + RADIUS), "lm")):
        draw.text(place, text, INK, FONTS[TEXT], anchor=anchor)
    draw.text((middle, low + LINE), f"rim: {scale:g} px a frame and more", FAINT, FONTS[TEXT], anchor="ma")
    return image
