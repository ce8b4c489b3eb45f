"""Which frames make a clip: index arithmetic only; frames count from 0.

A clip is `seq_len` frames, every `ds`-th, of a video of `num_frames`; it spans seq_len * ds frames. The frames of a
shorter video stand at the right, and frame 0 fills the left.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

LengthRule = Literal["half", "whole"]


def clip_from(start: int, num_frames: int, seq_len: int, ds: int) -> np.ndarray:
    """Return the frames from `start` on, int64 (seq_len,); frame 0 on the left replaces those past the end."""
    sequence = start + np.arange(seq_len, dtype=np.int64) * ds
    inside = sequence[sequence < num_frames]
    return np.concatenate([np.zeros(seq_len - len(inside), dtype=np.int64), inside])


def random_clip(num_frames: int, seq_len: int, ds: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a clip, int64 (seq_len,), that starts uniformly in 0 ... num_frames - seq_len*ds - 1.

    A video that is no longer than the clip's span starts at an offset in 0 ... ds-1.
    """
    starts = num_frames - seq_len * ds
    if starts <= 0:
        starts = min(ds, num_frames)  # an offset past the end would leave nothing of the video
    return clip_from(int(rng.integers(starts)), num_frames, seq_len, ds)


def windows(num_frames: int, seq_len: int, ds: int) -> np.ndarray:
    """Return all windows of a video, int64 (W, seq_len); one starts every seq_len*ds//2 - 1 frames."""
    span = seq_len * ds
    step = max(1, span // 2 - 1)
    starts = range(0, max(0, num_frames - span) + 1, step)
    return np.stack([clip_from(start, num_frames, seq_len, ds) for start in starts])


def too_short(num_frames: int | np.ndarray, seq_len: int, ds: int, rule: LengthRule) -> bool | np.ndarray:
    """Return whether a video, or each of several, (n,), is too short to be used.

    The rule "half" asks for half a clip's frames (UCF101, HMDB51), "whole" for a clip's (K400), and two more.
    """
    needed = {"half": seq_len // 2, "whole": seq_len}[rule]
    return num_frames - needed * ds - 1 <= 0


@dataclass(frozen=True)
class RandomClips:
    """Draws clips at independent random starts, int64 (clips, seq_len)."""

    seq_len: int
    ds: int
    clips: int = 1  # of a video
    windowed: bool = False  # whether the transform gets them as windows of shared frames

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        return np.stack([random_clip(num_frames, self.seq_len, self.ds, rng) for _ in range(self.clips)])


@dataclass(frozen=True)
class Windows:
    """Returns all windows of a video, int64 (W, seq_len); nothing is random."""

    seq_len: int
    ds: int
    clips: int = 0  # depends on the video
    windowed: bool = True

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        return windows(num_frames, self.seq_len, self.ds)


class TwoTimes(Windows):
    """Two windows, a quarter and three quarters into a video; the same one where there is no other."""

    def __call__(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        rows = windows(num_frames, self.seq_len, self.ds)
        return rows[[len(rows) // 4, 3 * len(rows) // 4]]


Sampler = RandomClips | Windows
