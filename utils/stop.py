"""Stop a run cleanly on SIGTERM or SIGUSR1, which SLURM can send ahead of a time limit.

A signal only sets a flag, which is checked after each step, where a checkpoint can be written.
"""

import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: unfinished, start again
WORKER_SECONDS = 60
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h

_received: list[int] = []


class StopRequested(Exception):
    """Ends a run that was asked to stop, after its work was saved."""


@contextmanager
def handle_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Call ``handler(number, frame)`` on SIGTERM and SIGUSR1 while the context is open."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def catch_signals() -> Iterator[None]:
    _received.clear()
    with handle_signals(lambda number, _: _received.append(number)):
        yield


def end_with_parent(number: int) -> None:
    """Receive this signal when the parent process ends, however it ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def outlive_signals() -> None:
    """Let a loader worker outlive a signal to its process group by a minute, so that training can finish its step.

    It ends at once with the training process, whose connections it holds: others would not notice the loss.
    """
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_SECONDS))


class StopFlag:
    """Stops all processes after the same step when one was asked to; a step late, so that none waits for others."""

    def __init__(self) -> None:
        self._flag: Any = None  # tensor
        self._exchange: Any = None  # torch.distributed.Work

    def poll(self) -> bool:
        """Return whether to stop; call this on all processes after every step."""
        from utils import distributed
        if distributed.world_size() == 1:
            return bool(_received)
        answer = False
        if self._exchange is not None:
            self._exchange.wait()
            answer = bool(self._flag)
        self._flag, self._exchange = distributed.start_sum(len(_received))
        return answer


def signal_name() -> str:
    return signal.Signals(_received[0]).name if _received else "a signal to another process"
