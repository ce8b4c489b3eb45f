"""Results as a table for readers and as JSON, with the machine they were measured on."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.measure import Result

HEAD = ("what", "size", "straightforward", "ours", "ratio", "goal", "peak memory", "x bound", "goal", "agreement")


def machine(device: torch.device) -> dict[str, str | int]:
    """What the numbers depend on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    found: dict[str, str | int] = {
        "cpu": name, "cores": os.cpu_count() or 0, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "numpy": np.__version__, "opencv": cv2.__version__, "device": str(device)}
    if hasattr(os, "getloadavg"):
        found["load at the start"] = f"{os.getloadavg()[0]:.2f}"
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})


def table(results: Sequence[Result]) -> str:
    """A Markdown table, one line a result, and below it the notes."""
    rows = [HEAD, ["---"] * len(HEAD), *(_cells(result) for result in results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    for result in results:
        if result.notes or result.bound_of:
            bound = [f"bound: {result.bound_of}, {seconds(result.bound)}"] if result.bound is not None else []
            notes = [f"{name} {_number(value)}" for name, value in result.notes.items()]
            lines.append(f"\n{result.row}, {result.size}: {'; '.join(bound + notes)}")
    return "\n".join(lines)


def _cells(result: Result) -> list[str]:
    goals = dict(result.goals)
    ratio_goal, bound_goal = goals.pop("ratio", ""), goals.pop("bound", "")
    memory = ""
    if result.plain_memory and result.ours_memory:
        share = result.plain_memory / result.ours_memory
        memory = f"{megabytes(result.plain_memory)} / {megabytes(result.ours_memory)} = {share:.3g}"
    if "memory" in goals:
        memory += f" (goal {goals.pop('memory')})"
    other = "; ".join(f"{name} {goal}" for name, goal in goals.items())
    return [result.row, result.size, seconds(result.plain), seconds(result.ours), f"{result.ratio:.2f}",
            "; ".join(filter(None, (ratio_goal, other))), memory,
            "" if result.times_bound is None else f"{result.times_bound:.2f}", bound_goal, result.agreement]


def seconds(value: float) -> str:
    """A time with its unit."""
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def megabytes(count: int) -> str:
    """A number of bytes in MB."""
    return f"{count / 1e6:.3g} MB"


def _number(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
