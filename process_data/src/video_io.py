"""Videos: their names, the folders that hold them, and their frames."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from dataset.jpeg import MAX_PIXELS
from utils.console import warn
from utils.errors import DataError

SUFFIXES = {
    ".3g2", ".3gp", ".264", ".265", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264",
    ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov",
    ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogg", ".ogm", ".ogv", ".qt", ".rm",
    ".rmvb", ".tod", ".trp", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m"}
LOOSE = "all"  # class of the videos that lie in no class folder
# Line breaks and other control characters, and surrogates, which stand for bytes that are not UTF-8.
UNFIT = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
VIDEO_NAME = re.compile(rf"(?![\s\ufeff])[^/{UNFIT}]*[^/\s{UNFIT}]/[^/{UNFIT}]+")


class VideoError(DataError):
    """A video that cannot be used and is left out: the reason, without the video's name."""


def require_name(name: str, source: str | Path) -> None:
    """Raise a DataError, which names the source, if "Class/video" cannot stand in LMDBs and lists."""
    if not VIDEO_NAME.fullmatch(name):
        raise DataError(f"{source}: {name!r} cannot name a video: names are Class/video in UTF-8, without line breaks "
                        "or control characters, and the class has no space at either end; rename it")


def short_name(name: str) -> str:
    """Return a file name that stands for a name of any length."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def looks_like_video(name: str) -> bool:
    """Return whether a file is tried as a video, by its name."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and all below, in order; links are followed, hidden folders are not."""
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = os.path.realpath(parent) + os.sep  # a link to a folder around it would have no end
        folders[:] = sorted(name for name in folders if not name.startswith(".")
                            and not here.startswith(os.path.realpath(os.path.join(parent, name)) + os.sep))
        yield from (Path(parent, name) for name in sorted(names))


def name_passed_over(paths: Iterable[Path]) -> None:
    """Warn of files that are not used, with an example of each ending."""
    paths = list(paths)
    examples = {path.suffix.lower(): str(path) for path in reversed(paths)}
    if paths:
        warn(f"files passed over: {len(paths)}, such as {', '.join(sorted(examples.values())[:5])}")


def find_videos(folder: Path) -> dict[str, Path]:
    """Find the videos of a folder and all below: {"Class/video": path}, sorted by name.

    Class/day2/x.mp4 is Class/x, or where the class has several x, Class/day2_x; a video in no class folder is of the
    class "all". Other files are passed over by name.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give the folder that holds Class/video files")
    files = list(walk(folder))
    places = {path: path.relative_to(folder).with_suffix("").parts for path in files
              if looks_like_video(path.name) and path.is_file()}
    name_passed_over(path for path in files if path not in places)
    loose = [path for path, place in places.items() if len(place) == 1]
    if 0 < len(loose) < len(places):
        warn(f"videos in no class folder, taken as class {LOOSE!r}: {len(loose)}, such as {loose[0]}")
    deeper = {path.parent for path, place in places.items() if len(place) > 2}
    if len(deeper) > 1 and all(len(place) > 2 for place in places.values()):
        warn(f"no video lies in a class folder itself: the class of {min(places)} is the uppermost folder, "
             f"{places[min(places)][0]!r}; if that is wrong, give another --videos")
    named = {path: (LOOSE, *place)[-max(len(place), 2):] for path, place in places.items()}
    count = Counter((label, video) for label, *_, video in named.values())
    found: dict[str, Path] = {}
    for path, (label, *between, video) in named.items():
        name = f"{label}/{'_'.join([*between, video]) if count[label, video] > 1 else video}"
        require_name(name, path)
        if name in found:
            raise DataError(f"{found[name]} and {path} differ only in their suffix: remove or rename one")
        found[name] = path
    if not found:
        raise DataError(f"no videos in {folder}: they are looked for as Class/video.avi (.mp4, .mkv, .webm, ...)")
    return dict(sorted(found.items()))


def silence_decoder() -> None:
    """Hide FFmpeg's messages about broken files, which are reported by name."""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    cv2.utils.logging.setLogLevel(0)


@contextmanager
def opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video for :func:`next_frame`; one that does not decode has no frames.

    Raises:
        VideoError: the file cannot be opened, or its frames are larger than datasets read.
    """
    try:
        open(path, "rb").close()
    except OSError as error:
        raise VideoError(f"cannot be opened ({error.strerror})") from error
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        width, height = (capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise VideoError(f"has frames of {width:.0f} x {height:.0f} pixels, more than {MAX_PIXELS} in all")
        yield capture
    finally:
        capture.release()


def next_frame(capture: cv2.VideoCapture, short_side: int = 0) -> np.ndarray | None:
    """Return the next frame of an open video, see :func:`shrink`, or None after the last."""
    good, frame = capture.read()
    return shrink(frame, short_side) if good else None


def read_frames(path: Path, short_side: int = 0) -> Iterator[np.ndarray]:
    """Yield the frames of a video in order, (H, W, 3) uint8 BGR, see :func:`shrink`; none if it does not decode."""
    with opened(path) as capture:
        while (frame := next_frame(capture, short_side)) is not None:
            yield frame


def require_two_frames(count: int) -> None:
    """Raise a VideoError if a video gave fewer than the two frames that flow and residual frames need."""
    if count < 2:
        raise VideoError("only one frame decodes" if count else "does not decode")


def shrink(frame: np.ndarray, short_side: int) -> np.ndarray:
    """Scale a frame (H, W, 3) down to a short side of ``short_side`` pixels (0: never); smaller ones stay."""
    height, width = frame.shape[:2]
    if not short_side or min(height, width) <= short_side:
        return frame
    scale = short_side / min(height, width)
    return cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
