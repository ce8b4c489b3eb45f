"""One epoch over a loader, for every script: progress on the console, scalars for TensorBoard, means for the caller."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.console import say
from utils.distributed import is_main
from utils.metrics import Meters

Step = Callable[[Any, int], dict[str, Tensor]]


class Writer(Protocol):
    """What is used of a TensorBoard SummaryWriter."""

    def add_scalar(self, tag: str, value: float, step: int) -> None: ...


class Clock:
    """Seconds spent waiting for data, and in all, since the last reading."""

    def __init__(self) -> None:
        self.start = self.mark = time.perf_counter()
        self.waiting, self.steps = 0.0, 0

    def data_ready(self) -> None:
        """The next batch has arrived."""
        self.waiting += time.perf_counter() - self.mark

    def step_done(self) -> None:
        """The step has been handed to the device."""
        self.steps += 1
        self.mark = time.perf_counter()

    def read(self) -> dict[str, float]:
        """Mean ``data`` and ``step`` seconds since the last reading. On a GPU, right after reading the meters."""
        now = time.perf_counter()
        result = {"data": self.waiting / self.steps, "step": (now - self.start) / self.steps}
        self.start = self.mark = now
        self.waiting, self.steps = 0.0, 0
        return result


def run_epoch(loader: DataLoader, step: Step, *, title: str, epoch: int, print_freq: int, device: torch.device,
              writer: Writer | None = None, iteration: int = 0) -> tuple[dict[str, float], int]:
    """Call ``step`` on every batch of a loader.

    Args:
        step: called with a batch and the iteration's number; returns 0-d tensors by name. It moves what it needs to
            the device. A name may be absent in some steps, and counts only where it is there.
        title: for the console and TensorBoard ("train"). epoch: 0-based, also told to the loader's sampler.
        print_freq: steps between progress lines. device: where the meters stay.
        iteration: the first step's number, counted over epochs.

    Returns:
        The means over the epoch and all processes, and the next iteration's number.
    """
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    meters, clock = Meters(device), Clock()
    bar = _bar(loader, f"{title} {epoch}")
    for number, batch in enumerate(_timed(bar, clock)):
        meters.add(step(batch, iteration))
        clock.step_done()
        if number % print_freq == 0 or number == len(loader) - 1:
            values = meters.window()
            times = clock.read()
            _report(bar, f"{title} epoch {epoch} [{number + 1}/{len(loader)}]", values, times)
            _write(writer, title, values | {"data_seconds": times["data"], "step_seconds": times["step"]}, iteration)
        iteration += 1
    bar.close()
    means = meters.means()
    say(f"{title} epoch {epoch} mean: {_text(means)}")
    _write(writer, f"{title}_epoch", means, epoch)
    return means, iteration


def _bar(loader: DataLoader, title: str) -> tqdm:
    shown = is_main() and sys.stderr.isatty()
    return tqdm(loader, desc=title, disable=not shown, leave=False, dynamic_ncols=True)


def _timed(batches: tqdm, clock: Clock) -> Iterator[Any]:
    for batch in batches:
        clock.data_ready()
        yield batch


def _report(bar: tqdm, head: str, values: dict[str, float], times: dict[str, float]) -> None:
    text = f"{_text(values)}  data {times['data']:.3f}s  step {times['step']:.3f}s"
    bar.set_postfix_str(text, refresh=False)
    say(f"{head}  {text}", terminal=bar.disable)


def _write(writer: Writer | None, title: str, values: dict[str, float], step: int) -> None:
    if writer is not None and is_main():
        for name, value in values.items():
            writer.add_scalar(f"{title}/{name}", value, step)


def _text(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
