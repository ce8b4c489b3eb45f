"""Samplers against tables worked out by hand from the definition of clips."""

import numpy as np
import pytest

from dataset.clip_sampler import RandomClips, Windows, random_clip, too_short, windows


class Fixed:
    """A generator that draws a given value and records the bound it was asked for."""

    def __init__(self, value: int) -> None:
        self.value, self.high = value, None

    def integers(self, high: int) -> int:
        self.high = high
        assert 0 <= self.value < high
        return self.value


# frames, seq_len, ds, draw -> number of starts, clip
CLIPS = [
    (20, 4, 1, 0, 16, [0, 1, 2, 3]),
    (20, 4, 1, 15, 16, [15, 16, 17, 18]),  # the last start leaves one frame over
    (20, 4, 3, 7, 8, [7, 10, 13, 16]),
    (5, 4, 1, 0, 1, [0, 1, 2, 3]),
    (4, 4, 1, 0, 1, [0, 1, 2, 3]),  # exactly a clip
    (12, 4, 3, 0, 3, [0, 3, 6, 9]),
    (12, 4, 3, 2, 3, [2, 5, 8, 11]),  # exactly a clip: an offset still fits
    (3, 4, 1, 0, 1, [0, 0, 1, 2]),
    (8, 4, 3, 0, 3, [0, 0, 3, 6]),
    (8, 4, 3, 1, 3, [0, 1, 4, 7]),
    (8, 4, 3, 2, 3, [0, 0, 2, 5]),
    (1, 4, 3, 0, 1, [0, 0, 0, 0]),
    (2, 1, 5, 1, 2, [1]),  # an offset past the end is never drawn
]


@pytest.mark.parametrize(("frames", "seq_len", "ds", "draw", "starts", "clip"), CLIPS)
def test_random_clip(frames, seq_len, ds, draw, starts, clip):
    rng = Fixed(draw)
    found = random_clip(frames, seq_len, ds, rng)
    assert found.tolist() == clip and found.dtype == np.int64
    assert rng.high == starts


WINDOWS = [
    (4, 4, 1, [[0, 1, 2, 3]]),
    (3, 4, 1, [[0, 0, 1, 2]]),
    (1, 4, 2, [[0, 0, 0, 0]]),
    (7, 4, 1, [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),  # step 4//2 - 1 = 1
    (13, 8, 1, [[*range(8)], [*range(3, 11)]]),  # step 3; 6 would need 14 frames
    (14, 8, 1, [[*range(8)], [*range(3, 11)], [*range(6, 14)]]),
    (14, 4, 3, [[0, 3, 6, 9]]),  # step 5; 5 > 14 - 12
    (17, 4, 3, [[0, 3, 6, 9], [5, 8, 11, 14]]),
    (12, 4, 3, [[0, 3, 6, 9]]),
    (11, 4, 3, [[0, 3, 6, 9]]),
    (9, 4, 3, [[0, 0, 3, 6]]),
    (4, 2, 1, [[0, 1], [1, 2], [2, 3]]),  # a step of 0 would never end
]


@pytest.mark.parametrize(("frames", "seq_len", "ds", "rows"), WINDOWS)
def test_windows(frames, seq_len, ds, rows):
    assert windows(frames, seq_len, ds).tolist() == rows
    assert Windows(seq_len, ds)(frames, Fixed(0)).tolist() == rows


@pytest.mark.parametrize(("frames", "seq_len", "ds", "rule", "short"), [
    (17, 32, 1, "half", True), (18, 32, 1, "half", False), (33, 32, 2, "half", True), (34, 32, 2, "half", False),
    (33, 32, 1, "whole", True), (34, 32, 1, "whole", False), (65, 32, 2, "whole", True), (66, 32, 2, "whole", False)])
def test_too_short(frames, seq_len, ds, rule, short):
    assert too_short(frames, seq_len, ds, rule) == short
    assert too_short(np.array([frames, 1000]), seq_len, ds, rule).tolist() == [short, False]


def test_starts_are_uniform_and_clips_independent():
    rng = np.random.default_rng(0)
    pairs = np.stack([RandomClips(4, 2, clips=2)(18, rng)[:, 0] for _ in range(4000)])
    assert pairs.shape == (4000, 2)
    for starts in pairs.T:
        assert np.bincount(starts, minlength=10) == pytest.approx(400, abs=90)  # 10 starts, sigma 19
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.06  # sigma 0.016
