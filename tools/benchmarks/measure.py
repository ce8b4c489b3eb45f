"""Time two versions of the same work in turn, beside its unavoidable part, and print the results as a table."""

import ctypes
import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

Work = Callable[[], Any]
THREADS = torch.get_num_threads()
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Case:
    """One line of the table; each version is called often and does the same each time."""

    row: str
    size: str
    plain: Work  # the straightforward version
    ours: Work
    agree: Callable[[Any, Any], str]  # of both results: in words, how well they agree; or raises Disagreement
    bound: Work | None = None  # the unavoidable part alone
    bound_of: str = ""  # what that part is
    clock: str = "wall"  # or "cpu": seconds of a core, on one thread, as in a loader's process
    units: int = 1  # of work in one call
    notes: Mapping[str, float] = field(default_factory=dict)  # more measurements by name


@dataclass
class Result:
    """What was measured: median seconds a unit, and bytes at the peak (None where the system does not tell)."""

    row: str
    size: str
    plain: float
    ours: float
    ratio: float
    bound: float | None
    times_bound: float | None
    bound_of: str
    plain_memory: int | None
    ours_memory: int | None
    agreement: str
    clock: str
    rounds: int
    notes: dict[str, float]


class Disagreement(AssertionError):
    """Both versions do not give the same result."""


def measure(case: Case, rounds: int, device: torch.device) -> Result:
    """Check that both versions agree, time them in turn after a warm-up, and measure the memory of one call of each."""
    works = {"plain": case.plain, "ours": case.ours} | ({"bound": case.bound} if case.bound else {})
    times: dict[str, list[float]] = {name: [] for name in works}
    torch.set_num_threads(1 if case.clock == "cpu" else THREADS)
    cv2.setNumThreads(torch.get_num_threads())
    agreement = case.agree(case.plain(), case.ours())
    for _ in range(rounds + 1):
        for name, work in works.items():
            times[name].append(clocked(work, case.clock, device) / case.units)
    plain_memory, ours_memory = (peak_memory(work, device) for work in (case.plain, case.ours))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    plain, ours, bound = medians["plain"], medians["ours"], medians.get("bound")
    return Result(case.row, case.size, plain, ours, plain / ours, bound, ours / bound if bound else None,
                  case.bound_of, plain_memory, ours_memory, agreement, case.clock, rounds, dict(case.notes))


def clocked(work: Work, clock: str, device: torch.device) -> float:
    """Return the seconds that a call takes; on a GPU until its last kernel is done."""
    now = CLOCKS[clock]
    gc.collect()
    start = now()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - start


def peak_memory(work: Work, device: torch.device) -> int | None:
    """Return the bytes that a call adds at its peak, None where the system does not tell."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory goes back to the system, so that it counts again
        CLEAR_REFS.write_text("5")  # resets the peak
        before = _resident("VmRSS")
    except (OSError, AttributeError, KeyError):
        return None
    result = work()
    peak = _resident("VmHWM") - before
    del result
    return peak


def _resident(name: str) -> int:
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(fields[name].split()[0]) * 1024


def machine(device: torch.device) -> dict[str, str | int]:
    """Describe what the numbers depend on: processor, threads, versions, load."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return {"cpu": model[1] if model else platform.machine(), "cores": os.cpu_count() or 0, "threads": THREADS,
            "torch": torch.__version__, "numpy": np.__version__, "opencv": cv2.__version__,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "load at the start": f"{os.getloadavg()[0]:.2f}"}


def markdown(results: Sequence[Result]) -> str:
    """Format the results as a Markdown table, one line a result, with bounds and notes below it."""
    head = ("what", "size", "straightforward", "ours", "ratio", "x bound", "peak memory", "agreement")
    rows = [head, ["---"] * len(head), *map(_cells, results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    for result in results:
        notes = [f"{name} {value:.4g}" for name, value in result.notes.items()]
        bound = [] if result.bound is None else [f"bound: {result.bound_of}, {_seconds(result.bound)}"]
        if bound or notes:
            lines.append(f"\n{result.row}, {result.size}: {'; '.join(bound + notes)}")
    return "\n".join(lines)


def _cells(result: Result) -> list[str]:
    memory = ""
    if result.plain_memory and result.ours_memory:
        memory = (f"{result.plain_memory / 1e6:.3g} / {result.ours_memory / 1e6:.3g} MB = "
                  f"{result.plain_memory / result.ours_memory:.3g}")
    times_bound = "" if result.times_bound is None else f"{result.times_bound:.2f}"
    return [result.row, result.size, _seconds(result.plain), _seconds(result.ours), f"{result.ratio:.2f}", times_bound,
            memory, result.agreement]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
