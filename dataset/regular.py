"""Files to read: regular ones alone. A named pipe in the place of one would keep its reader waiting for ever, and a
device has no end."""

import errno
import os
import stat
from pathlib import Path


def regular(path: str, flags: int) -> int:
    """The `opener` of open() for files from elsewhere. Raises OSError for what is no regular file, or link to one."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return handle


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises OSError."""
    with open(path, "rb", opener=regular) as file:
        return file.read()
