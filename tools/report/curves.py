"""Charts of a run's metrics, optionally beside a second run's."""

from typing import Any

import numpy as np

from engine.config import ModelConfig, take
from model.cascade import stage_sizes, stage_views
from tools.report.run_reader import Run

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


def draw(run: Run, other: Run | None = None) -> list[dict[str, Any]]:
    """Build every chart for which the run's metrics have values.

    Returns:
        {"title", "unit", "about", "lines": [{"name", "x", "y", "colour" (its number), "dashed" (the second run's),
        "faint" (in the background)}, ...]} of each.
    """
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
    """Return a line for each stage of the run's cascade, none if the options are unknown."""
    if not run.options.get("topk"):
        return {}
    config = take(ModelConfig, run.options)
    stage = config.stage if config.cascade else 1
    views = stage_views(stage, config.cascade_first)
    sizes = stage_sizes(config.moco_k, config.topk, config.ratio, stage)
    return {f"stage {i}, {view} view, keeps {size}": f"epoch/train/stage{i}_hits/{size}"
            for i, (view, size) in enumerate(zip(views, sizes, strict=True), start=1)}
