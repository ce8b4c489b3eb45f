"""Which video files are there, and whether one has changed: by size and time, without reading it."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from process_data.src.video_io import SUFFIXES
from utils.errors import OptionError


@dataclass(frozen=True)
class VideoFile:
    """A file as it was when it was read. path: absolute. size: bytes. mtime_ns: of its last change."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class LeftOut:
    """A file that cannot be used, and why. ctime_ns: of the last change of its rights as well."""

    file: VideoFile
    ctime_ns: int
    reason: str


def state(path: str) -> tuple[VideoFile, int]:
    """A file as it is now, and its ctime; one that cannot be looked at has size -1."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return VideoFile(path, -1, 0), 0
    return VideoFile(path, found.st_size, found.st_mtime_ns), found.st_ctime_ns


def is_same(file: VideoFile, path: str) -> bool:
    """Whether a path is that of a file, whatever it holds now, or leads to the same as it."""
    if file.path == path:
        return True
    there = state(path)[0]
    return (there.size, there.mtime_ns) == (file.size, file.mtime_ns) and os.path.exists(path) and os.path.exists(
        file.path) and os.path.samefile(file.path, path)


def find(places: Sequence[str]) -> list[str]:
    """The video files in folders and all folders below, and places that are files themselves: absolute paths, sorted.

    Hidden files and folders are passed over, and links to folders not followed.

    Raises:
        OptionError: a place is not there, or a folder cannot be listed.
    """
    found: set[str] = set()
    for place in places:
        if os.path.isdir(place):
            found.update(_below(place))
        elif os.path.lexists(place):
            found.add(place)
        else:
            raise OptionError(f"there is no {place}: check the path, or take it out of the index with --forget")
    return sorted(found)


def _below(folder: str) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise OptionError(f"{error.filename} cannot be listed ({error.strerror}): check its rights, or move it away")
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield os.path.join(parent, name)


def shown_name(path: str, places: Sequence[str]) -> str:
    """A file's path from the innermost of the places that it lies in, whose own name comes first."""
    holding = [place for place in places if path == place or path.startswith(place.rstrip("/") + "/")]
    if not holding:
        return path
    return os.path.relpath(path, os.path.dirname(max(holding, key=len)))
