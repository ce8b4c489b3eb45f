"""The motions of the demo set: one class is one way in which a picture moves over time.

A motion gives, for each frame, a shift (fractions of the picture's height), an angle (radians) and a log-scale of the
scene. None of them is told from another by left against right only, so a class survives a horizontal flip; every one
shows within 16 frames.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pose:
    """Where a scene stands in each frame; every array has shape (frames,)."""

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    log_scale: np.ndarray


@dataclass(frozen=True)
class Draw:
    """What differs between the clips of a class: few numbers in narrow ranges, and the clip's own generator."""

    speed: float  # factor on the motion's rate
    side: float  # -1 or 1: left or right, clockwise or not
    phase: float  # where in its cycle the motion starts, radians
    rng: np.random.Generator


def draw_clip(rng: np.random.Generator, pace: float = 1.0, spread: float = 0.12) -> Draw:
    """Draw a clip's speed, side and phase. pace: mean speed. spread: by what share a clip is slower or faster."""
    speed = pace * rng.uniform(1 - spread, 1 + spread)
    return Draw(speed, float(rng.choice([-1.0, 1.0])), rng.uniform(0, 2 * np.pi), rng)


def _pose(frames: int, x: float | np.ndarray = 0.0, y: float | np.ndarray = 0.0, angle: float | np.ndarray = 0.0,
          log_scale: float | np.ndarray = 0.0) -> Pose:
    return Pose(*(np.broadcast_to(np.asarray(v, dtype=np.float64), (frames,)) for v in (x, y, angle, log_scale)))


def _cycle(t: np.ndarray, draw: Draw, period: float) -> np.ndarray:
    return 2 * np.pi * draw.speed * t / period + draw.phase


def _slide(t: np.ndarray, draw: Draw) -> Pose:
    return _pose(len(t), x=draw.side * draw.speed * 0.045 * t)


def _fall(t: np.ndarray, draw: Draw) -> Pose:
    return _pose(len(t), y=draw.speed * 0.045 * t)


def _bounce(t: np.ndarray, draw: Draw) -> Pose:
    # |sin|: hits the ground and turns at once, hangs at the top
    return _pose(len(t), y=0.17 - 0.34 * np.abs(np.sin(_cycle(t, draw, 28))))


def _swing(t: np.ndarray, draw: Draw) -> Pose:
    return _pose(len(t), x=0.16 * np.sin(_cycle(t, draw, 16)))


def _circle(t: np.ndarray, draw: Draw) -> Pose:
    turn = _cycle(t, draw, 16)
    return _pose(len(t), x=0.13 * draw.side * np.cos(turn), y=0.13 * np.sin(turn))


def _spin(t: np.ndarray, draw: Draw) -> Pose:
    return _pose(len(t), angle=draw.side * draw.speed * 0.11 * t + draw.phase)


def _zoom(t: np.ndarray, draw: Draw) -> Pose:
    return _pose(len(t), log_scale=0.38 * np.sin(_cycle(t, draw, 16)))


def _shake(t: np.ndarray, draw: Draw) -> Pose:
    # neighbouring frames jump to opposite sides, along a direction that changes all the time
    angle = draw.phase + np.cumsum(draw.rng.uniform(0.6 * np.pi, 1.4 * np.pi, len(t)))
    return _pose(len(t), x=0.042 * draw.speed * np.cos(angle), y=0.042 * draw.speed * np.sin(angle))


def _rock(t: np.ndarray, draw: Draw) -> Pose:
    return _pose(len(t), angle=0.45 * np.sin(_cycle(t, draw, 16)))


def _rise(t: np.ndarray, draw: Draw) -> Pose:
    return _pose(len(t), y=-draw.speed * 0.045 * t)


MOTIONS: dict[str, Callable[[np.ndarray, Draw], Pose]] = {
    "Bounce": _bounce,
    "Circle": _circle,
    "Fall": _fall,
    "Shake": _shake,
    "Slide": _slide,
    "Spin": _spin,
    "Swing": _swing,
    "Zoom": _zoom,
    "Rise": _rise,
    "Rock": _rock,
}
