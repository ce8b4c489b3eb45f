"""Read a run folder (starts, options, metrics, checkpoints, results inside it), and a work folder of cotrain.py."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from dataset import catalog
from engine.compatibility import facts_of
from engine.config import ModelConfig, take
from engine.logger import FILE as METRICS
from engine.run_folder import RUN_FILE as STARTS
from engine.run_folder import resumable
from utils.console import one_line
from utils.errors import CheckpointError, OptionError, UserError
from utils.files import read_json

FEATURES = "_test_feature.pth.tar"  # suffix of a test set's feature file, see eval/retrieval.py
PLACES = ("", "model", "feature", "model/feature")  # of evaluations, below the folder given
METHODS = {"infonce": "InfoNCE", "ubernce": "UberNCE", "coclr": "CoCLR"}
TRAINED = {"last": "linear probe", "ft": "finetuning"}
# Options that tell runs apart, the most telling first.
TELLING = ("net", "dataset", "second_view", "epochs", "batch_size", "lr", "moco_k", "moco_m", "seq_len", "img_dim",
           "seed", "topk", "mining", "own_view", "stage", "ratio")


@dataclass(frozen=True)
class Run:
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
    def title(self) -> str:
        """The training in a few words: CoCLR + CPR on ucf101, RGB."""
        facts, options = facts_of(self.options), self.options
        method = TRAINED.get(options.get("train_what", "")) or METHODS.get(options.get("model", ""))
        if not facts or not method:
            return one_line(self.folder.name, 40)
        return f"{method}{self.mining} on {facts['dataset']}, {facts['stream']}"

    @property
    def mining(self) -> str:
        """The mining rule as titles show it; "" for plain top-k, and for methods without mining."""
        rule = take(ModelConfig, self.options).rule if self.options.get("model") == "coclr" else "topk"
        return {"topk": "", "cascade": " + CPR"}.get(rule, f" + {rule}")

    @cached_property
    def has_labels(self) -> bool:
        """False if the dataset has a single class, so that class-based metrics mean nothing."""
        options = self.options
        try:
            return len(catalog.class_names(options["dataset"], self.working_folder / options["split_root"])) > 1
        except (UserError, KeyError, TypeError):  # no options, or no class list: chance is 1 with a single class
            return min((values["chance"] for values in self.epochs.values() if "chance" in values), default=0.0) < 1

    @property
    def is_classifier(self) -> bool:
        return "train_what" in self.options

    @property
    def checkpoint(self) -> Path | None:
        return next(iter(resumable(self.folder / "model")), None)

    @cached_property
    def working_folder(self) -> Path:
        """The folder in which the run was started; relative paths in its options start from there."""
        return next((parent.parent for parent in self.folder.parents
                     if parent.name == "ckpt" or parent.name.startswith("log-eval-")), self.folder.parent)

    def lines(self, kind: str, title: str | None = None) -> Iterator[dict[str, Any]]:
        return (line for line in self.metrics if line["kind"] == kind and title in (None, line.get("title")))

    @cached_property
    def epochs(self) -> dict[int, dict[str, float]]:
        """Training means, and measures of mining and queue, by epoch."""
        found: dict[int, dict[str, float]] = {}
        for line in [*self.lines("queue"), *self.lines("mining"), *self.lines("epoch", "train")]:
            found.setdefault(line["epoch"], {}).update(line["values"])
        return dict(sorted(found.items()))

    @cached_property
    def last(self) -> dict[str, float]:
        return {name: value for values in self.epochs.values() for name, value in values.items()}

    def files(self, pattern: str) -> list[Path]:
        """Result files that match a pattern, newest first."""
        return sorted(files_below(self.asked, pattern), key=lambda path: (-path.stat().st_mtime, path))

    def shown(self, path: Path) -> str:
        return os.path.relpath(path, self.folder)


def read_run(path: str | Path) -> Run:
    """Read the run in a folder, or in one of its parents if that is a folder inside a run, such as model/."""
    asked, notes = Path(path).resolve(), []
    hint = "give ckpt/log-PREFIX/RUN, log-eval-PREFIX/RUN, or cotrain.py's --out when it is done"
    if not asked.is_dir():
        raise OptionError(f"there is no run folder {path}: {hint}")
    folder = next((place for place in (asked, *list(asked.parents)[:3]) if resumable(place / "model")
                   or any((place / name).exists() for name in (STARTS, METRICS))), None)
    if not folder and not files_below(asked, f"*{FEATURES}"):
        raise OptionError(f"{path} is not a run folder: it has no {STARTS}, {METRICS}, model/ or features; {hint}")
    folder, starts, metrics, damaged = folder or asked, [], list[dict[str, Any]](), 0
    try:
        starts = read_json(folder / STARTS)["starts"]
    except CheckpointError as error:
        notes.append(f"options and environment are unknown: {error}")
    path = folder / METRICS
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            finite = {name: value for name, value in line["values"].items() if value is not None}
            metrics.append(line | {"values": finite})
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged += 1
    if damaged:
        notes.append(f"skipped {damaged} unreadable line{'s' * (damaged > 1)} of {METRICS}")
    return Run(folder, asked, starts, metrics, notes)


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Return the files that evaluations left in a run folder, or in one inside it."""
    return [path for place in PLACES for path in (folder / place).glob(pattern)]


@dataclass(frozen=True)
class Cotraining:
    """The work folder of a finished cotrain.py."""

    folder: Path
    content: dict[str, Any]  # of results.json
    runs: dict[str, Run]  # by step ("cycle 1 RGB"), in the order of training

    @property
    def title(self) -> str:
        mining = max(run.mining for run in self.runs.values())
        method = f"CoCLR{mining}" if self.content["cycles"] else "InfoNCE"
        return f"{method} on {self.content['dataset']}, RGB and flow"


def read_cotraining(path: str | Path) -> Cotraining | None:
    folder = Path(path).resolve()
    content = read_json(folder / "results.json", {})
    runs = {step: read_run(folder / place) for step, place in content.get("runs", {}).items()}
    return Cotraining(folder, content, runs) if runs else None


def videos_of(work_folder: Path) -> str | None:
    """Return the folder of videos that cotrain.py was given, by the settings in its work folder."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        return yaml.safe_load((work_folder / "settings.yaml").read_text(encoding="utf-8")).get("videos")
    return None
