"""The two figures of the experiment: retrieval by method, and mining recall over epochs."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.results import mean_and_std
from experiments.settings import METHODS

STREAMS = ("RGB", "flow", "both")
SAVED: dict[str, Any] = {"dpi": 110, "bbox_inches": "tight", "metadata": {"Software": None}}


def draw(content: Mapping[str, Any], out: Path) -> None:
    """Write experiment_retrieval.png and experiment_mining.png: a panel each set."""
    for name, panel in (("retrieval", retrieval_panel), ("mining", mining_panel)):
        sets = content["sets"]
        figure, axes = plt.subplots(1, len(sets), figsize=(7.5 * len(sets), 4.8), squeeze=False,
                                    layout="constrained")
        for ax, (title, found) in zip(axes[0], sets.items(), strict=True):
            panel(ax, found)
            ax.set_title(title)
        figure.savefig(out / f"experiment_{name}.png", **SAVED)
        plt.close(figure)


def retrieval_panel(ax: Axes, found: Mapping[str, Any]) -> None:
    """R@1 of each method's streams, mean and standard deviation over seeds."""
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
    """PMR over epochs of the methods that mine: mean over seeds, and one standard deviation about it.

    Mining at random would find the share of its class in a queue without the query's own source, as the runs tell.
    """
    chances = []
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    looks = [(colour, style) for style in ("-", "--") for colour in colours]  # there are more methods than colours
    mining = [name for name, method in METHODS.items() if method.kind == "mining"]  # each looks alike in all panels
    for name, (colour, style) in zip(mining, cycle(looks), strict=False):
        runs = found["runs"].get(name, {})
        curve = recall_curve(runs)
        if curve:
            chances += [value["mean"] for value in recall_curve(runs, "chance").values()]
            epochs, mean = list(curve), [100 * value["mean"] for value in curve.values()]
            std = [100 * value["std"] for value in curve.values()]
            ax.plot(epochs, mean, color=colour, linestyle=style, label=METHODS[name].title)
            ax.fill_between(epochs, [m - s for m, s in zip(mean, std, strict=True)],
                            [m + s for m, s in zip(mean, std, strict=True)], alpha=0.15, color=colour)
    if chances:
        ax.axhline(100 * fmean(chances), color="grey", linestyle=":", label="mining at random")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("epoch")
    ax.set_ylabel("positive mining recall, %")
    ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)  # below: bands fill the panel


def recall_curve(seeds: Mapping[str, Mapping[str, Any]], measure: str = "recall") -> dict[int, dict[str, float]]:
    """{epoch: mean and standard deviation over seeds} of the mining recall or its "chance", as shares."""
    by_epoch: dict[int, list[float]] = {}
    for run in seeds.values():
        for line in run["journal"]:
            if line["kind"] == "epoch" and measure in line["values"]:
                by_epoch.setdefault(line["epoch"], []).append(line["values"][measure])
    return {epoch: mean_and_std(values) for epoch, values in sorted(by_epoch.items())}
