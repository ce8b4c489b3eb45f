"""The scenes of the demo set: a textured background and a textured object, drawn with numpy and OpenCV alone.

Both layers are tori (their left edge continues at the right one, the top at the bottom), so that a scene can move as
far as it likes. A scene's look depends on the seed and the group only, never on the class.
"""

import colorsys
from dataclasses import dataclass, replace

import cv2
import numpy as np

SHAPES = ("disc", "square", "star", "cross", "hexagon", "ring", "heart", "drop")


@dataclass(frozen=True)
class Scene:
    """`ground` (H, W, 3) uint8 BGR; `thing` (H, W, 3) uint8 BGR and its opacity `mask` (H, W) float32 in 0-1."""

    ground: np.ndarray
    thing: np.ndarray
    mask: np.ndarray


def make_scene(seed: int, group: int, height: int, width: int, colours_of: int | None = None) -> Scene:
    """Draw the scene of a group (from 1): neighbouring groups get different shapes, patterns and hues.

    colours_of: another group, by which the object is coloured.
    """
    rng = np.random.default_rng([seed, group])
    hue = _draw_hue(rng, group)
    ground = _paint(_pattern(rng, group, height, width), _palette(rng, hue, value=(0.15, 0.75)))
    figure, colours = _pattern(rng, group + 3, height, width), _palette(rng, hue + 0.45, value=(0.35, 1.0))
    if colours_of is not None:
        other = np.random.default_rng([seed, colours_of])
        colours = _palette(other, _draw_hue(other, colours_of) + 0.45, value=(0.35, 1.0))
    thing = _paint(figure, colours)
    mask = _shape_mask(SHAPES[group % len(SHAPES)], height, width, rng.uniform(-0.5, 0.5))
    edge = cv2.GaussianBlur(mask, (0, 0), height / 60)
    thing = (thing * (0.35 + 0.65 * np.clip(2 * edge - 1, 0, 1))[..., None]).astype(np.uint8)  # dark rim
    return Scene(ground, thing, mask)


def muted(scene: Scene, share: float) -> Scene:
    """The scene with its background's colours, contrast and half its brightness reduced by a share in 0-1."""
    ground = scene.ground.astype(np.float64)
    grey = ground.mean(axis=2, keepdims=True)
    ground = grey + (1 - share) * (ground - grey)
    mean = ground.mean(axis=(0, 1))
    ground = mean * (1 - share / 2) + (1 - share) * (ground - mean)
    return replace(scene, ground=np.clip(ground, 0, 255).astype(np.uint8))


def _draw_hue(rng: np.random.Generator, group: int) -> float:
    """The hue of a group's background, 0-1: golden-ratio steps spread them."""
    return (0.618 * group + rng.uniform(0, 0.05)) % 1.0


def _palette(rng: np.random.Generator, hue: float, value: tuple[float, float]) -> np.ndarray:
    """Four BGR colours (4, 3) float32 from dark to bright around a hue."""
    steps = np.linspace(*value, 4)
    colours = [
        colorsys.hsv_to_rgb((hue + rng.uniform(-0.07, 0.07)) % 1.0, rng.uniform(0.45, 0.85), v)[::-1] for v in steps
    ]
    return np.asarray(colours, dtype=np.float32) * 255


def _paint(level: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colour a picture of levels (H, W) in 0-1 by a palette (4, 3): (H, W, 3) uint8."""
    at = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(level, at, palette[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


def _noise(rng: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """Smooth toroidal noise (H, W), mean 0, standard deviation 1."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    smooth = np.exp(-2 * (np.pi * sigma) ** 2 * (fx**2 + fy**2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * smooth, s=(height, width))
    return (field - field.mean()) / field.std()


def _pattern(rng: np.random.Generator, kind: int, height: int, width: int) -> np.ndarray:
    """A strong toroidal texture (H, W) in 0-1: a regular figure of the kind, bent and mixed with noise of two sizes."""
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
    """A closed polygon (N, 2) of radius about 1 for a shape's name."""
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
    """Opacity (H, W) of a large shape at the middle, with soft edges."""
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    points = _outline(shape) @ turn * 0.36 * height + [width / 2, height / 2]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, shift=4)
    if shape == "ring":
        cv2.circle(mask, (width // 2, height // 2), round(0.13 * height), 0, -1)
    return cv2.GaussianBlur(mask, (0, 0), height / 150).astype(np.float32) / 255
