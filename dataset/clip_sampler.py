"""Which frames make a clip: index arithmetic only, frames count from 0.

A clip is `seq_len` frames, every `ds`-th; it spans seq_len * ds frames. Where a video has no more than that, what it
has stands at the right and frame 0 fills the left.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from dataset.errors import DataError

MAX_FRAMES = 1 << 20  # of a video that is cut into windows, nine hours: a damaged count can be anything
LengthRule = Literal["half", "whole"]


class Sampler(Protocol):
    """What a dataset asks for clips: the frames of each clip or window, int64 (clips, seq_len)."""

    @property
    def seq_len(self) -> int:
        """Frames of a clip."""

    @property
    def windowed(self) -> bool:
        """Whether the clips are windows that share frames."""

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """Clips of a video of `num_frames` frames."""


def clip_from(start: int, num_frames: int, seq_len: int, ds: int) -> np.ndarray:
    """The frames from `start` on, int64 (seq_len,); those past the end are replaced by frame 0s on the left.

    Args:
        start: first frame. num_frames: of the video. seq_len: frames of the clip. ds: every how many frames.
    """
    sequence = start + np.arange(seq_len, dtype=np.int64) * ds
    inside = sequence[sequence < num_frames]
    return np.concatenate([np.zeros(seq_len - len(inside), dtype=np.int64), inside])


def random_clip(num_frames: int, seq_len: int, ds: int, rng: np.random.Generator) -> np.ndarray:
    """A clip at a random start, int64 (seq_len,).

    A video longer than the clip's span starts uniformly in 0 ... num_frames - seq_len*ds - 1, a shorter one at an
    offset in 0 ... ds-1.

    Args:
        num_frames: of the video. seq_len: frames of the clip. ds: every how many frames. rng: draws the start.

    Raises:
        ValueError: there are no frames.
    """
    if num_frames < 1:
        raise ValueError("a video without frames has no clips")
    starts = num_frames - seq_len * ds
    if starts <= 0:
        starts = min(ds, num_frames)  # an offset past the end would leave nothing of the video
    return clip_from(int(rng.integers(starts)), num_frames, seq_len, ds)


def windows(num_frames: int, seq_len: int, ds: int) -> np.ndarray:
    """All windows of a video, int64 (W, seq_len): a new one begins every seq_len*ds//2 - 1 frames.

    Args:
        num_frames: of the video. seq_len: frames of a window. ds: every how many frames.

    Raises:
        DataError: it has more than a million frames.
        ValueError: there are no frames.
    """
    if num_frames < 1:
        raise ValueError("a video without frames has no windows")
    if num_frames > MAX_FRAMES:
        raise DataError(f"a video of {num_frames} frames is too long for windows: cut it into several")
    span = seq_len * ds
    step = max(1, span // 2 - 1)
    starts = range(0, max(0, num_frames - span) + 1, step)
    return np.stack([clip_from(start, num_frames, seq_len, ds) for start in starts])


def too_short(num_frames: int | np.ndarray, seq_len: int, ds: int, rule: LengthRule) -> bool | np.ndarray:
    """Whether a video (or each of an array of lengths) is too short to be used.

    Args:
        num_frames: of the video, or of each, (n,). seq_len: frames of a clip. ds: every how many frames.
        rule: "half" asks for half a clip's frames (UCF101, HMDB51), "whole" for a clip's (K400), each and two frames
            more.
    """
    needed = {"half": seq_len // 2, "whole": seq_len}[rule]
    return num_frames - needed * ds - 1 <= 0


@dataclass(frozen=True)
class RandomClips:
    """Clips at independent random starts.

    Args:
        seq_len: frames of a clip. ds: every how many frames. clips: how many of a video.
        windowed: hand them to the transform as windows of shared frames.
    """

    seq_len: int
    ds: int
    clips: int = 1
    windowed: bool = False

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """Frames of the clips, int64 (clips, seq_len)."""
        return np.stack([random_clip(num_frames, self.seq_len, self.ds, rng) for _ in range(self.clips)])


@dataclass(frozen=True)
class Windows:
    """All windows of a video; nothing is random.

    Args:
        seq_len: frames of a window. ds: every how many frames. windowed: as of :class:`RandomClips`.
    """

    seq_len: int
    ds: int
    windowed: bool = True

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        """Frames of the windows, int64 (W, seq_len)."""
        return windows(num_frames, self.seq_len, self.ds)
