"""The LMDB files that datasets are read from: writing one, and looking into one.

Per video one key, the zero-padded 9-digit index of the video in `__order__`, holding a msgpack list of JPEGs.
`__keys__` lists these in writing order, `__vlen__` the frame counts in the same order, `__len__` their number,
`__order__` the names "Class/video" (sorted, then shuffled with seed 0), also in the text file `<lmdb>-order`.
`<lmdb>-ends.npy` says where each frame ends in its value (see `dataset.frame_ends`).
"""

import operator
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np

from dataset.frame_ends import packed, path_beside
from dataset.lmdb_pages import DamagedError, PageReader
from dataset.msgpack_list import element_spans
from process_data.src.errors import PrepareError
from process_data.src.files import require_writable, write_bytes, write_text
from process_data.src.names import require_name
from process_data.src.progress import Progress

FIRST_MAP = 1 << 26  # bytes; the map doubles whenever it is full


def pack(jpegs: Iterable[bytes]) -> bytes:
    """The value of one video: a msgpack list of JPEGs."""
    return msgpack.packb(list(jpegs), use_bin_type=True)


def count(value: bytes | memoryview) -> int:
    """Number of frames in a video's value, from its first bytes alone. Raises PrepareError where it is no list."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(bytes(value[:5]))
    try:
        return unpacker.read_array_header()
    except (ValueError, msgpack.UnpackException) as error:
        raise PrepareError(f"a value that is no list of frames ({error}): make it again") from error


def order_of(names: Iterable[str]) -> list[str]:
    """`__order__` of a set of videos: sorted, then shuffled with seed 0."""
    order = sorted(names)
    random.Random(0).shuffle(order)
    return order


def write_lmdb(path: Path, names: Iterable[str], load: Callable[[str], bytes]) -> None:
    """Write the videos `names` ("Class/video"), whose packed values `load` gives one at a time, to an LMDB file.

    Memory holds one video. The file grows under the name `<path>.partial` and takes its own when all of it is on disk;
    then the ends of its frames are written beside it.
    Raises PrepareError when it cannot be written, or a name cannot be used; nothing of it is left then.
    """
    require_writable(path)
    order = order_of(names)
    for name in order:
        require_name(name, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".partial")
    part.unlink(missing_ok=True)
    try:
        ends = _fill(part, order, load)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, lmdb.Error):
            raise PrepareError(f"cannot write {part} ({error}): is the disk full?") from error
        raise
    write_text(path.with_name(path.name + "-order"), "".join(f"{name}\n" for name in order))
    path_beside(path).unlink(missing_ok=True)  # that of a file of this name, which goes now
    os.replace(part, path)
    write_bytes(path_beside(path), packed(ends[name] for name in order))


def _fill(path: Path, order: list[str], load: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    """Write a new LMDB of the videos in `order`, class by class; returns where the frames of each end."""
    index = {name: i for i, name in enumerate(order)}
    keys, lengths, ends = [], [], {}
    environment = lmdb.open(str(path), subdir=False, map_size=FIRST_MAP, lock=False, sync=False, meminit=False)
    try:
        with Progress(len(order), f"write {path.stem}") as progress:
            for name in sorted(order):
                value = load(name)
                keys.append(f"{index[name]:09d}".encode("ascii"))
                lengths.append(count(value))
                spans = element_spans(memoryview(value), range(lengths[-1]))[1]
                ends[name] = np.array([end for _, end in spans], dtype=np.uint32)
                _put(environment, keys[-1], value)
                progress.step()
        for key, entry in (("keys", keys), ("len", len(keys)), ("order", order), ("vlen", lengths)):
            _put(environment, f"__{key}__".encode(), msgpack.packb(entry, use_bin_type=True))
        environment.sync(True)
        return ends
    finally:
        environment.close()


def _put(environment: lmdb.Environment, key: bytes, value: bytes) -> None:
    """Store one entry in a transaction of its own; a full map grows and the entry is stored again."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


class LmdbFile:
    """An open LMDB of videos: `lengths` {"Class/video": frames} and the values by name. Use through `open_lmdb`."""

    def __init__(self, path: Path, pages: PageReader):
        self._path, self._pages = path, pages
        # raw=True reads names of both msgpack string types as bytes
        keys, names, lengths = (self._unpacked(f"__{key}__") for key in ("keys", "order", "vlen"))
        try:
            order = [name.decode() for name in names]
            numbers = [int(key) for key in keys]
            if sorted(numbers) != list(range(len(order))) or len(set(order)) < len(order):
                raise ValueError("not each video has one key")
            self._keys = {order[number]: b"%09d" % number for number in numbers}
            self.lengths: dict[str, int] = {
                order[number]: operator.index(length) for number, length in zip(numbers, lengths, strict=True)
            }
            if any(not 0 <= length < 1 << 31 for length in self.lengths.values()):
                raise ValueError("a number of frames that cannot be")
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
            raise PrepareError(f"{path}: __order__, __keys__ or __vlen__ is damaged ({error}): make it again"
                               ) from error
        for name in order:
            require_name(name, path)

    def value(self, name: str) -> memoryview:
        """The packed frames of a video, without a copy; valid while the file is open."""
        return self._value(self._keys[name].decode())

    def jpegs(self, name: str) -> list[bytes]:
        """The JPEGs of a video. Raises PrepareError for a damaged value."""
        found = self._unpacked(self._keys[name].decode())
        if not isinstance(found, list) or not all(isinstance(image, bytes) for image in found):
            raise PrepareError(f"{self._path}: the value of {name} is no list of frames: make it again")
        return found

    def _value(self, key: str) -> memoryview:
        try:
            found = self._pages.value(key.encode())
        except DamagedError as error:
            raise PrepareError(f"{self._path}: {error}: make it again") from error
        if found is None:
            raise PrepareError(f"{self._path} lacks the entry {key}: it is no finished video LMDB, make it again")
        return found.view

    def _unpacked(self, key: str) -> Any:
        value = self._value(key)
        try:
            return msgpack.unpackb(value, raw=True)
        except (ValueError, msgpack.UnpackException) as error:
            raise PrepareError(f"{self._path}: the entry {key} is damaged ({error}): make it again") from error


@contextmanager
def open_lmdb(path: Path) -> Iterator[LmdbFile]:
    """Open an LMDB (a file, or a folder that holds data.mdb) for reading. Raises PrepareError when it is none.

    A damaged file is refused, too; py-lmdb may end the process there.
    """
    if not path.exists():
        raise PrepareError(f"no LMDB {path}: make it with prepare.py or convert_video_to_lmdb.py")
    try:
        pages = PageReader(path)
    except DamagedError as error:
        raise PrepareError(f"{path} {error}: this is no LMDB that can be read, make it again") from error
    yield LmdbFile(path, pages)
