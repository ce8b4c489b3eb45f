"""Decide by the options in a checkpoint whether a run may resume from it; published ones have none, and pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from backbone.select_backbone import NETWORKS
from dataset import catalog
from engine.optimizer import LrSchedule, Optimizer, resumed_lr
from utils import distributed
from utils.console import one_line, warn
from utils.errors import CheckpointError

# Options that may differ when a run resumes: paths, output, checkpoints, launch. Any other changes the result.
FREE = frozenset((
    "workers", "print_freq", "save_freq", "save_steps", "eval_freq", "prefix", "name_prefix", "data_root", "split_root",
    "resume", "test", "pretrain", "start_epoch", "reset_lr", "accept_changes", "deterministic", "compile",
    "gpu", "local_rank", "world_size", "rank", "dist_url", "dist_backend", "dist_timeout",
    "multiprocessing_distributed", "num_seq", "center_crop", "five_crop", "ten_crop", "retrieval", "dirname", "gallery",
    "crops", "progressive", "health_clips", "health_freq", "knn_freq",
    "precision"))  # compared in "made_with", with its default filled in
RATE = frozenset(("lr", "schedule", "cos", "epochs"))  # see _rate_differs
Facts = dict[str, Any]  # by the names below; a fact that is not known is left out
SIZES = ("seq_len", "ds", "img_dim")
# What the published checkpoints, which hold no options, were trained with.
PUBLISHED: dict[str, Any] = {"net": "s3d", "seq_len": 32, "ds": 1, "img_dim": 128, "second_view": "flow"}
# What to say where a fact of a checkpoint differs from what a command needs.
WORDS = {
    "stream": "was trained on {then} but is needed for {now}: check the order of the files, --dataset (NAME-f is the "
              "second view), --reverse and --second_view",
    "classes": "was trained on other classes ({then}, the dataset has {now}): give the --dataset and --split_root it "
               "was trained with",
    "split": "was trained on split {then}, which holds test videos of split {now}: give the --which_split it was "
             "trained on",
    **{size: f"was trained with --{size} {{then}} but is used with --{size} {{now}}" for size in SIZES}}


@dataclass
class TrainState:
    epoch: int = 0  # the current one, 0-based
    batch: int = 0  # steps done in this epoch
    iteration: int = 0  # steps done in total
    best_acc: float = 0.0  # top-1, 0-1
    progress: Mapping[str, Any] | None = None  # meters and random generators, if resuming mid-epoch


def state_of(saved: Mapping[str, Any], loader: DataLoader) -> TrainState:
    """Return the position of a checkpoint; CheckpointError if it lies beyond the end of an epoch."""
    progress = _progress_of(saved)
    per_step, samples = samples_per_step(loader), int(progress["samples"])
    if samples >= (len(loader) + 1) * per_step:  # another batch size may leave a remainder
        raise CheckpointError(f"the checkpoint is {samples} samples into an epoch of {len(loader) * per_step}: it is "
                              "damaged, or from another dataset")
    best: Any = saved.get("best_acc")  # other software may write percent, or anything
    best = float(best) if isinstance(best, int | float) or getattr(best, "shape", None) == () else 0.0
    return TrainState(int(progress["epoch"]), samples // per_step, int(saved.get("iteration") or 0),
                      best if 0 <= best <= 1 else 0.0, progress if samples else None)


def samples_per_step(loader: DataLoader) -> int:
    assert loader.batch_size is not None
    return loader.batch_size * distributed.world_size()


def _progress_of(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a checkpoint's "progress"; files without it are from the end of their epoch."""
    found = saved.get("progress")
    if isinstance(found, Mapping) and all(isinstance(found.get(name), int) for name in ("epoch", "samples")):
        return found
    return {"epoch": saved["epoch"] + 1, "samples": 0}


def restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any], rates: LrSchedule, reset_lr: bool) -> None:
    """Restore moments, loss scale and, unless ``reset_lr``, the starting learning rate."""
    optimizer.load_state_dict(saved["optimizer"] or {})  # None or {} in slim published files
    scale = saved.get("scaler")
    if isinstance(scale, dict) and scale and optimizer.scaler.is_enabled():
        optimizer.scaler.load_state_dict(scale)
    if not reset_lr:
        optimizer.base_lr = resumed_lr(saved["optimizer"], rates.factor(int(saved["epoch"])), rates.lr)


def with_schedule(options: Mapping[str, Any], saved: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fill in a schedule that is not given: the resumed checkpoint's, or one drop after four fifths of the epochs."""
    then = (saved or {}).get("options")
    own = then.get("schedule") if isinstance(then, Mapping) else None
    found = (each for each in (options["schedule"], own, [max(1, options["epochs"] * 4 // 5)]) if each is not None)
    return {**options, "schedule": next(found)}


def refuse_changes(saved: Mapping[str, Any], options: Mapping[str, Any], made_with: Mapping[str, Any], path: str | Path
                   ) -> None:
    """Raise CheckpointError if a run with these options from the start would not have reached this checkpoint.

    More --epochs, or a --schedule that differs only in the future, are fine. ``made_with``: other facts that matter.
    """
    then = saved.get("options")
    if not isinstance(then, Mapping):
        return
    compared = [name for name in options if name in then and name not in FREE | RATE]
    progress = _progress_of(saved)
    begun = progress["epoch"] + (progress["samples"] > 0)  # epochs
    if not options.get("reset_lr") and _rate_differs(then, options, begun):
        compared.append("cos" if then["cos"] != options["cos"] else "epochs" if options["cos"] else "schedule")
    changes = [f"--{name.replace('moco_', 'moco-')} {_shown(then[name])} (now {_shown(options[name])})"
               for name in compared if then[name] != options[name]]
    before = saved.get("made_with")
    if isinstance(before, Mapping):
        changes += [f"{name} {_shown(before[name])} (now {value})" for name, value in made_with.items()
                    if name in before and before[name] != value]
    if changes:
        raise CheckpointError(f"{path} was made with {', '.join(changes)}: the result would differ. Give the "
                              "same options, or resume anyway with --accept_changes")


def _rate_differs(then: Mapping[str, Any], now: Mapping[str, Any], begun: int) -> bool:
    """Return whether two schedules differ in an epoch begun so far; the initial rate is the checkpoint's anyway."""
    if not set(then) >= RATE:
        return False
    one, two = (LrSchedule(1.0, tuple(options["schedule"]), options["cos"], options["epochs"])
                for options in (then, now))
    return any(one.factor(epoch) != two.factor(epoch) for epoch in range(begun))


def _shown(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return one_line(" ".join(text.split()), 100)


def facts_of(options: object, classes: object = None) -> Facts:
    """Return what a network was trained for: stream, dataset, split, classes, clip sizes; {} if options do not say.

    ``classes``: names by label, if the network is trained or tested on labels.
    """
    found = catalog.NAME.fullmatch(str(options.get("dataset", ""))) if isinstance(options, Mapping) else None
    if not isinstance(options, Mapping) or not found or options.get("net") not in NETWORKS:
        return {}
    is_second = found["streams"] == "-f" or (found["streams"] == "-2stream" and options.get("reverse"))
    facts = {"stream": options.get("second_view", "flow") if is_second else "RGB", "dataset": found["base"],
             "split": options.get("which_split", 1), "classes": classes if isinstance(classes, list | tuple) else None,
             **{name: options.get(name) for name in SIZES}}
    return {name: value for name, value in facts.items() if value is not None}


def trained_with(options: object, **given: Any) -> dict[str, Any]:
    """Return network, clip sizes and second view: as given, else from a checkpoint's options, else as published."""
    found = options if isinstance(options, Mapping) and facts_of(options) else {}
    return {name: given.get(name) or found.get(name, value) for name, value in PUBLISHED.items()}


def trained_on_labels(options: object) -> bool:
    return isinstance(options, Mapping) and ("train_what" in options or options.get("model") == "ubernce")


def check_facts(saved: Mapping[str, Any], path: str | Path, needed: Facts, accept: bool = False) -> None:
    """Raise CheckpointError for another stream, another class list or, if trained on labels, another split.

    Other clip sizes, and another split without labels, only cause a warning; with ``accept``, so does everything.
    """
    labelled = trained_on_labels(saved.get("options"))
    then = facts_of(saved.get("options"), saved.get("classes") if labelled else None)
    for name, words in WORDS.items():
        if name not in then or name not in needed:
            continue
        one, two = then[name], needed[name]
        if name == "classes":
            one, two = next((pair for pair in zip_longest(one, two, fillvalue="none") if pair[0] != pair[1]), ("", ""))
        if one == two or (name == "split" and then["dataset"] != needed["dataset"]):
            continue
        message = f"{path} {words.format(then=one_line(str(one), 80), now=one_line(str(two), 80))}"
        if not accept and (name in ("stream", "classes") or (name == "split" and labelled)):
            raise CheckpointError(f"{message}, or go on with --accept_changes")
        warn(message)
