"""Text in and out of files, and files that appear under their name only when complete."""

import hashlib
import os
from pathlib import Path

from dataset.regular import read_bytes
from process_data.src.errors import PrepareError

LONGEST = 255 - 32  # bytes of a name to which an ending is put; file systems take 255


def read_text(path: Path) -> str:
    """The text of a file, a byte-order mark left out. Raises PrepareError, with the line, when it is not UTF-8."""
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PrepareError(f"{path}, line {line}: not UTF-8 text, byte 0x{error.object[error.start]:02x}: save the "
                           "file as UTF-8") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears under its name only when complete."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when complete and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = draft(path)
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = error.filename or str(part)  # a full disk comes without a name
        raise
    try:
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def draft(path: Path) -> Path:
    """What a file or folder is called until it is complete."""
    return path.with_name(f".{short(path.name)}.partial")


def short(name: str) -> str:
    """The name itself, or where it leaves no room for an ending, a checksum of it."""
    return name if len(os.fsencode(name)) <= LONGEST else hashlib.sha256(os.fsencode(name)).hexdigest()


def require_writable(path: Path) -> None:
    """Raises PrepareError, before work is done for it, when no file can be written there."""
    if path.is_dir():
        raise PrepareError(f"{path} is a folder: a file is to be written there, remove it or choose another place")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise PrepareError(f"cannot write {path}: {above} is a file, not a folder; choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PrepareError(f"cannot write {path}: no right to write in {above}; choose another place")
