"""What tests of a search share: small videos, a checkpoint, and an encoder that is quick and easy to foresee."""

from pathlib import Path

import cv2
import miniature
import numpy as np
import torch

from eval.search.clips import Clip

RATE = 15  # frames a second
WIDTH = 6  # numbers of a feature of `Colours`


def write_video(path: Path, frames: int, seed: int = 0, size: tuple[int, int] = (32, 48)) -> Path:
    """A video of smooth noise, which differs from seed to seed. size: height, width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name("made.avi")
    writer = cv2.VideoWriter(str(made), cv2.VideoWriter_fourcc(*"MJPG"), RATE, size[::-1])
    shade = np.random.default_rng(seed).integers(0, 160, 3)
    for number in range(frames):
        writer.write((miniature.frame(f"A/{seed}", number, size) // 3 + shade).astype(np.uint8))
    writer.release()
    return made.rename(path)


def write_checkpoint(path: Path, seed: int = 0, **options: object) -> Path:
    """A file that says of itself what a pretraining's does; `Colours` needs no weights."""
    said = {"net": "s3d", "seq_len": 4, "ds": 1, "img_dim": 8, "dataset": "mine-2clip"} | options
    torch.save({"state_dict": {"x": torch.full((1,), float(seed))}, "options": said, "epoch": 0}, path)
    return path


def colours(frames: np.ndarray) -> np.ndarray:
    """Mean and spread of the channels of frames uint8 (F, d, d, 3)."""
    values = frames.reshape(-1, 3).astype(np.float64)
    return np.concatenate([values.mean(axis=0), values.std(axis=0)]).astype(np.float32)


class Colours:
    """In place of `Encoders`. asked: how many clips each call was for. fail_after: calls after which it is stopped."""

    asked: list[int] = []  # noqa: RUF012
    fail_after = 1000

    def __init__(self, streams, paths, device, batch_size) -> None:
        self.streams = len(streams)

    def features(self, clips: list[Clip]) -> np.ndarray:
        if len(Colours.asked) >= Colours.fail_after:
            raise KeyboardInterrupt
        Colours.asked.append(len(clips))
        return np.stack([np.concatenate([colours(sample["clips"][0, 0].numpy()) for sample in clip.samples])
                         for clip in clips])


def normalised(rows: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Rows (N, D) less the centre, of length 1, in float64."""
    away = rows.astype(np.float64) - centre.astype(np.float64)
    return away / np.linalg.norm(away, axis=1, keepdims=True)
