"""What a resumed run must have in common with the one that wrote the checkpoint, to end as that one would have."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.console import one_line
from utils.errors import CheckpointError
from utils.schedule import lr_factor

# Options that may differ: where things lie, what is shown and saved, how it is launched. Any other one changes results.
FREE = frozenset((
    "workers", "print_freq", "save_freq", "save_steps", "eval_freq", "prefix", "name_prefix", "data_root", "split_root",
    "resume", "test", "pretrain", "start_epoch", "reset_lr", "accept_changes", "deterministic", "compile",
    "gpu", "local_rank", "world_size", "rank", "dist_url", "dist_backend", "dist_timeout",
    "multiprocessing_distributed", "num_seq", "center_crop", "five_crop", "ten_crop", "retrieval", "dirname", "gallery",
    "crops", "progressive", "health_clips", "health_freq", "knn_freq"))
OF_THE_RATE = frozenset(("lr", "schedule", "cos", "epochs"))  # see _rate_differs
MOST_EPOCHS = 100_000
# Options that files may lack, and what was done before there were these.
YOUNGER = {"second_view": "flow", "cascade_anchor": "query", "cascade_first": "other", "self_mask": 0.9}
MOST_MILESTONES = 100
LONGEST = 100  # characters of a value that are shown
RESOLVED = frozenset(("precision",))  # compared as the run uses it, in "made_with"


def refuse_changes(saved: Mapping[str, Any], args: Namespace, made_with: Mapping[str, Any], path: str) -> None:
    """Refuse to go on from a checkpoint if a run with these options from the start would not be where it is.

    So more --epochs are no change, nor is a --schedule that differs in the future alone. Published files do not say
    what they were made with, and are taken as they are.

    Args:
        saved: the checkpoint's content. made_with: facts besides the options, as they are now.

    Raises:
        CheckpointError: it names all that has changed.
    """
    then, now = saved.get("options"), vars(args)
    if not isinstance(then, Mapping):
        return
    then = {**YOUNGER, **then}
    compared = [name for name in now if name in then and name not in FREE | OF_THE_RATE | RESOLVED]
    progress = saved.get("progress") or {"epoch": saved["epoch"] + 1, "samples": 0}
    begun = int(progress["epoch"]) + (progress["samples"] > 0)  # epochs
    if not now.get("reset_lr") and _rate_differs(then, now, begun):
        compared.append("cos" if then["cos"] != now["cos"] else "epochs" if now["cos"] else "schedule")
    changes = [f"{_flag(name)} {_shown(then[name])} (now {_shown(now[name])})" for name in compared
               if _plain(then[name]) != _plain(now[name])]
    before = saved.get("made_with")
    if isinstance(before, Mapping):
        changes += [f"{name} {_shown(before[name])} (now {value})" for name, value in made_with.items()
                    if name in before and before[name] != value]
    if changes:
        raise CheckpointError(f"{path} was made with {', '.join(changes)}: the run would not end as it began. Give "
                              "what it was made with, or go on all the same with --accept_changes")


def _rate_differs(then: Mapping[str, Any], now: Mapping[str, Any], begun: int) -> bool:
    """Whether the rate of any epoch begun so far would have been another; where it starts the checkpoint says."""
    names = ("schedule", "cos", "epochs")
    if not all(name in then for name in names):
        return False
    if not isinstance(then["schedule"], list | tuple) or len(then["schedule"]) > MOST_MILESTONES:
        return True
    one, two = ({name: options[name] for name in names} for options in (then, now))
    try:
        return any(lr_factor(epoch, **one) != lr_factor(epoch, **two) for epoch in range(min(begun, MOST_EPOCHS)))
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        return True  # no options that a run could have had


def _flag(name: str) -> str:
    """How an option is written on the command line."""
    return "--" + (name.replace("_", "-") if name.startswith("moco_") else name)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, list | tuple) else value


def _shown(value: object) -> str:
    """The beginning of a value, cut before it is put together: a few bytes of a file can make a long list."""
    entries = value[:LONGEST] if isinstance(value, list | tuple) else [value]
    text = " ".join(entry[:LONGEST] if isinstance(entry, str) else str(entry) for entry in entries)
    return one_line(" ".join(text.split()), LONGEST)


def refuse_other_view(saved: Mapping[str, Any], second_view: str, path: str | Path) -> None:
    """Refuse to start a second view's encoder from one of another second view: flow and residual frames differ.

    Raises:
        CheckpointError: see :func:`other_view`.
    """
    other = other_view(saved)
    if other not in ("", second_view):
        raise CheckpointError(f"{path} was trained on {other}, and not on {second_view}: give it --second_view "
                              f"{other}, or take one that was trained on {second_view}")


def other_view(saved: Mapping[str, Any]) -> str:
    """The second view that a checkpoint's encoder was trained on; "" for RGB, or where the file does not say."""
    options = saved.get("options")
    if not isinstance(options, Mapping):
        return ""
    dataset = str(options.get("dataset"))
    is_second = dataset.removesuffix("-2clip").endswith("-f") or ("-2stream" in dataset and options.get("reverse"))
    return _shown(options.get("second_view", YOUNGER["second_view"])) if is_second else ""
