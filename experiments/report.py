"""Tables and figures of an experiment's results.

    python -m experiments.report --results experiments/results/reduced.json --out experiments/made/report

Writes OUT/experiment_results.md, with a table for each set, and two figures: OUT/experiment_retrieval.png and
OUT/experiment_mining.png. Text before the first table of an existing page is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from experiments.plan import ROOT
from experiments.results import mean_and_std
from experiments.settings import METHODS
from utils import launch
from utils.console import say, table
from utils.errors import CheckpointError
from utils.files import read_json, read_text, write_text
from utils.parser import Parser

COLUMNS = ("RGB R@1", "RGB R@5", "RGB R@10", "RGB R@20", "flow R@1", "both R@1", "RGB probe", "RGB finetune", "PMR",
           "median CMR")
STREAMS = ("RGB", "flow", "both")
SAVED: dict[str, Any] = {"dpi": 110, "bbox_inches": "tight", "metadata": {"Software": None}}  # the same bytes each time
Summary = Mapping[str, Mapping[str, Mapping[str, float]]]


def title_of(method: str) -> str:
    """Return a method's title, or its name: results of older grids hold methods that no longer exist."""
    return METHODS[method].title if method in METHODS else method


def cell(value: Mapping[str, float] | None) -> str:
    """Format a measure over seeds, "62.3 ± 1.2"; "" if it was not measured."""
    if value is None:
        return ""
    return f"{value['mean']:.1f}" + (f" ± {value['std']:.1f}" if value["n"] > 1 else "")


def rows(summary: Summary) -> list[list[str]]:
    """Make a row for each method, with the columns of COLUMNS."""
    return [[title_of(name), *(cell(measures.get(column)) for column in COLUMNS)] for name, measures in summary.items()]


def text_table(found: Mapping[str, Any]) -> str:
    """Format the results of one set for the console."""
    return table(["percent", *COLUMNS], rows(found["summary"]))


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a markdown table."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def text(content: Mapping[str, Any]) -> str:
    """Write the sections of the page as markdown, without the figures."""
    parts = []
    for name, found in content["sets"].items():
        seeds = max((len(runs) for runs in found["runs"].values()), default=0)
        parts += [f"## {name}", f"Percent, mean ± standard deviation over {seeds} seeds; chance {found['chance']:.1f}.",
                  markdown(["method", *COLUMNS], rows(found["summary"]))]
        if found["skipped"]:
            parts += ["Left out:", "\n".join(f"- {title}: {why}" for title, why in found["skipped"].items())]
    return "\n\n".join(parts) + "\n"


def page(content: Mapping[str, Any], path: Path) -> str:
    """Return the page: the existing head of ``path``, or one that names the commit, and the sections."""
    head = f"# Results of the experiment\n\n> Run at commit {content['code'].get('commit')}.\n\n"
    if path.is_file():
        head = read_text(path).partition("\n## ")[0].rstrip() + "\n\n"
    return head + text(content)


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
    names = [name for name, measures in found["summary"].items() if "RGB R@1" in measures]
    for i, stream in enumerate(STREAMS):
        values = [found["summary"][name][f"{stream} R@1"] for name in names]
        ax.errorbar([value["mean"] for value in values], [j + 0.2 * (i - 1) for j in range(len(names))],
                    xerr=[value["std"] for value in values], fmt="osd"[i], capsize=2, label=stream)
    ax.axvline(found["chance"], color="grey", linestyle=":", label="chance")
    ax.set_yticks(range(len(names)), [title_of(name) for name in names])
    ax.invert_yaxis()
    ax.set_xlabel("R@1, %")
    ax.legend(fontsize="small")


def mining_panel(ax: Axes, found: Mapping[str, Any]) -> None:
    """Draw PMR over epochs of the methods that mine: mean over seeds, in a band of one standard deviation.

    Chance level is the share of the query's class in a queue without its own source, as logged by the runs.
    """
    chances = []
    for name, runs in found["runs"].items():
        curve = recall_curve(runs)
        if curve:
            chances += [value["mean"] for value in recall_curve(runs, "chance").values()]
            mean, std = (np.array([100 * value[key] for value in curve.values()]) for key in ("mean", "std"))
            [line] = ax.plot(list(curve), mean, label=title_of(name))
            ax.fill_between(list(curve), mean - std, mean + std, alpha=0.15, color=line.get_color())
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
    parser.topic("data")("--results", type=Path, default=ROOT / "experiments" / "results" / "reduced.json",
                         metavar="FILE", help="results of experiments.run (default: experiments/results/reduced.json)")
    parser.topic("output")("--out", type=Path, default=ROOT / "experiments" / "made" / "report", metavar="FOLDER",
                           help="folder to write to (default: experiments/made/report/)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write tables and figures."""
    args = make_parser().parse_args(argv)
    if not args.results.is_file():
        raise CheckpointError(f"there is no {args.results}: python -m experiments.run writes it")
    content = read_json(args.results)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "experiment_results.md"
    write_text(path, page(content, path))
    draw(content, args.out)
    say(text(content))
    say(f"written: {path} and two figures beside it")
    return 0


if __name__ == "__main__":
    launch.run(main)
