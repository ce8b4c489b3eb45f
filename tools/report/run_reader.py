"""Read what a training leaves in its run folder: starts, options, metrics, checkpoints, and results below it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.logger import FILE as METRICS
from engine.retention import resumable
from engine.run_folder import RUN_FILE as STARTS
from utils.errors import CheckpointError, OptionError
from utils.files import read_json

FEATURES = "_test_feature.pth.tar"  # how the name of a test set's features ends, see eval/retrieval.py


@dataclass(frozen=True)
class Run:
    """A run folder, as far as it can be read."""

    folder: Path
    asked: Path  # that folder, or one below it whose evaluations are wanted
    starts: list[dict[str, Any]]  # entries of run.json, the latest last
    metrics: list[dict[str, Any]]  # lines of metrics.jsonl, see `read_metrics`
    notes: list[str]  # what could not be read, a sentence each

    @property
    def options(self) -> dict[str, Any]:
        """Options of the latest start; empty without a run.json."""
        return self.starts[-1]["options"] if self.starts else {}

    @property
    def is_classifier(self) -> bool:
        """True if a linear probe or a finetuning was trained here."""
        return "train_what" in self.options

    @property
    def checkpoint(self) -> Path | None:
        """The newest checkpoint, None where none is left."""
        return next(iter(resumable(self.folder / "model")), None)

    @cached_property
    def working_folder(self) -> Path:
        """The folder that the run was started in, which relative paths among its options start from."""
        for parent in self.folder.parents:
            if parent.name == "ckpt" or parent.name.startswith("log-eval-"):
                return parent.parent
        return self.folder.parent

    def lines(self, kind: str, title: str | None = None) -> Iterator[dict[str, Any]]:
        """Lines of the metrics of a kind, and of a title where one is given."""
        return (line for line in self.metrics if line["kind"] == kind and title in (None, line.get("title")))

    @cached_property
    def epochs(self) -> dict[int, dict[str, float]]:
        """Means of the training and what was mined, by epoch."""
        found: dict[int, dict[str, float]] = {}
        for line in [*self.lines("epoch", "train"), *self.lines("mining")]:
            found.setdefault(line["epoch"], {}).update(line["values"])
        return dict(sorted(found.items()))

    def files(self, pattern: str) -> list[Path]:
        """Files of such a name in the folder that was asked for and below it, the newest first."""
        return sorted(self.asked.rglob(pattern), key=lambda path: (-path.stat().st_mtime, path))

    def shown(self, path: Path) -> str:
        """A path as seen from the run's folder."""
        return os.path.relpath(path, self.folder)

    def downstream(self) -> "list[Run]":
        """Linear probes and finetunings in the same working folder that started from a checkpoint of this run."""
        runs = [read_run(path.parent) for path in sorted(self.working_folder.glob(f"log-eval-*/*/{STARTS}"))]
        return [run for run in runs if self.folder / "model" ==
                (self.working_folder / run.options.get("pretrain", "")).resolve().parent]


def read_run(path: str | Path) -> Run:
    """Read the run of a folder, or of a folder below it, such as model/ or that of some features.

    Raises:
        OptionError: there is no such folder, or it holds nothing that a run leaves.
    """
    asked, notes = Path(path).resolve(), []
    hint = "give ckpt/log-PREFIX/RUN, or log-eval-PREFIX/RUN"
    if not asked.is_dir():
        raise OptionError(f"there is no run folder {path}: {hint}")
    folder = next((place for place in (asked, *list(asked.parents)[:3]) if _is_run(place)), None)
    if not folder and not any(asked.rglob(f"*{FEATURES}")):
        raise OptionError(f"{path} is no run folder: it has no {STARTS}, {METRICS} or model/, nor features; {hint}")
    folder, starts = folder or asked, []
    try:
        starts = read_json(folder / STARTS)["starts"]
    except CheckpointError as error:
        notes.append(f"options and environment are not known: {error}")
    metrics, damaged = read_metrics(folder / METRICS)
    if damaged:
        notes.append(f"left out {damaged} unreadable line{'s' * (damaged > 1)} of {METRICS}")
    return Run(folder, asked, starts, metrics, notes)


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (STARTS, METRICS)) or bool(resumable(folder / "model"))


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a metrics.jsonl, see `engine.logger.MetricsLogger`; there need be none.

    Returns:
        The lines, the last of those of one moment, which a resumed run may write twice; and how many are unreadable.
    """
    found: dict[tuple, dict[str, Any]] = {}
    damaged = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            line["values"] = {name: value for name, value in line["values"].items() if value is not None}  # null: NaN
            moment = line["done"] if line["kind"] == "steps" else line["epoch"]
            found[line["kind"], line.get("title"), moment] = line
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged += 1
    return list(found.values()), damaged
