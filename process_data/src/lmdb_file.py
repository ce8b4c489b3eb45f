"""Write frame LMDBs in the published format, and check what was written.

Each video has a key, the zero-padded 9-digit index of the video in `__order__`, whose value is a msgpack list of JPEGs.
`__keys__` lists the keys in writing order, `__vlen__` the frame counts in the same order, `__len__` their number,
`__order__` the names "Class/video": sorted, then shuffled with seed 0. The text file `<lmdb>-order` repeats them.
"""

import io
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import msgpack

from dataset.lmdb_reader import LmdbReader
from utils.console import Progress
from utils.errors import DataError
from utils.files import write_text

FIRST_MAP = 1 << 26  # bytes; the map doubles whenever it is full


def pack(jpegs: Iterable[bytes]) -> bytes:
    """Pack the JPEGs of a video into the value of its key."""
    return msgpack.packb(list(jpegs), use_bin_type=True)


def write_lmdb(path: Path, names: Iterable[str], load: Callable[[str], bytes]) -> None:
    """Write an LMDB file, one video at a time.

    The file grows as ``<path>.partial`` and takes its name when all of it is on the disk; on an error nothing is left.

    Args:
        names: "Class/video" of each video.
        load: returns the packed frames of a video.
    """
    order = sorted(names)
    random.Random(0).shuffle(order)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        _fill(partial, order, load)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, lmdb.Error):
            raise DataError(f"cannot write {partial} ({error}): is the disk full?") from error
        raise
    write_text(path.with_name(path.name + "-order"), "".join(f"{name}\n" for name in order))
    os.replace(partial, path)


def _fill(path: Path, order: list[str], load: Callable[[str], bytes]) -> None:
    index = {name: i for i, name in enumerate(order)}
    keys, lengths = [], []
    environment = lmdb.open(str(path), subdir=False, map_size=FIRST_MAP, lock=False, sync=False, meminit=False)
    try:
        with Progress(len(order), f"write {path.stem}") as progress:
            for name in sorted(order):  # class by class
                value = load(name)
                keys.append(f"{index[name]:09d}".encode("ascii"))
                lengths.append(msgpack.Unpacker(io.BytesIO(value)).read_array_header())
                _put(environment, keys[-1], value)
                progress.step()
        for key, entry in (("keys", keys), ("len", len(keys)), ("order", order), ("vlen", lengths)):
            _put(environment, f"__{key}__".encode(), msgpack.packb(entry, use_bin_type=True))
        environment.sync(True)
    finally:
        environment.close()


def _put(environment: lmdb.Environment, key: bytes, value: bytes) -> None:
    while True:
        try:
            with environment.begin(write=True) as transaction:  # one for each value, which a full map undoes
                transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def frame_counts(path: Path) -> dict[str, int]:
    """Return the number of frames of each video of an LMDB, {"Class/video": frames}."""
    reader = LmdbReader(path)
    return {name: reader.num_frames(name) for name in reader.names}


def check_lmdbs(rgb_path: Path, flow_path: Path | None = None) -> dict[str, int]:
    """Check that the first and last frame of each video decode, and that flow has one less, of the same size.

    Returns:
        The number of RGB frames of each video.
    """
    lengths, sizes = frame_counts(rgb_path), _frame_sizes(rgb_path)
    if flow_path is None:
        return lengths
    flow_lengths, flow_sizes = frame_counts(flow_path), _frame_sizes(flow_path)
    for name in sorted(lengths.keys() | flow_lengths.keys()):
        frames, flows = lengths.get(name), flow_lengths.get(name)
        if frames is None or flows != frames - 1:
            raise DataError(f"{name} has {frames} frames in {rgb_path} and {flows} in {flow_path}, where one less is "
                            "expected: prepare again with --overwrite")
        if sizes[name] != flow_sizes[name]:
            raise DataError(f"the frames of {name} differ in size between {rgb_path} and {flow_path}: prepare again "
                            "with --overwrite")
    return lengths


def _frame_sizes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the (H, W) of each video after decoding its first and last frame."""
    reader = LmdbReader(path)
    return {name: reader.frames(name, [0, reader.num_frames(name) - 1]).shape[1:3] for name in reader.names}
