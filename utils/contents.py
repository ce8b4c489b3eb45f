"""What the parts of a checkpoint hold, checked before anything uses them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

MOST = 1 << 53  # of what is counted
SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


def wrong_part(content: Mapping[Any, Any]) -> str:
    """The name of a part of a checkpoint that is not what a run could have written; "" where there is none.

    Parts that are not there, or not known here, count as right.
    """
    for key, is_sound in PARTS.items():
        if key in content and not is_sound(content[key]):
            return key
    ring, state = content.get("label_ring"), content.get("state_dict", {})
    queue = state.get("queue", state.get("module.queue"))
    if ring is not None and queue is not None and (queue.dim() != 2 or queue.shape[1] != len(ring["labels"])):
        return "label_ring"
    return ""


def is_number(value: object) -> TypeGuard[int | float | Tensor]:
    """Whether it is a finite real number, or a tensor of one."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and math.isfinite(value.item())
    return isinstance(value, int | float) and math.isfinite(value)


def is_count(value: object, least: int = 0) -> bool:
    """Whether it is a whole number from ``least`` on that a run could count to."""
    return is_number(value) and least <= float(value) < MOST and float(value).is_integer()


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(entry, Tensor) and not entry.is_complex() for key, entry in value.items())


def _is_optimizer(value: object) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("state"), Mapping):
        return False
    groups, moments = value.get("param_groups"), value["state"].values()
    return (isinstance(groups, list) and len(groups) > 0 and all(map(_is_group, groups))
            and all(isinstance(entry, Mapping) and all(map(_is_moment, entry, entry.values())) for entry in moments))


def _is_group(value: object) -> bool:
    return (isinstance(value, Mapping) and isinstance(value.get("params"), list)
            and all(type(index) is int for index in value["params"])
            and all(is_number(rate) and rate >= 0 for rate in (value.get("lr"), value.get("initial_lr", 0))))


def _is_moment(key: object, value: object) -> bool:
    if not isinstance(key, str):
        return False
    if key == "step":
        return is_count(value)
    return value is None or is_number(value) or (isinstance(value, Tensor) and value.is_floating_point())


def _is_progress(value: object) -> bool:
    if not isinstance(value, Mapping) or not (is_count(value.get("epoch")) and is_count(value.get("samples"))):
        return False
    meters, generators = value.get("meters"), value.get("generators")
    if value["samples"] == 0:
        return isinstance(meters, Mapping | None) and isinstance(generators, Mapping | None)
    return _is_meters(meters) and isinstance(generators, Mapping) and all(
        isinstance(state, Tensor) and state.dtype == torch.uint8 and state.dim() == 1 for state in generators.values())


def _is_meters(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    names, rows, read = value.get("names"), value.get("rows"), value.get("read")
    if not (isinstance(names, list) and isinstance(rows, Tensor) and isinstance(read, Mapping)):
        return False
    return (all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
            and rows.dtype == torch.float64 and rows.dim() == 3 and rows.shape[0] > 0
            and tuple(rows.shape[1:]) == (2, len(names)) and _are_counts(rows[:, 1])
            and all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], float) and is_count(pair[1])
                    for pair in read.values()))


def _are_counts(value: Tensor) -> bool:
    return bool(((value >= 0) & (value < MOST)).all())


def _is_ring(value: object) -> bool:
    """Of labels, with the counts of what was mined where there are some."""
    if not isinstance(value, Mapping):
        return False
    columns: list[Any] = [value.get(name) for name in ("labels", "sources", *(["rows"] if "rows" in value else []))]
    if not all(_is_column(column) and len(column) == len(columns[0]) for column in columns):
        return False
    counts = [value[name] for name in ("found", "mined", "counted") if name in value]
    return (is_count(value.get("pointer")) and value["pointer"] < len(columns[0])
            and is_count(value.get("written")) and value["written"] <= len(columns[0])
            and len(counts) in (0, 3) and all(_is_column(column) and _are_counts(column) for column in counts[:2])
            and isinstance(value.get("counted", False), bool))


def _is_column(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 1 and value.dtype == torch.int64


def _is_scaler(value: object) -> bool:
    return isinstance(value, Mapping) and set(value) in (set(), SCALER) and all(
        is_number(entry) and entry >= 0 for entry in value.values())


def _are_facts(value: object) -> bool:
    """Options, and the like: numbers, strings, and lists of them."""
    return not isinstance(value, Mapping) or all(_is_fact(entry) or (isinstance(entry, list | tuple) and all(
        map(_is_fact, entry))) for entry in value.values())


def _is_fact(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


# What a checkpoint that has these holds there; other keys are not looked at.
PARTS: dict[str, Callable[[Any], bool]] = {
    "state_dict": _is_state, "optimizer": _is_optimizer, "epoch": lambda value: is_count(value, least=-1),
    "iteration": is_count, "best_acc": lambda value: is_number(value) and 0 <= float(value) <= 1,
    "progress": _is_progress, "label_ring": _is_ring, "scaler": _is_scaler, "options": _are_facts,
    "made_with": _are_facts}
