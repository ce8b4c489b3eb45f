"""Read a run folder: starts, options, metrics, checkpoints, and results inside it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.logger import FILE as METRICS
from engine.run_folder import RUN_FILE as STARTS
from engine.run_folder import resumable
from utils.errors import CheckpointError, OptionError
from utils.files import read_json

FEATURES = "_test_feature.pth.tar"  # suffix of a test set's feature file, see eval/retrieval.py
PLACES = ("", "model", "feature", "model/feature")  # of evaluations, below the folder given


@dataclass(frozen=True)
class Run:
    """The contents of a run folder."""

    folder: Path
    asked: Path  # the path given: that folder, or one inside it
    starts: list[dict[str, Any]]  # entries of run.json, the latest last
    metrics: list[dict[str, Any]]  # lines of metrics.jsonl
    notes: list[str]  # what could not be read

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
        """The newest checkpoint, None if there is none."""
        return next(iter(resumable(self.folder / "model")), None)

    @cached_property
    def working_folder(self) -> Path:
        """The folder in which the run was started, to which paths among its options are relative."""
        for parent in self.folder.parents:
            if parent.name == "ckpt" or parent.name.startswith("log-eval-"):
                return parent.parent
        return self.folder.parent

    def lines(self, kind: str, title: str | None = None) -> Iterator[dict[str, Any]]:
        """Metrics lines of a kind and, if given, a title."""
        return (line for line in self.metrics if line["kind"] == kind and title in (None, line.get("title")))

    @cached_property
    def epochs(self) -> dict[int, dict[str, float]]:
        """Training means and mining measures, by epoch."""
        found: dict[int, dict[str, float]] = {}
        for line in [*self.lines("epoch", "train"), *self.lines("mining")]:
            found.setdefault(line["epoch"], {}).update(line["values"])
        return dict(sorted(found.items()))

    def files(self, pattern: str) -> list[Path]:
        """Result files that match a pattern, newest first."""
        return sorted(_files(self.asked, pattern), key=lambda path: (-path.stat().st_mtime, path))

    def shown(self, path: Path) -> str:
        """A path relative to the run folder."""
        return os.path.relpath(path, self.folder)

    def downstream(self) -> "list[Run]":
        """Linear probes and finetunings in the same working folder that started from a checkpoint of this run."""
        runs = [read_run(path.parent) for path in sorted(self.working_folder.glob(f"log-eval-*/*/{STARTS}"))]
        return [run for run in runs if self.folder / "model" ==
                (self.working_folder / run.options.get("pretrain", "")).resolve().parent]


def read_run(path: str | Path) -> Run:
    """Read the run in a folder, or in one of its parents if that is a folder inside a run, such as model/."""
    asked, notes = Path(path).resolve(), []
    hint = "give ckpt/log-PREFIX/RUN, or log-eval-PREFIX/RUN"
    if not asked.is_dir():
        raise OptionError(f"there is no run folder {path}: {hint}")
    folder = next((place for place in (asked, *list(asked.parents)[:3]) if _is_run(place)), None)
    if not folder and not _files(asked, f"*{FEATURES}"):
        raise OptionError(f"{path} is not a run folder: it has no {STARTS}, {METRICS}, model/ or features; {hint}")
    folder, starts = folder or asked, []
    try:
        starts = read_json(folder / STARTS)["starts"]
    except CheckpointError as error:
        notes.append(f"options and environment are unknown: {error}")
    metrics, damaged = read_metrics(folder / METRICS)
    if damaged:
        notes.append(f"skipped {damaged} unreadable line{'s' * (damaged > 1)} of {METRICS}")
    return Run(folder, asked, starts, metrics, notes)


def _files(folder: Path, pattern: str) -> list[Path]:
    return [path for place in PLACES for path in (folder / place).glob(pattern)]


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (STARTS, METRICS)) or bool(resumable(folder / "model"))


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of a metrics.jsonl and the number of unreadable ones; a repeated line replaces the earlier."""
    found: dict[tuple, dict[str, Any]] = {}
    damaged = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            line["values"] = {name: value for name, value in line["values"].items() if value is not None}  # null: NaN
            when = line["done"] if line["kind"] == "steps" else line["epoch"]
            found[line["kind"], line.get("title"), when] = line
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged += 1
    return list(found.values()), damaged
