"""Render a video set `Class/v_Class_gNN_cNN.avi` whose class is a motion.

    python -m experiments.rendered_set --out demo/videos --contact_sheet demo/contact_sheet.png

The group (gNN) is a scene: a textured object on a textured background, the same in every class, so motion tells the
class, and colours do not. The clips of a group differ in speed, phase, side and light. The same options always give
the same videos.
"""

import colorsys
import itertools
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.options import number, seed, share
from tools.pictures import Tile, contact_sheet, film_strip
from utils import launch
from utils.console import say
from utils.errors import OptionError
from utils.parser import Parser

SHAPES = ("disc", "square", "star", "cross", "hexagon", "ring", "heart", "drop")
SUPERSAMPLING = 2  # scenes are drawn this many times larger and averaged down: no jagged edges
FOLLOW = 0.6  # share of the object's motion that the background makes, so that every crop of the picture moves
OBJECTS = 1000  # the classes' own objects are those of the scenes from this one on; groups end at 99
FPS = 15


@dataclass(frozen=True)
class Scene:
    """One group's layers: tori, which move without end."""

    background: np.ndarray  # uint8 BGR (H, W, 3)
    thing: np.ndarray  # the object, uint8 BGR (H, W, 3)
    mask: np.ndarray  # opacity of the object, float32 (H, W) in 0-1


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
    colours = [colorsys.hsv_to_rgb((hue + rng.uniform(-0.07, 0.07)) % 1.0, rng.uniform(0.45, 0.85), v)[::-1]
               for v in np.linspace(*value, 4)]
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
        y = -(13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a))
        return np.stack([16 * np.sin(a) ** 3, y], -1) / 15
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


class Pose(NamedTuple):
    """A scene's place, in each frame (frames,) or in all: shift in picture heights, radians, log of the scale."""

    x: np.ndarray | float = 0.0
    y: np.ndarray | float = 0.0
    angle: np.ndarray | float = 0.0
    log_scale: np.ndarray | float = 0.0


class Variation(NamedTuple):
    """Differences between the clips of a class."""

    speed: float
    side: float  # -1 or 1: left or right, clockwise or not
    phase: float  # where in its cycle the motion starts, in radians
    rng: np.random.Generator  # the clip's own


def _cycle(t: np.ndarray, clip: Variation, period: float) -> np.ndarray:
    return 2 * np.pi * clip.speed * t / period + clip.phase


def _shake(t: np.ndarray, clip: Variation) -> Pose:
    # neighbouring frames jump to opposite sides, along a direction that changes all the time
    angle = clip.phase + np.cumsum(clip.rng.uniform(0.6 * np.pi, 1.4 * np.pi, len(t)))
    return Pose(x=0.042 * clip.speed * np.cos(angle), y=0.042 * clip.speed * np.sin(angle))


# Each takes frame numbers (frames,). No two classes differ by left and right alone, so a class survives a horizontal
# flip; each shows within 16 frames.
MOTIONS: dict[str, Callable[[np.ndarray, Variation], Pose]] = {
    # |sin|: hits the ground and turns at once, hangs at the top
    "Bounce": lambda t, clip: Pose(y=0.17 - 0.34 * np.abs(np.sin(_cycle(t, clip, 28)))),
    "Circle": lambda t, clip: Pose(x=0.13 * clip.side * np.cos(_cycle(t, clip, 16)),
                                   y=0.13 * np.sin(_cycle(t, clip, 16))),
    "Fall": lambda t, clip: Pose(y=clip.speed * 0.045 * t),
    "Shake": _shake,
    "Slide": lambda t, clip: Pose(x=clip.side * clip.speed * 0.045 * t),
    "Spin": lambda t, clip: Pose(angle=clip.side * clip.speed * 0.11 * t + clip.phase),
    "Swing": lambda t, clip: Pose(x=0.16 * np.sin(_cycle(t, clip, 16))),
    "Zoom": lambda t, clip: Pose(log_scale=0.38 * np.sin(_cycle(t, clip, 16))),
    "Rise": lambda t, clip: Pose(y=-clip.speed * 0.045 * t),
    "Rock": lambda t, clip: Pose(angle=0.45 * np.sin(_cycle(t, clip, 16))),
}


@dataclass(frozen=True)
class RenderSpec:
    """What all clips of a set have in common; see the options."""

    frames: int
    size: tuple[int, int]  # width, height in pixels
    seed: int
    pace: float = 1.0
    spread: float = 0.12
    typical: float = 0.0
    muted: float = 0.0


def clip_frames(name: str, group: int, clip: int, spec: RenderSpec) -> np.ndarray:
    """Render a clip of a class in a scene, uint8 BGR (T, H, W, 3); its draws depend on these arguments alone."""
    rng = np.random.default_rng([spec.seed, group, clip, zlib.crc32(name.encode())])
    speed = spec.pace * rng.uniform(1 - spec.spread, 1 + spec.spread)
    variation = Variation(speed, float(rng.choice([-1.0, 1.0])), rng.uniform(0, 2 * np.pi), rng)
    # If the object always started in the middle, its place in a still picture would give some classes away.
    place, pivot = rng.uniform(0, 1, 2), rng.uniform(-0.5, 0.5, 2)  # of background and object, shares of the picture
    light = rng.uniform(0.65, 1.15, 3)  # BGR gains
    width, height = (SUPERSAMPLING * side for side in spec.size)
    scene = muted(make_scene(spec.seed, group, height, width), spec.muted)
    if spec.typical and rng.random() < spec.typical:
        own = make_scene(spec.seed, OBJECTS + list(MOTIONS).index(name), height, width)
        scene = replace(scene, thing=own.thing, mask=own.mask)
    frames = []
    for pose in np.stack(np.broadcast_arrays(*MOTIONS[name](np.arange(spec.frames), variation)), axis=1):
        background = _moved(scene.background, FOLLOW * pose, pivot, place)
        thing, mask = (_moved(layer, pose, pivot, pivot) for layer in (scene.thing, scene.mask))
        frame = light * (background * (1 - mask[..., None]) + thing * mask[..., None])
        small = cv2.resize(frame.astype(np.float32), spec.size, interpolation=cv2.INTER_AREA)
        frames.append(np.clip(small, 0, 255).round().astype(np.uint8))
    return np.stack(frames)


def _moved(layer: np.ndarray, pose: np.ndarray, pivot: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Put a toroidal layer at `start`, turn and scale it about `pivot`, then shift it."""
    height, width = layer.shape[:2]
    span = np.array([width, height])
    turn = cv2.getRotationMatrix2D((0.5 + pivot) * span, np.degrees(pose[2]), np.exp(pose[3]))
    turn[:, 2] += turn[:, :2] @ (start * span) + height * pose[:2]
    return cv2.warpAffine(layer, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def render(out: Path, names: Sequence[str], spec: RenderSpec, *, groups: int, clips: int) -> int:
    """Write ``clips`` of each class in each of ``groups`` scenes to a new or empty folder; return their number."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} exists and is not an empty folder: choose another --out, or remove it first")
    videos = list(itertools.product(names, range(1, groups + 1), range(1, clips + 1)))
    for name, group, clip in videos:
        path = out / name / f"v_{name}_g{group:02d}_c{clip:02d}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, spec.size)
        for frame in clip_frames(name, group, clip, spec):
            writer.write(frame)
        writer.release()
    return len(videos)


def write_contact_sheet(path: Path, names: Sequence[str], groups: int, spec: RenderSpec) -> None:
    """Draw a row for each class: four frames of the first clips of up to three scenes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    step = max(spec.frames // 10, 1)
    rows = [[Tile(film_strip(clip_frames(name, group, 1, spec)[:4 * step:step, ..., ::-1], spec.size[1]),
                  [f"{name}, scene {group}"]) for group in range(1, min(groups, 3) + 1)] for name in names]
    contact_sheet(rows).save(path)


def frame_size(text: str) -> tuple[int, int]:
    """Argparse type: WIDTHxHEIGHT in pixels, even numbers."""
    width, height = map(int, text.split("x"))
    if width % 2 or height % 2 or min(width, height) < 32:
        raise ValueError
    return width, height


def make_parser() -> Parser:
    """Define the options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--classes", type=number(int, 2, len(MOTIONS)), default=8, metavar="N", help=f"motions, 2-{len(MOTIONS)}")
    add("--groups", type=number(int, 1, 99), default=6, metavar="N", help="scenes, 1-99")
    add("--clips", type=number(int, 1, 99), default=2, metavar="N", help="clips of each motion in each scene, 1-99")
    add("--frames", type=number(int, 16), default=30, metavar="N", help="frames of a clip, 16 or more")
    add("--size", type=frame_size, default="64x48", metavar="PIXELS", help="WIDTHxHEIGHT of the videos, even numbers")
    add("--pace", type=number(float, 0, 4, open_low=True), default=1.0, metavar="FACTOR", help="mean speed of "
        "the motions: larger ones give flow more grey levels, of which a pixel has 6.4")
    add("--spread", type=number(float, 0, 1, open_high=True), default=0.12, metavar="SHARE", help="share by which a "
        "clip may be slower or faster, 0 to below 1")
    add("--typical", type=share, default=0.0, metavar="SHARE", help="share of clips, 0-1, that show an object of their "
        "class instead of the scene's, so that appearance hints at the class")
    add("--muted", type=share, default=0.0, metavar="SHARE", help="how much to desaturate backgrounds, 0-1")
    add("--seed", type=seed, default=0, help="seed of scenes, speeds and phases")
    add = parser.topic("output")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder to fill (new or empty)")
    add("--contact_sheet", type=Path, metavar="FILE", help="also draw frames of every class, .png or .jpg")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Render a set."""
    args = make_parser().parse_args(argv)
    if args.contact_sheet and args.contact_sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise OptionError(f"--contact_sheet {args.contact_sheet}: give a name that ends in .png or .jpg")
    names = list(MOTIONS)[:args.classes]
    spec = RenderSpec(args.frames, args.size, args.seed, args.pace, args.spread, args.typical, args.muted)
    videos = render(args.out, names, spec, groups=args.groups, clips=args.clips)
    say(f"{videos} videos of {args.frames} frames, {args.size[0]}x{args.size[1]}, {len(names)} classes, in {args.out}")
    if args.contact_sheet:
        write_contact_sheet(args.contact_sheet, names, args.groups, spec)
        say(f"contact sheet: {args.contact_sheet}")
    return 0


if __name__ == "__main__":
    launch.run(main)
