"""Shared by the preparation scripts: options of the extraction, settings of an earlier run, one process per core."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from dataset.jpeg import MAX_BYTES
from process_data.src.flow import METHODS, NO_FLOW
from process_data.src.video_io import Timing, VideoError, silence_decoder
from utils.console import Progress, say, warn
from utils.errors import DataError, OptionError
from utils.files import read_json
from utils.launch import allotted_cores
from utils.parser import Parser
from utils.stop import end_with_parent

PIECE = 1 << 16  # bytes


class Outcome(NamedTuple):
    """What there is to say of a video, each "" if there is nothing."""

    left_out: str = ""  # why it is not used
    damage: str = ""  # what is wrong though it is used
    rate: str = ""  # what is odd about its frame rate


Task = Callable[..., Outcome]
Jobs = Mapping[str, tuple]  # arguments of the task by the video's name


def add_extraction_options(parser: Parser) -> None:
    """Add the options of how frames and flow are made."""
    add = parser.topic("method")
    add("--flow", choices=(*METHODS, NO_FLOW), default="tvl1", help="flow method; dis is some 300 times faster; none: "
        "no flow, for training with --second_view residual")
    add("--short_side", type=int, default=240, metavar="PIXELS", help="scale larger frames down to this short side "
        "(240 is UCF101's own; 0: never)")
    add("--strict", action="store_true", help="leave out videos that give over 5 percent fewer frames than their files "
        "promise; without it, they are named and used")
    parser.topic("hardware")("--workers", type=int, default=allotted_cores(), metavar="PROCESSES", help="processes "
                             "(default: one per core that this process may use)")


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


def fingerprint(path: Path) -> str:
    """Return a short text that tells a file from others wherever it lies, by its size and three pieces of it."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with suppress(OSError), open(path, "rb") as file:  # one that cannot be read is left out later, by name
        for place in (0, size // 2, max(0, size - PIECE)):
            file.seek(place)
            found.update(file.read(PIECE))
    return found.hexdigest()[:32]


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
    left_out, rates = 0, {}
    with Progress(len(jobs), title) as progress:
        for name, outcome in _results(task, jobs, workers):
            left_out += bool(outcome.left_out)
            if outcome.left_out:  # said at once: a run may be stopped before its end
                warn(f"left out {videos[name]}: {outcome.left_out}")
            elif outcome.damage:
                warn(f"{videos[name]}: {outcome.damage}")
            if outcome.rate:
                rates[name] = f"{videos[name]} ({outcome.rate})"
            progress.step()
    if rates:
        examples = ", ".join(rates[name] for name in sorted(rates)[:3])
        warn(f"{len(rates)} of {len(jobs)} videos have a frame rate that varies or is implausible, such as {examples}; "
             "their frames are kept as they come")
    if left_out == len(videos):
        raise DataError(f"none of the {len(videos)} videos can be used: are they videos, and complete?")
    return left_out


def outcome_of(timing: Timing, strict: bool) -> Outcome:
    """Judge a video that was read to its end. With ``strict``, raise a VideoError if frames are missing."""
    missing = timing.missing()
    if missing and strict:
        raise VideoError(missing)
    damage = missing and f"{missing}: was it copied whole, or cut without encoding? --strict leaves it out"
    if not missing and timing.decoded > MAX_BYTES:
        damage = (f"its frames take {timing.decoded / 2**30:.1f} GiB when decoded, which makes evaluation slow: cut it "
                  "into several, or give a smaller --short_side")
    return Outcome(damage=damage, rate=timing.odd_rate())


def _results(task: Task, jobs: Jobs, workers: int) -> Iterator[tuple[str, Outcome]]:
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
