"""Find values in an LMDB file, and frames in a value, without touching the bytes in between.

py-lmdb reads a byte of every page of a value it returns, so a clip of a few frames would fetch its whole video from
disk; and a damaged page may end the process. The file layout is LMDB's data format 1 on 64-bit machines (mdb.c): two
meta pages, then a B+ tree with keys in bytewise order; a value larger than a page lies in contiguous pages of its own.
A video's value is a msgpack list of byte strings (github.com/msgpack/msgpack/blob/master/spec.md): a header with the
number of elements, then each string after a header with its length. Strings of the old raw type (msgpack up to 0.6)
carry the headers of today's str, newer files use bin. Its lengths are big-endian.
"""

import mmap
import os
import struct
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MAGIC, FORMAT = 0xBEEFC0DE, 1
PAGE_HEADER, NODE_HEADER, META = 16, 8, 136  # bytes
SMALLEST_FILE = 1024  # bytes: two pages of the smallest size
LEAF, OWN_PAGES = 0x02, 0x01  # flags of a page, and of a node whose value lies in pages of its own

# First byte of a msgpack header -> bytes of the length that follows; shorter lengths are in the first byte's low bits.
LIST_HEADERS = {0xDC: 2, 0xDD: 4}
STRING_HEADERS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
SHORT_LIST, SHORT_STRING = range(0x90, 0xA0), range(0xA0, 0xC0)
STRINGS_16_BIT, unpack_16_bit = (0xC5, 0xDA), struct.Struct(">BH").unpack_from


class DamagedError(ValueError):
    """A file or value that is cut short, damaged, or of another format."""


@dataclass(frozen=True)
class Value:
    view: memoryview  # its bytes; they are read from disk when touched
    start: int  # position in the file
    map: mmap.mmap

    def prefetch(self, spans: Sequence[tuple[int, int]]) -> None:
        """Read parts (start, end), ascending, from disk in few large pieces, instead of page by page when touched."""
        if not spans:
            return
        start, stop = spans[0]
        for next_start, next_stop in [*spans[1:], (sys.maxsize, 0)]:
            if next_start > stop + mmap.PAGESIZE:
                if start < stop:
                    first = (self.start + start) // mmap.PAGESIZE * mmap.PAGESIZE
                    self.map.madvise(mmap.MADV_WILLNEED, first, self.start + stop - first)
                start = next_start
            stop = next_stop


def frame_spans(value: memoryview, frames: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """Find byte strings in a msgpack list (else DamagedError) by walking the headers before them; none is touched.

    Returns the number of elements by the list's header, and (start, end) of each of `frames`, ascending, up to the
    first that is damaged, cut off or not in the list.
    """
    try:
        count, place = _header(value, 0, LIST_HEADERS, SHORT_LIST)
    except IndexError:
        raise DamagedError(f"its value is cut after {len(value)} bytes") from None
    spans: list[tuple[int, int]] = []
    size = len(value)
    with suppress(IndexError, DamagedError):
        for _ in range(min(count, max(frames, default=-1) + 1)):
            kind, length = unpack_16_bit(value, place) if place + 3 <= size else (0, 0)
            start = place + 3
            if kind not in STRINGS_16_BIT:  # nearly all frames are, and this loop is long
                length, start = _header(value, place, STRING_HEADERS, SHORT_STRING)
            place = start + length
            if place > size:
                break
            spans.append((start, place))
    return count, [spans[frame] for frame in frames if frame < len(spans)]


def _header(value: memoryview, place: int, sizes: dict[int, int], short: range) -> tuple[int, int]:
    """Return the length that the header at `place` gives, and where its content begins."""
    first = value[place]
    size = sizes.get(first)
    if size is not None:
        end = place + 1 + size
        if end > len(value):
            raise IndexError(end)
        return int.from_bytes(value[place + 1:end]), end
    if first in short:
        return first - short.start, place + 1
    raise DamagedError(f"its value has byte {first:#x} at {place}, where a list of frames has a header")


def data_file(path: str | os.PathLike) -> Path:
    """Return the file of an LMDB, which may be a folder with data.mdb."""
    path = Path(path)
    return path / "data.mdb" if path.is_dir() else path


def stamp(path: str | os.PathLike) -> tuple[int, ...]:
    """Return facts of a file that change when it is replaced or written to; () if there is none."""
    with suppress(FileNotFoundError):
        found = os.stat(data_file(path))
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return ()


class PageReader:
    """Looks up values in a read-only LMDB, also after a fork; DamagedError if it is cut short or not an LMDB."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.stamp = stamp(path)
        with open(data_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < SMALLEST_FILE:
                raise DamagedError(f"cannot be read as an LMDB: it has {size} bytes")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)
        self._page_size = self._number("<I", PAGE_HEADER + 24)
        metas = [page * self._page_size + PAGE_HEADER for page in (0, 1)]
        if metas[1] + META > size or any(struct.unpack_from("<II", self._map, meta) != (MAGIC, FORMAT)
                                         for meta in metas):
            raise DamagedError(f"cannot be read as an LMDB (it is none of format {FORMAT}): check the path, or "
                               "rebuild it")
        newest = max(metas, key=lambda meta: self._number("<Q", meta + 128))  # the larger transaction number
        self._root = self._number("<Q", newest + 112)
        expected = (self._number("<Q", newest + 120) + 1) * self._page_size  # 120: the last page's number
        if size < expected:  # reading past the end would end the process (SIGBUS)
            raise DamagedError(f"is cut short: {size} of {expected} bytes; copy or download it again")

    def value(self, key: bytes) -> Value | None:
        """Look up the value of a key, None if there is none; DamagedError if the pages lead out of the file."""
        try:
            return self._find(key)
        except (struct.error, IndexError, OverflowError) as error:
            raise DamagedError(f"its pages lead nowhere ({error})") from error

    def _find(self, key: bytes) -> Value | None:
        nodes, is_leaf = self._nodes(self._root)
        while not is_leaf:
            # The first key of a branch stands for everything below the second.
            node = nodes[bisect_right(nodes, key, lo=1, key=self._key) - 1]
            low, middle, high = struct.unpack_from("<HHH", self._map, node)
            nodes, is_leaf = self._nodes(low | middle << 16 | high << 32)
        place = bisect_left(nodes, key, key=self._key)
        if place == len(nodes) or self._key(nodes[place]) != key:
            return None
        length, flags, key_length = struct.unpack_from("<IHH", self._map, nodes[place])
        start = nodes[place] + NODE_HEADER + key_length
        if flags & OWN_PAGES:
            start = self._number("<Q", start) * self._page_size + PAGE_HEADER
        if start + length > len(self._map):
            raise DamagedError(f"the value of {key!r} ends after the file")
        return Value(memoryview(self._map)[start:start + length], start, self._map)

    def _nodes(self, number: int) -> tuple[list[int], bool]:
        """Return where the nodes of a page begin, in the order of their keys, and whether the page is a leaf."""
        page = number * self._page_size
        flags, lower = struct.unpack_from("<HH", self._map, page + 10)
        offsets = struct.unpack_from(f"<{(lower - PAGE_HEADER) // 2}H", self._map, page + PAGE_HEADER)
        return [page + offset for offset in offsets], bool(flags & LEAF)

    def _key(self, node: int) -> bytes:
        length = self._number("<H", node + 6)
        return self._map[node + NODE_HEADER:node + NODE_HEADER + length]

    def _number(self, form: str, place: int) -> int:
        return struct.unpack_from(form, self._map, place)[0]
