"""Small videos, a checkpoint, and a fast and predictable encoder for tests of the search."""

from pathlib import Path

import cv2
import miniature
import numpy as np
import torch

RATE = 15  # frames a second
WIDTH = 6  # numbers of a feature of `Colours`


def write_video(path: Path, frames: int, seed: int = 0, size: tuple[int, int] = (32, 48)) -> Path:
    """Write a video of smooth noise, which depends on the seed. size: height, width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name("made.avi")
    writer = cv2.VideoWriter(str(made), cv2.VideoWriter_fourcc(*"MJPG"), RATE, size[::-1])
    shade = np.random.default_rng(seed).integers(0, 160, 3)
    for number in range(frames):
        writer.write((miniature.frame(f"A/{seed}", number, size) // 3 + shade).astype(np.uint8))
    writer.release()
    return made.rename(path)


def write_checkpoint(path: Path, seed: int = 0, **options: object) -> Path:
    """Write a file with the options of a pretraining; `Colours` needs no weights."""
    saved = {"net": "s3d", "seq_len": 4, "ds": 1, "img_dim": 8, "dataset": "mine-2clip"} | options
    torch.save({"state_dict": {"x": torch.full((1,), float(seed))}, "options": saved, "epoch": 0}, path)
    return path


def colours(frames: np.ndarray) -> np.ndarray:
    """Return mean and standard deviation of each channel of frames, uint8 (F, d, d, 3)."""
    values = frames.reshape(-1, 3).astype(np.float64)
    return np.concatenate([values.mean(axis=0), values.std(axis=0)]).astype(np.float32)


class Colours:
    """Takes the place of an encoder; interrupts the program after ``limit`` clips."""

    calls = 0
    limit = 1000

    def __call__(self, clips: list[np.ndarray], unit: bool) -> torch.Tensor:
        if Colours.calls >= Colours.limit:
            raise KeyboardInterrupt
        Colours.calls += len(clips)
        return torch.from_numpy(np.stack([colours(frames) for frames in clips]))
