"""The frames of an LMDB, looked at one by one: sizes, bytes, and which do not decode."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from dataset import jpeg
from dataset.errors import DataError
from dataset.frame_ends import MAKE
from dataset.lmdb_reader import LmdbReader

NOTHING = "no frame of it can be read"
NO_BYTES = "has no bytes: the video's value is cut short"


@dataclass
class Frames:
    """What was found in an LMDB.

    videos, frames: how many were looked at. sizes: frames by (width, height). size_bytes: of each JPEG. damaged:
    frames that a reader would replace by others, with the reason, by video. faulty: videos that are wrong as a whole
    (no value, no frame that can be read, another number of frames than the index says), with the reason. mixed: videos
    with sound frames of more than one size.
    """

    videos: int = 0
    frames: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    size_bytes: array = field(default_factory=lambda: array("I"))
    damaged: dict[str, dict[int, str]] = field(default_factory=dict)
    faulty: dict[str, str] = field(default_factory=dict)
    mixed: list[str] = field(default_factory=list)


def look(reader: LmdbReader, names: Iterable[str], per_video: int | None) -> Frames:
    """Decode frames of some videos. per_video: at most so many of each, evenly over its length; None for all."""
    found = Frames()
    for name in names:
        found.videos += 1
        _look_at(reader, name, per_video, found)
    return found


def spread(count: int, most: int | None) -> list[int]:
    """At most so many of 0 ... count - 1, the first and the last among them, evenly."""
    if most is None or most >= count:
        return list(range(count))
    return [0] if most == 1 else np.linspace(0, count - 1, most).round().astype(int).tolist()


def _look_at(reader: LmdbReader, name: str, per_video: int | None, found: Frames) -> None:
    try:
        jpegs = reader.jpegs(name)
    except DataError as error:
        found.faulty[name] = str(error)
        return
    sizes, damaged = set(), {}
    wanted = spread(reader.num_frames(name), per_video)
    found.frames += len(wanted)
    for number in wanted:
        try:
            size = _size(jpegs, number)
        except jpeg.FrameError as error:
            damaged[number] = str(error)
            continue
        sizes.add(size)
        found.sizes[size] += 1
        found.size_bytes.append(len(jpegs[number]))
    if len(sizes) > 1:
        found.mixed.append(name)
    if damaged:
        found.damaged[name] = damaged
    fault = _fault(reader, name, sound=not damaged) if sizes or len(wanted) < reader.num_frames(name) else NOTHING
    if fault:
        found.faulty[name] = fault


def _fault(reader: LmdbReader, name: str, *, sound: bool) -> str:
    """What is wrong with a video as a whole, "" if nothing is. sound: whether no frame of it is known to be damaged."""
    try:
        ends = reader.frame_ends(name) if sound else None
    except DataError as error:
        return str(error)
    known = reader.contents.ends
    if ends is None or known is None or np.array_equal(known[reader.contents.ids[name]], ends):
        return ""
    return f"the file of its frames' ends is of another LMDB; make it again with {MAKE}"


def _size(jpegs: list[memoryview], number: int) -> tuple[int, int]:
    """Width and height of a frame. Raises jpeg.FrameError where it does not decode."""
    if number >= len(jpegs):
        raise jpeg.FrameError(number, NO_BYTES)
    height, width = jpeg.decode([jpegs[number]]).shape[1:3]
    return width, height
