"""Where a value lies in an LMDB file, found without touching the value.

py-lmdb reads a byte of every page of a value that it returns, so a clip of a few frames would fetch its whole video
from disk; and a damaged page may end its process. The layout is that of LMDB's data format 1 on 64-bit machines
(mdb.c): two meta pages, then a B+ tree with keys in bytewise order; a value that is larger than a page lies in one
piece, in pages of its own.
"""

import mmap
import os
import struct
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.regular import regular

MAGIC, FORMAT = 0xBEEFC0DE, 1
PAGE_HEADER, NODE_HEADER, META = 16, 8, 136  # bytes
SMALLEST = 1024  # bytes: two pages of the smallest size
DEEPEST = 32  # levels of the tree, as LMDB has it
NO_PAGE = (1 << 64) - 1  # root of an empty tree
LEAF, OWN_PAGES = 0x02, 0x01  # flags of a page, and of a node whose value lies in pages of its own


class DamagedError(ValueError):
    """A file of another format, or one that is cut."""


@dataclass(frozen=True)
class Value:
    """A value in the file. view: its bytes, none of which is read before it is looked at."""

    view: memoryview
    start: int
    map: mmap.mmap

    def will_need(self, spans: Sequence[tuple[int, int]]) -> None:
        """Have the system read these parts, (start, end) in ascending order, instead of page by page as touched."""
        start, stop = spans[0]
        for next_start, next_stop in [*spans[1:], (sys.maxsize, 0)]:
            if next_start > stop + mmap.PAGESIZE:
                self._advise(start, min(stop, len(self.view)))
                start = next_start
            stop = next_stop

    def _advise(self, start: int, stop: int) -> None:
        first = (self.start + start) // mmap.PAGESIZE * mmap.PAGESIZE
        if start < stop:
            self.map.madvise(mmap.MADV_WILLNEED, first, self.start + stop - first)


def data_file(path: str | os.PathLike) -> Path:
    """The file itself of an LMDB, which may be a folder with data.mdb."""
    path = Path(path)
    return path / "data.mdb" if path.is_dir() else path


def stamp(path: str | os.PathLike) -> tuple[int, ...]:
    """What changes when a file is replaced or written to; empty where there is none."""
    try:
        found = os.stat(data_file(path))
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class PageReader:
    """Looks values up in an LMDB that nothing writes to. It may be used after a fork.

    Args:
        path: of the LMDB, a file or a folder with data.mdb.

    Attributes:
        stamp: of the file as it was opened, see :func:`stamp`. size: of the file, bytes.

    Raises:
        DamagedError: it is of another format, or cut short.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.stamp = stamp(path)
        with open(data_file(path), "rb", opener=regular) as file:
            self.size = size = os.fstat(file.fileno()).st_size
            if size < SMALLEST:
                raise DamagedError(f"cannot be read as an LMDB: it has {size} bytes")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)
        self._page_size = self._number("<I", PAGE_HEADER + 24)
        metas = [page * self._page_size + PAGE_HEADER for page in (0, 1)]
        if metas[1] + META > size or any(struct.unpack_from("<II", self._map, meta) != (MAGIC, FORMAT)
                                         for meta in metas):
            raise DamagedError(f"cannot be read as an LMDB (it is none of format {FORMAT}): check the path, or make "
                               "it again")
        newest = max(metas, key=lambda meta: self._number("<Q", meta + 128))  # the larger transaction number
        self._root = self._number("<Q", newest + 112)
        expected = (self._number("<Q", newest + 120) + 1) * self._page_size  # 120: the last page's number
        if size < expected:  # reading past the end would end the process (SIGBUS)
            raise DamagedError(f"is cut short: {size} of {expected} bytes; copy or download it again")

    def value(self, key: bytes) -> Value | None:
        """The value of a key, None where there is none.

        Raises:
            DamagedError: a page leads out of the file or in a circle: it is damaged.
        """
        try:
            return None if self._root == NO_PAGE else self._find(key)
        except (struct.error, IndexError) as error:
            raise DamagedError(f"its pages lead nowhere ({error})") from error

    def _find(self, key: bytes) -> Value | None:
        page = self._root * self._page_size
        nodes, depth = self._nodes(page), 1
        while not self._number("<H", page + 10) & LEAF:
            depth += 1
            if depth > DEEPEST:
                raise DamagedError("its pages lead in a circle")
            # the first key of a branch stands for everything below the second
            node = nodes[bisect_right(nodes, key, lo=1, key=self._key) - 1]
            low, middle, high = struct.unpack_from("<HHH", self._map, node)
            page = (low | middle << 16 | high << 32) * self._page_size
            nodes = self._nodes(page)
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

    def _nodes(self, page: int) -> list[int]:
        """Where the nodes of a page begin, in the order of their keys."""
        if page >= self.size:
            raise IndexError(f"a page at {page} of {self.size} bytes")
        count = (self._number("<H", page + 12) - PAGE_HEADER) // 2
        return [page + offset for offset in struct.unpack_from(f"<{count}H", self._map, page + PAGE_HEADER)]

    def _key(self, node: int) -> bytes:
        length = self._number("<H", node + 6)
        return self._map[node + NODE_HEADER:node + NODE_HEADER + length]

    def _number(self, form: str, place: int) -> int:
        return struct.unpack_from(form, self._map, place)[0]
