"""Which bytes of a file a piece of work reads, seen by the pages that the system holds in memory afterwards."""

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path


def touched(path: Path, work: Callable[[], object]) -> int | None:
    """Bytes of the file's pages that `work` brings into memory; None where pages cannot be sent away or asked for.

    Pages that a process still maps stay where they are: what opened the file before must have read little of it.
    """
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = resident(path)
    if before is None or before > path.stat().st_size // 2:
        return None
    work()
    after = resident(path)
    return None if after is None else after - before


def resident(path: Path) -> int | None:
    """Bytes of a file that are in memory, by whole pages."""
    size = path.stat().st_size
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as view:
        flags = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(view)
        failed = ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(ctypes.addressof(start)),
                                                           ctypes.c_size_t(size), flags)
        del start
    return None if failed else sum(flag & 1 for flag in flags) * mmap.PAGESIZE
