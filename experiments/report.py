"""Tables and figures of an experiment's results.

    python -m experiments.report --results experiments/results/full.json --out docs/research

Writes OUT/experiment_results.md, with a table for each set, and two figures: OUT/experiment_retrieval.png and
OUT/experiment_mining.png.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from engine.health import CLEAR
from experiments.plan import ROOT
from experiments.results import mean_and_std
from experiments.settings import METHODS
from utils import launch
from utils.console import say, table
from utils.errors import CheckpointError
from utils.files import read_json, write_text
from utils.parser import Parser

COLUMNS = ("RGB R@1", "RGB R@5", "RGB R@10", "RGB R@20", "flow R@1", "both R@1", "RGB probe", "RGB finetune", "PMR",
           "median CMR")
STREAMS = ("RGB", "flow", "both")
SAVED: dict[str, Any] = {"dpi": 110, "bbox_inches": "tight", "metadata": {"Software": None}}  # the same bytes each time
Summary = Mapping[str, Mapping[str, Mapping[str, float]]]


def cell(value: Mapping[str, float] | None) -> str:
    """Format a measure over seeds, "62.3 ± 1.2"; "" if it was not measured."""
    if value is None:
        return ""
    return f"{value['mean']:.1f}" + (f" ± {value['std']:.1f}" if value["n"] > 1 else "")


def rows(summary: Summary) -> list[list[str]]:
    """Make a line for each method in the order of METHODS, with the columns of COLUMNS."""
    return [[METHODS[name].title, *(cell(summary[name].get(column)) for column in COLUMNS)]
            for name in METHODS if name in summary]


def text_table(found: Mapping[str, Any]) -> str:
    """Format the results of one set for the console."""
    return table(["percent", *COLUMNS], rows(found["summary"]))


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a markdown table."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation; nan where one of them is constant, or for fewer than three values."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(_ranks(np.asarray(x)), _ranks(np.asarray(y)))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, float (N,); equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def miner_table(found: Mapping[str, Any]) -> str:
    """Tabulate each kind of miner, and the rank correlation of its signs with PMR; "" if none was looked at."""
    miners = [each for seed in found.get("oracles", {}).values() for each in seed]
    if not miners:
        return ""
    signs = [name for name in miners[0] if name not in ("view", "epochs", "miner", "PMR", "chance")]
    kinds: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for each in miners:
        kinds.setdefault((each["view"], each["epochs"]), []).append(each)
    lines = []
    for (view, epochs), group in kinds.items():
        means = {name: fmean(each[name] for each in group) for name in ("PMR", "chance", *signs)}
        warned = sum(each["better"] < CLEAR for each in group)
        lines.append([f"{view}, {epochs} epoch{'s' * (epochs > 1)}", f"{100 * means['PMR']:.1f}",
                      f"{100 * means['chance']:.1f}", f"{warned} of {len(group)}",
                      *(f"{means[name]:.2g}" for name in signs)])
    trained = [each for each in miners if each["epochs"] > 1]
    for title, group in ((f"rank correlation with PMR, all {len(miners)}", miners),
                         (f"the same, the {len(trained)} of more than one epoch", trained)):
        rho = [rank_correlation([each[name] for each in group], [each["PMR"] for each in group]) for name in signs]
        lines.append([title, "", "", "", *("" if math.isnan(value) else f"{value:+.2f}" for value in rho)])
    return markdown(["miner", "PMR", "chance", "warned of", *signs], lines)


def cascade_table(found: Mapping[str, Any]) -> str:
    """Tabulate what each cascade mines in each pair of encoders, over seeds; "" if none was looked at."""
    pairs: dict[str, list[Mapping[str, Any]]] = {}
    for each in (each for seed in found.get("cascades", {}).values() for each in seed):
        pairs.setdefault(f"{METHODS[each['own']].title}; {METHODS[each['other']].title}", []).append(each)
    if not pairs:
        return ""
    first, *_ = pairs.values()
    ways = [name for name, value in first[0].items() if isinstance(value, float)]
    titles = {"top-k": "top-k by flow", "own top-k": "top-k by RGB"}
    lines = [[pair, *(cell(mean_and_std(100 * each[way] for each in group)) for way in ways)]
             for pair, group in pairs.items()]
    return markdown(["RGB encoder; flow encoder", *(titles.get(way, way) for way in ways)], lines)


def text(content: Mapping[str, Any]) -> str:
    """Write the report as markdown, without the figures."""
    parts = []
    for name, found in content["sets"].items():
        seeds = max((len(runs) for runs in found["runs"].values()), default=0)
        parts += [f"## {name}", f"Percent, mean ± standard deviation over {seeds} seeds; chance {found['chance']:.1f}.",
                  markdown(["method", *COLUMNS], rows(found["summary"]))]
        miners, cascades = miner_table(found), cascade_table(found)
        if miners:
            parts += ["Encoders that mine, or might: positive mining recall (percent) beside the signs that need no "
                      "labels, means over seeds (`experiments/study.py`).", miners]
        if cascades:
            parts += ["Positive mining recall of each cascade with pairs of trained encoders, all in the same queues "
                      "(`experiments/study.py`).", cascades]
        if found["skipped"]:
            parts += ["Left out:", "\n".join(f"- {title}: {why}" for title, why in found["skipped"].items())]
    return "\n\n".join(parts) + "\n"


def draw(content: Mapping[str, Any], out: Path) -> None:
    """Draw experiment_retrieval.png and experiment_mining.png, with a panel for each set."""
    panels: dict[str, Callable[[Axes, Mapping[str, Any]], None]] = {"retrieval": retrieval_panel,
                                                                    "mining": mining_panel}
    sets = content["sets"]
    for name, panel in panels.items():
        figure, axes = plt.subplots(1, len(sets), figsize=(7.5 * len(sets), 4.8), squeeze=False, layout="constrained")
        for ax, (title, found) in zip(axes[0], sets.items(), strict=True):
            panel(ax, found)
            ax.set_title(title)
        figure.savefig(out / f"experiment_{name}.png", **SAVED)
        plt.close(figure)


def retrieval_panel(ax: Axes, found: Mapping[str, Any]) -> None:
    """Draw R@1 of each method's streams, mean and standard deviation over seeds."""
    summary = found["summary"]
    names = [name for name in METHODS if name in summary and "RGB R@1" in summary[name]]
    for i, stream in enumerate(STREAMS):
        values = [summary[name][f"{stream} R@1"] for name in names]
        ax.errorbar([value["mean"] for value in values], [j + 0.2 * (i - 1) for j in range(len(names))],
                    xerr=[value["std"] for value in values], fmt="osd"[i], capsize=2, label=stream)
    ax.axvline(found["chance"], color="grey", linestyle=":", label="chance")
    ax.set_yticks(range(len(names)), [METHODS[name].title for name in names])
    ax.invert_yaxis()
    ax.set_xlabel("R@1, %")
    ax.legend(fontsize="small")


def mining_panel(ax: Axes, found: Mapping[str, Any]) -> None:
    """Draw PMR over epochs of the methods that mine: mean over seeds, in a band of one standard deviation.

    Mining at random finds the share of the query's class in a queue without its own source, which the runs log.
    """
    chances = []
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    styles = [(colour, line) for line in ("-", "--") for colour in colours]  # there are more methods than colours
    mining = [name for name, method in METHODS.items() if method.kind == "mining"]  # each has its style in all panels
    for name, (colour, line) in zip(mining, cycle(styles), strict=False):
        runs = found["runs"].get(name, {})
        curve = recall_curve(runs)
        if curve:
            chances += [value["mean"] for value in recall_curve(runs, "chance").values()]
            mean, std = (np.array([100 * value[key] for value in curve.values()]) for key in ("mean", "std"))
            ax.plot(list(curve), mean, color=colour, linestyle=line, label=METHODS[name].title)
            ax.fill_between(list(curve), mean - std, mean + std, alpha=0.15, color=colour)
    if chances:
        ax.axhline(100 * fmean(chances), color="grey", linestyle=":", label="mining at random")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("epoch")
    ax.set_ylabel("positive mining recall, %")
    ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)  # below: bands fill the panel


def recall_curve(seeds: Mapping[str, Mapping[str, Any]], measure: str = "recall") -> dict[int, dict[str, float]]:
    """Return {epoch: mean and standard deviation over seeds} of the mining recall or its "chance", as shares."""
    by_epoch: dict[int, list[float]] = {}
    for run in seeds.values():
        for line in run["journal"]:
            if line["kind"] == "epoch" and measure in line["values"]:
                by_epoch.setdefault(line["epoch"], []).append(line["values"][measure])
    return {epoch: mean_and_std(values) for epoch, values in sorted(by_epoch.items())}


def make_parser() -> Parser:
    """Define the options."""
    parser = Parser(description=__doc__)
    parser.topic("data")("--results", type=Path, default=ROOT / "experiments" / "results" / "full.json",
                         metavar="FILE", help="results of experiments.run (default: experiments/results/full.json)")
    parser.topic("output")("--out", type=Path, default=ROOT / "docs" / "research", metavar="FOLDER",
                           help="folder to write to (default: docs/research/)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write tables and figures."""
    args = make_parser().parse_args(argv)
    if not args.results.is_file():
        raise CheckpointError(f"there is no {args.results}: python -m experiments.run writes it")
    content = read_json(args.results)
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / "experiment_results.md", text(content))
    draw(content, args.out)
    say(text(content))
    say(f"written: {args.out / 'experiment_results.md'} and two figures beside it")
    return 0


if __name__ == "__main__":
    launch.run(main)
