"""Render the demo set: small real videos `Class/v_Class_gNN_cNN.avi` whose class is a motion.

    python process_data/src/render_demo.py --out demo/videos --contact_sheet demo/contact_sheet.png

The group (gNN) is a scene: a textured object before a textured background, the same in every class, so that colours say
nothing about the class and motion does. The clips of a group differ in speed, phase, side and light. The same options
always give the same videos.
"""

import sys
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src.console import say
from process_data.src.demo_motions import MOTIONS, Pose, draw_clip
from process_data.src.demo_scenes import Scene, make_scene, muted
from process_data.src.errors import PrepareError, run
from process_data.src.files import require_writable, write_bytes
from process_data.src.options import Parser

FINE = 2  # scenes are drawn this many times larger than the video, then averaged down: no jagged edges
FOLLOW = 0.6  # share of the object's motion that the background makes, so that every crop of the picture moves
OBJECTS = 1000  # the scene after which the classes' own objects are taken; groups end at 99
FPS = 15


@dataclass(frozen=True)
class Setting:
    """How a clip shows its scene: where background and object stand, picture fractions (2,); light, BGR gains (3,)."""

    ground: np.ndarray
    thing: np.ndarray
    light: np.ndarray


def render_clip(scene: Scene, pose: Pose, size: tuple[int, int], setting: Setting) -> np.ndarray:
    """Frames of one clip, (T, H, W, 3) uint8 BGR. size: (width, height) in pixels."""
    frames = []
    for i in range(len(pose.x)):
        ground = _moved(scene.ground, pose, i, FOLLOW, setting.thing, setting.ground)
        thing = _moved(scene.thing, pose, i, 1.0, setting.thing, setting.thing)
        mask = _moved(scene.mask, pose, i, 1.0, setting.thing, setting.thing)[..., None]
        frame = setting.light * (ground * (1 - mask) + thing * mask)
        small = cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        frames.append(np.clip(small, 0, 255).round().astype(np.uint8))
    return np.stack(frames)


def _moved(layer: np.ndarray, pose: Pose, i: int, share: float, pivot: np.ndarray, start: np.ndarray) -> np.ndarray:
    """A toroidal layer in the pose of frame i: put at `start`, turned and scaled about `pivot`, then shifted."""
    height, width = layer.shape[:2]
    span = np.array([width, height])
    turn = cv2.getRotationMatrix2D(
        tuple(map(float, (0.5 + pivot) * span)), np.degrees(share * pose.angle[i]), np.exp(share * pose.log_scale[i])
    )
    turn[:, 2] += turn[:, :2] @ (start * span) + share * height * np.array([pose.x[i], pose.y[i]])
    return cv2.warpAffine(layer, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


@dataclass(frozen=True)
class Look:
    """What all clips of a set have in common.

    frames: of a clip. size: (width, height) in pixels. seed: of all draws. pace: mean speed of the motions. spread: by
    what share a clip is slower or faster. typical: share of clips that show their class's own object instead of the
    scene's. colours: whose colours that object has, "class" or "scene". muted: how far backgrounds are paled, 0-1.
    """

    frames: int
    size: tuple[int, int]
    seed: int
    pace: float = 1.0
    spread: float = 0.12
    typical: float = 0.0
    colours: str = "class"
    muted: float = 0.0


def clip_frames(name: str, group: int, clip: int, look: Look) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 BGR of clip `clip` of class `name` in scene `group`; draws depend on these alone."""
    rng = np.random.default_rng([look.seed, group, clip, zlib.crc32(name.encode())])
    draw = draw_clip(rng, look.pace, look.spread)
    # were the object always at the middle first, its place in a still picture would give some classes away
    setting = Setting(rng.uniform(0, 1, 2), rng.uniform(-0.5, 0.5, 2), rng.uniform(0.65, 1.15, 3))
    width, height = FINE * look.size[0], FINE * look.size[1]
    scene = muted(make_scene(look.seed, group, height, width), look.muted)
    if look.typical and rng.random() < look.typical:
        own = make_scene(look.seed, OBJECTS + list(MOTIONS).index(name), height, width,
                         colours_of=group if look.colours == "scene" else None)
        scene = replace(scene, thing=own.thing, mask=own.mask)
    return render_clip(scene, MOTIONS[name](np.arange(look.frames), draw), look.size, setting)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write frames (T, H, W, 3) uint8 BGR as an .avi of JPEGs; it appears under its name only when complete."""
    part = path.with_name("." + path.stem + ".part.avi")
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (width, height))
    if not writer.isOpened():
        raise PrepareError(f"cannot write videos to {path.parent}: is the folder writable?")
    for frame in frames:
        writer.write(frame)
    writer.release()
    part.replace(path)


def contact_sheet(names: list[str], groups: int, look: Look) -> np.ndarray:
    """One row a class, first clips of three scenes, four frames of each: a picture (H, W, 3) uint8 BGR."""
    label, rows, wide, size = 70, [], max(look.frames // 10, 1), look.size
    for name in names:
        row = [np.full((size[1], label, 3), 255, np.uint8)]
        cv2.putText(row[0], name, (4, size[1] // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        for group in range(1, min(groups, 3) + 1):
            clip = clip_frames(name, group, 1, look)
            for frame in clip[: 4 * wide : wide]:
                row += [frame, np.full((size[1], 2, 3), 255, np.uint8)]
            row += [np.full((size[1], 4, 3), 255, np.uint8)]
        rows += [np.concatenate(row, axis=1)]
        rows += [np.full((4, rows[0].shape[1], 3), 255, np.uint8)]
    return np.concatenate(rows)


def render(out: Path, names: list[str], look: Look, *, groups: int, clips: int) -> int:
    """Write the whole set under `out`; returns the number of videos. Raises PrepareError if `out` is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrepareError(f"{out} exists and is not an empty folder: choose another --out, or remove it first")
    for name in names:
        (out / name).mkdir(parents=True)
        for group in range(1, groups + 1):
            for clip in range(1, clips + 1):
                video = clip_frames(name, group, clip, look)
                write_video(out / name / f"v_{name}_g{group:02d}_c{clip:02d}.avi", video)
    return len(names) * groups * clips


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--classes", type=int, default=8, metavar="N", help=f"number of motions, 2-{len(MOTIONS)}")
    add("--groups", type=int, default=6, metavar="N", help="number of scenes, 1-99")
    add("--clips", type=int, default=2, metavar="N", help="clips of each motion in each scene, 1-99")
    add("--frames", type=int, default=30, help="frames of a clip, 16 or more")
    add("--size", default="64x48", metavar="PIXELS", help="WIDTHxHEIGHT of the videos in pixels, even numbers")
    add("--pace", type=float, default=1.0, metavar="FACTOR", help="mean speed of the motions: larger motions give flow "
        "more grey levels, of which a pixel has 6.4")
    add("--spread", type=float, default=0.12, metavar="SHARE", help="by what share a clip is slower or faster, 0 to "
        "below 1")
    add("--typical", type=float, default=0.0, metavar="SHARE", help="share of clips, 0-1, that show an object of their "
        "class instead of the scene's, so that appearance hints at the class, as it does in real videos")
    add("--colours", choices=("class", "scene"), default="class", help="whose colours such an object has: with those "
        "of the scene, shape and pattern alone tell the class, not colour")
    add("--muted", type=float, default=0.0, metavar="SHARE", help="how far backgrounds are paled, 0-1")
    add("--seed", type=int, default=0, help="seed of scenes, speeds and phases")
    add = parser.topic("output")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder to fill (new or empty)")
    add("--contact_sheet", type=Path, metavar="FILE", help="also write a picture with frames of every class here")
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and min(int(width), int(height)) >= 32):
        raise PrepareError(f"--size {text}: give WIDTHxHEIGHT in pixels, 32 or more each, such as 64x48")
    if int(width) % 2 or int(height) % 2:
        raise PrepareError(f"--size {text}: give even numbers, the video format stores colour at half the size")
    return int(width), int(height)


def main() -> None:
    """Render the set."""
    options = make_parser().parse_args()
    if not 2 <= options.classes <= len(MOTIONS):
        raise PrepareError(f"--classes {options.classes}: there are {len(MOTIONS)} motions, choose 2 to {len(MOTIONS)}")
    if min(options.groups, options.clips) < 1 or max(options.groups, options.clips) > 99 or options.frames < 16:
        raise PrepareError("--groups and --clips go from 1 to 99, --frames from 16")
    if options.seed < 0:
        raise PrepareError(f"--seed {options.seed}: give 0 or more")
    if not (0 < options.pace <= 4 and 0 <= options.spread < 1):
        raise PrepareError("--pace is above 0 and at most 4, --spread from 0 to below 1")
    if not (0 <= options.typical <= 1 and 0 <= options.muted <= 1):
        raise PrepareError("--typical and --muted go from 0 to 1")
    if options.contact_sheet:
        require_writable(options.contact_sheet)
        if options.contact_sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise PrepareError(f"--contact_sheet {options.contact_sheet}: give a name that ends in .png or .jpg")
    names, size = list(MOTIONS)[: options.classes], _size(options.size)
    look = Look(size=size, **{name: getattr(options, name) for name in ("frames", "seed", "pace", "spread", "typical",
                                                                        "colours", "muted")})
    made = render(options.out, names, look, groups=options.groups, clips=options.clips)
    say(f"{made} videos of {options.frames} frames, {size[0]}x{size[1]}, {len(names)} classes, in {options.out}")
    if options.contact_sheet:
        sheet = contact_sheet(names, options.groups, look)
        sheet = cv2.resize(sheet, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)
        write_bytes(options.contact_sheet, cv2.imencode(options.contact_sheet.suffix, sheet)[1].tobytes())
        say(f"contact sheet: {options.contact_sheet}")


if __name__ == "__main__":
    run(main)
