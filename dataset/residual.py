"""A second view without optical flow: the difference of neighbouring RGB frames, computed as they are read.

Residual frame i of a video is the change from RGB frame i to frame i + 1, whatever --ds is, as a flow frame is the
motion between these two; a video has one fewer than RGB frames. A channel that does not change is 128.
"""

import os
from typing import Any

import cv2
import numpy as np

from dataset.lmdb_reader import DecodedFrames, FrameReader, LmdbReader


def residual_image(before: np.ndarray, after: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Compute round(128 + (after - before) / 2) of uint8 images of one shape; halves to even, 256 becomes 255."""
    return cv2.addWeighted(after, 0.5, before, -0.5, 128, dst=out)


class PairReader(LmdbReader):
    """Reads RGB frames beside a ResidualReader: decodes each together with the next one.

    What was read last is kept until the ResidualReader takes it, so the two streams of a sample decode a frame once.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(path)
        self._kept: tuple[str, DecodedFrames] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_kept": None}

    def read(self, name: str, numbers: np.ndarray) -> DecodedFrames:
        both = np.union1d(numbers, numbers + 1)
        self._kept = name, super().read(name, both[both < max(self.num_frames(name), numbers[-1] + 1)])
        return self._kept[1]

    def take(self, name: str, numbers: np.ndarray) -> DecodedFrames:
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == name and np.array_equal(kept[1].numbers, numbers):
            return kept[1]
        return super().read(name, numbers)


class ResidualReader(FrameReader):
    """Reads residual frames like an :class:`LmdbReader`; a damaged RGB frame damages the two that it is part of."""

    def __init__(self, rgb: PairReader) -> None:
        self.rgb, self.path = rgb, rgb.path

    def __contains__(self, name: str) -> bool:
        return name in self.rgb

    def num_frames(self, name: str) -> int:
        return max(0, self.rgb.num_frames(name) - 1)

    def frame_bytes(self, name: str) -> int:
        return 2 * self.rgb.frame_bytes(name)

    def read(self, name: str, numbers: np.ndarray) -> DecodedFrames:
        rgb = self.rgb.take(name, np.union1d(numbers, numbers + 1))
        images = np.empty((len(numbers), *rgb.images.shape[1:]), dtype=np.uint8)
        faults: dict[int, str] = {}
        rows = np.searchsorted(rgb.numbers, numbers)  # of the first RGB frame; the second is the next row
        for row, number, image in zip(rows, numbers.tolist(), images, strict=True):
            fault = rgb.faults.get(number) or rgb.faults.get(number + 1)
            if fault:
                faults[number] = fault
            else:
                residual_image(rgb.images[row], rgb.images[row + 1], image)
        return DecodedFrames(numbers, images, faults)


Reader = LmdbReader | ResidualReader
