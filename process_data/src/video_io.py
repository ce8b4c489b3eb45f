"""Videos: their names, the folders that hold them, their frames, and the optical flow between neighbouring frames."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dataset.jpeg import MAX_PIXELS
from utils.console import say, warn
from utils.errors import DataError

SUFFIXES = {
    ".3g2", ".3gp", ".264", ".265", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265",
    ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov", ".mp4", ".mpe",
    ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".trp",
    ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m"}
LOOSE = "all"  # class of videos outside of class folders
# Line breaks and other control characters, and surrogates, which stand for bytes that are not UTF-8.
UNFIT = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
VIDEO_NAME = re.compile(rf"(?![\s\ufeff])[^/{UNFIT}]*[^/\s{UNFIT}]/[^/{UNFIT}]+")
SEARCHED = 1 << 22  # bytes at each end of a file that tell what it is
# What a file that does not decode may be, by its bytes; the first pattern that matches counts.
KINDS = (
    (rb"\A\Z", "is empty"),
    (rb"\AGIF8", "is a GIF of one picture, not a video"),
    (rb"\A(\xff\xd8\xff|\x89PNG|BM|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftyp(avif|hei[cx]|mif1))", "is a photo, not a video"),
    (rb"\A(ID3|fLaC|\xff[\xf1-\xf3\xf9-\xfb]|RIFF.{4}WAVE)", "holds sound alone, no video"),
    (rb"stsd.{12}av01|\x86[\x80-\xff]V_AV1", "is AV1, for which this OpenCV has no decoder: convert it with "
                                             "ffmpeg -i OLD -c:v libx264 NEW.mp4"),
    (rb"hdlr.{8}vide|strh.{4}vids|\x86[\x80-\xff]V_|\x80theora", ""),  # a video track, of MP4, AVI, Matroska or Ogg
    (rb"hdlr.{8}soun|strh.{4}auds|\x86[\x80-\xff]A_|OpusHead|\x01vorbis|\x7fFLAC", "holds sound alone, no video"))
KEPT = 0.95  # share of the promised frames below which a video is reported
PLAUSIBLE = (5, 250)  # frames a second
BOUND = 20.0  # pixels; larger displacements are clipped
METHODS = ("tvl1", "dis")
NO_FLOW = "none"  # in place of a method: frames alone


class VideoError(DataError):
    """A video that cannot be used and is left out: the reason, without the video's name."""


class Settings(NamedTuple):
    flow: str  # one of METHODS, or NO_FLOW
    short_side: int  # pixels to which larger frames are scaled down; 0: never
    strict: bool  # leave out videos that give fewer frames than they promise


class Timing:
    """Frame count and rate that a video file claims, and its time stamps; `read_frames` fills it."""

    def __init__(self) -> None:
        self.promised = self.rate = 0.0  # frames, and frames a second; what no file says is 0 or less
        self.stamps: list[float] = []  # milliseconds
        self.decoded = 0  # bytes of all frames

    def _intervals(self) -> list[float]:
        """Return a short, a usual and a long interval between frames in milliseconds; 0 if few frames have a stamp."""
        steps = np.diff(self.stamps)
        steps = steps[steps > 0]
        few = len(steps) < max(1, 0.5 * (len(self.stamps) - 1))
        return [0.0] * 3 if few else np.percentile(steps, (5, 50, 95)).tolist()

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
    """Raise a DataError, naming the source, if "Class/video" cannot be a key of LMDBs and lists."""
    if not VIDEO_NAME.fullmatch(name):
        raise DataError(f"{source}: {name!r} cannot name a video: names are Class/video in UTF-8, without line breaks "
                        "or control characters, and the class has no space at either end; rename it")


def looks_like_video(name: str) -> bool:
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


def name_passed_over(paths: Sequence[Path]) -> None:
    """Warn of files that are not used, with an example of each ending."""
    examples = {path.suffix.lower(): str(path) for path in reversed(paths)}
    if paths:
        warn(f"files passed over: {len(paths)}, such as {', '.join(sorted(examples.values())[:5])}")


def find_videos(folder: Path, labels: str = "folders", quiet: bool = False) -> dict[str, Path]:
    """Find the videos of a folder and all below: {"Class/video": path}, sorted by name.

    Class/day2/x.mp4 is Class/x, or where the class has several x, Class/day2_x. Videos in no class folder are of the
    class "all"; with ``labels`` "none" all are, and with "auto" they are unless the folders look like classes. With
    ``quiet`` nothing is printed.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give the folder that holds Class/video files")
    files = list(walk(folder))
    videos = [path for path in files if looks_like_video(path.name) and path.is_file()]
    name_passed_over([] if quiet else sorted(set(files) - set(videos)))
    parts = {path: path.relative_to(folder).with_suffix("").parts for path in videos}
    if labels == "auto":  # the folders are classes where each video lies in one, and two have two videos or more
        counts = Counter(path.parent for path in videos)
        whole = all(len(each) == 2 for each in parts.values())
        labels = "folders" if whole and sum(count > 1 for count in counts.values()) > 1 else "none"
        say("labels: the folders are classes (--labels none: all videos are one)" if labels == "folders" else
            f"no labels: all videos are of one class, {LOOSE!r} (--labels folders: the folders are classes)")
    loose = [path for path in videos if path.parent == folder]
    if 0 < len(loose) < len(videos) and labels == "folders" and not quiet:
        warn(f"videos in no class folder, taken as class {LOOSE!r}: {len(loose)}, such as {loose[0]}")
    parts |= {path: (LOOSE, *parts[path]) for path in (videos if labels == "none" else loose)}
    count = Counter((label, video) for label, *_, video in parts.values())
    found: dict[str, Path] = {}
    for path, (label, *between, video) in parts.items():
        name = f"{label}/{'_'.join([*between, video]) if count[label, video] > 1 else video}"
        require_name(name, path)
        if name in found:
            raise DataError(f"{found[name]} and {path} differ only in their suffix: remove or rename one")
        found[name] = path
    if not found:
        raise DataError(f"no videos in {folder}: expected Class/video.avi (.mp4, .mkv, .webm, ...)")
    return dict(sorted(found.items()))


def silence_decoder() -> None:
    """Hide FFmpeg's messages about broken files, which are reported by name."""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    getattr(cv2.utils, "logging", cv2).setLogLevel(0)  # OpenCV 4 has it in cv2


@contextmanager
def opened(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video for :func:`next_frame`; VideoError if it cannot be opened, or its frames are too large."""
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
    timing = timing or Timing()
    with opened(path) as capture:
        timing.promised, timing.rate = (capture.get(fact) for fact in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        while (frame := next_frame(capture, short_side)) is not None:
            timing.stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            timing.decoded += frame.nbytes
            yield frame


def require_two_frames(count: int, path: Path) -> None:
    """Raise a VideoError, which says what the file is, if it gave fewer than the two frames that flow needs."""
    if count > 1:
        return
    with open(path, "rb") as file:
        data = file.read(SEARCHED)
        file.seek(max(len(data), path.stat().st_size - SEARCHED))
        data += file.read()  # what an MP4 holds may stand at its end
    kind = next((words for pattern, words in KINDS if re.search(pattern, data, re.DOTALL)), "")
    raise VideoError(kind or ("only one frame decodes" if count else "does not decode"))


def shrink(frame: np.ndarray, short_side: int) -> np.ndarray:
    """Scale a frame (H, W, 3) down to a short side of ``short_side`` pixels (0: never); smaller ones stay."""
    height, width = frame.shape[:2]
    if short_side <= 0 or min(height, width) <= short_side:
        return frame
    scale = short_side / min(height, width)
    return cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def make_flow(method: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of two grey frames (H, W) uint8 that estimates the flow between them, (H, W, 2) in pixels.

    "tvl1" is Dual TV-L1 (Zach et al., 2007) with OpenCV's defaults, as in published flow data; "dis" is Dense Inverse
    Search (Kroeger et al., 2016), some 300 times faster and coarser.
    """
    estimator: cv2.DenseOpticalFlow = (cv2.optflow.DualTVL1OpticalFlow.create() if method == "tvl1"
                                       else cv2.DISOpticalFlow.create())
    return lambda first, second: estimator.calc(
        first, second, None)  # type: ignore[call-overload]  # None makes a new array, which OpenCV's stubs do not know


def flow_image(flow: np.ndarray) -> np.ndarray:
    """Turn flow (H, W, 2) in pixels into an image (H, W, 3) uint8 in OpenCV's channel order: x, y, 128.

    The flow is clipped to [-20, 20] pixels and scaled to [0, 255], so 128 means no motion.
    """
    scaled = np.round((np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND)))
    return np.dstack([scaled, np.full(flow.shape[:2], 128)]).astype(np.uint8)


def flow_images(frames: Iterable[np.ndarray], method: str) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield each frame (H, W, 3) uint8 BGR with the flow image from the frame before, None for the first frame."""
    estimate, before = None if method == NO_FLOW else make_flow(method), None
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        yield frame, flow_image(estimate(before, grey)) if estimate and before is not None else None
        before = grey


def jpeg(image: np.ndarray) -> bytes:
    """Encode an image (H, W, 3) uint8 BGR as a JPEG of quality 100."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


def coded_frames(video: Path, settings: Settings, timing: Timing) -> Iterator[list[bytes]]:
    """Yield the JPEG of each frame of a video file and, from the second frame on, of its flow; fill the timing.

    VideoError if the file has fewer than two frames, they are too large, one fails, or with ``strict`` some lack.
    """
    count = 0
    try:
        for images in flow_images(read_frames(video, settings.short_side, timing), settings.flow):
            yield [jpeg(image) for image in images if image is not None]
            count += 1
    except cv2.error as error:
        raise VideoError(f"frame {count + 1} fails: {error.err}") from error
    require_two_frames(count, video)
    if settings.strict and (missing := timing.missing()):
        raise VideoError(missing)
