"""Video files to clips: find the files, decode each once, cut it into clips of some seconds, crop them for encoders.

A clip is treated as retrieval treats a video: the same windows and the same centre crop. Retrieval's colour jitter is
left out, since it would make a clip's feature depend on the name of its file.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dataset.clip_sampler import windows
from dataset.loader import init_worker, items
from dataset.residual import residual_image
from dataset.transforms.photometric import stack_params
from dataset.transforms.presets import NULL, CropsTransform
from process_data.src.flow import flow_image, make_flow
from process_data.src.video_io import SUFFIXES, VideoError, next_frame, opened, require_two_frames, silence_decoder
from utils.errors import OptionError

DEFAULT_RATE, MAX_RATE = 25.0, 1000.0  # frames a second: assumed where a file names no possible rate, and the highest
MIN_FRAMES = 4  # of a clip: flow needs two frames on either side of a cut
State = tuple[int, int]  # of a file: bytes (-1 if it cannot be read), and time of the last change in ns


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder of a checkpoint and its input; made by `encoder.describe`."""

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

    def require_same(self, given: "ClipSettings") -> None:
        """Raise an OptionError if given settings make other features; a checkpoint may have moved."""
        if str(self) != str(given):
            raise OptionError(f"the index was made with {self}, not {given}: give the same, or another --out")

    def __str__(self) -> str:
        encoders = " and ".join(f"{encoder} of sha256 {encoder.sha256[:12]}" for encoder in self.encoders)
        return f"{encoders}, --short_side {self.short_side} --clip_seconds {self.clip_seconds:g} --flow {self.flow}"


@dataclass(frozen=True)
class Clip:
    """A piece of a video."""

    start: float  # seconds in the video
    end: float
    samples: tuple[dict[str, Any], ...]  # the input of each encoder, as `eval.windows.window_clips` takes it


def find_videos(places: Iterable[str]) -> dict[str, State]:
    """Return the state of each video file in folders and all below, and of places that are files, by path.

    Hidden files and folders are passed over, and links to folders not followed.

    Raises:
        OptionError: a place is not there.
    """
    found: set[str] = set()
    for place in places:
        if not os.path.lexists(place):
            raise OptionError(f"there is no {place}: check the path and its disk, or make a new index without it")
        if not os.path.isdir(place):
            found.add(place)
        for parent, folders, names in os.walk(place):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found.update(os.path.join(parent, name) for name in names
                         if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."))
    return {path: file_state(path) for path in sorted(found)}


def file_state(path: str) -> State:
    """Return what changes when a file does, without reading it."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, 0
    return found.st_size if os.access(path, os.R_OK) else -1, found.st_mtime_ns


def video_clips(path: Path, settings: ClipSettings) -> Iterator[Clip]:
    """Decode a video file once and yield its clips in order; memory holds the crops of one and a half clips.

    Raises:
        VideoError: the file cannot be opened or decoded; the message does not name it.
    """
    croppers = [_cropper(encoder, settings.flow) for encoder in settings.encoders]
    frames: list[tuple[float, list[np.ndarray]]] = []  # time of each frame, and its image for each encoder
    before = None
    try:
        with opened(path) as capture:
            rate = capture.get(cv2.CAP_PROP_FPS)
            rate = rate if 0 < rate <= MAX_RATE else DEFAULT_RATE
            length = max(MIN_FRAMES, round(settings.clip_seconds * rate))
            for seconds, bgr in _timed_frames(capture, rate, settings.short_side):
                frame = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                frames.append((seconds, [crop(frame if before is None else before, frame) for crop in croppers]))
                before = frame
                if len(frames) == length + (length + 1) // 2:  # what is left is enough for another clip
                    yield _clip(frames[:length], frames[length][0], settings)
                    del frames[:length]
            require_two_frames(len(frames))
            yield _clip(frames, frames[-1][0] + 1 / rate, settings)
    except cv2.error as error:
        raise VideoError(f"a frame fails: {error.err}") from error


def _timed_frames(capture: cv2.VideoCapture, rate: float, short_side: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yield frames with their times in seconds, which always increase, whatever the file says."""
    last = -1 / rate
    while (frame := next_frame(capture, short_side)) is not None:
        stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        last = stamp if math.isfinite(stamp) and stamp > last else last + 1 / rate
        yield last, frame


def _cropper(encoder: EncoderSpec, flow: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of two neighbouring frames, uint8 RGB (H, W, 3), to the encoder's image (d, d, 3)."""
    transform, estimate = CropsTransform(encoder.img_dim), make_flow(flow)

    def crop(before: np.ndarray, frame: np.ndarray) -> np.ndarray:
        if encoder.view == "rgb":
            image = frame
        elif encoder.view == "residual":
            image = residual_image(before, frame)
        else:
            motion = estimate(*(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (before, frame)))
            image = np.ascontiguousarray(flow_image(motion)[..., ::-1])  # channels in the order of the LMDB's JPEGs
        return transform.cut(image[None])[0][0]
    return crop


def _clip(frames: Sequence[tuple[float, list[np.ndarray]]], end: float, settings: ClipSettings) -> Clip:
    """Make a clip of frames; the first flow or residual image belongs to the cut, and is left out."""
    samples = []
    for i, encoder in enumerate(settings.encoders):
        images = [own[i] for _, own in frames][0 if encoder.view == "rgb" else 1:]
        rows = windows(len(images), encoder.seq_len, encoder.ds)
        distinct, places = np.unique(rows, return_inverse=True)
        clips = torch.from_numpy(np.stack([images[i] for i in distinct]))
        samples.append({"clips": clips[None, None], "windows": torch.from_numpy(places.reshape(rows.shape)),
                        "photometric": stack_params([NULL.draw(np.random.default_rng(0), 1, len(clips))])})
    return Clip(frames[0][0], end, tuple(samples))


class _VideoClips(IterableDataset):
    """The items of `decode`; loader workers share the files."""

    def __init__(self, paths: Sequence[str], settings: ClipSettings) -> None:
        self.paths, self.settings = paths, settings

    def __iter__(self) -> Iterator[tuple[int, Clip | str]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        silence_decoder()
        for video in range(first, len(self.paths), step):
            problem = ""
            try:
                for clip in video_clips(Path(self.paths[video]), self.settings):
                    yield video, clip
            except VideoError as error:
                problem = str(error)
            yield video, problem


def decode(paths: Sequence[str], settings: ClipSettings, workers: int) -> Iterator[tuple[int, Clip | str]]:
    """Yield (i, clip) for each clip of video i, and after its last one (i, "") or (i, why the video cannot be used)."""
    # OpenCV's threads do not survive a fork, so workers are spawned.
    return items(DataLoader(_VideoClips(paths, settings), batch_size=None, num_workers=min(workers, len(paths)),
                            worker_init_fn=_init_worker, multiprocessing_context="spawn" if workers else None,
                            prefetch_factor=2 if workers else None, generator=torch.Generator()))


def _init_worker(worker: int) -> None:
    cv2.setNumThreads(1)
    init_worker(worker)
