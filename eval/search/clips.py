"""Video files to clips: decoded once from beginning to end, cut into pieces of some seconds, seen as encoders see them.

A clip is treated as retrieval treats a video (`eval.retrieval`): the windows and the centre crop are the same, without
the colour jitter, which would make a clip's feature depend on its file's name. Only the crops of one and a half clips
are in memory, however long a video is.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from dataset.clip_sampler import windows
from dataset.residual import residual_image
from process_data.src.errors import VideoError
from process_data.src.extract_ff import failure, too_few
from process_data.src.flow import flow_image, make_flow
from process_data.src.pool import start_worker
from process_data.src.video_io import next_frame, opened
from utils.photo import stack
from utils.presets import NULL, CropsTransform
from utils.stop import outlive

USUAL_RATE, HIGHEST_RATE = 25.0, 1000.0  # frames a second: where a file says nothing that can be, and the most
FEWEST, MOST = 4, 4096  # frames of a clip: flow needs two on either side of a cut, and memory has an end


@dataclass(frozen=True)
class View:
    """What one encoder sees. kind: "rgb", "flow" or "residual".

    seq_len, ds: a window is so many frames, every ds-th. img_dim: pixels.
    """

    kind: str
    seq_len: int
    ds: int
    img_dim: int


@dataclass(frozen=True)
class Recipe:
    """How files become clips.

    short_side: larger frames are scaled down to it, pixels, as prepare.py does. clip_seconds: of a clip; a rest of less
    than half of it belongs to the clip before. flow: "dis" or "tvl1". views: one an encoder.
    """

    short_side: int
    clip_seconds: float
    flow: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class Clip:
    """A piece of a video. start, end: seconds in it. samples: one a view, as `windows.window_clips` takes them.

    video: its number in the list of files. frames: those decoded. seconds: that decoding and cropping took.
    """

    video: int
    start: float
    end: float
    samples: tuple[dict[str, Any], ...]
    frames: int
    seconds: float

    def without_frames(self) -> "Clip":
        """The same, its samples let go."""
        return replace(self, samples=())


@dataclass(frozen=True)
class End:
    """No more clips come of a video. wrong: why it cannot be used, "" where it can."""

    video: int
    wrong: str


def video_clips(path: Path, recipe: Recipe, video: int = 0) -> Iterator[Clip]:
    """The clips of a video file, in order; at least one.

    Raises:
        VideoError: it cannot be opened or decoded; the message is without its name.
    """
    began, held = time.perf_counter(), _Held(recipe)
    try:
        with opened(path) as capture:
            rate = _rate(capture)
            length = min(MOST, max(FEWEST, round(recipe.clip_seconds * rate)))
            for seconds, frame in _timed(capture, rate, recipe.short_side):
                held.add(seconds, frame)
                if len(held) == length + (length + 1) // 2:
                    yield held.take(length, 1 / rate, video, time.perf_counter() - began)
                    began = time.perf_counter()
            if too_few(held.seen):
                raise VideoError(too_few(held.seen))
            yield held.take(len(held), 1 / rate, video, time.perf_counter() - began)
    except cv2.error as error:
        raise VideoError(failure(error, held.seen + 1)) from error


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate <= HIGHEST_RATE else USUAL_RATE


def _timed(capture: cv2.VideoCapture, rate: float, short_side: int) -> Iterator[tuple[float, np.ndarray]]:
    """Frames with their times in seconds, which only grow, whatever the file says."""
    before = -1 / rate
    while (frame := next_frame(capture, short_side)) is not None:
        said = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        before = said if math.isfinite(said) and said > before else before + 1 / rate
        yield before, frame


class _Held:
    """The frames of a video that no clip has taken yet, cropped for each view.

    Entry i of a view that is made of two frames is made of frames i and i + 1. seen: frames of the video so far.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._views, self.seen = recipe.views, 0
        self._transforms = [CropsTransform(view.img_dim) for view in recipe.views]
        self._makers = [None if view.kind == "rgb" else _between(view.kind, recipe.flow) for view in recipe.views]
        self._times: list[float] = []
        self._crops: list[list[np.ndarray]] = [[] for _ in recipe.views]
        self._before: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._times)

    def add(self, seconds: float, frame: np.ndarray) -> None:
        """Take up a frame (H, W, 3) uint8 BGR."""
        image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        for maker, transform, crops in zip(self._makers, self._transforms, self._crops, strict=True):
            if maker is None:
                crops.append(transform.cut(image[None])[0][0])
            elif self._before is not None:
                crops.append(transform.cut(maker(self._before, image)[None])[0][0])
        self._before = image
        self._times.append(seconds)
        self.seen += 1

    def take(self, count: int, step: float, video: int, seconds: float) -> Clip:
        """The first frames as a clip, of which the last takes `step` seconds if none follows; they are let go."""
        samples = tuple(_sample(crops[:count if view.kind == "rgb" else count - 1], view)
                        for view, crops in zip(self._views, self._crops, strict=True))
        start = self._times[0]
        end = self._times[count] if count < len(self) else self._times[-1] + step
        del self._times[:count]
        for crops in self._crops:
            del crops[:count]
        return Clip(video, start, end, samples, count, seconds)


def _between(kind: str, flow: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of two neighbouring frames uint8 RGB (H, W, 3) to the image that a flow LMDB has, or to a residual."""
    if kind == "residual":
        return residual_image
    estimate = make_flow(flow)

    def image(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, after))
        # as the JPEG of an LMDB is read, which is written from BGR
        return np.ascontiguousarray(flow_image(estimate(*grey))[..., ::-1])
    return image


def _sample(crops: Sequence[np.ndarray], view: View) -> dict[str, Any]:
    """The distinct frames of all windows of F images uint8 (d, d, 3), and where the windows lie in them."""
    rows = windows(len(crops), view.seq_len, view.ds)
    distinct, places = np.unique(rows, return_inverse=True)
    images = np.stack([crops[i] for i in distinct])
    return {"clips": torch.from_numpy(images)[None, None], "windows": torch.from_numpy(places.reshape(rows.shape)),
            "photo": stack([NULL.draw(np.random.default_rng(0), 1, len(images))])}


class VideoClips(IterableDataset):
    """The clips of many files, each file's followed by its end. Loader processes share the files.

    Args:
        paths: of the files; a file's number is its place in them.
    """

    def __init__(self, paths: Sequence[Path], recipe: Recipe) -> None:
        self.paths, self.recipe = list(paths), recipe

    def __iter__(self) -> Iterator[Clip | End]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for video in range(first, len(self.paths), step):
            wrong = ""
            try:
                yield from video_clips(self.paths[video], self.recipe, video)
            except VideoError as error:
                wrong = str(error)
            yield End(video, wrong)


def begin_worker(worker: int) -> None:
    """Settings of a loader's process that decodes videos."""
    start_worker()
    outlive(worker)


def as_it_is(event: Any) -> Any:
    """In place of a loader's conversion to tensors."""
    return event
