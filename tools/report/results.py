"""Numbers of a run's page: results, and curves of the metrics."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from engine.config import ModelConfig, take
from eval.retrieval import load_both
from model.cascade import stage_sizes, stage_views
from tools.pictures import evenly_spaced
from tools.report.galleries import VIEWS
from tools.report.run_reader import TRAINED, Cotraining, Run
from utils.errors import CheckpointError, UserError
from utils.files import read_json

Parts = Sequence[tuple[int, Run]]  # of a training: the steps before it, and its run

# Files written by evaluations: retrieval, with labels and without, linear probe on stored features, and crop tests.
FILE = re.compile(r"(?P<retrieval>.+)_(recall|label_free)\.json|(?P<checkpoint>.+?)-(lp-(?P<features>.+)-)?"
                  r"acc(-(?P<crops>center|five|ten))?\.json")
CROPS = {"center": "centre crop", "five": "five crops", "ten": "ten crops"}
# Numbers of a set without labels, with those of random weights beside them as NAME_random.
LABEL_FREE = {"second_clip": "second clip nearest, %", "effective_rank": "effective rank",
              "agreement": "streams agree, %"}
RANDOM = "random weights"
LINES = 6  # most of them in a chart
MAX_POINTS = 400  # per line
STAGES = "Precision of each stage"


class Chart(NamedTuple):
    """A chart: its lines are KIND/TITLE/VALUE of metrics.jsonl by name, the most important first.

    An empty TITLE matches any; the kind "seconds" takes the seconds of the lines of steps. A fourth part divides.
    """

    title: str
    unit: str  # of y; "%" multiplies by 100
    about: str
    lines: dict[str, str]
    by_labels: bool = False  # left out where the dataset has a single class


CHARTS = (
    Chart("Loss", "nats", "Epoch means; of a single run faintly every logged step.", {
        "training": "epoch/train/loss", "validation": "epoch/val/loss", "log": "steps/train/loss"}),
    Chart("Accuracy", "%", "Whether the class, or in a pretraining a positive, is among the highest logits. Validation "
          "takes 30 % of the test videos.", {
              "top-1": "epoch/train/top1", "top-5": "epoch/train/top5", "validation top-1": "epoch/val/top1",
              "validation top-5": "epoch/val/top5", "own key, top-1": "epoch/train/self_top1",
              "own key, top-5": "epoch/train/self_top5"}),
    Chart("Positive mining recall (PMR)", "%", "Share of the mined queue entries that have the query's class.", {
        "PMR": "epoch/train/recall", "chance": "epoch/train/chance",
        "best mined entry": "epoch/train/mining_r1"}, True),
    Chart(STAGES, "%", "Share of a stage's survivors that have the query's class: each stage should beat the previous "
          "one.", {}, True),
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
    Chart("Time of a step", "seconds", "On the main process, averaged since the previous log line.", {
        "step": "seconds/train/step", "waiting for data": "seconds/train/data"}),
    Chart("Learning rate", "learning rate", "", {"learning rate": "epoch/train/lr"}),
)


@dataclass(frozen=True)
class Result:
    """A row of the results table."""

    kind: str  # "retrieval" or "classification"
    what: str  # protocol and dataset, in the same words for every run
    scores: dict[str, float]  # by "R@1", "top-1", ...: percent, unless the name says otherwise
    of: str  # the evaluated checkpoint
    beside: dict[str, tuple[str, float]] = field(default_factory=dict)  # "chance" or `RANDOM`, by the same names
    videos: int | None = None  # queries of a retrieval


def retrieval_result(what: str, content: Mapping[str, Any], of: str, random: Mapping[str, float],
                     labels: tuple[Tensor, Tensor] | None) -> Result:
    """Put the numbers of a retrieval beside those of random weights, else of chance where the labels are known."""
    names = {**LABEL_FREE, **{k: f"R@{k}" for k in content if k.isdecimal()}}
    scores = {title: content[name] for name, title in names.items() if name in content}
    beside, videos = dict[str, tuple[str, float]](), content.get("videos")
    if labels and "1" in content:
        beside = {f"R@{k}": ("chance", chance(*labels, int(k))) for k in content if k.isdecimal()}
        videos = len(labels[0])
    base = {**{f"{name}_random": value for name, value in random.items()}, **content}
    beside |= {title: (RANDOM, base[f"{name}_random"]) for name, title in names.items()
               if f"{name}_random" in base and title in scores}
    return Result("retrieval", what, scores, of, beside, videos)


def chance(query: Tensor, gallery: Tensor, k: int) -> float:
    """Return how many percent of queries have their class among k gallery videos drawn at random, by labels."""
    size, k = len(gallery), min(k, len(gallery))
    hit = {label: 1 - math.comb(size - int((gallery == label).sum()), k) / math.comb(size, k)
           for label in query.unique().tolist()}
    return 100 * fmean(hit[label] for label in query.tolist())


def labels_beside(path: Path, dataset: str) -> tuple[Tensor, Tensor] | None:
    """Return the labels of queries and gallery whose features lie beside a result; None without them."""
    try:
        query, gallery = load_both(path.parent, dataset)
    except (UserError, OSError):
        return None
    return query.labels, gallery.labels


def read_results(run: Run, notes: list[str]) -> list[Result]:
    """Read the newest result of each protocol and checkpoint of a run and of runs started from it.

    Unreadable files are added to ``notes``.
    """
    found: dict[tuple[str, str], Result] = {}
    runs = [run] if run.is_classifier else [run, *run.downstream()]
    for owner, path in [(each, path) for each in runs for path in each.files("*.json")]:
        match = FILE.fullmatch(path.name)
        if not match or not (run.has_labels or path.name.endswith("_label_free.json")):
            continue
        try:
            content = read_json(path)
        except CheckpointError as error:
            notes.append(str(error))
            continue
        if dataset := match["retrieval"]:
            rows = [retrieval_result(f"retrieval on {dataset}", content, run.shown(path.parent), {},
                                     labels_beside(path, dataset))]
        else:  # a crop test also has the scores of fewer crops
            rows = [Result("classification", _what(owner, match, crops), accuracies(scores), match["checkpoint"])
                    for crops, scores in (content if match["crops"] else {"": content}).items()]
        for row in rows:
            found.setdefault((row.what, row.of), row)
    return list(found.values())


def of_cotraining(work: Cotraining, labels: tuple[Tensor, Tensor] | None) -> list[Result]:
    """Return the results of both final models and of their fusion, beside those of random weights."""
    found, rows = [], work.content["results"]
    for stream, row in rows.items():
        random = rows.get(f"random {stream}", {})
        for evaluation, content in row.items() if not stream.startswith("random ") else ():
            what = "RGB + flow" if stream == "both" else stream
            if evaluation == "retrieval":
                found.append(retrieval_result(what, content, "", random.get("retrieval", {}), labels))
            else:
                found.append(Result("classification", f"{what}, {evaluation}", accuracies(content), "ten crops"))
    if not found:
        raise UserError("Nothing was evaluated: see the warnings above.")
    return found


def accuracies(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracies in a result of a classifier."""
    return {f"top-{k}": value for k, value in content.items() if k.isdecimal()}


def _what(owner: Run, match: re.Match[str], crops: str) -> str:
    if not crops:
        return f"linear probe on stored features of {match['features']}"
    trained = TRAINED.get(owner.options.get("train_what", ""), "classifier")
    return f"{trained} on {owner.options.get('dataset', 'an unknown dataset')}, {CROPS[crops]}"


def draw(series: Mapping[str, Parts], marks: Sequence[tuple[int, str]] = ()) -> list[dict[str, Any]]:
    """Build every chart for which there are values, of trainings by name; several share its lines.

    A training may have parts, one after the other; ``marks`` says at which steps they begin.
    """
    found, single = [], len(series) == 1
    first = next(iter(series.values()))[-1][1]
    for chart in CHARTS:
        if chart.by_labels and not first.has_labels:
            continue
        lines = _stages(first) if chart.title == STAGES else chart.lines
        scale = 100 if chart.unit == "%" else 1
        read = {name: {label: points(parts, value, scale) for label, parts in series.items()}
                for name, value in lines.items() if single or not value.startswith("steps")}
        read = {name: each for name, each in read.items() if any(x for x, _ in each.values())}
        drawn = []
        for number, name in enumerate([*read][:LINES // len(series)]):
            faint = lines[name].startswith("steps")
            for place, (label, (x, y)) in enumerate(read[name].items()):
                both = f"{label}: {name}" if len(read) > 1 else label
                look = ({"name": name, "colour": 0 if faint else number, "dash": 0} if single else
                        {"name": both, "colour": place, "dash": number})
                drawn += [{"x": x, "y": y, "faint": faint, **look}] if x else []
        if drawn:
            found.append({"title": chart.title, "unit": chart.unit, "about": chart.about, "lines": drawn,
                          "marks": marks})
    if not found:
        raise UserError("This run folder has no metrics.jsonl, or no epoch is in it yet; training writes it.")
    return found


def points(parts: Parts, value: str, scale: float = 1) -> tuple[list[float], list[float | None]]:
    """Return steps and values of a line of `CHARTS`, in order, averaged over neighbours if there are too many.

    Between the parts of a training there is a gap, None.
    """
    kind, title, name, *divisor = value.split("/")
    kind, column = ("steps", "seconds") if kind == "seconds" else (kind, "values")
    x, y = list[float](), list[float | None]()
    for before, run in parts:
        rows = sorted((before + line["done"], scale * line[column][name] / int("".join(divisor) or 1))
                      for line in run.lines(kind, title or None) if name in line.get(column, {}))
        if rows:
            means = [part.mean(axis=0).tolist() for part in np.array_split(rows, min(len(rows), MAX_POINTS))]
            x, y = [*x, *x[-1:], *(step for step, _ in means)], [*y, *[None][:len(y)], *(mean for _, mean in means)]
    return x, y


def _stages(run: Run) -> dict[str, str]:
    """Return a line for stages of the mining, evenly spaced if there are many; none if the options are unknown."""
    if not run.options.get("topk"):
        return {}
    config = take(ModelConfig, run.options)
    plain = {"topk": ["other"], "fused": ["both"]}  # in one stage
    views = plain.get(config.rule) or stage_views(config.stage, config.cascade_first)
    sizes = stage_sizes(config.moco_k, config.topk, config.ratio, len(views))
    return {f"stage {i + 1}, {VIEWS[views[i]]}, keeps {sizes[i]}": f"epoch/train/stage{i + 1}_hits/{sizes[i]}"
            for i in evenly_spaced(len(views), LINES)}
