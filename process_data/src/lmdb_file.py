"""Write frame LMDBs in the published format.

Each video has a key, the zero-padded 9-digit index of the video in `__order__`, whose value is a msgpack list of JPEGs.
`__keys__` lists the keys in writing order, `__vlen__` the frame counts in the same order, `__len__` their number,
`__order__` the names "Class/video": sorted, then shuffled with seed 0. The text file `<lmdb>-order` repeats them.
"""

import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryFile

import lmdb
import msgpack

from dataset.lmdb_pages import frame_spans
from dataset.lmdb_reader import LmdbReader
from utils.console import track
from utils.errors import DataError
from utils.files import naming, write_text

Pieces = Iterable[bytes | memoryview]  # a value; the first piece holds the header of its list

MAX_VALUE = (1 << 32) - 1  # bytes; a node keeps the size of its value in 32 bits
TOO_LONG = "its frames take more than the 4 GiB that an LMDB can hold of a video: cut it into several"
SPARE = 1 << 24  # bytes by which the file is longer while it is written


def list_header(count: int) -> bytes:
    """Return the header of a video's value, a msgpack list of so many JPEGs."""
    return struct.pack(">BI", 0xDD, count)


def pack_frame(jpeg: bytes) -> bytes:
    """Pack a JPEG as an element of that list."""
    return msgpack.packb(jpeg, use_bin_type=True)


def pack(count: int, jpegs: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the value of a video in pieces."""
    yield list_header(count)
    yield from map(pack_frame, jpegs)


def write_lmdb(path: Path, names: Iterable[str], load: Callable[[str], Pieces]) -> None:
    """Write an LMDB of the values that ``load`` yields of each video; memory holds one piece of a value at a time.

    The file grows as ``<path>.partial`` and takes its name when all of it is on the disk; on an error nothing is left.
    """
    order = sorted(names)
    random.Random(0).shuffle(order)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with naming(partial):
            _fill(partial, order, load)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, lmdb.Error):
            raise DataError(f"cannot write {partial} ({error}): is the disk full?") from error
        raise
    write_text(path.with_name(path.name + "-order"), "".join(f"{name}\n" for name in order))
    os.replace(partial, path)


def _fill(path: Path, order: list[str], load: Callable[[str], Pieces]) -> None:
    index = {name: i for i, name in enumerate(order)}
    keys, lengths = [], []
    # Through a writable map the library copies a value from one file to the other; otherwise it would hold all of it.
    with (lmdb.open(str(path), subdir=False, map_size=SPARE, lock=False, sync=False, meminit=False, writemap=True)
          as environment, TemporaryFile(dir=path.parent) as file):
        for name in track(sorted(order), len(order), f"write {path.stem}"):  # class by class
            keys.append(b"%09d" % index[name])
            file.seek(0)
            size = sum(file.write(piece) for piece in load(name))
            file.flush()
            if size > MAX_VALUE:
                raise DataError(f"{name} takes {size} bytes: {TOO_LONG}")
            with mmap(file.fileno(), size, access=ACCESS_READ) as value:
                lengths.append(frame_spans(memoryview(value), [])[0])
                _put(environment, path, keys[-1], value)
        for key, entry in (("keys", keys), ("len", len(keys)), ("order", order), ("vlen", lengths)):
            _put(environment, path, f"__{key}__".encode(), msgpack.packb(entry, use_bin_type=True))
        environment.sync(True)
        end = _end(environment)
    os.truncate(path, end)


def _put(environment: lmdb.Environment, path: Path, key: bytes, value: bytes | mmap) -> None:
    """Write a value, after the file has grown to hold it: in a map, a full disk would end the program by a signal."""
    needed = _end(environment) + len(value) + SPARE
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, needed)
    if needed > environment.info()["map_size"]:
        environment.set_mapsize(needed)
    with environment.begin(write=True) as transaction:
        transaction.put(key, value)


def _end(environment: lmdb.Environment) -> int:
    """Return where the last page ends, in bytes."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def frame_counts(path: Path) -> dict[str, int]:
    """Return the number of frames of each video of an LMDB, {"Class/video": frames}."""
    reader = LmdbReader(path)
    return {name: reader.num_frames(name) for name in reader.names}


def check_lmdbs(rgb: Path, flow: Path | None = None) -> dict[str, int]:
    """Check that each video has one flow frame less than RGB frames, and return the number of RGB frames."""
    lengths = frame_counts(rgb)
    flows = frame_counts(flow) if flow else {name: frames - 1 for name, frames in lengths.items()}
    for name in sorted(lengths.keys() | flows.keys()):
        if lengths.get(name, 0) != flows.get(name, 0) + 1:
            raise DataError(f"{name} has {lengths.get(name)} frames in {rgb} and {flows.get(name)} in {flow}, not one "
                            "less: prepare again with --overwrite")
    return lengths
