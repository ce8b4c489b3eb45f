"""Videos: their names, the folders that hold them or their frame files, and their frames."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from dataset.jpeg import MAX_PIXELS
from utils.errors import DataError

SUFFIXES = {".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".3gp"}
# Line breaks and other control characters, and surrogates, which stand for bytes that are not UTF-8.
UNFIT = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
VIDEO_NAME = re.compile(rf"(?![\s\ufeff])[^/{UNFIT}]*[^/\s{UNFIT}]/[^/{UNFIT}]+")

SEARCHED = 1 << 22  # bytes at each end of a file that tell what it is
PHOTO = re.compile(rb"\xff\xd8\xff|\x89PNG|BM|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftyp(avif|hei[cx]|mif1)", re.DOTALL)
SOUND = re.compile(rb"ID3|fLaC|\xff[\xf1-\xf3\xf9-\xfb]|RIFF.{4}WAVE", re.DOTALL)
# Of MP4, AVI, Matroska and Ogg.
SOUND_TRACK = re.compile(rb"hdlr.{8}soun|strh.{4}auds|\x86[\x80-\xff]A_|OpusHead|\x01vorbis|\x7fFLAC", re.DOTALL)
VIDEO_TRACK = re.compile(rb"hdlr.{8}vide|strh.{4}vids|\x86[\x80-\xff]V_|\x80theora", re.DOTALL)
AV1_TRACK = re.compile(rb"stsd.{12}av01|\x86[\x80-\xff]V_AV1", re.DOTALL)
KEPT = 0.95  # share of the promised frames below which a video is reported
PLAUSIBLE = (5, 250)  # frames a second


class VideoError(DataError):
    """A video that cannot be used and is left out: the reason, without the video's name."""


class Timing:
    """What a video file claims of its frames, and their time stamps. `read_frames` fills it."""

    def __init__(self) -> None:
        self.promised = self.rate = 0.0  # frames, and frames a second; what no file says is 0 or less
        self.stamps: list[float] = []  # milliseconds
        self.decoded = 0  # bytes of all frames

    def _intervals(self) -> tuple[float, float, float]:
        """Return a short, a usual and a long interval between frames in milliseconds; 0 if few frames have a stamp."""
        steps = np.diff(self.stamps)
        steps = steps[steps > 0]
        if len(steps) < max(1, 0.5 * (len(self.stamps) - 1)):
            return 0.0, 0.0, 0.0
        low, middle, high = np.percentile(steps, (5, 50, 95)).tolist()
        return low, middle, high

    def odd_rate(self) -> str:
        """Say how the rate is implausible or varies, "" if it does not. Stamps are often whole milliseconds."""
        low, middle, high = self._intervals()
        if not middle:
            return ""
        if high > 1.2 * low + 1.5:
            return f"{low:.0f} to {high:.0f} ms between frames"
        measured = 1000 / middle
        if not 0.8 < self.rate / measured < 1.25:
            return f"claims {self.rate:g} frames a second, gives {measured:.3g}"
        return "" if PLAUSIBLE[0] <= measured <= PLAUSIBLE[1] else f"{measured:.3g} frames a second"

    def missing(self) -> str:
        """Say how many of the promised frames are missing, if it is more than 5 %, else ""."""
        count = len(self.stamps)
        if self.promised <= 0 or count >= KEPT * self.promised:
            return ""
        if not self.odd_rate():
            return f"gives {count} of the {self.promised:.0f} frames that its file promises"
        # What is promised may be the length times a rate that is wrong, so the times decide.
        end, length = (max(self.stamps) + self._intervals()[1]) / 1000, self.promised / self.rate
        return f"ends after {end:.1f} of the {length:.1f} s that its file promises" if end < KEPT * length else ""


def require_name(name: str, source: str | Path) -> None:
    """Raise a DataError, which names the source, if "Class/video" cannot stand in LMDBs and lists."""
    if not VIDEO_NAME.fullmatch(name):
        raise DataError(f"{source}: {name!r} cannot name a video: names are Class/video in UTF-8, without line breaks "
                        "or control characters, and the class has no space at either end; rename it")


def short_name(name: str) -> str:
    """Return a file name that stands for a name of any length."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def find_videos(folder: Path) -> dict[str, Path]:
    """Find the videos ``Class/video.ext`` of a folder: {"Class/video": path}, sorted by name."""
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give the folder that holds Class/video files")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = f"{path.parent.name}/{path.stem}"
        require_name(name, path)
        if name in found:
            raise DataError(f"{found[name]} and {path} differ only in their suffix: remove or rename one")
        found[name] = path
    if not found:
        raise DataError(f"no videos in {folder}: they are looked for as Class/video.avi (.mp4, .mkv, .webm, ...)")
    return dict(sorted(found.items()))


def find_folders(frames: Path) -> dict[str, Path]:
    """Find the frame folders ``Class/video/`` of a folder: {"Class/video": path}."""
    if not frames.is_dir():
        raise DataError(f"no folder {frames}: give the folder that holds Class/video/image_00001.jpg, ...")
    found = {f"{path.parent.name}/{path.name}": path for path in sorted(frames.glob("*/*"))
             if path.is_dir() and not path.name.startswith(".")}
    if not found:
        raise DataError(f"no frame folders in {frames}: it should hold Class/video/image_00001.jpg, ...")
    for name, path in found.items():
        require_name(name, path)
    return found


def frame_files(folder: Path, kind: str) -> list[Path]:
    """Return the frame files ``{kind}_%05d.jpg`` of one video in order; none may be missing."""
    numbered = {int(path.stem.rpartition("_")[2]): path for path in folder.glob(f"{kind}_*.jpg")
                if re.fullmatch(rf"{kind}_\d+", path.stem)}
    gap = next((i for i in range(1, len(numbered) + 1) if i not in numbered), None)
    if not numbered or gap is not None:
        raise DataError(f"{folder} lacks {kind}_{gap or 1:05d}.jpg: extract this video again")
    return [numbered[i] for i in sorted(numbered)]


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


def read_frames(path: Path, short_side: int = 0, timing: Timing | None = None) -> Iterator[np.ndarray]:
    """Yield the frames of a video as they come, (H, W, 3) uint8 BGR, see :func:`shrink`; none if it does not decode."""
    with opened(path) as capture:
        if timing:
            timing.promised, timing.rate = (capture.get(fact) for fact in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        while (frame := next_frame(capture, short_side)) is not None:
            if timing:
                timing.stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
                timing.decoded += frame.nbytes
            yield frame


def require_two_frames(count: int, path: Path) -> None:
    """Raise a VideoError, which says what the file is, if it gave fewer than the two frames that flow needs."""
    if count < 2:
        raise VideoError(_kind(path) or ("only one frame decodes" if count else "does not decode"))


def _kind(path: Path) -> str:
    """Say what a file is that is not a video, or not one that this OpenCV decodes, by its bytes; "" if that is open."""
    with open(path, "rb") as file:
        head = file.read(SEARCHED)
        file.seek(max(len(head), path.stat().st_size - SEARCHED))
        parts = (head, file.read())  # what an MP4 holds may stand at its end
    if not head:
        return "is empty"
    if head.startswith(b"GIF8"):
        return "is a GIF of one picture, not a video"
    if PHOTO.match(head):
        return "is a photo, not a video"
    if SOUND.match(head) or (any(map(SOUND_TRACK.search, parts)) and not any(map(VIDEO_TRACK.search, parts))):
        return "holds sound alone, no video"
    if any(map(AV1_TRACK.search, parts)):
        return "is AV1, for which this OpenCV has no decoder: convert it with ffmpeg -i OLD -c:v libx264 NEW.mp4"
    return ""


def shrink(frame: np.ndarray, short_side: int) -> np.ndarray:
    """Scale a frame (H, W, 3) down to a short side of ``short_side`` pixels (0: never); smaller ones stay."""
    height, width = frame.shape[:2]
    if not short_side or min(height, width) <= short_side:
        return frame
    scale = short_side / min(height, width)
    return cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
