"""One process per core over a list of videos."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from process_data.src.errors import PrepareError
from process_data.src.progress import Progress


def start_worker() -> None:
    """Settings of a worker process: one thread of its own, no decoder chatter, ends when its parent is gone."""
    cv2.setNumThreads(1)
    silence_decoder()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def silence_decoder() -> None:
    """Keep to itself what a broken file makes the decoder say; who reads it reports the file by name."""
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = "-8"
    cv2.utils.logging.setLogLevel(0)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def each(task: Callable[..., Any], jobs: dict[str, tuple], workers: int, title: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, task(*job)) for each job as it gets done, and say how far it is. One worker means this process.

    Raises PrepareError when a worker process dies.
    """
    with Progress(len(jobs), title) as progress:
        if workers <= 1:
            start_worker()
            for name, job in jobs.items():
                yield name, task(*job)
                progress.step()
            return
        context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
        executor = ProcessPoolExecutor(min(workers, max(len(jobs), 1)), context, start_worker)
        try:
            futures = {executor.submit(task, *job): name for name, job in jobs.items()}
            for future in as_completed(futures):
                yield futures[future], future.result()
                progress.step()
        except BrokenProcessPool as error:
            raise PrepareError("a worker process died (out of memory, or a file that crashes the decoder): videos done "
                               "are kept, run again with fewer --workers to continue") from error
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
