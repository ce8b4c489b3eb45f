"""Film strips: a few frames of a clip side by side in one small JPEG, each stored once however often it is shown."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from dataset import catalog
from dataset.errors import DataError
from utils.console import one_line

BUDGET = 13_300_000  # bytes of all strips and data as they stand in the page; tables and drawings come on top
GAP, GREY = 2, 128  # between frames
WIDEST = 16 / 9  # of a frame; a wider one is cut at both sides
SLOW = 8.0  # grey levels of flow, 1.25 pixels a frame: less is drawn pale, since single levels would show
SAMPLE = 24  # strips by which a size is judged
# Frames, height in pixels and JPEG quality, the finest first: the first one with which all strips fit is taken, for
# small strips. Large ones are so many levels above.
LEVELS = ((5, 80, 70), (5, 68, 60), (4, 64, 55), (4, 56, 50), (4, 50, 44), (3, 48, 42), (3, 44, 40), (3, 40, 36),
          (2, 40, 36), (2, 36, 34))
ABOVE = 2


class Reader(Protocol):
    """What is asked of an LMDB here, see `dataset.lmdb_reader`."""

    def num_frames(self, name: str) -> int: ...

    def frames(self, name: str, indices: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Source:
    """Where frames come from. name: of the part and the stream, unique. kind: "rgb", "flow" or "residual"."""

    name: str
    reader: Reader
    kind: str


@dataclass
class Wanted:
    """A strip that is to be made. large: shown in a larger size, too."""

    identity: str
    source: Source
    video: str
    large: bool


@dataclass
class Strips:
    """Collects the strips that sections ask for, and makes them.

    Attributes:
        images: base64 of each JPEG by id, once made. level: what small ones were made with, see LEVELS. failed: what
            could not be read, by its reason. left_out: strips that the page has no room for.
    """

    budget: int = BUDGET
    images: dict[str, str] = field(default_factory=dict)
    level: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    _wanted: dict[tuple[str, str], Wanted] = field(default_factory=dict)

    def want(self, source: Source | None, video: str, *, large: bool = False) -> str:
        """The id of a video's strip, "" where its frames are not there. video: "Class/video"."""
        if source is None:
            return ""
        wanted = self._wanted.setdefault((source.name, video), Wanted(f"s{len(self._wanted)}", source, video, large))
        wanted.large |= large
        return wanted.identity

    def make(self) -> None:
        """Make all strips as fine as they fit, those that were asked for first first."""
        wanted = list(self._wanted.values())
        self.level = self._fitting(wanted)
        left = self.budget
        for each in wanted:
            image = self._strip(each, self.level)
            if image is None:
                continue
            text = base64.b64encode(image).decode()
            if len(text) > left:
                self.left_out += 1
                continue
            self.images[each.identity] = text
            left -= len(text)

    def _fitting(self, wanted: list[Wanted]) -> int:
        groups = [[each for each in wanted if each.large == large] for large in (True, False)]
        for level in range(len(LEVELS)):
            # base64 takes a third more; and the samples may be smaller than most
            if 4 / 3 * sum(self._estimate(group, level) for group in groups) < 0.95 * self.budget:
                break
        self.failed.clear()  # the samples will fail again
        return level

    def _estimate(self, wanted: list[Wanted], level: int) -> float:
        """Bytes of all of these, judged by some."""
        made = [image for each in wanted[::max(1, len(wanted) // SAMPLE)] if (image := self._strip(each, level))]
        return sum(map(len, made)) / max(1, len(made)) * len(wanted)

    def _strip(self, wanted: Wanted, level: int) -> bytes | None:
        frames, height, quality = LEVELS[max(0, level - ABOVE) if wanted.large else level]
        reader, video = wanted.source.reader, wanted.video
        try:
            images = reader.frames(video, spread(reader.num_frames(video), frames))
        except (DataError, OSError) as error:
            reason = one_line(str(error).replace(video, "a video"))
            self.failed[reason] = self.failed.get(reason, 0) + 1
            return None
        return jpeg(joined(coloured(images) if wanted.source.kind == "flow" else images, height), quality)


def spread(count: int, wanted: int) -> np.ndarray:
    """Frames at equal distances over a video of ``count`` frames, int64 (min(wanted, count),)."""
    wanted = min(wanted, count)
    return ((np.arange(wanted) + 0.5) * count / max(1, wanted)).astype(np.int64)


def joined(frames: np.ndarray, height: int) -> np.ndarray:
    """Frames (T, H, W, 3) side by side with a gap, each ``height`` pixels high: (height, width, 3)."""
    aspect = min(frames.shape[2] / frames.shape[1], WIDEST)
    kept = min(frames.shape[2], round(frames.shape[1] * aspect))
    left = (frames.shape[2] - kept) // 2
    size = max(1, round(height * aspect)), height
    parts = []
    for frame in frames[:, :, left:left + kept]:
        shrinks = frame.shape[0] > height
        parts += [cv2.resize(frame, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR),
                  np.full((height, GAP, 3), GREY, np.uint8)]
    return np.concatenate(parts[:-1], axis=1)


def coloured(flow: np.ndarray) -> np.ndarray:
    """Flow as stored, uint8 (T, H, W, 3) with y and x in the last two channels around 128, in colours: the hue is the
    direction, the saturation the speed, as a share of the clip's fastest 1 %, and white is no
    motion."""
    y, x = (flow[..., channel].astype(np.float32) - 128 for channel in (1, 2))
    speed, angle = np.hypot(x, y), np.arctan2(y, x)
    fastest = max(float(np.percentile(speed, 99)), SLOW)
    hue = np.round(angle / (2 * np.pi) * 180) % 180  # as OpenCV counts it
    hsv = np.stack([hue, np.clip(speed / fastest, 0, 1) * 255, np.full_like(x, 255)], -1)
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_HSV2RGB) for frame in hsv.astype(np.uint8)])


def jpeg(image: np.ndarray, quality: int) -> bytes:
    """An RGB picture (H, W, 3) as a JPEG, as small as a baseline one can be."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), settings)[1].tobytes()


def sources(name: str, second_view: str, data_root: Path, *, train: bool) -> dict[str, Source]:
    """The sources of a part of a dataset by stream, "rgb" and "flow", as far as their LMDBs are there.

    Raises:
        DataError: no such dataset can be, or none of its LMDBs is there.
    """
    spec = catalog.parse(name, second_view)
    paths = spec.lmdbs(data_root, train=train)
    if not any(path.exists() for path in paths):
        raise DataError(f"there are no frames, since {' and '.join(map(str, paths))} {_verb(paths)} not there any "
                        "more: say where the LMDBs lie with --data_root")
    part = "train" if train else "test"
    readers = dict(zip(spec.streams, spec.readers(data_root, train=train), strict=True))
    return {stream: Source(f"{part} {stream}", reader, second_view if stream == "flow" else "rgb")
            for stream, reader in readers.items() if Path(reader.path).exists()}


def _verb(items: Iterable[object]) -> str:
    return "is" if len(list(items)) == 1 else "are"
