"""Folders of videos and their frames.

Videos come from anywhere, and FFmpeg reads more than videos: addresses of the network, playlists of other files,
numbered pictures. It is held to files of the usual containers.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from dataset.jpeg import MAX_PIXELS
from dataset.regular import regular
from process_data.src.errors import PrepareError, VideoError
from process_data.src.names import require_name

CONTAINERS = "avi,matroska,webm,mov,mp4,mpeg,mpegvideo,mpegts,m4v,asf,flv,ogg"  # as FFmpeg calls them
SUFFIXES = {".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp"}


def find_videos(folder: Path) -> dict[str, Path]:
    """The videos `Class/video.ext` of a folder, sorted: {"Class/video": path}.

    Raises PrepareError when the folder is missing or holds no videos, two files of a class differ in suffix only, or a
    name cannot be used.
    """
    if not folder.is_dir():
        raise PrepareError(f"no folder {folder}: give the folder that holds Class/video files")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = f"{path.parent.name}/{path.stem}"
        require_name(name, path)
        if name in found:
            raise PrepareError(f"{found[name]} and {path} have the same name but for the suffix: remove or rename one")
        found[name] = path
    if not found:
        raise PrepareError(f"no videos in {folder}: they are looked for as Class/video.avi (.mp4, .mkv, .webm, ...)")
    return {name: found[name] for name in sorted(found)}


def read_frames(path: Path, short_side: int = 0) -> Iterator[np.ndarray]:
    """The frames of a video in order, (H, W, 3) uint8 BGR; nothing when it does not decode.

    short_side: frames whose short side is longer are scaled down to it, pixels (0: never); none is scaled up.
    Raises VideoError as :func:`opened` does.
    """
    with opened(path) as capture:
        while (frame := next_frame(capture, short_side)) is not None:
            yield frame


@contextmanager
def opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """A video to read from; one that does not decode has no frames.

    Raises VideoError when it is no regular file that can be opened, or its frames are larger than any video's.
    """
    try:
        open(path, "rb", opener=regular).close()
    except OSError as error:
        raise VideoError(f"cannot be opened ({error.strerror})") from error
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"protocol_whitelist;file|format_whitelist;{CONTAINERS}"
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)  # a relative path may begin like an address
    try:
        width, height = (capture.get(side) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise VideoError(f"says that its frames have {width:.0f} x {height:.0f} pixels: more than {MAX_PIXELS}")
        yield capture
    finally:
        capture.release()


def next_frame(capture: cv2.VideoCapture, short_side: int = 0) -> np.ndarray | None:
    """The next frame (H, W, 3) uint8 BGR of an opened video, scaled as of :func:`read_frames`; None after the last."""
    good, frame = capture.read()
    return shrink(frame, short_side) if good else None


def shrink(frame: np.ndarray, short_side: int) -> np.ndarray:
    """Scale a frame (H, W, 3) down so that its short side is `short_side` pixels; smaller ones stay as they are."""
    height, width = frame.shape[:2]
    if not short_side or min(height, width) <= short_side:
        return frame
    scale = short_side / min(height, width)
    return cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
