"""Results of an experiment: collected from the files of its runs, and written as tables and a figure.

    python -m experiments.report --results experiments/results/headline.json --out experiments/made/report

Writes OUT/experiment_results.md, a table for each set, and OUT/experiment_mining.png, the mining recall over epochs.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from eval.retrieval import load_features
from experiments.plan import COMPARISONS, METHODS, ROOT, Grid, MethodPlan, SeedPlan
from experiments.synthetic import CLASSES
from tools.report.run_reader import read_run
from utils import launch
from utils.console import say
from utils.files import read_json, write_text
from utils.parser import Parser
from utils.provenance import code_version
from utils.runner import Runner

COLUMNS = ("RGB R@1", "RGB R@5", "flow R@1", "both R@1", "RGB probe", "RGB motion", "RGB object",
           "RGB motion probe", "RGB object probe", "PMR", "median CMR", "rank")
# Taken from the last epoch: (kind of line, name) in metrics.jsonl -> name in the results, and a factor.
MINING = {("epoch", "recall"): ("PMR", 100), ("epoch", "chance"): ("PMR by chance", 100),
          ("mining", "cmr_median"): ("median CMR", 100), ("mining", "rank_own"): ("rank", 1)}
COMPARED = ("RGB R@1", "RGB probe", "RGB motion probe", "RGB object probe", "both R@1")
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t, 95 %, by degrees of freedom
NEAREST = 5
RIDGE = 0.01  # strength of the linear map's penalty, beside standardised features


def mean_and_std(values: Iterable[float]) -> dict[str, float]:
    """Summarise a measure over seeds: mean, standard deviation (of a sample, n - 1; 0 for one value) and number."""
    values = list(values)
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0,
            "n": len(values)}


def collect(grid: Grid, plans: Mapping[str, Mapping[int, SeedPlan]], chance: Mapping[str, float]) -> dict[str, Any]:
    """Collect the content of a results file; ``plans`` by set and seed, ``chance`` in percent by set."""
    sets = {}
    for name, seeds in plans.items():
        runs: dict[str, dict[str, Any]] = {}
        for seed, plan in seeds.items():
            seconds = {step: each["seconds"] for step, each in Runner(plan.out).record().items()}
            for title, method in plan.methods.items():
                runs.setdefault(title, {})[str(seed)] = _collect_run(method, plan.out, seconds)
        sets[name] = {"chance": chance[name], "summary": summarise(runs), "runs": runs}
    return {"settings": asdict(grid), "code": code_version(), "sets": sets}


def _collect_run(method: MethodPlan, out: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Collect a method's commands, seconds, metrics by epoch, and measures in percent, the last epoch's mining too."""
    metrics = read_run(out / method.run).metrics if method.run else []
    epochs = [{"kind": line["kind"], "title": line.get("title"), "epoch": line["epoch"], "values": line["values"]}
              for line in metrics if line["kind"] != "steps"]
    measures = {}
    for name, (file, keys) in method.measures.items():
        value = read_json(out / file)
        for key in keys:
            value = value[key]
        measures[name] = value
    last = {line["kind"]: line["values"] for line in epochs}
    measures |= {title: factor * last[kind][name] for (kind, name), (title, factor) in MINING.items()
                 if name in last.get(kind, {})}
    for stream, (folder, dataset) in method.features.items():
        measures |= {f"{stream} {what}": value for what, value in knowledge(out / folder, dataset).items()}
    return {"commands": [step.shell.replace(str(ROOT), "$ROOT") for step in method.steps],
            "seconds": round(sum(seconds.get(step.name, 0.0) for step in method.steps), 1), "measures": measures,
            "journal": epochs}


def knowledge(folder: Path, dataset: str) -> dict[str, float]:
    """Measure what features know of a test clip's motion and of its object, each apart.

    Returns:
        {"motion": percent, "object": percent} among the nearest training clips, and "motion probe", "object probe" by
        a linear map fitted to the training clips; empty for sets other than the synthetic one.
    """
    test, train = (load_features(folder, dataset, split) for split in ("test", "train"))
    parts = [[CLASSES.get(Path(name).parent.name, ("", "")) for name in each.names] for each in (test, train)]
    if ("", "") in parts[0]:
        return {}
    rows = [normalize(each.features) for each in (test, train)]
    nearest = (rows[0] @ rows[1].T).topk(min(NEAREST, len(train.names)), dim=1).indices
    found = {}
    for i, what in enumerate(("motion", "object")):
        kinds = sorted({part[i] for part in parts[1]})
        own, known = (torch.tensor([kinds.index(part[i]) for part in each]) for each in parts)
        found[what] = 100 * float((known[nearest] == own[:, None]).double().mean())
        found[f"{what} probe"] = 100 * float((linear_map(rows[1], known)(rows[0]) == own).double().mean())
    return found


def linear_map(rows: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Fit a ridge regression of one-hot labels (N,) on features (N, F); returns what maps features to labels."""
    mean, std = rows.mean(dim=0), rows.std(dim=0).clamp(min=1e-6)
    x, targets = ((rows - mean) / std).double(), one_hot(labels).double()
    offset = targets.mean(dim=0)
    ridge = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(x.T @ x + ridge, x.T @ (targets - offset))
    return lambda new: (((new - mean) / std).double() @ weights + offset).argmax(dim=1)


def paired(runs: Mapping[str, Mapping[str, Any]], one: str, two: str, measure: str) -> dict[str, float] | None:
    """Compare two methods seed by seed: mean difference with its 95 % t-interval; None below two common seeds."""
    values = [runs[one][seed]["measures"][measure] - runs[two][seed]["measures"][measure]
              for seed in runs.get(one, {}) if seed in runs.get(two, {})
              and all(measure in runs[name][seed]["measures"] for name in (one, two))]
    if len(values) < 2:
        return None
    half = T95[min(len(values) - 2, len(T95) - 1)] * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.fmean(values)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def summarise(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Summarise {method: {seed: run}} as {method: {measure: mean_and_std}}."""
    summary = {}
    for method, seeds in runs.items():
        names = dict.fromkeys(name for run in seeds.values() for name in run["measures"])
        summary[method] = {name: mean_and_std(run["measures"][name] for run in seeds.values()
                                              if name in run["measures"]) for name in names}
    return summary


def text(content: Mapping[str, Any]) -> str:
    """Write the page as markdown, without the figures: a section with a table for each set."""
    parts = [f"# Results of the experiment\n\n> Run at commit {content['code'].get('commit')}."]
    for name, found in content["sets"].items():
        seeds = " or ".join(map(str, sorted({len(runs) for runs in found["runs"].values()})))
        rows = [[METHODS[key].title, *(_cell(**measures[column]) if column in measures else "" for column in COLUMNS)]
                for key, measures in found["summary"].items()]
        table = [["method", *COLUMNS], ["---", *("---:" for _ in COLUMNS)], *rows]
        parts += [f"## {name}", f"Percent, mean ± standard deviation over {seeds} seeds; chance {found['chance']:.1f}.",
                  "\n".join("| " + " | ".join(line) + " |" for line in table)]
        for one, two in COMPARISONS:
            found_pairs = {measure: paired(found["runs"], one, two, measure) for measure in COMPARED}
            told = [f"{measure} {pair['mean']:+.1f} ({pair['low']:+.1f} to {pair['high']:+.1f})"
                    for measure, pair in found_pairs.items() if pair]
            parts += [f"{METHODS[one].title} minus {METHODS[two].title}, mean and 95 % interval over pairs by seed: "
                      f"{', '.join(told)}."] if told else []
    return "\n\n".join(parts) + "\n"


def _cell(mean: float, std: float, n: int) -> str:
    return f"{mean:.1f} ± {std:.1f}" if n > 1 else f"{mean:.1f}"


def draw(content: Mapping[str, Any]) -> Figure:
    """Draw PMR over epochs of the methods that mine, with a panel for each set: mean over seeds, in a band of one
    standard deviation. Chance is the share of the query's class in a queue without its own source, as logged.
    """
    sets = content["sets"]
    figure, axes = plt.subplots(1, len(sets), figsize=(7.5 * len(sets), 4.8), squeeze=False, layout="constrained")
    for ax, (title, found) in zip(axes[0], sets.items(), strict=True):
        chances = []
        for name, runs in found["runs"].items():
            if curve := recall_curve(runs):
                chances += [value["mean"] for value in recall_curve(runs, "chance").values()]
                mean, std = (np.array([100 * value[key] for value in curve.values()]) for key in ("mean", "std"))
                [line] = ax.plot(list(curve), mean, label=METHODS[name].title)
                ax.fill_between(list(curve), mean - std, mean + std, alpha=0.15, color=line.get_color())
        if chances:
            ax.axhline(100 * statistics.fmean(chances), color="grey", linestyle=":", label="mining at random")
        ax.set(title=title, xlabel="epoch", ylabel="positive mining recall, %")
        ax.set_ylim(bottom=0)
        ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)  # bands fill the panel
    return figure


def recall_curve(seeds: Mapping[str, Mapping[str, Any]], measure: str = "recall") -> dict[int, dict[str, float]]:
    """Return {epoch: mean and standard deviation over seeds} of the mining recall or its "chance", as shares."""
    by_epoch: dict[int, list[float]] = {}
    for run in seeds.values():
        for line in run["journal"]:
            if line["kind"] == "epoch" and measure in line["values"]:
                by_epoch.setdefault(line["epoch"], []).append(line["values"][measure])
    return {epoch: mean_and_std(values) for epoch, values in sorted(by_epoch.items())}


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.topic("data")("--results", type=Path, default=ROOT / "experiments" / "results" / "headline.json",
                         metavar="FILE", help="results of experiments.run (default: experiments/results/headline.json)")
    parser.topic("output")("--out", type=Path, default=ROOT / "experiments" / "made" / "report", metavar="FOLDER",
                           help="folder to write to (default: experiments/made/report/)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write tables and figure."""
    args = make_parser().parse_args(argv)
    content = read_json(args.results)
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / "experiment_results.md", text(content))
    draw(content).savefig(args.out / "experiment_mining.png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    say(f"{text(content)}\nwritten: {args.out}/experiment_results.md, with a figure beside it")
    return 0


if __name__ == "__main__":
    launch.run(main)
