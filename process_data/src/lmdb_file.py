"""Write frame LMDBs in the published format, and check what was written.

Each video has a key, the zero-padded 9-digit index of the video in `__order__`, whose value is a msgpack list of JPEGs.
`__keys__` lists the keys in writing order, `__vlen__` the frame counts in the same order, `__len__` their number,
`__order__` the names "Class/video": sorted, then shuffled with seed 0. The text file `<lmdb>-order` repeats them.
"""

import os
import random
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgpack

from dataset.lmdb_pages import FORMAT, LEAF, MAGIC, NO_PAGE, OWN_PAGES, PAGE_HEADER, frame_spans
from dataset.lmdb_reader import LmdbReader
from utils.console import Progress
from utils.errors import DataError
from utils.files import naming, write_text

Pieces = Iterable[bytes | memoryview]  # a value; the first piece holds the header of its list

MAX_VALUE = (1 << 32) - 1  # bytes; a node keeps the size of its value in 32 bits
TOO_LONG = "its frames take more than the 4 GiB that an LMDB can hold of a video: cut it into several"
PAGE = 4096  # bytes
NODES = 128  # most in a page; a node of our short keys takes up to 28 bytes
BRANCH, OVERFLOW, META_PAGE, INTEGER_KEYS = 0x01, 0x04, 0x08, 0x08  # flags of pages, and of the list of free pages


def list_header(count: int) -> bytes:
    """Return the header of a video's value, a msgpack list of so many JPEGs."""
    return struct.pack(">BI", 0xDD, count)


def pack_frame(jpeg: bytes) -> bytes:
    """Pack a JPEG as an element of that list."""
    return msgpack.packb(jpeg, use_bin_type=True)


def value_size(jpegs: Sequence[int]) -> int:
    """Return the most bytes that a video's value takes, from the sizes of its JPEGs."""
    return 5 * (1 + len(jpegs)) + sum(jpegs)


def pack(count: int, jpegs: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the value of a video in pieces."""
    yield list_header(count)
    yield from map(pack_frame, jpegs)


def write_lmdb(path: Path, names: Iterable[str], load: Callable[[str], Pieces]) -> None:
    """Write an LMDB file; memory holds one piece of a value at a time.

    The LMDB library would hold a whole value, gigabytes for a long video, so the pages are written here.
    :mod:`dataset.lmdb_pages` describes the format. The file grows as ``<path>.partial`` and takes its name when all of
    it is on the disk; on an error nothing is left.

    Args:
        names: "Class/video" of each video.
        load: yields the value of a video.
    """
    order = sorted(names)
    random.Random(0).shuffle(order)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with naming(partial), open(partial, "wb") as file:
            _fill(file, order, load, f"write {path.stem}")
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    write_text(path.with_name(path.name + "-order"), "".join(f"{name}\n" for name in order))
    os.replace(partial, path)


def _fill(file: BinaryIO, order: list[str], load: Callable[[str], Pieces], title: str) -> None:
    index = {name: i for i, name in enumerate(order)}
    keys, lengths, nodes = [], [], []
    file.seek(2 * PAGE)  # the two meta pages come last: without them this is no LMDB
    with Progress(len(order), title) as progress:
        for name in sorted(order):  # class by class
            keys.append(b"%09d" % index[name])
            node, count = _write_value(file, keys[-1], load(name))
            nodes.append((keys[-1], node))
            lengths.append(count)
            progress.step()
    for key, entry in ((b"__keys__", keys), (b"__len__", len(keys)), (b"__order__", order), (b"__vlen__", lengths)):
        nodes.append((key, _write_value(file, key, [msgpack.packb(entry, use_bin_type=True)])[0]))
    _write_tree(file, sorted(nodes))


def _write_value(file: BinaryIO, key: bytes, pieces: Pieces) -> tuple[bytes, int]:
    """Write a value into pages of its own; return the leaf's node, and if the value is a list, its length, else 0."""
    start, size, count = file.tell(), 0, 0
    file.seek(PAGE_HEADER, os.SEEK_CUR)
    for piece in pieces:
        if not size and not key.startswith(b"__"):
            count = frame_spans(memoryview(piece), [])[0]
        size += file.write(piece)
    if size > MAX_VALUE:
        raise DataError(f"a video of {size} bytes cannot be written: {TOO_LONG}")
    pages = -(-(PAGE_HEADER + size) // PAGE)
    file.seek(start)
    file.write(struct.pack("<QHHI", start // PAGE, 0, OVERFLOW, pages))
    file.seek(start + pages * PAGE)
    return struct.pack("<IHH", size, OWN_PAGES, len(key)) + key + struct.pack("<Q", start // PAGE), count


def _write_tree(file: BinaryIO, nodes: list[tuple[bytes, bytes]]) -> None:
    """Write the B+ tree above the values, then the meta pages.

    Args:
        nodes: key and node of each entry of the leaves, in the order of the keys.
    """
    entries, values_end = len(nodes), file.tell() // PAGE
    levels: list[int] = []  # pages of each, from the leaves up
    while not levels or levels[-1] > 1:
        groups = -(-len(nodes) // NODES)
        above: list[tuple[bytes, bytes]] = []
        for group in range(groups):  # of equal size: a branch must not have one node only
            part = nodes[group * len(nodes) // groups:(group + 1) * len(nodes) // groups]
            number = file.tell() // PAGE
            file.write(_page(number, BRANCH if levels else LEAF, [node for _, node in part]))
            key = part[0][0]
            short = key if above else b""  # a branch's first key is never compared
            above.append((key, struct.pack("<IHH", number & 0xFFFFFFFF, number >> 32, len(short)) + short))
        nodes = above
        levels.append(groups)
    last = file.tell() // PAGE - 1
    free = struct.pack("<IHH5Q", PAGE, INTEGER_KEYS, 0, 0, 0, 0, 0, NO_PAGE)
    main = struct.pack("<IHH5Q", 0, 0, len(levels), sum(levels[1:]), levels[0], values_end - 2, entries, last)
    file.seek(0)
    for number in (0, 1):  # which LMDB writes in turn; the larger transaction number counts
        head = struct.pack("<QHHIIIQQ", number, 0, META_PAGE, 0, MAGIC, FORMAT, 0, (last + 1) * PAGE)
        file.write((head + free + main + struct.pack("<QQ", last, number)).ljust(PAGE, b"\0"))


def _page(number: int, flags: int, nodes: list[bytes]) -> bytes:
    """Return a page of the tree: the places of its nodes from the front, the nodes from the back."""
    places, content = [], b""
    for node in nodes:
        content = node + b"\0" * (len(node) % 2) + content
        places.append(PAGE - len(content))
    head = struct.pack("<QHHHH", number, 0, flags, PAGE_HEADER + 2 * len(nodes), PAGE - len(content))
    return (head + struct.pack(f"<{len(nodes)}H", *places)).ljust(PAGE - len(content), b"\0") + content


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
