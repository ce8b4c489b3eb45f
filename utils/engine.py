"""One epoch over a loader, for every script: progress on the console, metrics for the journal, means for the caller."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.console import say, shows_bars
from utils.distributed import is_main
from utils.journal import Journal
from utils.loader import batches
from utils.metrics import Meters

Step = Callable[[Any, int], dict[str, Tensor]]
AfterStep = Callable[[Any, dict[str, Tensor], bool], None]


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
              journal: Journal | None = None, iteration: int = 0, start: int = 0, meters: Meters | None = None,
              after_step: AfterStep | None = None, trains: bool = True) -> tuple[dict[str, float], int]:
    """Call ``step`` on every batch of a loader.

    Args:
        step: called with a batch and the iteration's number; returns 0-d tensors by name. It moves what it needs to
            the device. A name may be absent in some steps, and counts only where it is there.
        title: for console and journal ("train"). epoch: 0-based; the loader's sampler is told, too.
        print_freq: steps between progress lines. device: where the meters stay.
        journal: takes the metrics; of the main process alone. iteration: the first step's number, over all epochs.
        start: batches of the epoch that are done already, and counted in ``meters``.
        trains: whether these are training steps, which alone are counted.
        after_step: called with each batch, its values, and whether the values were read, so that the device is idle.

    Returns:
        The means over the epoch and all processes, and the next iteration's number.
    """
    journal = journal if journal is not None and is_main() else Journal()
    meters, clock = meters or Meters(device), Clock()
    bar = _bar(batches(loader, epoch, start), f"{title} {epoch}", start, len(loader))
    for number, batch in enumerate(_timed(bar, clock), start):
        values = step(batch, iteration)
        iteration += trains
        meters.add(values)
        clock.step_done()
        read = number % print_freq == 0 or number == len(loader) - 1
        if read:
            means, seconds = meters.window(), clock.read()
            _report(bar, f"{title} epoch {epoch} [{number + 1}/{len(loader)}]", means, seconds)
            journal.steps(title, epoch, iteration, means, seconds)
        if after_step is not None:
            after_step(batch, values, read)
    bar.close()
    means = meters.means()
    say(f"{title} epoch {epoch} mean: {text_of(means)}")
    journal.epoch(title, epoch, iteration, means)
    return means, iteration


def _bar(steps: Iterator[Any], title: str, start: int, total: int) -> tqdm:
    return tqdm(steps, desc=title, initial=start, total=total, disable=not shows_bars(), leave=False,
                dynamic_ncols=True)


def _timed(steps: tqdm, clock: Clock) -> Iterator[Any]:
    for batch in steps:
        clock.data_ready()
        yield batch


def _report(bar: tqdm, head: str, values: dict[str, float], times: dict[str, float]) -> None:
    text = f"{text_of(values)}  data {times['data']:.3f}s  step {times['step']:.3f}s"
    bar.set_postfix_str(text, refresh=False)
    say(f"{head}  {text}", terminal=bar.disable)


def text_of(values: dict[str, float]) -> str:
    """Named values in one line, four digits each."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
