"""Render a video set `Class/v_Class_gNN_cNN.avi` whose class is a motion.

    python -m experiments.rendered_set --out demo/videos --contact_sheet demo/contact_sheet.png

The group (gNN) is a scene: a textured object on a textured background, the same in every class, so motion tells the
class, and colours do not. The clips of a group differ in speed, phase, side and light. The same options always give
the same videos.
"""

import argparse
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.options import number, seed, share
from experiments.rendered_scenes import MOTIONS, Pose, Scene, draw_variation, make_scene, muted
from tools.pictures import Tile, contact_sheet, film_strip
from utils import launch
from utils.console import say
from utils.errors import DataError, OptionError
from utils.parser import Parser

SUPERSAMPLING = 2  # scenes are drawn this many times larger and averaged down: no jagged edges
FOLLOW = 0.6  # share of the object's motion that the background makes, so that every crop of the picture moves
OBJECTS = 1000  # the classes' own objects are those of the scenes from this one on; groups end at 99
FPS = 15


@dataclass(frozen=True)
class RenderSpec:
    """What all clips of a set have in common.

    Attributes:
        frames: of a clip.
        size: (width, height) in pixels.
        seed: of all draws.
        pace: mean speed of the motions.
        spread: share by which a clip may be slower or faster.
        typical: share of clips that show their class's own object instead of the scene's.
        muted: how far backgrounds are paled, 0-1.
    """

    frames: int
    size: tuple[int, int]
    seed: int
    pace: float = 1.0
    spread: float = 0.12
    typical: float = 0.0
    muted: float = 0.0


@dataclass(frozen=True)
class Placement:
    """How a clip shows its scene: background and object at fractions of the picture (2,), light as BGR gains (3,)."""

    background: np.ndarray
    thing: np.ndarray
    light: np.ndarray


def clip_frames(name: str, group: int, clip: int, spec: RenderSpec) -> np.ndarray:
    """Render a clip of a class in a scene, uint8 BGR (T, H, W, 3); its draws depend on these arguments alone."""
    rng = np.random.default_rng([spec.seed, group, clip, zlib.crc32(name.encode())])
    variation = draw_variation(rng, spec.pace, spec.spread)
    # If the object always started in the middle, its place in a still picture would give some classes away.
    place = Placement(rng.uniform(0, 1, 2), rng.uniform(-0.5, 0.5, 2), rng.uniform(0.65, 1.15, 3))
    width, height = (SUPERSAMPLING * side for side in spec.size)
    scene = muted(make_scene(spec.seed, group, height, width), spec.muted)
    if spec.typical and rng.random() < spec.typical:
        own = make_scene(spec.seed, OBJECTS + list(MOTIONS).index(name), height, width)
        scene = replace(scene, thing=own.thing, mask=own.mask)
    return _animate(scene, MOTIONS[name](np.arange(spec.frames), variation), spec.size, place)


def _animate(scene: Scene, pose: Pose, size: tuple[int, int], place: Placement) -> np.ndarray:
    frames = []
    for i in range(len(pose.x)):
        background = _moved(scene.background, pose, i, FOLLOW, place.thing, place.background)
        thing = _moved(scene.thing, pose, i, 1.0, place.thing, place.thing)
        mask = _moved(scene.mask, pose, i, 1.0, place.thing, place.thing)[..., None]
        frame = place.light * (background * (1 - mask) + thing * mask)
        small = cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        frames.append(np.clip(small, 0, 255).round().astype(np.uint8))
    return np.stack(frames)


def _moved(layer: np.ndarray, pose: Pose, i: int, factor: float, pivot: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Put a toroidal layer at `start`, turn and scale it about `pivot`, then shift it: factor x the pose of frame i."""
    height, width = layer.shape[:2]
    span = np.array([width, height])
    turn = cv2.getRotationMatrix2D(
        tuple(map(float, (0.5 + pivot) * span)), np.degrees(factor * pose.angle[i]), np.exp(factor * pose.log_scale[i])
    )
    turn[:, 2] += turn[:, :2] @ (start * span) + factor * height * np.array([pose.x[i], pose.y[i]])
    return cv2.warpAffine(layer, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def render(out: Path, names: Sequence[str], spec: RenderSpec, *, groups: int, clips: int) -> int:
    """Write a set.

    Args:
        out: a new or empty folder.
        names: of the classes.
        groups: scenes.
        clips: of each class in each scene.

    Returns:
        The number of videos.

    Raises:
        OptionError: ``out`` is not empty.
        DataError: a video cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"{out} exists and is not an empty folder: choose another --out, or remove it first")
    for name in names:
        (out / name).mkdir(parents=True)
        for group in range(1, groups + 1):
            for clip in range(1, clips + 1):
                write_video(out / name / f"v_{name}_g{group:02d}_c{clip:02d}.avi", clip_frames(name, group, clip, spec))
    return len(names) * groups * clips


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write frames, uint8 BGR (T, H, W, 3), as an .avi of JPEGs."""
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (width, height))
    if not writer.isOpened():
        raise DataError(f"cannot write videos to {path.parent}: check that the folder is writable")
    for frame in frames:
        writer.write(frame)
    writer.release()


def write_contact_sheet(path: Path, names: Sequence[str], groups: int, spec: RenderSpec) -> None:
    """Draw a row for each class: four frames of the first clips of up to three scenes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    step = max(spec.frames // 10, 1)
    rows = [[Tile(film_strip(clip_frames(name, group, 1, spec)[:4 * step:step, ..., ::-1], spec.size[1]),
                  [f"{name}, scene {group}"]) for group in range(1, min(groups, 3) + 1)] for name in names]
    contact_sheet(rows).save(path)


def frame_size(text: str) -> tuple[int, int]:
    """Argparse type: WIDTHxHEIGHT."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and min(int(width), int(height)) >= 32
            and int(width) % 2 == int(height) % 2 == 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give WIDTHxHEIGHT in pixels, even numbers from 32, such as 64x48")
    return int(width), int(height)


def make_parser() -> Parser:
    """Define the options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--classes", type=number(int, 2, len(MOTIONS)), default=8, metavar="N", help=f"motions, 2-{len(MOTIONS)}")
    add("--groups", type=number(int, 1, 99), default=6, metavar="N", help="scenes, 1-99")
    add("--clips", type=number(int, 1, 99), default=2, metavar="N", help="clips of each motion in each scene, 1-99")
    add("--frames", type=number(int, 16), default=30, metavar="N", help="frames of a clip, 16 or more")
    add("--size", type=frame_size, default="64x48", metavar="PIXELS", help="WIDTHxHEIGHT of the videos, even numbers")
    add("--pace", type=number(float, 0, 4, open_low=True), default=1.0, metavar="FACTOR", help="mean speed of the "
        "motions: larger motions give flow more grey levels, of which a pixel has 6.4")
    add("--spread", type=number(float, 0, 1, open_high=True), default=0.12, metavar="SHARE", help="share by which a "
        "clip may be slower or faster, 0 to below 1")
    add("--typical", type=share, default=0.0, metavar="SHARE", help="share of clips, 0-1, that show an object of their "
        "class instead of the scene's, so that appearance hints at the class, as in real videos")
    add("--muted", type=share, default=0.0, metavar="SHARE", help="how much to desaturate backgrounds, 0-1")
    add("--seed", type=seed, default=0, help="seed of scenes, speeds and phases")
    add = parser.topic("output")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder to fill (new or empty)")
    add("--contact_sheet", type=Path, metavar="FILE", help="also write a picture with frames of every class, .png or "
        ".jpg")
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
