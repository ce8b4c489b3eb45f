"""Collect a grid's results from the files of its runs, with means and standard deviations over seeds."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.plan import ROOT, MethodPlan, SeedPlan
from experiments.settings import METHODS, Grid
from tools.report.run_reader import read_run
from utils.files import read_json
from utils.provenance import code_version
from utils.runner import Runner

# Taken from the last epoch: (kind of line, name) in metrics.jsonl -> name in the results.
MINING = {("epoch", "recall"): "PMR", ("epoch", "chance"): "PMR by chance", ("epoch", "mining_r1"): "mining R@1",
          ("mining", "cmr_median"): "median CMR"}


def mean_and_std(values: Iterable[float]) -> dict[str, float]:
    """Summarise a measure over seeds: mean, standard deviation (of a sample, n - 1; 0 for one value) and number."""
    values = list(values)
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0,
            "n": len(values)}


def read_epochs(run: Path) -> list[dict[str, Any]]:
    """Read a run's metrics by epoch: {"kind", "title", "epoch", "values"}."""
    return [{"kind": line["kind"], "title": line.get("title"), "epoch": line["epoch"], "values": line["values"]}
            for line in read_run(run).metrics if line["kind"] != "steps"]


def read_measures(plan: MethodPlan, out: Path, epochs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Read all measures of a method and seed, in percent: those of its files, and the last epoch's mining."""
    measures = {}
    for name, (file, keys) in plan.measures.items():
        value = read_json(out / file)
        for key in keys:
            value = value[key]
        measures[name] = value
    last = {line["kind"]: line["values"] for line in epochs}
    return measures | {title: 100 * last[kind][name] for (kind, name), title in MINING.items()
                       if name in last.get(kind, {})}


def collect_seed(plan: SeedPlan) -> dict[str, dict[str, Any]]:
    """Collect commands, seconds, measures and metrics by epoch of the methods of one set and seed."""
    found, ran = {}, Runner(plan.out).record()
    for name, method in plan.methods.items():
        epochs = read_epochs(plan.out / method.run) if method.run else []
        seconds = sum(ran.get(step.name, {}).get("seconds", 0.0) for step in method.steps)
        found[name] = {"commands": [step.shell.replace(str(ROOT), "$ROOT") for step in method.steps],
                       "seconds": round(seconds, 1), "measures": read_measures(method, plan.out, epochs),
                       "journal": epochs}
    return found


def summarise(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Summarise {method: {seed: run}} as {method: {measure: mean_and_std}}."""
    summary = {}
    for method, seeds in runs.items():
        names = dict.fromkeys(name for run in seeds.values() for name in run["measures"])
        summary[method] = {name: mean_and_std(run["measures"][name] for run in seeds.values()
                                              if name in run["measures"]) for name in names}
    return summary


def collect(grid: Grid, plans: Mapping[str, Mapping[int, SeedPlan]], chance: Mapping[str, float]) -> dict[str, Any]:
    """Collect the content of a results file.

    Args:
        plans: by set and seed.
        chance: accuracy of random guessing by set, in percent.
    """
    sets = {}
    for name, seeds in plans.items():
        runs: dict[str, dict[str, Any]] = {}
        for seed, plan in seeds.items():
            for method, run in collect_seed(plan).items():
                runs.setdefault(method, {})[str(seed)] = run
        sets[name] = {"chance": chance[name], "summary": summarise(runs), "runs": runs,
                      "skipped": {METHODS[method].title: why for method, why in grid.on(name).skipped.items()}}
    return {"settings": asdict(grid), "code": code_version(), "sets": sets}
