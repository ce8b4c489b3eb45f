"""Video files to clips and their features: find the files, decode each once, cut it into clips, run encoders on them.

A clip is treated as retrieval treats a video: the same windows, the same centre crop, the mean over the windows.
Retrieval's colour jitter is left out, since it would make a clip's feature depend on the name of its file.
"""

import bisect
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dataset.loader import init_worker, items
from dataset.residual import residual_image
from dataset.transforms.presets import CropsTransform
from engine import checkpoint
from engine.compatibility import SIZES, facts_of, trained_with
from eval.network import Encoder
from eval.retrieval import fingerprint
from process_data.src import video_io
from process_data.src.video_io import VideoError, flow_image, make_flow, next_frame, opened, silence_decoder
from utils.errors import OptionError

DEFAULT_RATE, MAX_RATE = 25.0, 1000.0  # frames a second: assumed where a file gives no plausible rate; the highest
MIN_FRAMES = 4  # of a clip: flow needs two frames on either side of a cut
AT_ONCE = 16  # clips, and ends of videos, that are decoded before the encoders run
CUT_AT_ONCE = 32  # frames
FlowMethod = Callable[[np.ndarray, np.ndarray], np.ndarray]  # see `process_data.src.video_io.make_flow`


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder of a checkpoint and its input; made by :func:`describe`."""

    path: str  # of the checkpoint, which may move
    sha256: str  # of its bytes
    view: str  # "rgb", "flow" or "residual"
    net: str  # name of the backbone
    seq_len: int  # frames of a window
    ds: int  # take every ds-th frame
    img_dim: int  # side of a frame in pixels

    def __str__(self) -> str:
        return f"{self.view} ({self.net}, --seq_len {self.seq_len} --ds {self.ds} --img_dim {self.img_dim})"


@dataclass(frozen=True)
class ClipSettings:
    """How a video becomes clips, and for which encoders: of RGB, of flow or residual frames, or one of each."""

    encoders: tuple[EncoderSpec, ...]
    short_side: int = 240  # larger frames are first scaled down to it, in pixels, as prepare.py does; 0: never
    clip_seconds: float = 10.0  # length of a clip; a rest of less than half joins the clip before
    flow: str = "dis"  # or "tvl1"

    def __post_init__(self) -> None:
        if len({encoder.view for encoder in self.encoders}) < len(self.encoders):
            raise OptionError(f"--two_stream: both checkpoints are for {self.encoders[0].view}: give one of RGB and "
                              "one of flow or residual frames")

    def __str__(self) -> str:
        encoders = " and ".join(f"{encoder} of sha256 {encoder.sha256[:12]}" for encoder in self.encoders)
        return f"{encoders}, --short_side {self.short_side} --clip_seconds {self.clip_seconds:g} --flow {self.flow}"


@dataclass(frozen=True)
class Clip:
    start: float  # seconds in the video
    end: float
    frames: tuple[np.ndarray, ...]  # of each encoder, its crops, uint8 (T, d, d, 3)


def find_videos(places: Iterable[str]) -> list[str]:
    """Find the videos of files and folders, recursively and without hidden ones; warn of other files."""
    found, others = set[str](), list[Path]()
    for place in places:
        if not os.path.lexists(place):
            raise OptionError(f"there is no {place}: check the path and its disk, or make a new index without it")
        if not os.path.isdir(place):
            found.add(place)
            continue
        files = list(video_io.walk(Path(place)))
        found.update(str(path) for path in files if video_io.looks_like_video(path.name))
        others += (path for path in files if not video_io.looks_like_video(path.name))
    video_io.name_passed_over(others)
    return sorted(found)


def state_of(path: str) -> tuple[int, int]:
    """Return the size of a file (-1 without one), and the time of its last change in ns."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def describe(path: str | Path, *, view: str = "rgb", **given: Any) -> EncoderSpec:
    """Read an encoder's view and input sizes from its checkpoint.

    ``view`` is used if the checkpoint does not record it; ``given`` may override its net, seq_len, ds and img_dim.
    """
    options = checkpoint.load(path).get("options")
    trained, stream = trained_with(options, **given), facts_of(options).get("stream", view).lower()
    return EncoderSpec(os.path.abspath(path), fingerprint(str(path)), stream, trained["net"],
                       *(trained[name] for name in SIZES))


def embed(paths: Sequence[str], settings: ClipSettings, encoders: Sequence[Encoder], workers: int = 0
          ) -> Iterator[tuple[str, tuple[Tensor, Tensor] | str]]:
    """Decode video files, in ``workers`` processes or in this one, and run the encoders on their clips.

    Yields:
        Path, and features of its clips, float32 (n, S * F), with their starts and ends, float64 (n, 2) seconds; or
        path, and why the file cannot be used.
    """
    rows, seconds = defaultdict(list), defaultdict(list)
    # OpenCV's threads do not survive a fork, so workers are spawned.
    workers = min(workers, len(paths))
    loader = DataLoader(_VideoClips(paths, settings), batch_size=None, num_workers=workers, worker_init_fn=init_worker,
                        multiprocessing_context="spawn" if workers else None, generator=torch.Generator(),
                        prefetch_factor=max(2, AT_ONCE // workers) if workers else None)
    decoded = items(loader)
    while part := list(islice(decoded, AT_ONCE)):  # so that windows of several clips fill the encoders' batches
        clips = [found for _, found in part if isinstance(found, Clip)]
        made = zip(*(encode([clip.frames[i] for clip in clips], unit=False) for i, encode in enumerate(encoders)
                     if clips), strict=True)
        for path, found in part:
            if isinstance(found, Clip):
                rows[path].append(torch.cat(next(made)))
                seconds[path].append((found.start, found.end))
            else:  # the video ends here
                features, times = rows.pop(path, []), seconds.pop(path, [])
                yield path, found or (torch.stack(features), torch.tensor(times, dtype=torch.float64))


class _VideoClips(IterableDataset):
    """Yields path and clip of each clip, then path and why the video cannot be used, or ""."""

    def __init__(self, paths: Sequence[str], settings: ClipSettings) -> None:
        self.paths, self.settings = paths, settings

    def __iter__(self) -> Iterator[tuple[str, Clip | str]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        silence_decoder()
        for path in self.paths[first::step]:
            problem = ""
            try:
                for clip in video_clips(Path(path), self.settings):
                    yield path, clip
            except VideoError as error:
                problem = str(error)
            yield path, problem


def video_clips(path: Path, settings: ClipSettings) -> Iterator[Clip]:
    """Decode a video file once and yield its clips in order; memory holds the crops of one and a half clips."""
    estimate, before = make_flow(settings.flow), None
    times: list[float] = []  # of the frames, in seconds
    images, crops = ([list[np.ndarray]() for _ in settings.encoders] for _ in range(2))  # of each encoder
    try:
        with opened(path) as capture:
            for seconds, frame in _timed_frames(capture, settings.short_side):
                before = frame if before is None else before
                for encoder, own in zip(settings.encoders, images, strict=True):
                    own.append(_image(encoder.view, before, frame, estimate))
                times.append(seconds)
                before = frame
                length = _first_clip(times, settings.clip_seconds)
                if length or len(images[0]) == CUT_AT_ONCE:
                    _cut(images, crops, settings)
                if length:
                    yield _clip(crops, times, times[length], settings)
            video_io.require_two_frames(len(times), path)
            _cut(images, crops, settings)
            yield _clip(crops, times, times[-1] + _interval(times), settings)
    except cv2.error as error:
        raise VideoError(f"a frame fails: {error.err}") from error


def _cut(images: Sequence[list[np.ndarray]], crops: Sequence[list[np.ndarray]], settings: ClipSettings) -> None:
    """Turn each encoder's images into crops, and empty their lists; many at once take a third of the time."""
    for encoder, uncut, made in zip(settings.encoders, images, crops, strict=True):
        for _, same in groupby(uncut, np.shape):  # the size of a video may change
            made.extend(CropsTransform(encoder.img_dim).cut(np.stack([*same]))[0])
        uncut.clear()


def _interval(times: Sequence[float]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1)


def _first_clip(times: Sequence[float], seconds: float) -> int:
    """Return how many frames make the first clip of so many seconds; 0 until those left could make another one."""
    if len(times) < MIN_FRAMES * 3 // 2 or times[-1] - times[0] + _interval(times) < 1.5 * seconds - 1e-6:
        return 0
    end = times[0] + seconds
    length = max(MIN_FRAMES, bisect.bisect_left(times, end))
    if length > MIN_FRAMES and end - times[length - 1] < (times[length - 1] - times[length - 2]) / 2 + 1e-6:
        length -= 1  # this frame is nearer to the end than the next one would be
    return length if len(times) - length >= MIN_FRAMES // 2 else 0


def _timed_frames(capture: cv2.VideoCapture, short_side: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yield RGB frames with their times in seconds, which always increase.

    The times are those of the file, since phones and browsers record at varying rates and name another. Where the
    file has none, or goes back in time, the rate that it names goes on.
    """
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 0 < rate <= MAX_RATE else DEFAULT_RATE
    last = -1 / rate
    while (frame := next_frame(capture, short_side)) is not None:
        stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        last = stamp if math.isfinite(stamp) and stamp > last else last + 1 / rate
        yield last, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _image(view: str, before: np.ndarray, frame: np.ndarray, estimate: FlowMethod) -> np.ndarray:
    """Compute a view's image from a frame and the one before it, uint8 (H, W, 3), channels as in LMDBs."""
    if view == "rgb":
        return frame
    if view == "residual":
        return residual_image(before, frame)
    motion = estimate(*(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (before, frame)))
    return np.ascontiguousarray(flow_image(motion)[..., ::-1])


def _clip(crops: Sequence[list[np.ndarray]], times: list[float], end: float, settings: ClipSettings) -> Clip:
    """Take the crops before ``end``; the first flow or residual image belongs to the cut before it, and is left out."""
    start, length = times[0], bisect.bisect_left(times, end)
    made = Clip(start, end, tuple(np.stack(own[encoder.view != "rgb":length])
                                  for encoder, own in zip(settings.encoders, crops, strict=True)))
    del times[:length]
    for own in crops:
        del own[:length]
    return made
