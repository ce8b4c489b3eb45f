"""Numbers of a run's page: results, and curves of the metrics."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from eval.retrieval import load_both
from tools.report.run_reader import TRAINED, Cotraining, Run
from utils.errors import UserError
from utils.files import read_json

Parts = Sequence[tuple[int, Run]]  # runs of a training, each with the steps done before it

# Files written by evaluations: retrieval, with labels and without, linear probe on stored features, and crop tests.
FILE = re.compile(r"(?P<retrieval>.+)_(recall|label_free)\.json|"
                  r"(?P<checkpoint>.+?)-(lp-(?P<features>.+)-acc|acc-(center|five|ten))\.json")
CROPS = {"center": "centre crop", "five": "five crops", "ten": "ten crops"}
# Numbers of a set without labels, with those of random weights beside them as NAME_random.
LABEL_FREE = {"second_clip": "second clip nearest, %", "effective_rank": "effective rank",
              "agreement": "streams agree, %"}
RANDOM = "random weights"
LINES = 6  # at most, in a chart
MAX_POINTS = 400  # per line


class Chart(NamedTuple):
    """A chart and its lines, KIND/TITLE/VALUE of metrics.jsonl by name, best first; an empty TITLE matches any."""

    title: str
    unit: str  # of y; "%" multiplies by 100
    about: str
    lines: dict[str, str]
    by_labels: bool = False  # left out where the dataset has a single class


CHARTS = (
    Chart("Loss", "nats", "Epoch means.", {"training": "epoch/train/loss", "validation": "epoch/val/loss"}),
    Chart("Accuracy", "%", "Whether the class, or in a pretraining a positive, is among the highest logits. Validation "
          "takes 30 % of the test videos.", {
              "top-1": "epoch/train/top1", "top-5": "epoch/train/top5", "validation top-1": "epoch/val/top1",
              "validation top-5": "epoch/val/top5", "own key, top-1": "epoch/train/self_top1",
              "own key, top-5": "epoch/train/self_top5"}),
    Chart("Positive mining recall (PMR)", "%", "Share of the mined queue entries that have the query's class.", {
        "PMR": "epoch/train/recall", "top-k by the other view alone": "epoch/train/recall_topk",
        "chance": "epoch/train/chance", "best mined entry": "epoch/train/mining_r1"}, True),
    Chart("Agreement of the two views", "%", "Overlap of the two views' nearest neighbours: 0 is chance, 100 % means "
          "the same.", {"nearest queue entries": "epoch/train/agreement", "5 nearest clips": "health//agreement"}),
    Chart("Second clip of a video is the nearest", "%", "Needs no labels: the mining view should be well above a "
          "random network.", {"trained view": "health//second_own", "random network": "health//second_random",
                       "mining view": "health//second_other"}),
    Chart("Effective rank of the keys", "directions", "Near 1 the embeddings have collapsed.", {
        "trained view's queue": "mining//rank_own", "queue": "queue//rank_own",
        "mining view's queue": "mining//rank_other"}),
    Chart("kNN accuracy", "%", "Test videos classified by their nearest training videos.", {
        "weighted kNN, top-1": "knn//knn_top1", "weighted kNN, top-5": "knn//knn_top5", "R@1": "knn//r1"}, True),
    Chart("Learning rate", "learning rate", "", {"learning rate": "epoch/train/lr"}))


@dataclass(frozen=True)
class Result:
    kind: str  # "retrieval" or "classification"
    what: str  # protocol and dataset, in the same words for every run
    scores: dict[str, float]  # by "R@1", "top-1", ...: percent, unless the name says otherwise
    of: str  # the evaluated checkpoint
    beside: dict[str, tuple[str, float]] = field(default_factory=dict)  # "chance" or `RANDOM`, by the same names
    videos: int | None = None  # queries of a retrieval


def retrieval_result(what: str, content: Mapping[str, Any], of: str, labels: tuple[Tensor, Tensor] | None) -> Result:
    """Collect a retrieval's numbers, and beside them those of random weights, or chance if labels are known."""
    names = {**LABEL_FREE, **{k: f"R@{k}" for k in content if k.isdecimal()}}
    scores = {title: content[name] for name, title in names.items() if name in content}
    beside, videos = dict[str, tuple[str, float]](), content.get("videos")
    if labels and "1" in content:
        beside = {f"R@{k}": ("chance", chance(*labels, int(k))) for k in content if k.isdecimal()}
        videos = len(labels[0])
    beside |= {title: (RANDOM, content[f"{name}_random"]) for name, title in names.items()
               if f"{name}_random" in content and title in scores}
    if "agreement_chance" in content:
        beside[LABEL_FREE["agreement"]] = "chance", content["agreement_chance"]
    return Result("retrieval", what, scores, of, beside, videos)


def accuracy_result(what: str, content: Mapping[str, Any], of: str) -> Result:
    return Result("classification", what, {f"top-{k}": value for k, value in content.items() if k.isdecimal()}, of)


def chance(query: Tensor, gallery: Tensor, k: int) -> float:
    """Return the R@k of a random ranking, in percent, from the labels of queries and gallery."""
    size, k = len(gallery), min(k, len(gallery))
    hit = {label: 1 - math.comb(size - int((gallery == label).sum()), k) / math.comb(size, k)
           for label in query.unique().tolist()}
    return 100 * fmean(hit[label] for label in query.tolist())


def read_results(run: Run) -> list[Result]:
    """Read the newest result of each protocol and checkpoint of a run."""
    found: dict[tuple[str, str], Result] = {}
    for path in run.files("*.json"):
        match = FILE.fullmatch(path.name)
        if not match or not (run.has_labels or path.name.endswith("_label_free.json")):
            continue
        content = read_json(path)
        if dataset := match["retrieval"]:
            labels = None
            with suppress(UserError, OSError):  # chance is known where the features lie beside the result
                query, gallery = load_both(path.parent, dataset)
                labels = query.labels, gallery.labels
            rows = [retrieval_result(f"retrieval on {dataset}", content, run.shown(path.parent), labels)]
        elif dataset := match["features"]:
            rows = [accuracy_result(f"linear probe on stored features of {dataset}", content, match["checkpoint"])]
        else:  # a crop test also has the scores of fewer crops
            trained = f"{TRAINED.get(run.options.get('train_what', ''), 'classifier')} on {run.options.get('dataset')}"
            rows = [accuracy_result(f"{trained}, {CROPS[crops]}", scores, match["checkpoint"])
                    for crops, scores in content.items()]
        for row in rows:
            found.setdefault((row.what, row.of), row)
    return list(found.values())


def of_cotraining(work: Cotraining, labels: tuple[Tensor, Tensor] | None) -> list[Result]:
    """Return the results of both final models and of their fusion, beside those of random weights."""
    found, rows = [], work.content["results"]
    for stream, row in rows.items():
        random = {f"{name}_random": value
                  for name, value in rows.get(f"random {stream}", {}).get("retrieval", {}).items()}
        for evaluation, content in row.items() if not stream.startswith("random ") else ():
            what = "RGB + flow" if stream == "both" else stream
            if evaluation == "retrieval":
                found.append(retrieval_result(what, random | content, "", labels))
            else:
                found.append(accuracy_result(f"{what}, {evaluation}", content, "ten crops"))
    if not found:
        raise UserError("Nothing was evaluated: see the warnings above." if work.content.get("test_videos", 1) else
                        "No video was held out, so nothing was evaluated: without labels it takes 60 videos or more.")
    return found


def draw(series: Mapping[str, Parts], marks: Sequence[tuple[int, str]] = ()) -> list[dict[str, Any]]:
    """Build every chart that has values, of trainings by name; ``marks`` says at which steps their parts begin."""
    found, single, labels = [], len(series) == 1, list(series)
    first = series[labels[0]][-1][1]
    for chart in CHARTS:
        if chart.by_labels and not first.has_labels:
            continue
        scale = 100 if chart.unit == "%" else 1
        read = [(name, label, *points(parts, value, scale)) for name, value in chart.lines.items()
                for label, parts in series.items()]
        names = list(dict.fromkeys(each[0] for each in read if each[2]))
        drawn = []
        for name, label, x, y in read:
            if not x or (number := names.index(name)) >= LINES // len(series):
                continue
            both = f"{label}: {name}" if len(names) > 1 else label
            drawn.append({"x": x, "y": y, **({"name": name, "colour": number, "dash": 0} if single else
                                             {"name": both, "colour": labels.index(label), "dash": number})})
        if drawn:
            found.append({"title": chart.title, "unit": chart.unit, "about": chart.about, "lines": drawn,
                          "marks": marks})
    if not found:
        raise UserError("This run folder has no metrics.jsonl, or no epoch is in it yet; training writes it.")
    return found


def points(parts: Parts, value: str, scale: float = 1) -> tuple[list[float], list[float | None]]:
    """Return steps and values of a line of `CHARTS`, at most `MAX_POINTS` means; None between parts of a training."""
    kind, title, name = value.split("/")
    x, y = list[float](), list[float | None]()
    for before, run in parts:
        rows = sorted((before + line["done"], scale * line["values"][name])
                      for line in run.lines(kind, title or None) if name in line["values"])
        if rows:
            means = [part.mean(axis=0).tolist() for part in np.array_split(rows, min(len(rows), MAX_POINTS))]
            x, y = [*x, *x[-1:], *(step for step, _ in means)], [*y, *[None][:len(y)], *(mean for _, mean in means)]
    return x, y
