"""Tables and figures of an experiment's results.

    python -m experiments.report --results experiments/results/full.json --out docs

Writes OUT/experiment_results.md, with a table of each set and one of the signs of mining health, and two figures, which
need matplotlib: OUT/experiment_retrieval.png and OUT/experiment_mining.png.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import launch
from cotrain_plan import ROOT
from eval.report import read_json, table
from experiments import signs
from experiments.results import mean_and_std
from experiments.settings import METHODS
from pretrain_health import CLEAR
from utils.console import say
from utils.errors import CheckpointError
from utils.options import Parser

COLUMNS = ("RGB R@1", "RGB R@5", "RGB R@10", "RGB R@20", "flow R@1", "both R@1", "RGB probe", "RGB finetune", "PMR",
           "median CMR")
Summary = Mapping[str, Mapping[str, Mapping[str, float]]]


def cell(value: Mapping[str, float] | None) -> str:
    """"62.3 ± 1.2" of a measure over seeds, "" where it was not measured."""
    if value is None:
        return ""
    return f"{value['mean']:.1f}" + (f" ± {value['std']:.1f}" if value["n"] > 1 else "")


def rows(summary: Summary) -> list[list[str]]:
    """A table's lines, one a method in the order of METHODS, columns as in COLUMNS."""
    return [[METHODS[name].title, *(cell(summary[name].get(column)) for column in COLUMNS)]
            for name in METHODS if name in summary]


def text_table(found: Mapping[str, Any]) -> str:
    """The results of one set, to be printed."""
    return table(["percent", *COLUMNS], rows(found["summary"]))


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def sign_table(found: Mapping[str, Any]) -> str:
    """Markdown: rank correlation of each sign of mining health with PMR; "" where no run has told its health."""
    journals = [run["journal"] for seeds in found["runs"].values() for run in seeds.values()]
    rho = signs.correlations(journals)
    if not rho:
        return ""
    def cell_of(each: Mapping[str, float], title: str) -> str:
        n, values = each[f"{title}_n"], each[f"{title}_values"]
        rho = "" if math.isnan(each[title]) else f"{each[title]:+.2f}"
        return f"{rho} ({n}, {values} different)" if 2 * values < n else f"{rho} ({n})"
    lines = [[name, cell_of(each, "moments"), cell_of(each, "runs")] for name, each in rho.items()]
    return markdown(["sign", "over moments of all runs (N)", "over runs, at the end (N)"], lines)


def oracle_table(found: Mapping[str, Any]) -> str:
    """Markdown: each kind of miner, means over seeds, and their signs' rank correlation with PMR over all of them, and
    without those that have trained for one epoch; "" where none was looked at."""
    oracles = [each for seed in found.get("oracles", {}).values() for each in seed]
    rho = signs.of_oracles(oracles)
    if not rho:
        return ""
    kinds: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for each in oracles:
        kinds.setdefault((each["view"], each["epochs"]), []).append(each)
    lines = []
    for (view, epochs), group in kinds.items():
        means = {name: fmean(each[name] for each in group) for name in ("PMR", "chance", *rho)}
        warned = sum(each["better"] < CLEAR for each in group)
        lines.append([f"{view}, {epochs} epoch{'s' * (epochs > 1)}", f"{100 * means['PMR']:.1f}",
                      f"{100 * means['chance']:.1f}", f"{warned} of {len(group)}",
                      *(f"{means[name]:.2g}" for name in rho)])
    trained = [each for each in oracles if each["epochs"] > 1]
    for title, group in ((f"rank correlation with PMR, all {len(oracles)}", oracles),
                         (f"the same, the {len(trained)} of more than one epoch", trained)):
        values = signs.of_oracles(group).values()
        lines.append([title, "", "", "", *("" if math.isnan(value) else f"{value:+.2f}" for value in values)])
    return markdown(["miner", "PMR", "chance", "warned of", *rho], lines)


def cascade_table(found: Mapping[str, Any]) -> str:
    """Markdown: what each cascade mines in each pair of encoders, over seeds; "" where none was looked at."""
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
    """The report as markdown, without figures."""
    parts = []
    for name, found in content["sets"].items():
        seeds = max((len(runs) for runs in found["runs"].values()), default=0)
        parts += [f"## {name}", f"Percent, mean ± standard deviation over {seeds} seeds; chance {found['chance']:.1f}.",
                  markdown(["method", *COLUMNS], rows(found["summary"]))]
        oracles = oracle_table(found)
        if oracles:
            parts += ["Encoders that mine, or might: positive mining recall (percent) beside the signs that need no "
                      "labels, means over seeds.", oracles]
        cascades = cascade_table(found)
        if cascades:
            parts += ["Positive mining recall of each cascade with pairs of trained encoders, all in the same queues "
                      "(`experiments/cascades.py`).", cascades]
        health = sign_table(found)
        if health:
            parts += ["Rank correlation of the label-free signs with PMR, in the journals of the runs that mine:",
                      health]
        if found["skipped"]:
            parts += ["Left out:", "\n".join(f"- {title}: {why}" for title, why in found["skipped"].items())]
    return "\n\n".join(parts) + "\n"


def make_parser() -> Parser:
    """The options."""
    parser = Parser(description=__doc__)
    parser.topic("data")("--results", type=Path, default=ROOT / "experiments" / "results" / "full.json",
                         metavar="FILE", help="what experiments.run has written (default: "
                         "experiments/results/full.json)")
    parser.topic("output")("--out", type=Path, default=ROOT / "docs", metavar="FOLDER", help="folder to write to "
                           "(default: docs/)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write tables and figures."""
    args = make_parser().parse_args(argv)
    if not args.results.is_file():
        raise CheckpointError(f"there is no {args.results}: python -m experiments.run writes it")
    content = read_json(args.results)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "experiment_results.md").write_text(text(content), encoding="utf-8")
    say(text(content))
    from experiments import figures  # only this needs matplotlib

    figures.draw(content, args.out)
    say(f"written: {args.out / 'experiment_results.md'} and two figures beside it")
    return 0


if __name__ == "__main__":
    launch.run(main)
