"""Progress on the console; metrics as TensorBoard scalars and, machine-readable, in metrics.jsonl."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.console import PERIOD, duration, say, shows_bars
from utils.files import naming, write_text
from utils.metrics import Meters, Values

Means = dict[str, float]
FILE = "metrics.jsonl"


class MetricsLogger:
    """Logs metrics on the main process. Each line of metrics.jsonl is a JSON object:

    {"kind": "steps", "title": "train", "epoch": 0, "done": 5, "values": {...}, "seconds": {...}}: the main process's
    means and seconds per step since the previous line; "done" counts the run's training steps so far.
    {"kind": "epoch", "title": "train", "epoch": 0, "done": 12, "values": {...}}: means over an epoch and all processes.
    {"kind": "mining", "epoch": 0, "done": 12, "values": {...}}, and others: after an epoch, -1 before the first step.

    Lines that an earlier start logged for later steps are removed. Without a run folder, nothing is logged.
    """

    def __init__(self, folder: Path | None = None, epoch: int = 0, iteration: int = 0) -> None:
        self.folder = folder
        if folder is not None:
            if (folder / FILE).exists():
                lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                kept = [line for line in lines if _is_past(line, epoch, iteration)]
                if len(kept) < len(lines):
                    write_text(folder / FILE, "".join(kept))
            (folder / "img").mkdir(exist_ok=True)
            # Not SummaryWriter: its thread dies on a full disk, after which the caller waits forever.
            self._events = EventsWriter(str(folder / "img/events"), f".{os.getpid()}")
            self._write_event(step=iteration + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, kind: str, epoch: int, done: int, values: dict[str, float], *, title: str = "",
            seconds: dict[str, float] | None = None) -> None:
        if self.folder is None:
            return
        record = {"kind": kind, **({"title": title} if title else {}), "epoch": epoch, "done": done, "values": values,
                  **({"seconds": seconds} if seconds else {})}
        path = self.folder / FILE
        with naming(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(record)) + "\n")
        if kind == "steps" and title != "train":
            return  # evaluation steps have no training time: TensorBoard gets only their mean
        group = {"steps": title, "epoch": f"{title}_epoch"}.get(kind, kind)
        scalars = {name: value for name, value in values.items() if (kind, name) != ("epoch", "lr")}  # in the steps
        scalars |= {f"{name}_seconds": value for name, value in (seconds or {}).items()}
        self._write_event(step=done, summary=Summary(value=[
            Summary.Value(tag=f"{group}/{name}", simple_value=value) for name, value in scalars.items()]))

    def _write_event(self, **event: object) -> None:
        assert self.folder is not None
        with naming(self.folder / "img/events"):
            self._events.write_event(Event(wall_time=time.time(), **event))
            self._events.flush()

    def close(self) -> None:
        if self.folder is not None:
            self._events.close()


def _finite(value: object) -> object:
    """Replace NaN and infinity, which JSON lacks, with null."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_past(line: str, epoch: int, iteration: int) -> bool:
    try:
        record = json.loads(line)
        of_epoch, done = int(record["epoch"]), int(record["done"])
    except (ValueError, KeyError, TypeError):
        return False  # cut short when the run was killed
    trained = record.get("kind") == "steps" and record.get("title") == "train"
    if of_epoch < 0:
        return iteration > 0
    return of_epoch < epoch or (of_epoch == epoch and trained and done <= iteration)


class EpochLog:
    """The progress bar, printed lines and logged means of one pass over a loader."""

    def __init__(self, loader: DataLoader, title: str, epoch: int, meters: Meters, print_freq: int,
                 logger: MetricsLogger, health: Callable[[int], str] = lambda _: "") -> None:
        self.title, self.epoch, self.meters, self.print_freq, self.logger = title, epoch, meters, print_freq, logger
        self._health = health
        self._total, self._done, self._steps, self._waiting = len(loader), 0, 0, 0.0
        self._bar = tqdm(desc=f"{title} {epoch}", total=self._total, disable=not shows_bars(), leave=False,
                         dynamic_ncols=True)
        self._start = self._mark = time.perf_counter()

    def timed(self, steps: Iterator[Any], start: int = 0) -> Iterator[Any]:
        """Yield the batches, numbered from ``start``, and time the wait for each."""
        self._done = start
        self._bar.update(start)
        for batch in steps:
            self._waiting += time.perf_counter() - self._mark
            yield batch

    def add(self, values: Values, iteration: int, steps_left: int = 0, weight: int = 1) -> bool:
        """Add a step of this weight; return whether a line was printed, for which the device was synchronised.

        That is at the first step, every ``print_freq`` steps or half minute, and at the last.
        """
        self.meters.add(values, weight)
        number, self._done, self._steps = self._done, self._done + 1, self._steps + 1
        self._bar.update()
        self._mark = time.perf_counter()
        if number % self.print_freq and self._done < self._total and self._mark - self._start < PERIOD:
            return False
        means = self.meters.window()  # waits for the device
        now = time.perf_counter()
        seconds = {"data": self._waiting / self._steps, "step": (now - self._start) / self._steps}
        self._start, self._mark, self._waiting, self._steps = now, now, 0.0, 0
        text = f"{brief(means, self._health(iteration))}  data {seconds['data']:.2f} s  step {seconds['step']:.2f} s"
        text += f"  {duration(steps_left * seconds['step'])} left" if steps_left else ""
        self._bar.set_postfix_str(text, refresh=False)
        say(f"{self.title} epoch {self.epoch} [{self._done}/{self._total}]  {text}", terminal=self._bar.disable)
        self.logger.log("steps", self.epoch, iteration, means, title=self.title, seconds=seconds)
        return True

    def close(self, iteration: int) -> Means:
        """Print, log and return the means over the pass and all processes."""
        self._bar.close()
        means = self.meters.means()
        text = brief(means, self._health(iteration))
        if self.logger.folder is None:  # nothing is logged: print all
            text = "  ".join(f"{name} {value:.4g}" for name, value in means.items())
        say(f"{self.title} epoch {self.epoch} mean: {text}")
        self.logger.log("epoch", self.epoch, iteration, means, title=self.title)
        return means


def brief(values: Means, health: str) -> str:
    top1 = f"top-1 {100 * values['top1']:.0f} %" if "top1" in values else ""
    return "  ".join(filter(None, (f"loss {values['loss']:.3g}", top1, health)))
