"""Curves of a run's journal, beside a second run's where one is given."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.cascade import stage_sizes, stage_views
from model.errors import ModelError
from report.charts import Chart, Points, Series, shown, thinned
from report.run_files import RunFiles

DEEPEST = 64  # stages that are looked at: run.json may hold any number


@dataclass(frozen=True)
class Recipe:
    """A chart of the journal. lines: kind of line, title ("" for any), name of the value, and what to call it."""

    title: str
    y: str
    lines: tuple[tuple[str, str, str, str], ...]
    about: str = ""
    low: float | None = 0.0
    classifier: bool | None = None  # of a classifier's training alone, of a pretraining alone, or of both


RECIPES = (
    Recipe("Loss", "loss, nats", (("epoch", "train", "loss", "training"), ("epoch", "val", "loss", "validation")),
           "Means over epochs; faint, means between lines of the log.", None),
    Recipe("Accuracy of the classifier", "share", (
        ("epoch", "train", "top1", "top-1"), ("epoch", "train", "top5", "top-5"),
        ("epoch", "val", "top1", "validation top-1"), ("epoch", "val", "top5", "validation top-5")),
        "Validation sees one clip of 30 % of the test videos.", classifier=True),
    Recipe("Accuracy of the pretext task", "share", (
        ("epoch", "train", "top1", "top-1"), ("epoch", "train", "top5", "top-5"),
        ("epoch", "train", "self_top1", "own key, top-1"), ("epoch", "train", "self_top5", "own key, top-5")),
        "Whether a positive is among the highest logits, which says little of the features.", classifier=False),
    Recipe("Positive mining recall (PMR)", "share", (
        ("epoch", "train", "recall", "PMR"), ("epoch", "train", "mining_r1", "of the best mined entry"),
        ("epoch", "train", "chance", "mining at random")),
        "Share of the mined queue entries that are of the query's class."),
    Recipe("Class mining recall", "share", (
        ("mining", "", "cmr_median", "median over classes"), ("mining", "", "mined_videos", "videos mined at all")),
        "Share of a class's sources that its queries have found in an epoch."),
    Recipe("Agreement of the two views", "agreement", (
        ("epoch", "train", "agreement", "queue, nearest mined"), ("health", "", "agreement", "5 nearest of the clips")),
        "Overlap of the two views' lists of nearest neighbours: 0 as by chance, 1 the same lists."),
    Recipe("A second clip of the same video is the nearest", "share", (
        ("health", "", "second_own", "trained view"), ("health", "", "second_other", "view that mines"),
        ("health", "", "second_random", "random network")),
        "A sign that needs no labels: the view that mines should be well above a random network."),
    Recipe("Effective rank of the keys", "directions", (
        ("mining", "", "rank_own", "trained view's queue"), ("mining", "", "rank_other", "mining view's queue"),
        ("queue", "", "rank_own", "queue")),
        "Near 1 the embeddings have collapsed."),
    Recipe("kNN of the features", "share", (
        ("knn", "", "knn_top1", "weighted kNN, top-1"), ("knn", "", "knn_top5", "weighted kNN, top-5"),
        ("knn", "", "r1", "R@1")), "Test videos among the training videos."),
    Recipe("Time of a step", "seconds", (("seconds", "train", "step", "in all"),
                                         ("seconds", "train", "data", "waiting for data")),
           "Means between lines of the log, of the main process."),
    Recipe("Learning rate", "learning rate", (("epoch", "train", "lr", "learning rate"),)),
)


def draw(run: RunFiles, other: RunFiles | None = None) -> list[Chart]:
    """All charts that the journal has values for, over training steps."""
    recipes = [recipe for recipe in RECIPES if recipe.classifier in (None, run.is_classifier)]
    found = [chart for recipe in recipes if (chart := _chart(recipe, run, other))]
    stages = _stages(run)
    if stages is not None:
        place = next((i for i, chart in enumerate(found) if chart.title.startswith("Class mining")), len(found))
        found.insert(place, stages)
    return found


def _chart(recipe: Recipe, run: RunFiles, other: RunFiles | None) -> Chart | None:
    series = []
    for colour, (kind, title, value, name) in enumerate(recipe.lines):
        own, beside = (_points(each, kind, title, value) if each else [] for each in (run, other))
        if own:
            series.append(Series(name, own, colour, beside=shown(beside[-1][1]) if beside else ""))
        if beside:
            series.append(Series(f"{name}, second run", beside, colour, dashed=True))
    if not any(not line.dashed for line in series):
        return None
    if recipe.title == "Loss":
        steps = _points(run, "steps", "train", "loss")
        series[:0] = [Series("between lines of the log", thinned(steps), 0, faint=True)] if len(steps) > 1 else []
    return Chart(recipe.title, "training steps", recipe.y, series, recipe.low, recipe.about)


def _points(run: RunFiles, kind: str, title: str, value: str) -> Points:
    """(steps done, value) of the journal's lines, in order; "seconds" are those of the lines of steps."""
    column, kind = ("seconds", "steps") if kind == "seconds" else ("values", kind)
    points = sorted((line["done"], line[column][value]) for line in run.lines(kind, title or None)
                    if value in line[column])
    return thinned(points) if points else []


def _stages(run: RunFiles) -> Chart | None:
    """Share of each stage's survivors that are of the query's class, over steps."""
    sizes = cascade(run)
    series = []
    for number, (view, size) in enumerate(sizes, start=1):
        points = [(x, hits / size) for x, hits in _points(run, "epoch", "train", f"stage{number}_hits")]
        if points:
            series.append(Series(f"stage {number}, {view} view, keeps {size}", points, number - 1))
    if not series:
        return None
    return Chart("Right survivors of each stage", "training steps", "share", series,
                 about="Share of a stage's survivors that are of the query's class: each should be above the last.")


def cascade(run: RunFiles) -> Sequence[tuple[str, int]]:
    """The view that each stage ranks by and what it keeps, as the run's options say; empty where they do not."""
    options = run.options
    try:
        stages = min(int(options["stage"]), DEEPEST) if options.get("cascade") else 1
        sizes = stage_sizes(int(options["moco_k"]), int(options["topk"]), float(options["ratio"]), stages)
        views = stage_views(stages, options.get("cascade_first", "other") if stages > 1 else "other")
    except (KeyError, TypeError, ValueError, OverflowError, ModelError):
        return []
    return list(zip(views, sizes, strict=True))
