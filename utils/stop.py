"""Requests to stop a training: SIGTERM, and SIGUSR1, which SLURM can send ahead of a time limit.

They are remembered, and answered between two steps, where a checkpoint can be written.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from utils import distributed

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: not done, start again
WORKER_SECONDS = 60
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h

_received: list[int] = []


class StopRequested(Exception):
    """A training ends here because it was asked to; what it has done is saved."""


def leave_early() -> None:
    """From now on SIGUSR1, before :func:`listening`, ends the program with :data:`EXIT_CODE`: it can be started again.

    SIGTERM still ends it at once, wherever it waits.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, _leave)


def _leave(number: int, frame: object) -> None:
    os.write(2, b"stopping on SIGUSR1 before any step: there is nothing to save\n")
    os._exit(EXIT_CODE)


@contextmanager
def listening() -> Iterator[None]:
    """Remember the signals meanwhile, instead of ending at once. Only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    before = {number: signal.signal(number, lambda number, _: _received.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(number: int) -> None:
    """Have this process get a signal when the one that started it ends in any way; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def outlive(worker: int) -> None:
    """For a loader's worker, to whose whole process group a signal may go: the training first ends its step.

    SIGTERM ends the worker after a minute, in case nobody else does. The end of the training's process ends it at once:
    it holds that one's connections, so that other processes would not notice.
    """
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_SECONDS))


class Vote:
    """Whether any process was asked to stop; all learn of it after the same step, and none waits for it.

    What is asked is exchanged while the next step runs, so the answer is one step old.
    """

    def __init__(self) -> None:
        self._asked: torch.Tensor | None = None
        self._exchange: dist.Work | None = None

    def poll(self) -> bool:
        """To be called by all processes after every step."""
        if distributed.world_size() == 1:
            return bool(_received)
        answer = False
        if self._exchange is not None and self._asked is not None:
            self._exchange.wait()
            answer = bool(self._asked)
        self._asked = torch.tensor(len(_received))
        self._exchange = dist.all_reduce(self._asked, group=distributed.host_group(), async_op=True)
        return answer


def signal_name() -> str:
    """The first signal of this process, or "a signal to another process"."""
    return signal.Signals(_received[0]).name if _received else "a signal to another process"
