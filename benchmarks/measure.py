"""Two ways of doing the same work, timed in turn in one process, with the time of the unavoidable part alone."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], Any]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Case:
    """One line of the table.

    Args:
        row, size: what is measured, and how large. plain, ours: both ways; called often, each time doing the same.
        agree: of both results: says in words how well they agree, or raises `Disagreement`.
        bound: the unavoidable part alone; bound_of: what that is. core: the part of ours that the bound is for, where
            that is not all of it. once: both ways for one unit of several, for the peak memory.
        clock: "wall", or "cpu" for seconds of a core whatever else the machine does. units: of work in one call.
        goals: goal in words by measure ("ratio", "bound", "memory"). notes: more measurements, by name.
    """

    row: str
    size: str
    plain: Work
    ours: Work
    agree: Callable[[Any, Any], str]
    bound: Work | None = None
    bound_of: str = ""
    core: Work | None = None
    once: tuple[Work, Work] | None = None
    clock: str = "wall"
    units: int = 1
    goals: dict[str, str] = field(default_factory=dict)
    notes: Mapping[str, float | str | None] = field(default_factory=dict)


@dataclass
class Result:
    """What was measured. Times in seconds a unit, medians over rounds; memory in bytes, None where it is not known."""

    row: str
    size: str
    plain: float
    ours: float
    ratio: float
    bound: float | None = None
    times_bound: float | None = None
    bound_of: str = ""
    plain_memory: int | None = None
    ours_memory: int | None = None
    agreement: str = ""
    clock: str = "wall"
    rounds: int = 0
    goals: dict[str, str] = field(default_factory=dict)
    notes: Mapping[str, float | str | None] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


class Disagreement(AssertionError):
    """Both ways do not give the same result."""


def close(plain: torch.Tensor, ours: torch.Tensor, tolerance: float, what: str) -> str:
    """Say how far apart two tensors are at most, or raise `Disagreement` where that is beyond `tolerance`."""
    apart = float((plain.double() - ours.double()).abs().max())
    if plain.shape != ours.shape or not apart <= tolerance:
        raise Disagreement(f"{what}: {apart:.3g} apart, more than {tolerance:g} ({tuple(plain.shape)} and "
                           f"{tuple(ours.shape)})")
    return f"{what} within {tolerance:g} ({apart:.2g})"


def same(plain: Any, ours: Any) -> str:
    """Say that two values are equal, or raise `Disagreement`."""
    if not (torch.equal(plain, ours) if isinstance(plain, torch.Tensor) else plain == ours):
        raise Disagreement("the results differ")
    return "equal"


def measure(case: Case, rounds: int, device: torch.device) -> Result:
    """Check that both ways agree, then time them in turn, and measure the memory of one call of each."""
    agreement = case.agree(case.plain(), case.ours())
    works = {"plain": case.plain, "ours": case.ours}
    works |= {name: work for name, work in (("bound", case.bound), ("core", case.core)) if work is not None}
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):  # the first one only warms up
        for name, work in works.items():
            taken = clocked(work, case.clock, device) / case.units
            if turn:
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = statistics.median(p / o for p, o in zip(times["plain"], times["ours"], strict=True))
    result = Result(case.row, case.size, medians["plain"], medians["ours"], ratio, agreement=agreement,
                    clock=case.clock, rounds=rounds, goals=case.goals, notes=case.notes, bound_of=case.bound_of)
    if case.bound is not None:
        core = times["core" if case.core else "ours"]
        result.bound = medians["bound"]
        result.times_bound = statistics.median(c / b for c, b in zip(core, times["bound"], strict=True))
    result.plain_memory, result.ours_memory = (peak_memory(work, device) for work in case.once or
                                               (case.plain, case.ours))
    return result


def clocked(work: Work, clock: str, device: torch.device) -> float:
    """Seconds that a call takes; on a GPU until its last kernel is done."""
    now = CLOCKS[clock]
    gc.collect()
    start = now()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - start


def peak_memory(work: Work, device: torch.device) -> int | None:
    """Bytes that a call takes at its peak, beyond what was there before; None where the system does not say."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back to the system, so it counts again
        CLEAR_REFS.write_text("5")  # the peak starts from now
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
