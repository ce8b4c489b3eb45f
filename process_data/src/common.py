"""Shared by the preparation scripts: options of the extraction, settings of an earlier run, one process per core."""

import multiprocessing
import os
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from process_data.src.flow import METHODS, NO_FLOW
from process_data.src.video_io import silence_decoder
from utils.console import Progress, say, warn
from utils.errors import DataError, OptionError
from utils.files import read_json
from utils.parser import Parser
from utils.stop import end_with_parent

Task = Callable[..., str]  # returns why the video is left out, "" if it is not
Jobs = Mapping[str, tuple]  # arguments of the task by the video's name


def add_extraction_options(parser: Parser) -> None:
    """Add the options of how frames and flow are made."""
    add = parser.topic("method")
    add("--flow", choices=(*METHODS, NO_FLOW), default="tvl1", help="flow method; dis is some 300 times faster; none: "
        "no flow, for training with --second_view residual")
    add("--short_side", type=int, default=240, metavar="PIXELS", help="scale larger frames down to this short side "
        "(240 is UCF101's own; 0: never)")
    parser.topic("hardware")("--workers", type=int, default=os.cpu_count(), metavar="PROCESSES", help="processes "
                             "(default: one per core)")


def check_extraction_options(workers: int, short_side: int) -> None:
    """Raise an OptionError for values that cannot work."""
    if workers < 1:
        raise OptionError(f"--workers {workers}: give 1 or more")
    if short_side < 0 or 0 < short_side < 16:
        raise OptionError(f"--short_side {short_side}: give 16 or more pixels, or 0 for no scaling")


def require_writable(path: Path) -> None:
    """Raise an OptionError, before hours of work, if no file can be written at this path."""
    if path.is_dir():
        raise OptionError(f"{path} is a folder, but a file is to be written there: remove it or choose another path")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise OptionError(f"cannot write {path}: {above} is a file, not a folder; choose another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OptionError(f"cannot write {path}: no permission to write in {above}; choose another path")


def fingerprint(videos: Mapping[str, Path]) -> str:
    """Return a short text that changes when a video is added, removed, renamed or resized."""
    text = "\n".join(f"{name} {path.stat().st_size}" for name, path in videos.items())
    return f"{len(videos)} videos, {zlib.crc32(text.encode()):08x}"


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings that an earlier run has left, {} if there was none."""
    return read_json(path) if path.exists() else {}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the settings that differ as "flow (dis, now tvl1)", or "" if none does."""
    return ", ".join(f"{key} ({old.get(key)}, now {value})" for key, value in new.items() if old.get(key) != value)


def process(task: Task, jobs: Jobs, videos: Mapping[str, Path], workers: int, title: str) -> int:
    """Run a task on the videos that are not done yet, name those that it leaves out, and return their number.

    Args:
        jobs: the task's arguments for each of these videos.
        videos: all videos of the dataset.
    """
    if len(jobs) < len(videos):
        say(f"{len(videos) - len(jobs)} of {len(videos)} videos are done already")
    reasons = {}
    with Progress(len(jobs), title) as progress:
        for name, reason in _results(task, jobs, workers):
            reasons[name] = reason
            progress.step()
    left_out = sorted(name for name, reason in reasons.items() if reason)
    for name in left_out:
        warn(f"left out {videos[name]}: {reasons[name]}")
    if len(left_out) == len(videos):
        raise DataError(f"none of the {len(videos)} videos can be used: are they videos, and complete?")
    return len(left_out)


def _results(task: Task, jobs: Jobs, workers: int) -> Iterator[tuple[str, str]]:
    if workers <= 1:
        _start_worker()
        for name, job in jobs.items():
            yield name, task(*job)
        return
    context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    executor = ProcessPoolExecutor(min(workers, max(len(jobs), 1)), context, _start_worker)
    try:
        futures = {executor.submit(task, *job): name for name, job in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError("a worker process died (out of memory, or a file that crashes the decoder): finished videos "
                        "are kept, run again with fewer --workers to continue") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Set up this process for videos: one thread, a silent decoder, and if its parent ends, it ends."""
    cv2.setNumThreads(1)
    silence_decoder()
    if multiprocessing.parent_process() is not None:
        end_with_parent(signal.SIGKILL)
