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

import lmdb
import msgpack
import numpy as np

from dataset.frame_ends import packed, path_beside
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
    """Number of frames in a video's value, from its first bytes alone."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(bytes(value[:5]))
    return unpacker.read_array_header()


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

    def __init__(self, path: Path, transaction: lmdb.Transaction):
        self._transaction = transaction
        entries = {}
        for key in ("keys", "order", "vlen"):
            stored = transaction.get(f"__{key}__".encode())
            if stored is None:
                raise PrepareError(f"{path} lacks the entry __{key}__: it is no finished video LMDB, make it again")
            entries[key] = stored
        try:
            # raw=True reads names of both msgpack string types as bytes
            keys, names, lengths = (msgpack.unpackb(stored, raw=True) for stored in entries.values())
            order = [name.decode() for name in names]
            self._keys = {order[int(key)]: bytes(key) for key in keys}
            self.lengths: dict[str, int] = {
                order[int(key)]: operator.index(length) for key, length in zip(keys, lengths, strict=True)
            }
        except (ValueError, LookupError, AttributeError, TypeError, msgpack.UnpackException) as error:
            raise PrepareError(f"{path}: __order__, __keys__ or __vlen__ is damaged ({error}): make it again"
                               ) from error
        for name in order:
            require_name(name, path)

    def value(self, name: str) -> memoryview:
        """The packed frames of a video, without a copy; valid while the file is open."""
        return self._transaction.get(self._keys[name])

    def jpegs(self, name: str) -> list[bytes]:
        """The JPEGs of a video."""
        return msgpack.unpackb(self.value(name), raw=True)


@contextmanager
def open_lmdb(path: Path) -> Iterator[LmdbFile]:
    """Open an LMDB (a file, or a folder that holds data.mdb) for reading. Raises PrepareError when it is none.

    A file that is cut short is refused too: reading past its end would kill the process (SIGBUS).
    """
    if not path.exists():
        raise PrepareError(f"no LMDB {path}: make it with prepare.py or convert_video_to_lmdb.py")
    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise PrepareError(f"{path} is no LMDB ({error}): make it again") from error
    with environment:
        _require_whole(path, environment)
        with environment.begin(buffers=True) as transaction:
            yield LmdbFile(path, transaction)


def _require_whole(path: Path, environment: lmdb.Environment) -> None:
    """Raises PrepareError for a data file that ends before the last page it should hold."""
    size = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    whole = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < whole:
        raise PrepareError(f"{path} is cut short: {size} of {whole} bytes; copy or download it again")
