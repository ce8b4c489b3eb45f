"""Our code beside straightforward versions of the same work: time and bound of each. See `__main__`."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import cv2
import torch

Work = Callable[[], Any]
THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Sizes:
    """Sizes to measure; by default the published settings, as far as two CPU cores allow."""

    queues: tuple[int, ...] = (2048, 16384)  # K of the cascade; also 1024 ... 262144, to see it grow
    batches: tuple[int, ...] = (16, 32)  # B of the cascade
    stage: int = 7
    ratio: float = 0.5
    topk: int = 5
    height: int = 240  # of stored frames
    width: int = 320
    frames: int = 32  # of a clip
    img_dim: int = 128  # side of a view
    samples: int = 8  # in a call of the loader rows
    length: int = 180  # frames of the loader's video; UCF101's mean is 186
    batch: int = 2  # clips of a training step
    queue: int = 2048  # of the training step
    steps: int = 20  # whose losses are compared
    precision: str = ""  # of a second measurement of step and evaluation (default: fp16 on a GPU, none on a CPU)
    compile: int = 0  # 1: also measure a compiled step, after some five minutes of compiling
    videos: int = 3  # in an evaluation
    video_frames: int = 120  # per video
    eval_batch: int = 8  # windows in a batch
    classes: int = 101
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass
class Case:
    """One row of the table; each version is called repeatedly and must do the same work each time."""

    row: str
    size: str
    plain: Work  # the straightforward version
    ours: Work
    agree: Callable[[Any, Any], str]  # describes how well the results agree, or raises AssertionError
    bound: Work  # lower bound: the unavoidable part alone
    bound_of: str  # description of that part
    clock: str = "wall"  # or "cpu": CPU seconds on one thread, as in a loader process
    units: int = 1  # units of work per call


def measure(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    """Check that both versions agree, and time them alternately: median seconds per unit after a warm-up."""
    works = {"plain": case.plain, "ours": case.ours, "bound": case.bound}
    times: dict[str, list[float]] = {name: [] for name in works}
    now = time.process_time if case.clock == "cpu" else time.perf_counter
    torch.set_num_threads(1 if case.clock == "cpu" else THREADS)
    cv2.setNumThreads(torch.get_num_threads())
    agreement = case.agree(case.plain(), case.ours())
    for _ in range(rounds + 1):
        for name, work in works.items():
            gc.collect()
            start = now()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # the kernels that it launched
            times[name].append((now() - start) / case.units)
    plain, ours, bound = (median(values[1:]) for values in times.values())
    return {"row": case.row, "size": case.size, "plain": plain, "ours": ours, "bound": bound, "ratio": plain / ours,
            "times_bound": ours / bound, "bound_of": case.bound_of, "agreement": agreement, "clock": case.clock,
            "rounds": rounds}
