"""Render a video set whose classes need both views: a motion, which flow shows, of an object, which RGB shows.

    python -m experiments.synthetic --out videos

Four motions and four objects make 16 classes (`Class/v_Class_gNN_cNN.avi`). The group (gNN) is a scene: its background,
light and clutter are the same in every class, so that a scene says nothing of the class. A share of the clips
(`--swapped`) shows the object, and as many the motion, of another class. The same options always give the same videos.
"""

import itertools
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.options import number, seed
from utils import launch
from utils.console import say
from utils.errors import OptionError
from utils.launch import allotted_cores
from utils.parser import Parser

SUPERSAMPLING = 2  # scenes are drawn this many times larger and averaged down: no jagged edges
FOLLOW = 0.6  # share of the object's motion that the background makes, so that every crop of the picture moves
FPS = 15


class Look(NamedTuple):
    """How an object looks."""

    lobes: int  # of its outline
    depth: float  # of the lobes, a share of the radius
    colour: tuple[int, int, int]  # BGR
    stripes: tuple[int, int]  # periods of its texture across and down the picture


OBJECTS = {
    "Disc": Look(1, 0.0, (60, 60, 225), (6, 0)),
    "Star": Look(5, 0.32, (50, 205, 230), (0, 6)),
    "Leaf": Look(2, 0.35, (70, 190, 60), (5, 5)),
    "Clover": Look(3, 0.3, (225, 110, 60), (7, -4))}


class Pose(NamedTuple):
    """A layer's place in each frame (frames,), or in all: shift in picture heights, radians, log of the scale."""

    x: np.ndarray | float = 0.0
    y: np.ndarray | float = 0.0
    angle: np.ndarray | float = 0.0
    log_scale: np.ndarray | float = 0.0


# Each takes frame numbers times the clip's speed (frames,), and its side: -1 or 1. No two motions differ by left and
# right alone, so that a class survives a horizontal flip.
MOTIONS: dict[str, Callable[[np.ndarray, float], Pose]] = {
    "Slide": lambda t, side: Pose(x=0.045 * side * t),
    "Fall": lambda t, side: Pose(y=0.045 * t),
    "Spin": lambda t, side: Pose(angle=0.11 * side * t),
    "Zoom": lambda t, side: Pose(log_scale=0.38 * np.sin(2 * np.pi * t / 16))}
CLASSES = {f"{motion}{thing}": (motion, thing) for motion, thing in itertools.product(MOTIONS, OBJECTS)}


@dataclass(frozen=True)
class RenderSpec:
    """What all clips of a set have in common; see the options."""

    frames: int = 20
    size: tuple[int, int] = (64, 48)  # width, height in pixels
    pace: float = 1.6
    swapped: float = 0.1
    seed: int = 0


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw a muted toroidal texture, uint8 BGR (H, W, 3), in a hue of its own."""
    unit = height / 60  # textures keep their size relative to the picture
    level = np.mean([_noise(rng, height, width, sigma * unit) for sigma in (1.6, 4.0, 8.0)], axis=0)
    tint = 1 + 0.25 * rng.uniform(-1, 1, 3)
    return np.clip(tint * (110 + 45 * level)[..., None], 0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """Draw smooth toroidal noise (H, W) with mean 0 and standard deviation 1."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    smooth = np.exp(-2 * (np.pi * sigma) ** 2 * (fx**2 + fy**2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * smooth, s=(height, width))
    return (field - field.mean()) / field.std()


def draw_object(look: Look, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw an object in the middle: uint8 BGR (H, W, 3), and its opacity, float32 (H, W) in 0-1."""
    y, x = np.mgrid[0:height, 0:width]
    across, down = look.stripes
    level = 0.75 + 0.25 * np.sign(np.sin(2 * np.pi * (across * x / width + down * y / height)))
    angle = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    radius = (0.3 + 0.3 * look.depth * np.cos(look.lobes * angle)) * height
    points = np.stack([width / 2 + radius * np.sin(angle), height / 2 - radius * np.cos(angle)], axis=-1)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, shift=4)
    return (level[..., None] * look.colour).astype(np.uint8), mask.astype(np.float32) / 255


def content(name: str, rng: np.random.Generator, swapped: float) -> tuple[str, str]:
    """Draw the motion and the object of a clip: its class's, or in a share of the clips each, one of them from all."""
    motion, thing = CLASSES[name]
    draw = rng.random()
    if draw < swapped:
        motion = str(rng.choice(list(MOTIONS)))
    elif draw < 2 * swapped:
        thing = str(rng.choice(list(OBJECTS)))
    return motion, thing


def clip_frames(name: str, group: int, clip: int, spec: RenderSpec) -> np.ndarray:
    """Render a clip of a class in a scene, uint8 BGR (T, H, W, 3); its draws depend on these arguments alone."""
    rng = np.random.default_rng([spec.seed, group, clip, zlib.crc32(name.encode())])
    motion, thing = content(name, rng, spec.swapped)
    width, height = (SUPERSAMPLING * side for side in spec.size)
    scene = background(np.random.default_rng([spec.seed, group]), height, width)
    layer, mask = draw_object(OBJECTS[thing], height, width)
    # If the object always started in the middle, its place in a still picture would give some motions away.
    place, pivot = rng.uniform(0, 1, 2), rng.uniform(-0.5, 0.5, 2)  # of background and object, shares of the picture
    light = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, 3)  # BGR gains
    turned = rng.uniform(0, 2 * np.pi)  # of the object, so that its tilt says nothing of its motion
    steps = rng.uniform(0, 16) * (motion == "Zoom") + spec.pace * rng.uniform(0.8, 1.2) * np.arange(spec.frames)
    frames = []
    for pose in np.stack(np.broadcast_arrays(*MOTIONS[motion](steps, float(rng.choice([-1, 1])))), axis=1):
        behind = _moved(scene, FOLLOW * pose, pivot, place)
        front, opacity = (_moved(each, pose + np.array([0, 0, turned, 0]), pivot, pivot) for each in (layer, mask))
        frame = light * (behind * (1 - opacity[..., None]) + front * opacity[..., None])
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


def render(out: Path, spec: RenderSpec, *, groups: int, clips: int, names: Sequence[str] = tuple(CLASSES)) -> int:
    """Write ``clips`` of each class in each of ``groups`` scenes, all or none, to a folder; return their number."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} exists and is not an empty folder: choose another --out, or remove it first")
    videos = list(itertools.product(names, range(1, groups + 1), range(1, clips + 1)))
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was stopped
    for name in names:
        (part / name).mkdir(parents=True)
    with ProcessPoolExecutor(allotted_cores()) as pool:
        list(pool.map(partial(_write, part, spec), *zip(*videos, strict=True), chunksize=16))
    part.replace(out)
    return len(videos)


def _write(out: Path, spec: RenderSpec, name: str, group: int, clip: int) -> None:
    """Render a clip into its file."""
    path = out / name / f"v_{name}_g{group:02d}_c{clip:02d}.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, spec.size)
    for frame in clip_frames(name, group, clip, spec):
        writer.write(frame)
    writer.release()


def make_parser() -> Parser:
    parser, spec = Parser(__doc__), RenderSpec
    add = parser.topic("data")
    add("--groups", type=number(int, 1, 99), default=60, metavar="N", help="scenes, 1-99")
    add("--clips", type=number(int, 1, 99), default=2, metavar="N", help="clips of each class in each scene, 1-99")
    add("--frames", type=number(int, 16), default=spec.frames, metavar="N", help="frames of a clip, 16 or more")
    add("--pace", type=number(float, 0, 4, open_low=True), default=spec.pace, metavar="FACTOR", help="mean speed of "
        "the motions")
    add("--swapped", type=number(float, 0, 0.5), default=spec.swapped, metavar="SHARE", help="share of clips whose "
        "object is drawn from all classes, and of clips whose motion is, 0-0.5")
    add("--seed", type=seed, default=0, help="seed of scenes, speeds and places")
    add = parser.topic("output")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder to fill (new or empty)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Render a set."""
    args = make_parser().parse_args(argv)
    spec = RenderSpec(frames=args.frames, pace=args.pace, swapped=args.swapped, seed=args.seed)
    videos = render(args.out, spec, groups=args.groups, clips=args.clips)
    width, height = spec.size
    say(f"{videos} videos of {args.frames} frames, {width}x{height}, {len(CLASSES)} classes, in {args.out}")
    return 0


if __name__ == "__main__":
    launch.run(main)
