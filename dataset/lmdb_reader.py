"""Frames of videos in an LMDB of msgpack lists of JPEGs; nothing is read but the frames that are asked for.

A file is opened on first use, so a reader can be built before there are workers. It is pickled without its file; a
forked process reads on in the parent's.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgpack
import numpy as np

from dataset import frame_ends, jpeg, lmdb_contents, stand_ins
from dataset.errors import DamagedFramesError, DataError
from dataset.lmdb_contents import Contents
from dataset.lmdb_pages import DamagedError, PageReader, Value, stamp
from dataset.msgpack_list import CutValueError, element_spans, indexed_spans, readable_spans


class LmdbReader:
    """Reads frames by video name from one LMDB (a file, or a folder with data.mdb).

    Args:
        path: of the LMDB. It is not opened here.
        walk: find frames by walking the headers before them, whether or not a file of their ends lies beside.
    """

    def __init__(self, path: str | os.PathLike, *, walk: bool = False) -> None:
        self.path = os.path.realpath(path)
        # A link may lead to a folder where only others may write, or away from where the ends were put.
        self._beside = [] if walk else [frame_ends.path_beside(p) for p in (os.path.abspath(path), self.path)]
        self._held: PageReader | None = None
        self._contents: Contents | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None, "_contents": None}

    def _pages(self) -> PageReader:
        """The file, opened."""
        if self._held is None:
            if not Path(self.path).exists():
                raise DataError(f"there is no LMDB {self.path}: check the path, or make it with "
                                "process_data/src/prepare.py")
            cv2.setNumThreads(1)  # decoding runs in the processes of a loader, one thread each
            try:
                self._held = PageReader(self.path)
            except DamagedError as error:
                raise DataError(f"{self.path} {error}") from error
        return self._held

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        self._held = None

    @property
    def contents(self) -> Contents:
        """Ids and frame counts, read once. The file is let go of: who starts workers need not have it open."""
        if self._contents is None:
            was_open = self._held is not None
            self._contents = self._read_contents()
            if not was_open:
                self.close()
        return self._contents

    def _read_contents(self) -> Contents:
        pages = self._pages()
        order, keys, lengths = (self._metadata(key) for key in (b"__order__", b"__keys__", b"__vlen__"))
        ids, num_frames = lmdb_contents.combine(self.path, pages.size, order, keys, lengths)
        return Contents(pages.stamp, ids, num_frames, lmdb_contents.known_ends(self._beside, num_frames))

    def _metadata(self, key: bytes) -> list:
        value = self._find(key, self.path)
        if value is None:
            raise DataError(f"{self.path} has no {key.decode()}: it was not written to its end, or is not a frame "
                            "LMDB; make it again with process_data/src/convert_video_to_lmdb.py")
        try:
            found = msgpack.unpackb(value.view, raw=True)  # bytes, whichever type they were written as
        except (ValueError, msgpack.UnpackException) as error:
            raise DataError(f"{self.path}: {key.decode()} is damaged ({error}): make the file again") from error
        if not isinstance(found, list):
            raise DataError(f"{self.path}: {key.decode()} is not a list: make the file again")
        return found

    @property
    def names(self) -> list[str]:
        """ "Class/video" of every video, in the order of ``__order__``."""
        return list(self.contents.ids)

    def __contains__(self, name: str) -> bool:
        return name in self.contents.ids

    def num_frames(self, name: str) -> int:
        """How many frames a video has.

        Args:
            name: "Class/video".

        Raises:
            DataError: there is no such video.
        """
        return int(self.contents.num_frames[self._id(name)])

    def _id(self, name: str) -> int:
        try:
            return self.contents.ids[name]
        except KeyError:
            raise DataError(f"{self.path} has no video {name}") from None

    def frames(self, name: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Frames of a video, uint8 RGB (T, H, W, 3).

        Args:
            name: "Class/video". indices: of the frames, (T,), from 0.

        Raises:
            DataError: see :meth:`clips`.
        """
        return self.clips(name, np.asarray(indices)[None])[0]

    def clips(self, name: str, indices: np.ndarray, replaced: list[int] | None = None) -> list[np.ndarray]:
        """Clips of a video, uint8 RGB (T, H, W, 3) each; a frame that is in several places is decoded once.

        Clips may share memory: they are not to be written to.

        Args:
            name: "Class/video". indices: frames of each clip, (clips, T), from 0.
            replaced: takes the frames that cannot be read, for which the nearest ones that can stand in; without it
                they are an error.

        Raises:
            DataError: no such video or frame; a cut value, a frame that does not decode or is of another size.
        """
        where = f"{self.path}, video {name}"
        value = self._value(name, where)
        try:
            return stand_ins.clips(
                indices, lambda wanted, mend: self._images(name, value, wanted, where, mend=mend), replaced)
        except jpeg.TooMuchError as error:
            raise DataError(f"{where}: {error}") from error

    def _images(self, name: str, value: Value, wanted: list[int], where: str, *, mend: bool
                ) -> tuple[np.ndarray, list[int]]:
        """The images, and the frames that others stand in for."""
        try:
            spans = self._spans(name, value, wanted, where)
            try:
                return jpeg.decode([value.view[start:end] for start, end in spans]), []
            except jpeg.FrameError as error:
                raise DamagedFramesError(f"{where}, frame {wanted[error.place]} {error}: make the file again"
                                         ) from error
        except DamagedFramesError as error:
            if mend:
                return self._images_with_stand_ins(name, value, wanted, error)
            raise

    def _images_with_stand_ins(self, name: str, value: Value, wanted: list[int], error: DamagedFramesError
                               ) -> tuple[np.ndarray, list[int]]:
        """The images, and the frames that others stand in for. Raises `error` where that is no remedy."""
        count = self.num_frames(name)
        if wanted[0] < 0 or wanted[-1] >= count:
            raise error
        spans = readable_spans(value.view, count)
        try:
            images, lost = stand_ins.decode(lambda frame: value.view[slice(*spans[frame])], wanted, len(spans))
        except jpeg.FrameError:
            raise error from None
        if not lost:  # the frames are sound: it is the file of their ends that is not
            raise error
        return images, lost

    def jpegs(self, name: str) -> list[memoryview]:
        """The JPEGs of a video's frames as they are; of a value that is cut short, those before the cut.

        Args:
            name: "Class/video".

        Raises:
            DataError: there is no such video, or it has no value.
        """
        value = self._value(name, f"{self.path}, video {name}")
        return [value.view[start:end] for start, end in readable_spans(value.view, self.num_frames(name))]

    def readable_frames(self, name: str) -> int:
        """How many frames of a video have bytes; in a value that is cut short, later ones are lost.

        Args:
            name: "Class/video".

        Raises:
            DataError: there is no such video.
        """
        return len(self.jpegs(name))

    def frame_ends(self, name: str) -> np.ndarray:
        """Where each frame of a video ends in its value, found by walking all of it: uint32 (frames,).

        Args:
            name: "Class/video".

        Raises:
            DataError: the value is damaged, or has another number of frames than ``__vlen__`` says.
        """
        where, expected = f"{self.path}, video {name}", self.num_frames(name)
        count, spans = _walk(self._value(name, where), range(expected), where)
        if count != expected:
            raise DataError(f"{where}: it has {count} frames, but __vlen__ says {expected}: make the file again")
        return np.array([end for _, end in spans], dtype=np.uint32)

    def _value(self, name: str, where: str) -> Value:
        """The packed frames of a video."""
        known = self.contents.stamp
        if stamp(self.path) != known or self._pages().stamp != known:
            raise DataError(f"{self.path} was replaced or changed while it was in use: start again, with a file that "
                            "stays as it is")
        value = self._find(b"%09d" % self._id(name), where)
        if value is None:
            raise DataError(f"{where}: it is in __order__ but has no value: make the file again")
        return value

    def _find(self, key: bytes, where: str) -> Value | None:
        try:
            return self._pages().value(key)
        except DamagedError as error:
            raise DataError(f"{where}: {error}: make the file again") from error

    def _spans(self, name: str, value: Value, wanted: list[int], where: str) -> list[tuple[int, int]]:
        """Where the wanted frames lie in a value; they are on their way from the disk then."""
        known = self.contents.ends
        ends = known[self._id(name)] if known else np.zeros(0, np.uint32)
        if known and wanted[0] >= 0 and wanted[-1] < len(ends):
            value.will_need([(int(ends[i - 1]) if i else 0, int(ends[i])) for i in wanted])
            try:
                return indexed_spans(value.view, wanted, ends)
            except CutValueError as error:
                raise DamagedFramesError(f"{where}: {error}: the file is damaged, or {known.path} is of another one; "
                                         f"make that again with {frame_ends.MAKE} {self.path}") from error
        count, spans = _walk(value, wanted, where)
        if len(spans) < len(wanted):
            raise DataError(f"{where}: frame {wanted[len(spans)]} was asked for, it has {count}: the csv promises "
                            "more than the LMDB holds; make both from the same frames")
        value.will_need(spans)
        return spans


def _walk(value: Value, wanted: Sequence[int], where: str) -> tuple[int, list[tuple[int, int]]]:
    """See :func:`dataset.msgpack_list.element_spans`."""
    try:
        return element_spans(value.view, wanted)
    except CutValueError as error:
        raise DamagedFramesError(f"{where}: {error}: make the file again") from error
