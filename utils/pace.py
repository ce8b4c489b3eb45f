"""How long a training will take, told once, when its first steps have been timed."""

import time
from collections.abc import Callable

from utils.console import say

ENOUGH = 5  # timed steps


class Pace:
    """Times steps between moments when the device is idle anyway, so that nothing waits for it.

    Args:
        steps: that are left to train. warm_up: first steps that are not like the others, and not timed: kernels are
            chosen and compiled, or a queue is filled. done: before this start, of all steps. clock, now: seconds, and
            seconds since 1970.
    """

    def __init__(self, steps: int, warm_up: int = 1, done: int = 0, *, clock: Callable[[], float] = time.perf_counter,
                 now: Callable[[], float] = time.time) -> None:
        self._total, self._warm_up, self._clock, self._now = done + steps, done + warm_up, clock, now
        self._mark: float | None = None  # when the last timed window ended
        self._done = self._timed = 0
        self._seconds = 0.0
        self._told = False

    def pause(self) -> None:
        """What comes now is no step: a validation, a checkpoint."""
        self._mark = None

    def tell(self, done: int) -> None:
        """Say the line of :meth:`read`."""
        line = self.read(done)
        if line:
            say(line)

    def read(self, done: int) -> str:
        """The device is idle, and ``done`` steps in all are done; the line to say now, "" for none."""
        if self._told:
            return ""
        now = self._clock()
        if self._mark is not None:
            self._seconds += now - self._mark
            self._timed += done - self._done
        self._mark = now if done >= self._warm_up else None
        self._done = done
        left = self._total - done
        self._told = self._timed >= ENOUGH
        if not self._told or left < 1:
            return ""
        step = self._seconds / self._timed
        end = time.strftime("%a %d %b, %H:%M", time.localtime(self._now() + left * step))
        return (f"{step:.3g} s a step: about {duration(left * step)} for the {left} steps left, until {end} "
                "(validations and checkpoints come on top)")


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 12 min, 3 h 20 min, 2 days 4 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"
