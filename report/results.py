"""The results table: what evaluations wrote about a run, beside a second run's where one is given."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report import read_json
from report.run_files import RunFiles, downstream, numbers
from utils.errors import CheckpointError

RECALL = re.compile(r"(?P<dataset>.+)_recall\.json")
CROPS = re.compile(r"(?P<checkpoint>.+)-acc-(?P<crops>center|five|ten)\.json")
PROBE = re.compile(r"(?P<checkpoint>.+)-lp-(?P<dataset>.+)-acc\.json")
TRAINED = {"last": "linear probe", "ft": "finetuning"}
CROP_TITLES = {"center": "centre crop", "five": "five crops", "ten": "ten crops"}


@dataclass(frozen=True)
class Result:
    """One line of the table. kind: "retrieval" or "classification". what: the protocol and the dataset, the same in
    every run. values: percent by "R@1", "top-1", ... checkpoint, file: what it is of, and where it is written."""

    kind: str
    what: str
    values: dict[str, float]
    checkpoint: str
    file: str


@dataclass(frozen=True)
class Table:
    """A kind's results. columns: names of measures. rows: each result with the second run's, None where it has none."""

    title: str
    columns: list[str]
    rows: list[tuple[Result, Result | None]]


def read_results(run: RunFiles, notes: list[str]) -> list[Result]:
    """All results of a run and of what started from it, the newest of each protocol and checkpoint; damaged files are
    told in ``notes``."""
    found: list[Result] = []
    for owner in [run, *([] if run.is_classifier else downstream(run))]:
        for path in owner.files("*.json"):
            try:
                found += _results(owner, path, run)
            except CheckpointError as error:
                notes.append(str(error))
    unique: dict[tuple[str, str], Result] = {}
    for result in found:
        unique.setdefault((result.what, result.checkpoint), result)
    return sorted(unique.values(), key=lambda result: (result.kind != "retrieval", result.what))


def tables(own: Sequence[Result], other: Sequence[Result]) -> list[Table]:
    """Retrieval and classification, as far as there are results."""
    found = []
    for kind, title in (("retrieval", "Retrieval, %"), ("classification", "Classification, %")):
        rows = [result for result in own if result.kind == kind]
        beside = {result.what: result for result in reversed(other)}
        columns = list(dict.fromkeys(name for result in rows for name in result.values))
        if rows:
            found.append(Table(title, columns, [(result, beside.get(result.what)) for result in rows]))
    return found


def _results(owner: RunFiles, path: Path, run: RunFiles) -> list[Result]:
    """The results of a file, none where it holds other things."""
    name, file = path.name, run.shown(path)
    if match := RECALL.fullmatch(name):
        values = _percent(path, "R@")
        return [Result("retrieval", f"retrieval on {match['dataset']}", values, run.shown(path.parent), file)]
    if match := PROBE.fullmatch(name):
        what = f"linear probe on stored features of {match['dataset']}"
        return [Result("classification", what, _percent(path, "top-"), match["checkpoint"], file)]
    trained = _trained(owner)
    if match := CROPS.fullmatch(name):
        content = _object(path)
        return [Result("classification", f"{trained}, {CROP_TITLES[crops]}", _named(content.get(crops), "top-"),
                       match["checkpoint"], file) for crops in CROP_TITLES if crops in content]
    if name == "best.json":
        content = _object(path)
        top1 = numbers(content).get("validation_top1")
        what = f"{trained}, best validation (30 % of the test videos, one clip)"
        return [] if top1 is None else [Result("classification", what, {"top-1": top1}, str(content.get("checkpoint")),
                                               file)]
    return []


def _trained(owner: RunFiles) -> str:
    options = owner.options
    what = str(options.get("train_what", "classifier"))
    return f"{TRAINED.get(what, 'training of ' + what)} on {options.get('dataset', 'an unknown dataset')}"


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object: write it again with the evaluation that it is of")
    return content


def _percent(path: Path, prefix: str) -> dict[str, float]:
    return _named(_object(path), prefix)


def _named(content: Any, prefix: str) -> dict[str, float]:
    values = numbers(content) if isinstance(content, dict) else {}
    return {f"{prefix}{k}": values[k] for k in sorted(filter(str.isdecimal, values), key=int)}
