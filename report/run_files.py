"""What a run folder holds: its starts and options, its journal, its checkpoints, and what evaluations left in it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from eval.report import read_json
from utils import journal, provenance
from utils.errors import CheckpointError, OptionError
from utils.keeper import resumable

FEATURE = "_test_feature.pth.tar"  # how the name of a split's features ends, see eval/feature_files.py
LARGEST = 1e15  # of the numbers that are shown: files may hold any
SIGNS = (provenance.FILE, journal.FILE, "best.json")


@dataclass(frozen=True)
class RunFiles:
    """A run folder, read as far as it is there.

    folder: of the run. asked: that folder, or one below it whose evaluations are meant. starts: of run.json, the latest
    last. journal: lines of metrics.jsonl; of lines of one moment written twice, the last. notes: what could not be
    read.
    """

    folder: Path
    asked: Path
    starts: list[dict[str, Any]] = field(default_factory=list)
    journal: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the folder, which tells the settings."""
        return self.folder.resolve().name

    @property
    def options(self) -> dict[str, Any]:
        """Of the latest start; empty where there is no run.json."""
        found = self.starts[-1].get("options") if self.starts else None
        return found if isinstance(found, dict) else {}

    @property
    def is_classifier(self) -> bool:
        """Whether a probe or a finetuning was trained here."""
        return "train_what" in self.options

    @property
    def mines(self) -> bool:
        """Whether the run is a co-training."""
        return "topk" in self.options or any(self.lines("mining"))

    @cached_property
    def working_folder(self) -> Path:
        """Where the run was started, which relative paths of its options start from."""
        for parent in self.folder.resolve().parents:
            if parent.name == "ckpt" or parent.name.startswith("log-eval-"):
                return parent.parent
        return self.folder.resolve().parent

    @property
    def checkpoint(self) -> Path | None:
        """The newest one, None where there is none any more."""
        found = resumable(self.folder / "model")
        return found[0] if found else None

    def files(self, pattern: str) -> list[Path]:
        """Evaluations' files of such a name in the folder that was asked for, the newest first."""
        return sorted((path for path in self.asked.rglob(pattern) if path.is_file()),
                      key=lambda path: (-path.stat().st_mtime, str(path)))

    def shown(self, path: Path) -> str:
        """A path as the page names it: below the run folder, where it lies there."""
        inner, outer = path.resolve(), self.folder.resolve()
        return str(inner.relative_to(outer)) if inner.is_relative_to(outer) else str(path)

    def lines(self, kind: str, title: str | None = None) -> Iterator[dict[str, Any]]:
        """Lines of the journal of a kind, and of a title where one is given."""
        return (line for line in self.journal if line["kind"] == kind and title in (None, line.get("title")))

    def root(self, name: str, given: str | None, *others: str) -> Path:
        """The folder of an option such as "data_root": as given, else the first that is there of what the run says.

        others: further places where it may lie.
        """
        if given:
            return Path(given)
        said = [self.options.get(name), *others]
        places = [place for one in said if _is_path(one) for place in (self.working_folder / one, Path(one))]
        return next((place for place in places if os.path.isdir(place)), places[0] if places else Path("data"))


def read_run(path: str | Path) -> RunFiles:
    """The run of a folder, or of a folder below it, such as ``model/`` or that of some features.

    Raises:
        OptionError: there is no such folder, or nothing that a run leaves is in it.
    """
    asked = Path(path)
    if not asked.is_dir():
        raise OptionError(f"there is no run folder {asked}: give ckpt/log-PREFIX/RUN, or log-eval-PREFIX/RUN")
    folder = next((place for place in (asked, *list(asked.resolve().parents)[:3]) if _is_run(place)), None)
    if folder is None and not any(asked.rglob(f"*{FEATURE}")):
        raise OptionError(f"{asked} is no run folder: it has no {provenance.FILE}, {journal.FILE} or model/, nor "
                          "features; give ckpt/log-PREFIX/RUN, or log-eval-PREFIX/RUN")
    folder = folder or asked
    notes: list[str] = []
    return RunFiles(folder, asked, _starts(folder, notes), _journal(folder, notes), notes)


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SIGNS) or (folder / "model").is_dir()


def _starts(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    path = folder / provenance.FILE
    if not path.is_file():
        notes.append(f"there is no {provenance.FILE}: options and environment are not known")
        return []
    try:
        content = read_json(path)
    except CheckpointError as error:
        notes.append(str(error))
        return []
    starts = content.get("starts") if isinstance(content, dict) else None
    if not isinstance(starts, list):
        notes.append(f"{path} has no list of starts: options and environment are not known")
        return []
    return [start for start in starts if isinstance(start, dict)]


def _journal(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    path = folder / journal.FILE
    if not path.is_file():
        return []
    found: dict[tuple, dict[str, Any]] = {}
    damaged = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        line = _line(text)
        if line is None:
            damaged += 1
        else:
            moment = line["done"] if line["kind"] == "steps" else line["epoch"]
            found[line["kind"], line.get("title"), moment] = line
    if damaged:
        notes.append(f"{damaged} line{'s' * (damaged > 1)} of {path.name} cannot be read and {'are' * (damaged > 1)}"
                     f"{'is' * (damaged == 1)} left out")
    return list(found.values())


def _line(text: str) -> dict[str, Any] | None:
    """A line of the journal whose values are finite numbers; None for another thing, such as a line that is cut."""
    try:
        line = json.loads(text)
        epoch, done = int(line["epoch"]), int(line["done"])
        if max(abs(epoch), abs(done)) > LARGEST:
            return None
        known = {"kind": str(line["kind"]), "title": None if line.get("title") is None else str(line["title"]),
                 "epoch": epoch, "done": done}
        return {**line, **known, "values": numbers(line["values"]), "seconds": numbers(line.get("seconds", {})),
                "classes": numbers(line.get("classes", {}))}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Those that are numbers, finite ones that can be drawn."""
    return {str(name): float(value) for name, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST}


def _is_path(value: Any) -> TypeGuard[str]:
    """Whether an option can name a file at all; run.json may hold anything."""
    return isinstance(value, str) and value != "" and value.isprintable()


def downstream(run: RunFiles) -> list[RunFiles]:
    """Probes and finetunings in the same working folder that started from one of the run's checkpoints."""
    found = []
    for path in sorted(run.working_folder.glob(f"log-eval-*/*/{provenance.FILE}")):
        other = read_run(path.parent)
        start = other.options.get("pretrain")
        if _is_path(start):
            place = (run.working_folder / start).resolve()
            if place.parent == (run.folder / "model").resolve():
                found.append(other)
    return found
