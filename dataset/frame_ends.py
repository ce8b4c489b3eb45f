"""Where the frames of an LMDB end, in a file beside it: with it, a frame is found without a look at those before.

`<lmdb>-ends.npy` holds a uint32 for each frame of each video, the videos in the order of `__order__`: the byte of the
video's value at which the frame ends. A file of the published format has none and is read all the same; then the
headers of the frames before are walked, and each costs a page of the disk.
"""

import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.errors import DataError
from dataset.regular import regular

MAKE = "python process_data/src/index_lmdb.py"
ENDING = "-ends.npy"
# What `packed` writes before the numbers. NumPy's own reader evaluates a header, with many ways to fail.
HEADER = re.compile(rb"\x93NUMPY\x01\x00(..)\{'descr': '<u4', 'fortran_order': False, 'shape': \((\d{1,15}),\), \} *\n",
                    flags=re.DOTALL)
MOST_HEADER = 1024  # bytes


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
        with open(path, "rb", opener=regular) as file:
            found = HEADER.match(file.read(MOST_HEADER))
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    if not found or found.end() != 10 + int.from_bytes(found[1], "little"):
        raise DataError(f"{path} cannot be read as a list of uint32: {remedy}")
    firsts = np.concatenate([[0], np.cumsum(num_frames, dtype=np.int64)])
    count = int(found[2])
    if count != firsts[-1]:
        raise DataError(f"{path} is of {count} frames, but its LMDB has {firsts[-1]} frames: {remedy}")
    if size != found.end() + 4 * count:
        raise DataError(f"{path} cannot be read: it is cut short, or too long: {remedy}")
    ends = np.memmap(path, "<u4", "r", found.end(), (count,)) if count else np.zeros(0, np.uint32)
    return FrameEnds(path, ends, firsts)
