"""A second view without optical flow: the difference of neighbouring RGB frames, made from them as they are read.

Residual frame i of a video is what changes from its RGB frame i to frame i + 1, whatever --ds is, as a flow frame is
the motion between these two; a video has one less than RGB frames. As an image, a channel that does not change is 128.
"""

import os
from collections.abc import Sequence

import cv2
import numpy as np

from dataset import jpeg, stand_ins
from dataset.errors import DamagedFramesError
from dataset.lmdb_reader import LmdbReader


def residual_image(before: np.ndarray, after: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """round(128 + (after - before) / 2) of each number of two uint8 images of one shape, halves to even, 256 as 255."""
    return cv2.addWeighted(after, 0.5, before, -0.5, 128, dst=out)


class PairReader(LmdbReader):
    """RGB frames beside a ResidualReader: a clip's frames are decoded together with the one after each.

    The last clips' frames are kept until the ResidualReader takes them, so that the two streams of a sample decode
    each frame once.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(path)
        self._kept: tuple[str, np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_kept": None}

    def clips(self, name: str, indices: np.ndarray, replaced: list[int] | None = None) -> list[np.ndarray]:
        """See :meth:`LmdbReader.clips`."""
        wanted = np.unique(indices)
        following = wanted + 1
        frames = np.union1d(wanted, following[following < self.num_frames(name)])
        try:
            [images] = super().clips(name, frames[None])
        except DamagedFramesError:  # perhaps in a frame that these clips do not hold
            return super().clips(name, indices, replaced)
        self._kept = name, frames, images
        return [stand_ins.taken(images, np.searchsorted(frames, clip)) for clip in np.asarray(indices)]

    def take(self, name: str, frames: np.ndarray) -> np.ndarray:
        """Images of some frames, ascending, uint8 (len(frames), H, W, 3): those of the last clips, or decoded now."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] == name and np.array_equal(kept[1], frames):
            return kept[2]
        return super().clips(name, frames[None])[0]

    def pair(self, name: str, frame: int) -> np.ndarray | None:
        """A frame and the next, uint8 (2, H, W, 3); None where one cannot be read or they differ in size."""
        lost: list[int] = []
        [images] = super().clips(name, np.array([[frame, frame + 1]]), lost)
        return None if lost else images


class ResidualReader:
    """Reads residual frames by video name, as :class:`LmdbReader` reads those of an LMDB.

    A damaged RGB frame damages the two residual frames that it is part of; like any other they are told by their own
    numbers, and the nearest ones that can be made stand in.

    Args:
        rgb: of the RGB frames.
    """

    def __init__(self, rgb: PairReader) -> None:
        self.rgb = rgb

    @property
    def path(self) -> str:
        """The LMDB of the RGB frames."""
        return self.rgb.path

    @property
    def names(self) -> list[str]:
        """ "Class/video" of every video."""
        return self.rgb.names

    def __contains__(self, name: str) -> bool:
        return name in self.rgb

    def num_frames(self, name: str) -> int:
        """Residual frames of a video. Raises DataError for an unknown one."""
        return max(0, self.rgb.num_frames(name) - 1)

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self.rgb.close()

    def frames(self, name: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Residual frames of a video, uint8 (len(indices), H, W, 3), indices from 0. See :meth:`clips`."""
        return self.clips(name, np.asarray(indices)[None])[0]

    def clips(self, name: str, indices: np.ndarray, replaced: list[int] | None = None) -> list[np.ndarray]:
        """See :meth:`LmdbReader.clips`; each RGB frame that is needed is decoded once.

        Raises:
            DataError: as there; it names the LMDB and the number of the RGB frame.
        """
        return stand_ins.clips(indices, lambda wanted, mend: self._images(name, wanted, mend=mend), replaced)

    def _images(self, name: str, wanted: list[int], *, mend: bool) -> tuple[np.ndarray, list[int]]:
        """The images, and the frames that others stand in for."""
        try:
            return self._sound_images(name, wanted), []
        except DamagedFramesError as error:
            if mend:
                return self._with_stand_ins(name, wanted, error)
            raise

    def _sound_images(self, name: str, wanted: list[int]) -> np.ndarray:
        rows = np.array(wanted)
        frames = np.union1d(rows, rows + 1)
        images = self.rgb.take(name, frames)
        made = np.empty((len(rows), *images.shape[1:]), dtype=np.uint8)
        for place, row in enumerate(np.searchsorted(frames, rows)):  # the next frame is the next row
            residual_image(images[row], images[row + 1], made[place])
        return made

    def _with_stand_ins(self, name: str, wanted: list[int], error: DamagedFramesError) -> tuple[np.ndarray, list[int]]:
        def image_of(frame: int) -> np.ndarray | None:
            pair = self.rgb.pair(name, frame)
            return None if pair is None else residual_image(*pair)
        try:
            return stand_ins.nearest(image_of, wanted, self.rgb.readable_frames(name) - 1)
        except jpeg.FrameError:
            raise error from None
