"""Scenes and motions of the rendered video set, drawn with numpy and OpenCV.

A scene is a textured background and a textured object. Both are tori (the left edge continues at the right one, the
top at the bottom), so a scene can move without end. How it looks depends on the seed and the group alone, never on
the class: a class is a motion.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

SHAPES = ("disc", "square", "star", "cross", "hexagon", "ring", "heart", "drop")


@dataclass(frozen=True)
class Scene:
    """One group's layers.

    Attributes:
        background: uint8 BGR (H, W, 3).
        thing: the object, uint8 BGR (H, W, 3).
        mask: opacity of the object, float32 (H, W) in 0-1.
    """

    background: np.ndarray
    thing: np.ndarray
    mask: np.ndarray


def make_scene(seed: int, group: int, height: int, width: int) -> Scene:
    """Draw the scene of a group (from 1): neighbouring groups differ in shapes, patterns and hues."""
    rng = np.random.default_rng([seed, group])
    hue = (0.618 * group + rng.uniform(0, 0.05)) % 1.0  # golden-ratio steps spread the hues
    background = _paint(_pattern(rng, group, height, width), _palette(rng, hue, value=(0.15, 0.75)))
    thing = _paint(_pattern(rng, group + 3, height, width), _palette(rng, hue + 0.45, value=(0.35, 1.0)))
    mask = _shape_mask(SHAPES[group % len(SHAPES)], height, width, rng.uniform(-0.5, 0.5))
    edge = cv2.GaussianBlur(mask, (0, 0), height / 60)
    thing = (thing * (0.35 + 0.65 * np.clip(2 * edge - 1, 0, 1))[..., None]).astype(np.uint8)  # dark rim
    return Scene(background, thing, mask)


def muted(scene: Scene, share: float) -> Scene:
    """Reduce the background's colours, its contrast and half its brightness by a share in 0-1."""
    background = scene.background.astype(np.float64)
    grey = background.mean(axis=2, keepdims=True)
    background = grey + (1 - share) * (background - grey)
    mean = background.mean(axis=(0, 1))
    background = mean * (1 - share / 2) + (1 - share) * (background - mean)
    return replace(scene, background=np.clip(background, 0, 255).astype(np.uint8))


def _palette(rng: np.random.Generator, hue: float, value: tuple[float, float]) -> np.ndarray:
    """Draw four BGR colours (4, 3) float32 around a hue, from dark to bright."""
    colours = [
        colorsys.hsv_to_rgb((hue + rng.uniform(-0.07, 0.07)) % 1.0, rng.uniform(0.45, 0.85), v)[::-1]
        for v in np.linspace(*value, 4)
    ]
    return np.asarray(colours, dtype=np.float32) * 255


def _paint(level: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colour levels (H, W) in 0-1 by a palette (4, 3): uint8 (H, W, 3)."""
    at = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(level, at, palette[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def _noise(rng: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """Draw smooth toroidal noise (H, W) with mean 0 and standard deviation 1."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    smooth = np.exp(-2 * (np.pi * sigma) ** 2 * (fx**2 + fy**2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * smooth, s=(height, width))
    return (field - field.mean()) / field.std()


def _pattern(rng: np.random.Generator, kind: int, height: int, width: int) -> np.ndarray:
    """Draw a strong toroidal texture (H, W) in 0-1: a regular figure, bent and mixed with noise of two sizes."""
    unit = height / 60  # textures keep their size relative to the picture
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u = x / width + 0.02 * _noise(rng, height, width, 9 * unit)
    v = y / height + 0.02 * _noise(rng, height, width, 9 * unit)
    across, down = int(rng.integers(5, 8)), int(rng.integers(4, 6))
    sx, sy = np.sin(2 * np.pi * across * u), np.sin(2 * np.pi * down * v)
    figures = (
        lambda: sx * sy,  # checks
        lambda: np.sin(2 * np.pi * (across * u + down * v)),  # slanting stripes
        lambda: 1.2 - 2.4 * np.hypot(sx, sy),  # dots
        lambda: np.maximum(np.cos(4 * np.pi * down * v), np.cos(2 * np.pi * across * (u + 0.5 * (sy > 0)))),  # bricks
        lambda: 1.5 * _noise(rng, height, width, 3.0 * unit),  # clouds
        lambda: 2 * np.abs(_noise(rng, height, width, 3.5 * unit)) - 1,  # cells
    )
    figure = np.clip(figures[kind % len(figures)]() * 3, -1, 1)
    grain = 0.45 * _noise(rng, height, width, 1.6 * unit) + 0.45 * _noise(rng, height, width, 4.0 * unit)
    return np.clip(0.5 + 0.28 * figure + 0.3 * grain, 0, 1)


def _outline(shape: str) -> np.ndarray:
    """Return a shape's outline, a closed polygon (N, 2) with a radius of about 1."""
    a = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    if shape == "heart":
        xy = 16 * np.sin(a) ** 3, -(13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a))
        return np.stack(xy, -1) / 15
    radius = {
        "square": 0.92 / np.maximum(np.abs(np.cos(a)), np.abs(np.sin(a))),
        "star": 0.85 + 0.3 * np.cos(5 * a),
        "cross": np.where(np.abs(np.sin(2 * a)) < 0.75, 1.1, 0.62),
        "hexagon": 0.95 / np.cos((a % (np.pi / 3)) - np.pi / 6),
        "drop": 0.8 + 0.35 * np.cos(a),
    }.get(shape, np.ones_like(a))
    return np.stack([radius * np.cos(a), radius * np.sin(a)], -1)


def _shape_mask(shape: str, height: int, width: int, tilt: float) -> np.ndarray:
    """Draw the opacity (H, W) of a large shape in the middle, with soft edges."""
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    points = _outline(shape) @ turn * 0.36 * height + [width / 2, height / 2]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, shift=4)
    if shape == "ring":
        cv2.circle(mask, (width // 2, height // 2), round(0.13 * height), 0, -1)
    return cv2.GaussianBlur(mask, (0, 0), height / 150).astype(np.float32) / 255


@dataclass(frozen=True)
class Pose:
    """A scene's place in each frame, float64 (frames,) each: shift in picture heights, radians, log of the scale."""

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    log_scale: np.ndarray


@dataclass(frozen=True)
class Variation:
    """Differences between the clips of a class.

    Attributes:
        speed: factor on the motion's rate.
        side: -1 or 1: left or right, clockwise or not.
        phase: where in its cycle the motion starts, in radians.
        rng: the clip's own generator.
    """

    speed: float
    side: float
    phase: float
    rng: np.random.Generator


def draw_variation(rng: np.random.Generator, pace: float = 1.0, spread: float = 0.12) -> Variation:
    """Draw a clip's speed, side and phase.

    Args:
        pace: mean speed.
        spread: share by which a clip may be slower or faster.
    """
    speed = pace * rng.uniform(1 - spread, 1 + spread)
    return Variation(speed, float(rng.choice([-1.0, 1.0])), rng.uniform(0, 2 * np.pi), rng)


def _pose(frames: int, x: float | np.ndarray = 0.0, y: float | np.ndarray = 0.0, angle: float | np.ndarray = 0.0,
          log_scale: float | np.ndarray = 0.0) -> Pose:
    return Pose(*(np.broadcast_to(np.asarray(v, dtype=np.float64), (frames,)) for v in (x, y, angle, log_scale)))


def _cycle(t: np.ndarray, clip: Variation, period: float) -> np.ndarray:
    return 2 * np.pi * clip.speed * t / period + clip.phase


def _circle(t: np.ndarray, clip: Variation) -> Pose:
    turn = _cycle(t, clip, 16)
    return _pose(len(t), x=0.13 * clip.side * np.cos(turn), y=0.13 * np.sin(turn))


def _shake(t: np.ndarray, clip: Variation) -> Pose:
    # neighbouring frames jump to opposite sides, along a direction that changes all the time
    angle = clip.phase + np.cumsum(clip.rng.uniform(0.6 * np.pi, 1.4 * np.pi, len(t)))
    return _pose(len(t), x=0.042 * clip.speed * np.cos(angle), y=0.042 * clip.speed * np.sin(angle))


# Each takes frame numbers (frames,). No two classes differ by left and right alone, so a class survives a horizontal
# flip; each shows within 16 frames.
MOTIONS: dict[str, Callable[[np.ndarray, Variation], Pose]] = {
    # |sin|: hits the ground and turns at once, hangs at the top
    "Bounce": lambda t, clip: _pose(len(t), y=0.17 - 0.34 * np.abs(np.sin(_cycle(t, clip, 28)))),
    "Circle": _circle,
    "Fall": lambda t, clip: _pose(len(t), y=clip.speed * 0.045 * t),
    "Shake": _shake,
    "Slide": lambda t, clip: _pose(len(t), x=clip.side * clip.speed * 0.045 * t),
    "Spin": lambda t, clip: _pose(len(t), angle=clip.side * clip.speed * 0.11 * t + clip.phase),
    "Swing": lambda t, clip: _pose(len(t), x=0.16 * np.sin(_cycle(t, clip, 16))),
    "Zoom": lambda t, clip: _pose(len(t), log_scale=0.38 * np.sin(_cycle(t, clip, 16))),
    "Rise": lambda t, clip: _pose(len(t), y=-clip.speed * 0.045 * t),
    "Rock": lambda t, clip: _pose(len(t), angle=0.45 * np.sin(_cycle(t, clip, 16))),
}
