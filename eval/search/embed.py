"""From video files to features: loader processes decode, this one runs the encoders on windows of many clips."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from eval.search.clips import Clip, End, Recipe, VideoClips, as_it_is, begin_worker
from eval.search.encoders import Encoders
from process_data.src.pool import silence_decoder
from process_data.src.progress import Progress
from utils.loader import items

NOT_FINITE = "its features are not finite numbers"


@dataclass
class Speed:
    """What was done, and the seconds it took. decoding: of all loader processes together, frames to crops.

    network: of the encoders. wall: from beginning to end, both at once where there are loader processes.
    """

    clips: int = 0
    frames: int = 0
    decoding: float = 0.0
    network: float = 0.0
    wall: float = 0.0

    def __str__(self) -> str:
        if not self.clips:
            return "no new clips"
        decoding, network, wall = (f"{self.clips / max(seconds, 1e-9):.3g} clips/s"
                                   for seconds in (self.decoding, self.network, self.wall))
        return (f"{self.clips} new clips of {self.frames} frames in {self.wall:.1f} s: {wall} "
                f"(decoding alone {decoding} a process, network alone {network})")


@dataclass(frozen=True)
class Found:
    """What a file gave: features float32 (n, D) and seconds float64 (n, 2) of its clips; or `wrong`, why nothing."""

    video: int
    features: np.ndarray
    seconds: np.ndarray
    wrong: str = ""


def embed(paths: Sequence[Path], recipe: Recipe, encoders: Encoders, *, workers: int, windows: int,
          speed: Speed, quiet: bool = False) -> Iterator[Found]:
    """What each file gives, as soon as its features are there, in about the order of the files.

    workers: loader processes; 0 decodes in this one. windows: how many are collected before the encoders run. speed:
    is added to. quiet: say nothing of the progress.

    Raises:
        TrainingError: a loader process was lost.
    """
    began = time.perf_counter()
    workers = min(workers, len(paths))
    silence_decoder()
    # OpenCV's threads do not survive a fork, so the processes are new ones
    loader = DataLoader(VideoClips(paths, recipe), batch_size=None, num_workers=workers, collate_fn=as_it_is,
                        worker_init_fn=begin_worker, multiprocessing_context="spawn" if workers else None,
                        prefetch_factor=2 if workers else None, generator=torch.Generator())
    group = _Group(encoders, speed)
    with nullcontext() if quiet else Progress(len(paths), "index") as progress:
        for event in items(loader):
            group.take(event)
            if progress and isinstance(event, End):
                progress.step()
            if group.windows >= windows or not group.windows:  # nothing waits: what has ended is complete
                yield from group.run()
    yield from group.run()
    speed.wall += time.perf_counter() - began


class _Group:
    """Clips that wait for the encoders, and files whose clips are not all there yet."""

    def __init__(self, encoders: Encoders, speed: Speed) -> None:
        self._encoders, self._speed = encoders, speed
        self._waiting: list[Clip] = []
        self._ended: list[End] = []
        self._rows: dict[int, list[tuple[np.ndarray, Clip]]] = {}
        self.windows = 0

    def take(self, event: Clip | End) -> None:
        """A clip, or the end of a file."""
        if isinstance(event, End):
            self._ended.append(event)
            return
        self._waiting.append(event)
        self.windows += max(len(sample["windows"]) for sample in event.samples)
        self._speed.clips += 1
        self._speed.frames += event.frames
        self._speed.decoding += event.seconds

    def run(self) -> Iterator[Found]:
        """Run the encoders on all that wait; what the files gave that have ended."""
        began = time.perf_counter()
        if self._waiting:
            for row, clip in zip(self._encoders.features(self._waiting), self._waiting, strict=True):
                self._rows.setdefault(clip.video, []).append((row, clip.without_frames()))
        self._waiting, self.windows = [], 0
        self._speed.network += time.perf_counter() - began
        for end in self._ended:
            yield _found(end, self._rows.pop(end.video, []))
        self._ended = []


def _found(end: End, rows: list[tuple[np.ndarray, Clip]]) -> Found:
    features = np.array([row for row, _ in rows], dtype=np.float32)
    seconds = np.array([(clip.start, clip.end) for _, clip in rows], dtype=np.float64)
    wrong = end.wrong or ("" if np.isfinite(features).all() else NOT_FINITE)
    return Found(end.video, features, seconds, wrong)
