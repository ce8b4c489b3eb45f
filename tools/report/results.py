"""Numbers of a run's page: results, confusion matrices, and curves of the metrics."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dataset import catalog
from dataset.video_index import class_labels, video_name
from engine.config import ModelConfig, take
from eval.merge_2stream_prob import read_probabilities
from model.cascade import stage_sizes, stage_views
from tools.report.galleries import Retrieved
from tools.report.run_reader import Run
from utils.errors import CheckpointError, DataError
from utils.files import read_json

# Files written by evaluations: retrieval, linear probe on stored features, and crop tests.
FILE = re.compile(r"(?P<retrieval>.+)_recall\.json|(?P<checkpoint>.+?)-(lp-(?P<features>.+)-)?(?P<kind>acc|prob)"
                  r"(-(?P<crops>center|five|ten))?\.json")
TRAINED = {"last": "linear probe", "ft": "finetuning"}
CROPS = {"center": "centre crop", "five": "five crops", "ten": "ten crops"}
MAX_POINTS = 400  # per line
STAGES = "Precision of each stage"
# Title, unit of y, explanation, and lines by name as KIND/TITLE/VALUE of metrics.jsonl. An empty title matches any; the
# kind "seconds" takes the seconds of the lines of steps. A fourth part divides the value.
CHARTS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("Loss", "nats", "Epoch means; the faint line shows every logged step.", {
        "training": "epoch/train/loss", "validation": "epoch/val/loss", "log": "steps/train/loss"}),
    ("Accuracy", "share", "Whether the class, or in a pretraining a positive, is among the highest logits. Validation "
     "takes 30 % of the test videos.", {
        "top-1": "epoch/train/top1", "top-5": "epoch/train/top5", "validation top-1": "epoch/val/top1",
        "validation top-5": "epoch/val/top5", "own key, top-1": "epoch/train/self_top1",
        "own key, top-5": "epoch/train/self_top5"}),
    ("Positive mining recall (PMR)", "share", "Share of the mined queue entries that have the query's class.", {
        "PMR": "epoch/train/recall", "best mined entry": "epoch/train/mining_r1", "chance": "epoch/train/chance"}),
    (STAGES, "share", "Share of a stage's survivors that have the query's class: each stage should beat the "
     "previous one.", {}),
    ("Class mining recall", "share", "Share of a class's videos that its queries mined in an epoch.", {
        "median over classes": "mining//cmr_median", "videos ever mined": "mining//mined_videos"}),
    ("Agreement of the two views", "agreement", "Overlap of the two views' nearest neighbours: 0 is chance, 1 means "
     "the same.", {"nearest queue entries": "epoch/train/agreement", "5 nearest clips": "health//agreement"}),
    ("Second clip of a video is the nearest", "share", "Needs no labels: the mining view should be well above a random "
     "network.", {"trained view": "health//second_own", "mining view": "health//second_other",
                  "random network": "health//second_random"}),
    ("Effective rank of the keys", "directions", "Near 1 the embeddings have collapsed.", {
        "trained view's queue": "mining//rank_own", "mining view's queue": "mining//rank_other",
        "queue": "queue//rank_own"}),
    ("kNN accuracy", "share", "Test videos classified by their nearest training videos.", {
        "weighted kNN, top-1": "knn//knn_top1", "weighted kNN, top-5": "knn//knn_top5", "R@1": "knn//r1"}),
    ("Time of a step", "seconds", "On the main process, averaged since the previous log line.", {
        "step": "seconds/train/step", "waiting for data": "seconds/train/data"}),
    ("Learning rate", "learning rate", "", {"learning rate": "epoch/train/lr"}),
)


@dataclass(frozen=True)
class Result:
    """A row of the results table."""

    kind: str  # "retrieval" or "classification"
    what: str  # protocol and dataset, in the same words for every run
    scores: dict[str, float]  # percent by "R@1", "top-1", ...
    checkpoint: str  # the evaluated one


def read_results(run: Run, notes: list[str]) -> list[Result]:
    """Read the newest result of each protocol and checkpoint of a run and of runs started from it.

    Unreadable files are added to ``notes``.
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
            tests = {_what(owner, match, crops): scores  # a crop test also has the scores of fewer crops
                     for crops, scores in (content if match["crops"] else {"": content}).items()}
        for what, scores in tests.items():
            named = {f"{prefix}{k}": value for k, value in scores.items() if k.isdecimal()}
            found.setdefault((what, checkpoint), Result(kind, what, named, checkpoint))
    return list(found.values())


def _files(run: Run) -> Iterator[tuple[Run, Path, re.Match[str]]]:
    """Yield the evaluation files of a run and of runs started from it, newest first, with their run."""
    for owner in [run] if run.is_classifier else [run, *run.downstream()]:
        for path in owner.files("*.json"):
            if match := FILE.fullmatch(path.name):
                yield owner, path, match


def _what(owner: Run, match: re.Match[str], crops: str) -> str:
    if not crops:
        return f"linear probe on stored features of {match['features']}"
    trained = TRAINED.get(owner.options.get("train_what", ""), "classifier")
    return f"{trained} on {owner.options.get('dataset', 'an unknown dataset')}, {CROPS[crops]}"


def confusions(run: Run, split_root: str, notes: list[str]) -> list[dict[str, Any]]:
    """Count the confusions of each classifier that saved its probabilities; unreadable files go to ``notes``."""
    found = []
    for owner, path, match in _files(run):
        if match["kind"] == "prob":
            title = f"{_what(owner, match, match['crops'])}, {match['checkpoint']}"
            try:
                classes = catalog.class_names(match["features"] or owner.options.get("dataset", ""), split_root)
                found.append(of_probabilities(read_probabilities(path), classes, title))
            except (CheckpointError, DataError) as error:
                notes.append(f"no confusion matrix of {run.shown(path)}: {error}")
    return found


def of_probabilities(rows: Mapping[str, Tensor], classes: Sequence[str], title: str) -> dict[str, Any]:
    """Count confusions with the most probable class; ``rows`` has probabilities (classes,) by csv path."""
    names = [video_name(path).split("/")[0] for path in rows]
    label_of = class_labels(classes, names)
    true = [label_of.get(name, -1) for name in names]
    size = len(next(iter(rows.values())))
    if -1 in true or size != len(classes):
        raise CheckpointError(f"it has {size} classes, or one that is not among the {len(classes)} of ClassInd.txt: "
                              "check --split_root")
    return _matrix(title, classes, true, [int(row.argmax()) for row in rows.values()])


def of_neighbours(found: Retrieved) -> dict[str, Any]:
    """Count confusions with the class of the nearest training clip."""
    number = {label: place for place, label in enumerate(found.classes)}
    true, near = ([number[label] for label in labels.tolist()]
                  for labels in (found.query.labels, found.gallery.labels[found.index[:, 0]]))
    return _matrix(f"nearest neighbour in retrieval on {found.dataset} (no classifier)", list(found.classes.values()),
                   true, near)


def _matrix(title: str, classes: Sequence[str], true: list[int], predicted: list[int]) -> dict[str, Any]:
    """Return "title", "classes", "total", "accuracy" (0-1), and the nonzero "cells" [true, predicted, clips]."""
    counts = Counter(zip(true, predicted, strict=True))
    return {"title": title, "classes": classes, "total": len(true),
            "accuracy": sum(n for (t, p), n in counts.items() if t == p) / len(true),
            "cells": [(t, p, n) for (t, p), n in counts.items()]}


def draw(run: Run, other: Run | None = None) -> list[dict[str, Any]]:
    """Build every chart for which the run has values; a second run's lines are dashed."""
    found = []
    runs = [(run, "")] + ([(other, ", second run")] if other else [])
    for title, unit, about, lines in CHARTS:
        drawn = []
        for each, suffix in runs:
            for colour, (name, value) in enumerate((_stages(run) if title == STAGES else lines).items()):
                x, y = points(each, value)
                faint = value.startswith("steps")
                if x:
                    drawn.append({"name": name + suffix, "x": x, "y": y, "colour": 0 if faint else colour,
                                  "dashed": bool(suffix), "faint": faint})
        if not all(line["dashed"] for line in drawn):
            found.append({"title": title, "unit": unit, "about": about, "lines": drawn})
    return found


def points(run: Run, value: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a line of `CHARTS`, in order, averaged over neighbours if there are too many."""
    kind, title, name, *divisor = value.split("/")
    kind, column = ("steps", "seconds") if kind == "seconds" else (kind, "values")
    rows = sorted((line["done"], line[column][name] / int("".join(divisor) or 1))
                  for line in run.lines(kind, title or None) if name in line.get(column, {}))
    if not rows:
        return [], []
    x, y = np.array([part.mean(axis=0) for part in np.array_split(rows, min(len(rows), MAX_POINTS))]).T.tolist()
    return x, y


def _stages(run: Run) -> dict[str, str]:
    """Return a line for each stage of the cascade; none if the options are unknown."""
    if not run.options.get("topk"):
        return {}
    config = take(ModelConfig, run.options)
    stage = config.stage if config.cascade else 1
    views = stage_views(stage, config.cascade_first)
    sizes = stage_sizes(config.moco_k, config.topk, config.ratio, stage)
    return {f"stage {i}, {view} view, keeps {size}": f"epoch/train/stage{i}_hits/{size}"
            for i, (view, size) in enumerate(zip(views, sizes, strict=True), start=1)}
