"""The synthetic set: flow tells the motion, colour the object, both the class, and the scene nothing."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments import synthetic
from experiments.synthetic import CLASSES, RenderSpec, clip_frames, render
from utils import launch

SMALL = RenderSpec(frames=16, seed=0)
DIRECTIONS, HUES = 8, 15
SIZES = (0.25, 0.75, 1.5, 3.0)  # pixels: bounds between the bins of flow size


@pytest.fixture(scope="module")
def clips() -> dict[tuple[str, int], np.ndarray]:
    """A clip of each class in each of five scenes, of which none shows the object or motion of another class."""
    pure = RenderSpec(frames=16, swapped=0)
    return {(name, group): clip_frames(name, group, 1, pure) for name in CLASSES for group in range(1, 6)}


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
    return np.sqrt(np.concatenate(parts) / 9)


def colour_statistics(frames: np.ndarray) -> np.ndarray:
    """Histogram of the hues of vivid pixels in the middle frame; over all frames it would tell motion too."""
    hue, saturation, value = cv2.split(cv2.cvtColor(frames[len(frames) // 2], cv2.COLOR_BGR2HSV))
    weight = (saturation / 255.0) ** 2 * value
    return np.sqrt(np.bincount((hue // 12).ravel(), weight.ravel(), minlength=HUES) / weight.sum())


def nearest_accuracy(rows: np.ndarray, labels: list, scenes: np.ndarray, same_scene: bool = False) -> float:
    """Share of rows (N, D) whose nearest row of another scene (or of another class in any) has their label."""
    distance = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    if not same_scene:
        distance[scenes[:, None] == scenes[None]] = np.inf
    return float(np.mean([labels[i] == labels[j] for i, j in enumerate(distance.argmin(1))]))


def test_each_view_tells_a_part_of_the_class_and_both_tell_it(clips):
    names, scenes = zip(*clips, strict=True)
    parts = [CLASSES[name] for name in names]
    flow, colour = (np.stack([kind(frames) for frames in clips.values()])
                    for kind in (flow_statistics, colour_statistics))
    found = {kind: [nearest_accuracy(rows, labels, np.array(scenes)) for labels in (*zip(*parts, strict=True), names)]
             for kind, rows in (("flow", flow), ("colour", colour), ("both", np.hstack([flow, colour])))}
    guessing = 0.25 + 4 * (0.25 * 0.75 / len(names)) ** 0.5
    motion, thing, of_class = found["flow"]
    assert motion > 0.85 and thing < guessing and of_class < 0.5
    motion, thing, of_class = found["colour"]
    assert motion < guessing and thing > 0.85 and of_class < 0.5
    assert found["both"][2] > 0.75


def test_a_scene_says_nothing_of_the_class(clips):
    """Its clips share a background, by whose colours (the dull pixels) they find each other, and no class."""
    names, scenes = map(np.array, zip(*clips, strict=True))
    rows = []
    for frames in clips.values():
        middle = frames[8].reshape(-1, 3).astype(float)
        dull = middle[np.ptp(middle, axis=1) < 90] / middle.mean()
        rows.append(dull.mean(axis=0))
    assert nearest_accuracy(np.stack(rows), list(scenes), scenes, same_scene=True) > 0.6
    assert nearest_accuracy(np.stack(rows), list(names), scenes) < 1 / 16 + 4 * (1 / 16 / len(names)) ** 0.5


@pytest.mark.parametrize("swapped", [0.0, 0.1, 0.5])
def test_a_share_of_clips_shows_the_object_or_the_motion_of_any_class(swapped):
    """Never both; of those drawn from all four, one in four is the class's own."""
    changed = {"object": 0, "motion": 0}
    for name, group in itertools.product(CLASSES, range(1, 61)):
        motion, thing = synthetic.content(name, np.random.default_rng([group, len(name), *map(ord, name)]), swapped)
        changed["object"] += thing != CLASSES[name][1]
        changed["motion"] += motion != CLASSES[name][0]
        assert CLASSES[name][0] == motion or CLASSES[name][1] == thing
    of = len(CLASSES) * 60
    for count in changed.values():
        assert abs(count - of * swapped * 0.75) <= 4 * (of * swapped) ** 0.5


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "videos"
    assert render(out, SMALL, groups=2, clips=1, names=["SpinStar", "FallDisc"]) == 4
    return out


def test_files_are_videos_of_the_named_form_and_hold_what_was_rendered(videos):
    capture, frames = cv2.VideoCapture(str(videos / "SpinStar" / "v_SpinStar_g02_c01.avi")), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    found = np.stack(frames)
    assert found.shape == (16, 48, 64, 3)
    assert np.abs(clip_frames("SpinStar", 2, 1, SMALL).astype(int) - found).mean() < 8  # JPEG


def test_rendering_twice_gives_the_same_bytes(videos, tmp_path):
    render(tmp_path / "again", SMALL, groups=1, clips=1, names=["FallDisc"])
    for path in (tmp_path / "again").rglob("*.avi"):
        assert path.read_bytes() == (videos / path.relative_to(tmp_path / "again")).read_bytes()


@pytest.mark.parametrize("wrong", ["--groups 0", "--swapped 0.6", "--clips 1"])
def test_wrong_options_and_a_folder_that_is_not_empty_are_one_line(wrong, tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert launch.exit_code(lambda: synthetic.main(["--out", str(tmp_path), *wrong.split()])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and [*tmp_path.iterdir()] == [tmp_path / "mine"]
    assert ("not an empty folder" in error) == (wrong == "--clips 1")


def test_the_command_writes_a_set_whole_or_not_at_all(tmp_path, monkeypatch):
    words = ["--out", str(tmp_path / "x"), "--groups", "1", "--clips", "1", "--frames", "16"]
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "_write", None)
        with pytest.raises(TypeError):
            synthetic.main(words)
    assert not (tmp_path / "x").exists()
    assert synthetic.main(words) == 0
    assert len([*(tmp_path / "x").glob("*/v_*_g01_c01.avi")]) == 16 and [*tmp_path.iterdir()] == [tmp_path / "x"]
