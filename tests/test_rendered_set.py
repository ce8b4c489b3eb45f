"""The rendered video set: real files, the same every time, with classes that motion tells and colours do not."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments import rendered_set
from experiments.rendered_set import MOTIONS, RenderSpec, clip_frames, render
from utils import launch

SMALL = RenderSpec(frames=16, size=(64, 48), seed=0)
DIRECTIONS = 8
SIZES = (0.25, 0.75, 1.5, 3.0)  # pixels: bounds between the bins of flow size


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "videos"
    assert render(out, list(MOTIONS)[:8], SMALL, groups=4, clips=2) == 64
    return out


def decoded(path: Path) -> np.ndarray:
    """All frames of a video, uint8 BGR (T, H, W, 3)."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return np.stack(frames)


def cells(values: np.ndarray) -> Iterator[np.ndarray]:
    """The nine parts of a 3x3 grid over axes 1 and 2 of an array (T, H, W, C)."""
    for row in np.array_split(values, 3, axis=1):
        yield from np.array_split(row, 3, axis=2)


def flow_statistics(frames: np.ndarray) -> np.ndarray:
    """Histograms of flow over direction, weighed by size, and over size in each cell; their root, as of Hellinger."""
    estimator, grey = cv2.DISOpticalFlow.create(), [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    parts = []
    for cell in cells(np.stack([estimator.calc(a, b, None) for a, b in itertools.pairwise(grey)])):
        size = np.hypot(cell[..., 0], cell[..., 1]).ravel()
        turn = np.arctan2(cell[..., 1], cell[..., 0]).ravel() / (2 * np.pi)
        bins = np.round(turn * DIRECTIONS).astype(int) % DIRECTIONS
        parts.append(np.bincount(bins, size, minlength=DIRECTIONS) / max(size.sum(), 1e-6))
        parts.append(np.bincount(np.digitize(size, SIZES), minlength=len(SIZES) + 1) / len(size))
    return np.sqrt(np.concatenate(parts))


def colour_statistics(frames: np.ndarray) -> np.ndarray:
    """Histograms of the three channels in each cell of the middle frame; over all frames they would tell motion too."""
    middle = frames[len(frames) // 2][None]
    return np.sqrt(np.concatenate([np.bincount(cell[..., channel].ravel() // 32, minlength=8) / cell[..., channel].size
                                   for cell in cells(middle) for channel in range(3)]))


def nearest_accuracy(rows: np.ndarray, labels: np.ndarray, scenes: np.ndarray) -> float:
    """Share of rows (N, D) whose nearest row of another scene has their label."""
    distance = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    distance[scenes[:, None] == scenes[None]] = np.inf
    return float(np.mean(labels[distance.argmin(1)] == labels))


def test_motion_tells_the_class_across_scenes_and_colour_does_not(videos):
    paths = sorted(videos.glob("*/*.avi"))
    labels, scenes = (np.array([part(path) for path in paths])
                      for part in (lambda path: path.parent.name, lambda path: path.stem.split("_")[2]))
    clips = [decoded(path) for path in paths]
    found = {kind.__name__: nearest_accuracy(np.stack([kind(clip) for clip in clips]), labels, scenes)
             for kind in (flow_statistics, colour_statistics)}
    assert found["flow_statistics"] > 0.8
    # chance plus three standard deviations of 64 guesses at 1/8
    assert found["colour_statistics"] < 0.125 + 3 * (0.125 * 0.875 / 64) ** 0.5


def test_files_are_videos_of_the_named_form_and_hold_what_was_rendered(videos):
    assert len({path.parent.name for path in videos.glob("*/*.avi")}) == 8
    found = decoded(videos / "Spin" / "v_Spin_g03_c02.avi")
    assert found.shape == (16, 48, 64, 3)
    assert np.abs(clip_frames("Spin", 3, 2, SMALL).astype(int) - found).mean() < 8  # JPEG


def test_rendering_twice_gives_the_same_bytes(videos, tmp_path):
    render(tmp_path / "again", ["Bounce"], SMALL, groups=2, clips=1)
    for path in (tmp_path / "again").rglob("*.avi"):
        assert path.read_bytes() == (videos / path.relative_to(tmp_path / "again")).read_bytes()


@pytest.mark.parametrize("wrong", [
    "--classes 1", "--size 65x48", "--size tiny", "--contact_sheet sheet.xyz"])
def test_wrong_options_are_one_line(wrong, tmp_path, capsys):
    argv = ["--out", str(tmp_path / "x"), *wrong.split()]
    assert launch.exit_code(lambda: rendered_set.main(argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert launch.exit_code(lambda: rendered_set.main(["--out", str(tmp_path)])) == 2
    assert "not an empty folder" in capsys.readouterr().err and [*tmp_path.iterdir()] == [tmp_path / "mine"]


def test_the_command_writes_a_set_and_its_contact_sheet(tmp_path):
    sizes = ["--classes", "2", "--groups", "1", "--clips", "1", "--frames", "16"]
    places = ["--out", str(tmp_path / "x"), "--contact_sheet", str(tmp_path / "sheet.png")]
    assert rendered_set.main(sizes + places) == 0
    assert len([*(tmp_path / "x").glob("*/v_*_g01_c01.avi")]) == 2
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] > 2 * 48
