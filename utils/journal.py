"""The metrics of a run, written twice: TensorBoard scalars to look at, and metrics.jsonl to compute with."""

import json
import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from utils.files import naming, regular, replace

FILE = "metrics.jsonl"
FLUSH_SECONDS = 60.0


class Writer(Protocol):
    """Takes scalars."""

    def add_scalar(self, tag: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Scalars as TensorBoard shows them.

    tensorboardX's own writer has a thread for this: on a full disk that one ends, and who gives it more then waits for
    it for ever. Here an error of the disk comes to the caller.

    Args:
        folder: takes a new file of events. first_step: what earlier files say of this step and later is not shown.
            A step is the number of training steps done.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        folder.mkdir(exist_ok=True)
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file, self._flushed = RecordWriter(str(self._path)), time.monotonic()
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """One value; it is on the disk within a minute of steps."""
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flushed = time.monotonic()
            with naming(self._path):
                self._file.flush()

    def close(self) -> None:
        """Write out what is left."""
        with naming(self._path):
            self._file.close()

    def _write(self, **event: object) -> None:
        with naming(self._path):
            self._file.write(Event(wall_time=time.time(), **event).SerializeToString())


class Journal:
    """Takes the metrics of a run. A line of metrics.jsonl is a JSON object:

    {"kind": "steps", "title": "train", "epoch": 0, "done": 5, "values": {...}, "seconds": {...}}: means over the steps
    since the line before, of the main process, and seconds a step; "done" counts the run's training steps so far.
    {"kind": "epoch", "title": "train", "epoch": 0, "done": 12, "values": {...}}: means over the epoch and processes.
    {"kind": "mining", "epoch": 0, "done": 12, "values": {...}, ...}: of what an epoch has come to, or with "epoch": -1
    of the time before the first step; other kinds likewise.

    Args:
        writer: of TensorBoard; None for none. path: of metrics.jsonl; None for none.
    """

    def __init__(self, writer: Writer | None = None, path: Path | None = None) -> None:
        self._writer, self._path = writer, path

    def steps(self, title: str, epoch: int, done: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """Means since the line before, when ``done`` training steps are done."""
        self._scalars(title, values | {f"{name}_seconds": value for name, value in seconds.items()}, done)
        self._line(kind="steps", title=title, epoch=epoch, done=done, values=values, seconds=seconds)

    def epoch(self, title: str, epoch: int, iteration: int, means: dict[str, float]) -> None:
        """Means over an epoch, after which ``iteration`` training steps are done."""
        self._scalars(f"{title}_epoch", means, iteration)
        self._line(kind="epoch", title=title, epoch=epoch, done=iteration, values=means)

    def note(self, kind: str, epoch: int, iteration: int, values: dict[str, float], **more: object) -> None:
        """Values of a kind of their own, after ``iteration`` training steps. more: for metrics.jsonl alone."""
        self._scalars(kind, values, iteration)
        self._line(kind=kind, epoch=epoch, done=iteration, values=values, **more)

    def close(self) -> None:
        """Write out what is left."""
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, title: str, values: dict[str, float], step: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{title}/{name}", value, step)

    def _line(self, **record: object) -> None:
        if self._path is not None:
            with naming(self._path), open(self._path, "a", encoding="utf-8", opener=regular) as file:
                file.write(json.dumps(_finite(record)) + "\n")


def _finite(value: object) -> object:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_journal(folder: Path, epoch: int, iteration: int) -> Journal:
    """The journal of a run that stands at an epoch and a step; what it once wrote about later ones is taken out.

    Args:
        folder: of the run, with its ``img/``.
    """
    path = folder / FILE
    if path.exists():
        keep(path, lambda line: _is_past(line, epoch, iteration))
    return Journal(TensorBoard(folder / "img", iteration + 1), path)


def keep(path: Path, is_wanted: Callable[[str], bool]) -> None:
    """Leave only some lines of a file."""
    with open(path, encoding="utf-8", errors="replace", opener=regular) as file:
        lines = file.read().splitlines(keepends=True)
    wanted = [line for line in lines if is_wanted(line)]
    if len(wanted) < len(lines):
        replace(path, "".join(wanted).encode())


def _is_past(line: str, epoch: int, iteration: int) -> bool:
    try:
        record = json.loads(line)
        of_epoch, done = int(record["epoch"]), int(record["done"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return False  # cut short when the run was killed
    trained = record.get("kind") == "steps" and record.get("title") == "train"
    if of_epoch < 0:
        return iteration > 0
    return of_epoch < epoch or (of_epoch == epoch and trained and done <= iteration)
