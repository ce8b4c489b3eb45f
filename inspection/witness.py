"""A transform that does what another does, and keeps what it was given: so frames can be shown before and after."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from dataset.video_dataset import Plan, Transform


class Witness:
    """Renders samples as `inner` does; "original", the frames of each clip and stream, and "ramps" come with them.

    "ramps" is what the same draws make of frames whose red and green are their column and row, 0-255: it tells the crop
    and the flip without knowing how they are drawn.
    """

    def __init__(self, inner: Transform) -> None:
        self.inner = inner

    def plan(self, rng: np.random.Generator) -> Plan:
        """See `Transform.plan`."""
        return self.inner.plan(rng)

    def render(self, plan: Plan, frames: Mapping[int, list[np.ndarray]], rng: np.random.Generator) -> dict[str, Any]:
        """See `Transform.render`."""
        again = copy.deepcopy(rng)
        ramps = {clip: [_ramp(stream) for stream in streams] for clip, streams in frames.items()}
        return self.inner.render(plan, frames, rng) | {
            "original": frames, "ramps": self.inner.render(plan, ramps, again)["clips"]}


def _ramp(frames: np.ndarray) -> np.ndarray:
    """Frames of the same shape: red grows from left to right, green from top to bottom."""
    ramp = np.zeros(frames.shape, dtype=np.uint8)
    height, width = frames.shape[1:3]
    ramp[..., 0] = np.round((np.arange(width) + 0.5) * (255 / width))
    ramp[..., 1] = np.round((np.arange(height) + 0.5) * (255 / height))[:, None]
    return ramp


def crop_of(ramps: np.ndarray) -> tuple[tuple[float, float, float, float], bool]:
    """What a view shows of its frames: (left, top, right, bottom) in shares of 0-1 of their sides, and whether it is
    flipped. ramps: one frame of "ramps", uint8 (h, w, 3)."""
    left, right = _ends(ramps[..., 0].mean(axis=0))
    top, bottom = _ends(ramps[..., 1].mean(axis=1))
    return (min(left, right), top, max(left, right), bottom), left > right


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Where a ramp begins and ends, in shares, from a line through its middle: the resize rounds its ends off."""
    places = (np.arange(len(values)) + 0.5) / len(values)
    middle = slice(len(values) // 8, len(values) - len(values) // 8)
    slope, start = np.polyfit(places[middle], values[middle], 1)
    first, last = np.clip([start / 255, (start + slope) / 255], 0, 1)
    return float(first), float(last)
