"""Copies across a split, planted among videos that only look like each other."""

import cv2
import miniature
import numpy as np

from dataset import catalog
from tools import inspect_dataset
from tools.copies import look_through
from tools.dataset_survey import Dataset, survey_split


def moving(seed: int, frames: int = 60, scene: int = 0) -> list[np.ndarray]:
    """A white block that moves on a path of its own before a scene."""
    images = [miniature.frame(f"scene/{scene}", 0, (48, 64)) for _ in range(frames)]
    rates, phases = np.random.default_rng(seed).uniform(1, 6, (2, 2, 1))
    path = 14 + 14 * np.sin(np.linspace(0, rates, frames, axis=-1)[:, 0] + phases)
    for image, (y, x) in zip(images, path.T.astype(int), strict=True):
        image[y:y + 20, x:x + 30] = 240
    return images


def coded(images: list[np.ndarray], size: tuple[int, int] = (48, 64), quality: int = 95) -> list[bytes]:
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return [cv2.imencode(".jpg", cv2.resize(image, size[::-1])[..., ::-1], settings)[1].tobytes() for image in images]


def test_copies_across_the_split_are_found_and_no_others(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None], (48, 64, 3))
    black, still = [np.zeros((48, 64, 3), np.uint8)] * 20, [ramp] * 20
    train = {"A/same": coded(moving(1)), "A/small": coded(moving(2)), "A/poor": coded(moving(3)),
             "A/cut": coded(moving(4)[2:-2]), "A/fast": coded(moving(5)[::2]), "A/black": coded(black),
             "A/still": coded(still), "A/scene": coded(moving(6, scene=7)), "B/bright": coded(moving(8))}
    bright = [np.clip(image.astype(int) * 0.9 + 25, 0, 255).astype(np.uint8) for image in moving(8)]
    test = {"A/same 2": train["A/same"], "B/small": coded(moving(2), (24, 32)),
            "A/poor 2": coded(moving(3), quality=30),
            "A/cut 2": coded(moving(4)), "A/slow": coded(moving(5)), "A/black 2": coded(black),
            "A/still 2": coded(still), "A/scene 2": coded(moving(9, scene=7)), "B/bright 2": coded(bright)}
    miniature.write_lmdb(tmp_path / "data/own/own_frame.lmdb", train | test)
    folder = tmp_path / "splits/own"
    folder.mkdir(parents=True)
    (folder / "ClassInd.txt").write_text("A\nB\n")
    for part, videos in (("train", train), ("test", test)):
        (folder / f"{part}_split01.csv").write_text("".join(f"{name},{len(v)}\n" for name, v in videos.items()))
    dataset = Dataset(catalog.parse("own"), tmp_path / "data", tmp_path / "splits", 8, 1)
    split = survey_split(dataset, 1)
    assert look_through(dataset, [split], 0) == {}
    expected = {"A/same 2": "A/same", "B/small": "A/small", "A/poor 2": "A/poor", "A/cut 2": "A/cut",
                "A/slow": "A/fast", "A/still 2": "A/still", "B/bright 2": "B/bright"}
    assert {leak.what: leak.train for leak in split.leaks if leak.kind == "copy"} == {
        name: [of] for name, of in expected.items()}
    assert "7 copies" in inspect_dataset.leak_counts(split)
