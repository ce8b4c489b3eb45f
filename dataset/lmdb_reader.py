"""Read frames of videos from an LMDB of msgpack lists of JPEGs; only the frames asked for are read.

A file is opened on first use, after workers have started: a reader is pickled without it, and shares it with a fork.
"""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgpack
import numpy as np

from dataset import jpeg
from dataset.lmdb_pages import DamagedError, PageReader, Value, frame_spans, stamp
from utils.errors import DamagedFramesError, DataError


class DecodedFrames(NamedTuple):
    """Frames of a video; of those with a fault, the pixels are undefined."""

    numbers: np.ndarray  # of the frames, int64 (N,), distinct and ascending
    images: np.ndarray  # uint8 RGB (N, H, W, 3)
    faults: dict[int, str]  # what is wrong with each frame that cannot be read, by its number


class OpenFile(NamedTuple):
    """An open LMDB, and what its `__order__`, `__keys__` and `__vlen__` say of the videos."""

    pages: PageReader
    ids: dict[str, int]  # "Class/video" -> number of the video, in the order of `__order__`
    num_frames: np.ndarray  # int32 (videos,), by that number


class FrameReader:
    """Clips of videos by name, from the LMDB `path`."""

    path: str

    def read(self, name: str, numbers: np.ndarray) -> DecodedFrames:
        """Read frames ``numbers``, int64 (N,), ascending, of "Class/video", and maybe others; may raise DataError."""
        raise NotImplementedError

    def frames(self, name: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read frames `indices` (T,) of a video, uint8 RGB (T, H, W, 3). Raises as :meth:`clips`."""
        return self.clips(name, np.asarray(indices)[None])[0]

    def clips(self, name: str, indices: np.ndarray, damaged: list[int] | None = None) -> list[np.ndarray]:
        """Read clips of "Class/video", frames (clips, T) from 0: uint8 RGB (T, H, W, 3), which may share memory.

        ``damaged`` collects the numbers of unreadable frames, which the nearest readable one (of two, the earlier)
        replaces; without it they are a DamagedFramesError, like clips without any readable frame.
        """
        wanted = np.unique(np.asarray(indices, dtype=np.int64))
        numbers, images, faults = self.read(name, wanted)
        rows = np.searchsorted(numbers, indices)
        lost = [frame for frame in wanted.tolist() if frame in faults]
        if lost:
            if damaged is None:
                raise DamagedFramesError(f"{faults[lost[0]]}: rebuild the LMDB")
            if len(faults) == len(numbers):
                raise DamagedFramesError(f"{faults[lost[0]]} and no other frame of the clip can be read: rebuild the "
                                         "LMDB")
            damaged += lost
            readable = np.flatnonzero(~np.isin(numbers, list(faults)))
            rows = readable[np.abs(numbers[readable] - numbers[:, None]).argmin(axis=1)][rows]
        # A slice, which is a view, where the frames of a clip are consecutive.
        return [images[clip[0]:clip[-1] + 1] if (np.diff(clip) == 1).all() else images[clip] for clip in rows]


class LmdbReader(FrameReader):
    """Reads frames by video name from an LMDB: a file, or a folder with data.mdb."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = os.path.realpath(path)
        self._opened: OpenFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _file(self) -> OpenFile:
        if self._opened is None:
            if not Path(self.path).exists():
                raise DataError(f"there is no LMDB {self.path}: check the path, or make it with "
                                "process_data/src/prepare.py")
            cv2.setNumThreads(1)  # decoding runs in the processes of a loader, one thread each
            self._opened = _open(self.path)
        return self._opened

    @property
    def names(self) -> list[str]:
        """ "Class/video" of every video, in the order of ``__order__``."""
        return list(self._file().ids)

    def __contains__(self, name: str) -> bool:
        return name in self._file().ids

    def num_frames(self, name: str) -> int:
        return int(self._file().num_frames[self._id(name)])

    def frame_bytes(self, name: str) -> int:
        """Return the bytes that a frame of a video takes when decoded; 1 if its first frames cannot be read."""
        view, first = self.value(name).view, range(min(8, self.num_frames(name)))
        with suppress(DamagedError):
            for start, end in frame_spans(view, first)[1]:
                with suppress(ValueError):
                    return 3 * math.prod(jpeg.dimensions(view[start:end]))
        return 1

    def read(self, name: str, numbers: np.ndarray) -> DecodedFrames:
        where = f"{self.path}, video {name}"
        value = self.value(name)
        try:
            count, spans = frame_spans(value.view, numbers.tolist())
        except DamagedError as error:
            raise DamagedFramesError(f"{where}: {error}: rebuild the LMDB") from error
        if numbers[0] < 0 or numbers[-1] >= count:
            wrong = numbers[(numbers < 0) | (numbers >= count)][0]
            raise DataError(f"{where}: frame {wrong} requested, but the video has {count}: the csv lists more "
                            "frames than the LMDB holds; make both from the same frames")
        value.prefetch(spans)
        cut = numbers[len(spans):].tolist()
        jpegs = [value.view[start:end] for start, end in spans] + [memoryview(b"")] * len(cut)
        try:
            images, faults = jpeg.decode(jpegs)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        found = {int(numbers[place]): f"{where}, frame {numbers[place]} {fault}" for place, fault in faults.items()}
        found |= dict.fromkeys(cut, f"{where}: its value is cut after {len(value.view)} bytes, or damaged")
        return DecodedFrames(numbers, images, found)

    def _id(self, name: str) -> int:
        try:
            return self._file().ids[name]
        except KeyError:
            raise DataError(f"{self.path} has no video {name}") from None

    def value(self, name: str) -> Value:
        """Find the value of a video, a msgpack list of its JPEGs, in the file. Raises as :meth:`clips`."""
        pages = self._file().pages
        if stamp(self.path) != pages.stamp:
            raise DataError(f"{self.path} was replaced or changed while it was in use: start again, with a file that "
                            "stays as it is")
        try:
            value = pages.value(b"%09d" % self._id(name))
        except DamagedError as error:
            raise DataError(f"{self.path}, video {name}: {error}: rebuild the LMDB") from error
        if value is None:
            raise DataError(f"{self.path}, video {name}: it is in __order__ but has no value: rebuild the LMDB")
        return value


def _open(path: str) -> OpenFile:
    try:
        pages = PageReader(path)
    except DamagedError as error:
        raise DataError(f"{path} {error}") from error

    def entry(key: bytes) -> list:
        value = pages.value(key)
        if value is None:
            raise ValueError(f"there is no {key.decode()}")
        return msgpack.unpackb(value.view, raw=True)  # bytes, whichever type they were written as
    try:
        order, keys, lengths = map(entry, (b"__order__", b"__keys__", b"__vlen__"))
        ids = {name.decode(): number for number, name in enumerate(order)}
        places = [int(key) for key in keys]
        num_frames = np.zeros(len(order), dtype=np.int32)
        num_frames[places] = lengths
        if (not len(ids) == len(order) == len(lengths) or sorted(places) != list(range(len(order)))
                or (num_frames < 0).any()):
            raise ValueError("a video is missing or listed twice, or has fewer than 0 frames")
    except (ValueError, IndexError, AttributeError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise DataError(f"{path}: __order__, __keys__ and __vlen__ are missing, damaged or inconsistent ({error}): it "
                        "was not written to its end, or is not a frame LMDB; rebuild it with "
                        "process_data/src/convert_video_to_lmdb.py") from error
    return OpenFile(pages, ids, num_frames)
