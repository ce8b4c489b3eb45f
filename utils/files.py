"""Atomic writes, text and JSON readers whose errors name the file, and folder locks."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import CheckpointError, DataError, OptionError


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Add the path to an OSError that lacks one, as a full disk's does."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` once it is complete and on disk; after an error it is discarded."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: object, indent: int | None = None) -> None:
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, with or without a byte-order mark; DataError names the line that is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text, byte 0x{data[error.start]:02x}: save the file as UTF-8"
                        ) from error


def read_json(path: Path, default: Any = None) -> Any:
    """Read a JSON file; CheckpointError if it is not JSON, or missing without a default."""
    if default is not None and not path.exists():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON file: it may be cut short, write it again") from error


def require_writable(path: Path) -> None:
    """Raise an OptionError, before hours of work, if no file can be written at this path."""
    above = next(folder for folder in path.absolute().parents if folder.exists())
    for fails, reason in ((path.is_dir(), f"{path} is a folder"), (not above.is_dir(), f"{above} is a file"),
                          (not os.access(above, os.W_OK | os.X_OK), f"no permission to write in {above}")):
        if fails:
            raise OptionError(f"cannot write {path}: {reason}; choose another path")


def remove_partial(folder: Path) -> None:
    """Remove files that processes were writing when they were killed, see :func:`atomic_write`."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path, activity: str = "training") -> Iterator[None]:
    """Keep other processes out of a folder (OptionError there); the lock is gone when this process is."""
    with open(folder / ".lock", "a") as file:
        try:
            # lockf, not flock: loader workers may outlive this process by seconds, and must not inherit the lock.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise OptionError(f"another process is {activity} in {folder}: wait for it, or end it") from error
        except OSError:
            pass  # a file system without locks
        yield
