"""Exact resume: refuse a checkpoint if the options since have changed so that the result would differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.optimizer import LrSchedule, Optimizer, resumed_lr
from utils.console import one_line
from utils.errors import CheckpointError

# Options that may differ: paths, output, checkpoints, launch. Any other changes the result.
FREE = frozenset((
    "workers", "print_freq", "save_freq", "save_steps", "eval_freq", "prefix", "name_prefix", "data_root", "split_root",
    "resume", "test", "pretrain", "start_epoch", "reset_lr", "accept_changes", "deterministic", "compile",
    "gpu", "local_rank", "world_size", "rank", "dist_url", "dist_backend", "dist_timeout",
    "multiprocessing_distributed", "num_seq", "center_crop", "five_crop", "ten_crop", "retrieval", "dirname", "gallery",
    "crops", "progressive", "health_clips", "health_freq", "knn_freq",
    "precision"))  # compared in "made_with", with its default filled in
RATE = frozenset(("lr", "schedule", "cos", "epochs"))  # see _rate_differs
# Options that earlier files lack, with their effective values then, and one that is gone.
DEFAULTS = {"second_view": "flow", "cascade_anchor": "query", "cascade_first": "other", "self_mask": 0.9}
GONE = {"accumulate": 1}
LONGEST = 100  # characters of a value in a message


def refuse_changes(saved: Mapping[str, Any], options: Mapping[str, Any], made_with: Mapping[str, Any], path: str | Path
                   ) -> None:
    """Raise CheckpointError if a run with these options from the start would not have reached this checkpoint.

    More --epochs, or a --schedule that differs only in the future, are fine. Published files do not say how they were
    made, and are accepted.

    Args:
        saved: content of the checkpoint.
        options: options of this command by name.
        made_with: other facts that affect the result, as they are now.
        path: the checkpoint, for the error.
    """
    then = saved.get("options")
    if not isinstance(then, Mapping):
        return
    then, now = {**DEFAULTS, **GONE, **then}, {**GONE, **options}
    compared = [name for name in now if name in then and name not in FREE | RATE]
    progress = progress_of(saved)
    begun = progress["epoch"] + (progress["samples"] > 0)  # epochs
    if not now.get("reset_lr") and _rate_differs(then, now, begun):
        compared.append("cos" if then["cos"] != now["cos"] else "epochs" if now["cos"] else "schedule")
    changes = [f"{_flag(name)} {_shown(then[name])} (now {_shown(now[name])})" for name in compared
               if _plain(then[name]) != _plain(now[name])]
    before = saved.get("made_with")
    if isinstance(before, Mapping):
        changes += [f"{name} {_shown(before[name])} (now {value})" for name, value in made_with.items()
                    if name in before and before[name] != value]
    if changes:
        raise CheckpointError(f"{path} was made with {', '.join(changes)}: the result would differ. Give the "
                              "same options, or resume anyway with --accept_changes")


def progress_of(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a checkpoint's "progress"; without one of ours it is at the end of its epoch."""
    found = saved.get("progress")
    if isinstance(found, Mapping) and all(isinstance(found.get(name), int) for name in ("epoch", "samples")):
        return found
    return {"epoch": saved["epoch"] + 1, "samples": 0}


def _rate_differs(then: Mapping[str, Any], now: Mapping[str, Any], begun: int) -> bool:
    """Return whether the schedule differs in an epoch begun so far; the starting rate is the checkpoint's anyway."""
    if not set(then) >= RATE:
        return False
    one, two = (LrSchedule(1.0, tuple(options["schedule"]), options["cos"], options["epochs"])
                for options in (then, now))
    return any(one.factor(epoch) != two.factor(epoch) for epoch in range(begun))


def restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any], rates: LrSchedule, reset_lr: bool) -> None:
    """Restore moments, loss scale and, unless ``reset_lr``, the starting learning rate."""
    optimizer.load_state_dict(saved["optimizer"] or {})  # None or {} in slim published files
    optimizer.load_scaler(saved.get("scaler"))
    if not reset_lr:
        optimizer.base_lr = resumed_lr(saved["optimizer"], rates.factor(int(saved["epoch"])), rates.lr)


def _flag(name: str) -> str:
    return "--" + (name.replace("_", "-") if name.startswith("moco_") else name)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, list | tuple) else value


def _shown(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return one_line(" ".join(text.split()), LONGEST)
