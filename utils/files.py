"""Files that are never half written."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

DRAFTS = ".*.tmp"  # of what a killed process was writing


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors of the disk name this file, which those of writing (a full disk) do not by themselves."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def regular(path: str, flags: int) -> int:
    """The `opener` of open() for files of a run folder, which another person may have made: no link, which could lead
    to any file of ours, nor a named pipe, at which a run would wait for ever.

    Raises:
        OSError: it is one of these.
    """
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise OSError(error.errno, "it is a link" if error.errno == errno.ELOOP else error.strerror, path) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return handle


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` once it is complete and on the disk; on an error, never."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(draft, path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file that is either as before or complete."""
    with whole_file(path) as file:
        file.write(content)


def remove_drafts(folder: Path) -> None:
    """Remove what processes that were killed have left of files they were writing."""
    for draft in folder.glob(DRAFTS):
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
