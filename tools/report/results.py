"""Results and confusion matrices, from what evaluations wrote below a run."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dataset import catalog
from dataset.video_index import class_labels, video_name
from eval.merge_2stream_prob import read_probabilities
from tools.report.galleries import Retrieved
from tools.report.run_reader import Run
from utils.errors import CheckpointError, DataError
from utils.files import read_json

# Files of evaluations: of a retrieval, of a linear probe on stored features, and of crop tests.
FILE = re.compile(r"(?P<retrieval>.+)_recall\.json|(?P<checkpoint>.+?)-(lp-(?P<features>.+)-)?(?P<kind>acc|prob)"
                  r"(-(?P<crops>center|five|ten))?\.json")
TRAINED = {"last": "linear probe", "ft": "finetuning"}
CROPS = {"center": "centre crop", "five": "five crops", "ten": "ten crops"}
WORST = 8  # confusions named beside a matrix


@dataclass(frozen=True)
class Result:
    """A line of the table of results."""

    kind: str  # "retrieval" or "classification"
    what: str  # protocol and dataset, in the same words for every run
    scores: dict[str, float]  # percent by "R@1", "top-1", ...
    checkpoint: str  # that was evaluated


def read_results(run: Run, notes: list[str]) -> list[Result]:
    """Read all results of a run and of what started from it, the newest of each protocol and checkpoint.

    What cannot be read is noted in ``notes``.
    """
    found: dict[tuple[str, str], Result] = {}
    for owner, path, match in _files(run):
        if match["kind"] == "prob":
            continue
        try:
            content = read_json(path)
        except CheckpointError as error:
            notes.append(str(error))
            continue
        if match["retrieval"]:
            kind, prefix, checkpoint = "retrieval", "R@", run.shown(path.parent)
            tests = {f"retrieval on {match['retrieval']}": content}
        else:
            kind, prefix, checkpoint = "classification", "top-", match["checkpoint"]
            tests = {_what(owner, match, crops): scores  # a crop test has the scores of fewer crops, too
                     for crops, scores in (content if match["crops"] else {"": content}).items()}
        for what, scores in tests.items():
            named = {f"{prefix}{k}": value for k, value in scores.items() if k.isdecimal()}
            found.setdefault((what, checkpoint), Result(kind, what, named, checkpoint))
    return list(found.values())


def _files(run: Run) -> Iterator[tuple[Run, Path, re.Match[str]]]:
    """Yield the files of evaluations of a run and of what started from it, the newest first, with their owners."""
    for owner in [run] if run.is_classifier else [run, *run.downstream()]:
        for path in owner.files("*.json"):
            if match := FILE.fullmatch(path.name):
                yield owner, path, match


def _what(owner: Run, match: re.Match[str], crops: str) -> str:
    """Name the protocol and the dataset of an evaluation."""
    if not crops:
        return f"linear probe on stored features of {match['features']}"
    trained = TRAINED.get(owner.options.get("train_what", ""), "classifier")
    return f"{trained} on {owner.options.get('dataset', 'an unknown dataset')}, {CROPS[crops]}"


def confusions(run: Run, split_root: str, notes: list[str]) -> list[dict[str, Any]]:
    """Count the confusions of each classifier whose probabilities are there, those of ten crops first.

    What cannot be read is noted in ``notes``.
    """
    found = []
    for owner, path, match in sorted(_files(run), key=lambda each: (each[2]["crops"] != "ten", each[1].name)):
        if match["kind"] == "prob":
            title = f"{_what(owner, match, match['crops'])}, {match['checkpoint']}"
            try:
                classes = catalog.class_names(match["features"] or owner.options.get("dataset", ""), split_root)
                found.append(of_probabilities(read_probabilities(path), classes, title))
            except (CheckpointError, DataError) as error:
                notes.append(f"no confusion matrix of {run.shown(path)}: {error}")
    return found


def of_probabilities(rows: Mapping[str, Tensor], classes: Sequence[str], title: str) -> dict[str, Any]:
    """Give each test clip its most probable class; ``rows`` has probabilities (classes,) by csv path.

    Raises:
        CheckpointError: the rows are of other classes.
    """
    names = [video_name(path).split("/")[0] for path in rows]
    label_of = class_labels(classes, names)
    true = [label_of.get(name, -1) for name in names]
    size = len(next(iter(rows.values())))
    if -1 in true or size != len(classes):
        raise CheckpointError(f"it has {size} classes, or one that is not among the {len(classes)} of ClassInd.txt: "
                              "check --split_root")
    return _matrix(title, classes, true, [int(row.argmax()) for row in rows.values()])


def of_neighbours(found: Retrieved) -> dict[str, Any]:
    """Give each test clip the class of its nearest training clip."""
    number = {label: place for place, label in enumerate(found.classes)}
    true, near = ([number[label] for label in labels.tolist()]
                  for labels in (found.query.labels, found.gallery.labels[found.index[:, 0]]))
    return _matrix(f"nearest neighbour in retrieval on {found.dataset} (no classifier)", list(found.classes.values()),
                   true, near)


def _matrix(title: str, classes: Sequence[str], true: list[int], said: list[int]) -> dict[str, Any]:
    """Return "title", "classes", "total", "accuracy" (0-1), the "cells" [true, predicted, clips] that are not 0, and
    the "worst": the most frequent confusions [true class, predicted class, clips, share of the true class's clips]."""
    counts, totals = Counter(zip(true, said, strict=True)), Counter(true)
    wrong = [(classes[t], classes[s], n, n / totals[t]) for (t, s), n in counts.items() if t != s]
    return {"title": title, "classes": classes, "total": len(true),
            "accuracy": 1 - sum(n for _, _, n, _ in wrong) / len(true),
            "cells": [(t, s, n) for (t, s), n in counts.items()],
            "worst": sorted(wrong, key=lambda row: row[2:], reverse=True)[:WORST]}
