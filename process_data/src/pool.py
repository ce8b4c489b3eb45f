"""One process per core over a list of videos."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2

from utils.console import Progress, say, warn
from utils.errors import DataError
from utils.stop import end_with_parent

Task = Callable[..., str]  # returns why the video is left out, "" if it is not
Jobs = Mapping[str, tuple]  # arguments of the task by the video's name


def process(task: Task, jobs: Jobs, videos: Mapping[str, Path], workers: int, title: str) -> int:
    """Run a task on the videos that are not done yet, and name those it leaves out, of all; return their number."""
    if len(jobs) < len(videos):
        say(f"{len(videos) - len(jobs)} of {len(videos)} videos are done already")
    left_out = {}
    with Progress(len(jobs), title) as progress:
        for name, reason in _results(task, jobs, workers):
            if reason:
                left_out[name] = reason
            progress.step()
    for name, reason in sorted(left_out.items()):
        warn(f"left out {videos[name]}: {reason}")
    if len(left_out) == len(videos):
        raise DataError(f"none of the {len(videos)} videos can be used: are they videos, and complete?")
    return len(left_out)


def _results(task: Task, jobs: Jobs, workers: int) -> Iterator[tuple[str, str]]:
    if workers <= 1:
        start_worker()
        for name, job in jobs.items():
            yield name, task(*job)
        return
    context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    executor = ProcessPoolExecutor(min(workers, max(len(jobs), 1)), context, start_worker)
    try:
        futures = {executor.submit(task, *job): name for name, job in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError("a worker process died (out of memory, or a file that crashes the decoder): finished videos "
                        "are kept, run again with fewer --workers to continue") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def start_worker() -> None:
    """Set up a worker process: one thread, a silent decoder, and the end of its parent is its own."""
    cv2.setNumThreads(1)
    silence_decoder()
    if multiprocessing.parent_process() is not None:
        end_with_parent(signal.SIGKILL)


def silence_decoder() -> None:
    """Hide FFmpeg's messages about broken files, which are reported by name."""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    cv2.utils.logging.setLogLevel(0)
