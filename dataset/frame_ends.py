"""Where the frames of an LMDB end, in a file beside it: with it, a frame is found without a look at those before.

`<lmdb>-ends.npy` holds a uint32 for each frame of each video, the videos in the order of `__order__`: the byte of the
video's value at which the frame ends. A file of the published format has none and is read all the same; then the
headers of the frames before are walked, and each costs a page of the disk.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.errors import DataError

MAKE = "python process_data/src/index_lmdb.py"
ENDING = "-ends.npy"


def path_beside(lmdb: str | Path) -> Path:
    """Where the ends of an LMDB are kept."""
    return Path(f"{lmdb}{ENDING}")


def packed(ends: Iterable[np.ndarray]) -> bytes:
    """The content of that file. ends: of each video, in the order of `__order__`."""
    file = io.BytesIO()
    np.save(file, np.concatenate([np.zeros(0, np.uint32), *ends]).astype(np.uint32, copy=False))
    return file.getvalue()


@dataclass(frozen=True)
class FrameEnds:
    """The ends of all frames, of which nothing is in memory. path: of their file. ends: uint32, of all videos one
    after the other. firsts: int64, where each video's begin, and the total."""

    path: Path
    ends: np.ndarray
    firsts: np.ndarray

    def __getitem__(self, video: int) -> np.ndarray:
        """The ends of a video by its number in `__order__`, uint32 (frames,)."""
        return self.ends[self.firsts[video]:self.firsts[video + 1]]


def load(path: Path, num_frames: np.ndarray) -> FrameEnds:
    """The ends of an LMDB whose videos have `num_frames` frames, in the order of `__order__`.

    Raises:
        DataError: the file is damaged, or belongs to another LMDB.
    """
    remedy = f"remove it, or make it again with {MAKE} {str(path).removesuffix(ENDING)}"
    try:
        ends = np.lib.format.open_memmap(path, mode="r")  # takes no pickles, and no archives
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}): {remedy}") from error
    firsts = np.concatenate([[0], np.cumsum(num_frames, dtype=np.int64)])
    if ends.dtype != np.uint32 or ends.shape != (firsts[-1],):
        raise DataError(f"{path} is of {ends.shape} {ends.dtype}, but its LMDB has {firsts[-1]} frames: {remedy}")
    return FrameEnds(path, ends, firsts)
