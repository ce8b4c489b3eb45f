"""Does motion tell the classes of a video set apart, and appearance not?

    python process_data/src/check_demo.py --videos demo/videos

For each video, the nearest video of the other scenes (groups) by simple statistics of optical flow, and by those of
the colours of its middle frame (over all frames, colours would also tell where things have moved). In the demo set the
first should find the class, the second stay near chance.
"""

import itertools
import re
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src.console import say
from process_data.src.errors import PrepareError, VideoError, run
from process_data.src.flow import METHODS, make_flow
from process_data.src.options import Parser
from process_data.src.video_io import find_videos, read_frames

GRID = 3
DIRECTIONS = 8
SIZES = (0.25, 0.75, 1.5, 3.0)  # pixels: bounds between the bins of flow size


def cells(values: np.ndarray) -> list[np.ndarray]:
    """The nine parts of a 3x3 grid over axes 1 and 2 of an array (T, H, W, C)."""
    return [part for row in np.array_split(values, GRID, axis=1) for part in np.array_split(row, GRID, axis=2)]


def flow_statistics(flow: np.ndarray) -> np.ndarray:
    """Histogram over direction (weighed by size) and over size in each cell of the grid: (9 * (8 + 5),).

    flow: (T, H, W, 2) in pixels. The vector is the root of the histograms, so that distance is Hellinger's.
    """
    parts = []
    for cell in cells(flow):
        size = np.hypot(cell[..., 0], cell[..., 1]).ravel()
        turn = np.arctan2(cell[..., 1], cell[..., 0]).ravel() / (2 * np.pi)
        bins = np.round(turn * DIRECTIONS).astype(int) % DIRECTIONS
        parts.append(np.bincount(bins, size, minlength=DIRECTIONS) / max(size.sum(), 1e-6))
        parts.append(np.bincount(np.digitize(size, SIZES), minlength=len(SIZES) + 1) / len(size))
    return np.sqrt(np.concatenate(parts))


def colour_statistics(frame: np.ndarray) -> np.ndarray:
    """Histograms of the three channels in each cell of the grid, as roots: (9 * 3 * 8,). frame: (H, W, 3) uint8."""
    parts = []
    for cell in cells(frame[None]):
        for channel in range(3):
            parts.append(np.bincount(cell[..., channel].ravel() // 32, minlength=8) / cell[..., channel].size)
    return np.sqrt(np.concatenate(parts))


def nearest_accuracy(rows: np.ndarray, labels: list[str], scenes: list[str]) -> float:
    """Share of rows (N, D) whose nearest row of another scene has their label."""
    distance = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    distance[np.array(scenes)[:, None] == np.array(scenes)[None]] = np.inf
    return float(np.mean([labels[j] == label for j, label in zip(distance.argmin(1), labels, strict=True)]))


def measure(videos: dict[str, Path], method: str = "dis") -> dict[str, float]:
    """Nearest-neighbour accuracy by flow and by colour, chance, and the bound under which colour counts as near chance.

    The bound is chance + 3 standard deviations of the share of hits in as many guesses as there are videos.
    """
    labels, scenes, flow_rows, colour_rows = [], [], [], []
    estimate = make_flow(method)
    for name, path in videos.items():
        scene = re.search(r"_(g\d+)(_c\d+)?$", name)
        try:
            frames = list(read_frames(path))
        except VideoError as error:
            raise PrepareError(f"{path} {error}: remove it") from error
        if scene is None or len(frames) < 2:
            raise PrepareError(f"{path}: the check needs decodable videos with names like v_Class_g01_c01")
        grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
        flow = np.stack([estimate(a, b) for a, b in itertools.pairwise(grey)])
        labels.append(name.split("/")[0])
        scenes.append(scene[1])
        flow_rows.append(flow_statistics(flow))
        colour_rows.append(colour_statistics(frames[len(frames) // 2]))
    if len(set(scenes)) < 2:
        raise PrepareError("all videos are of one scene: the check looks across scenes, render two or more groups")
    chance = 1 / len(set(labels))
    return {
        "flow": nearest_accuracy(np.stack(flow_rows), labels, scenes),
        "colour": nearest_accuracy(np.stack(colour_rows), labels, scenes),
        "chance": chance,
        "bound": float(chance + 3 * np.sqrt(chance * (1 - chance) / len(labels))),
    }


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    parser.topic("data")("--videos", type=Path, required=True, metavar="FOLDER", help="folder of "
                         "Class/v_Class_gNN_cNN.avi")
    parser.topic("method")("--flow", choices=METHODS, default="dis", help="method of flow")
    return parser


def main() -> None:
    """Measure a set, and show how well each finds the class."""
    options = make_parser().parse_args()
    result = measure(find_videos(options.videos), options.flow)
    say(f"nearest neighbour by flow:   {result['flow']:.3f}")
    say(f"nearest neighbour by colour: {result['colour']:.3f}  (chance {result['chance']:.3f}, "
          f"near chance is under {result['bound']:.3f})")


if __name__ == "__main__":
    run(main)
