"""Time two versions of the same work and its lower bound, and format the results as a table."""

import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

Work = Callable[[], Any]
THREADS = torch.get_num_threads()
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass
class Case:
    """One row of the table; each version is called repeatedly and must do the same work each time."""

    row: str
    size: str
    plain: Work  # the straightforward version
    ours: Work
    agree: Callable[[Any, Any], str]  # describes how well the results agree, or raises Disagreement
    bound: Work | None = None  # lower bound: the unavoidable part alone
    bound_of: str = ""  # description of that part
    clock: str = "wall"  # or "cpu": CPU seconds on one thread, as in a loader process
    units: int = 1  # units of work per call


class Disagreement(AssertionError):
    """The two versions give different results."""


def measure(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    """Check that both versions agree, and time them alternately after a warm-up.

    Returns:
        The fields of the case, and median seconds per unit of "plain", "ours" and "bound" (None without one).
    """
    works = {"plain": case.plain, "ours": case.ours} | ({"bound": case.bound} if case.bound else {})
    times: dict[str, list[float]] = {name: [] for name in works}
    torch.set_num_threads(1 if case.clock == "cpu" else THREADS)
    cv2.setNumThreads(torch.get_num_threads())
    agreement = case.agree(case.plain(), case.ours())
    for _ in range(rounds + 1):
        for name, work in works.items():
            times[name].append(clocked(work, case.clock, device) / case.units)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    bound = medians.get("bound")
    return {"row": case.row, "size": case.size, **medians, "ratio": medians["plain"] / medians["ours"],
            "bound": bound, "times_bound": medians["ours"] / bound if bound else None, "bound_of": case.bound_of,
            "agreement": agreement, "clock": case.clock, "rounds": rounds}


def clocked(work: Work, clock: str, device: torch.device) -> float:
    """Return the seconds of a call, including the GPU kernels it launches."""
    now = CLOCKS[clock]
    gc.collect()
    start = now()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - start


def machine(device: torch.device) -> dict[str, str | int]:
    """Describe the machine: processor, threads, versions, load."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {"cpu": model[1] if model else platform.machine(), "cores": os.cpu_count() or 0, "threads": THREADS,
            "torch": torch.__version__, "numpy": np.__version__, "opencv": cv2.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "load at the start": f"{os.getloadavg()[0]:.2f}"}


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Format the results as a Markdown table, one line a result, with the bounds below it."""
    lines = ["| what | size | straightforward | ours | ratio | x bound | agreement |", "|---" * 7 + "|"]
    bounds = []
    for found in results:
        times_bound = ""
        if found["bound"] is not None:
            times_bound = f"{found['times_bound']:.2f}"
            bounds.append(f"\n{found['row']}, {found['size']}: bound: {found['bound_of']}, {_seconds(found['bound'])}")
        lines.append(f"| {found['row']} | {found['size']} | {_seconds(found['plain'])} | {_seconds(found['ours'])} | "
                     f"{found['ratio']:.2f} | {times_bound} | {found['agreement']} |")
    return "\n".join(lines + bounds)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
