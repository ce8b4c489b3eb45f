"""What an LMDB of frames says that it holds, checked."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset import frame_ends
from dataset.errors import DataError

SMALLEST_FRAME = 64  # bytes; a JPEG or PNG of one pixel has more


@dataclass(frozen=True)
class Contents:
    """The id of each video by name, the number of frames by id, and where they end if known.

    stamp: of the file that this was read from, see `lmdb_pages.stamp`.
    """

    stamp: tuple[int, ...]
    ids: dict[str, int]
    num_frames: np.ndarray
    ends: frame_ends.FrameEnds | None


def combine(path: str, size: int, order: list, keys: list, lengths: list) -> tuple[dict[str, int], np.ndarray]:
    """The id of each video by name, and the number of frames by id, int32.

    Args:
        path: of the LMDB. size: of its file, bytes. order, keys, lengths: `__order__`, `__keys__` and `__vlen__`.

    Raises:
        DataError: they do not belong together, or promise more frames than the file has room for.
    """
    try:
        ids = {name.decode(): number for number, name in enumerate(order)}
        places = np.array([int(key) for key in keys], dtype=np.int64)
        num_frames = np.zeros(len(order), dtype=np.int32)
        if not len(order) == len(places) == len(lengths):
            raise ValueError(f"{len(order)}, {len(places)} and {len(lengths)} entries")
        num_frames[places] = [operator.index(length) for length in lengths]
    except (ValueError, IndexError, AttributeError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: __order__, __keys__ and __vlen__ do not belong together ({error}): make the "
                        "file again") from error
    if len(ids) < len(order) or len(set(places.tolist())) < len(order) or (num_frames < 0).any() or (places < 0).any():
        raise DataError(f"{path}: __order__ has a name twice, or __keys__ or __vlen__ a number below 0: make the file "
                        "again")
    promised = int(num_frames.sum(dtype=np.int64))
    if promised * SMALLEST_FRAME > size:
        raise DataError(f"{path}: __vlen__ says that it holds {promised} frames, which its {size} bytes have no room "
                        "for: make the file again")
    return ids, num_frames


def known_ends(beside: Sequence[Path], num_frames: np.ndarray) -> frame_ends.FrameEnds | None:
    """The ends of frames in the first of these files that is there. Raises DataError, see `frame_ends.load`."""
    found = next((path for path in beside if path.exists()), None)
    return frame_ends.load(found, num_frames) if found else None
