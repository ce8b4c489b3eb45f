"""What the runs of a grid measured: read from their files, with means and standard deviations over seeds."""

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.report import read_json
from experiments import records
from experiments.plan import CASCADES_FILE, MethodPlan, SeedPlan
from experiments.settings import METHODS, Grid
from utils.provenance import code_version

# Of the last epoch: kind of line and name in metrics.jsonl -> name in results.
MINING = {("epoch", "recall"): "PMR", ("epoch", "chance"): "PMR by chance", ("epoch", "mining_r1"): "mining R@1",
          ("mining", "cmr_median"): "median CMR"}


def mean_and_std(values: Iterable[float]) -> dict[str, float]:
    """Mean and standard deviation (of a sample, n - 1; 0 for one value) of a measure over seeds, and their number."""
    values = list(values)
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0,
            "n": len(values)}


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl but for those of single steps; of lines of one moment written twice, the last.

    A run that was stopped and went on has written some epochs twice.
    """
    found: dict[tuple, dict] = {}
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["kind"] != "steps":
            found[line["kind"], line.get("title"), line["epoch"]] = line
    return list(found.values())


def read_measures(plan: MethodPlan, out: Path) -> dict[str, float]:
    """All measures of a method and seed, in percent: those of its files, and the last epoch's mining."""
    measures = {}
    for name, (file, keys) in plan.measures.items():
        value = read_json(out / file)
        for key in keys:
            value = value[key]
        measures[name] = value
    if plan.journal:
        last = {line["kind"]: line["values"] for line in read_journal(out / plan.journal)}
        measures |= {title: 100 * last[kind][name] for (kind, name), title in MINING.items()
                     if name in last.get(kind, {})}
    return measures


def is_done(plan: MethodPlan, out: Path) -> bool:
    """Whether all files of a method's measures are there."""
    files = [file for file, _ in plan.measures.values()] + ([plan.journal] if plan.journal else [])
    return all((out / file).is_file() for file in files)


def collect_seed(plan: SeedPlan) -> dict[str, dict[str, Any]]:
    """What the methods of one set and seed did: commands, seconds, commits, measures, and the journal by epoch.

    Commands and commits are those that were run. Methods that are not done yet are left out.
    """
    out = plan.planner.out
    ran = records.of_steps(out, plan.steps)
    return {name: {
        "commands": [ran[step.name]["command"] for step in method.steps],
        "seconds": round(sum(ran[step.name].get("seconds", 0.0) for step in method.steps), 1),
        "commits": sorted({ran[step.name].get("commit") or "unknown" for step in method.steps}),
        "measures": read_measures(method, out),
        "journal": read_journal(out / method.journal) if method.journal else []}
        for name, method in plan.methods.items() if is_done(method, out)}


def read_oracles(plan: SeedPlan) -> list[dict[str, Any]]:
    """What the encoders that mine were like: {"view", "epochs" of training, "PMR", "chance", signs} of each."""
    found = []
    for file in plan.oracles:
        path = plan.planner.out / file
        for each in read_json(path) if path.is_file() else []:
            epochs = int(re.findall(r"epoch(\d+)", Path(each["miner"]).name)[0]) + 1
            found.append({"view": path.stem.removeprefix("oracles_"), "epochs": epochs, **each})
    return found


def read_cascades(plan: SeedPlan) -> list[dict[str, Any]]:
    """What cascades mine in pairs of encoders: {"own", "other" (methods), "chance", "top-k", ...} of each."""
    path = plan.planner.out / CASCADES_FILE
    if not path.is_file():
        return []
    return [{"own": own, "other": other, **each}
            for (own, other), each in zip(plan.pairs, read_json(path), strict=True)]


def summarise(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, dict[str, float]]]:
    """{method: {measure: mean_and_std}} of {method: {seed: run}}."""
    summary = {}
    for method, seeds in runs.items():
        names = dict.fromkeys(name for run in seeds.values() for name in run["measures"])
        summary[method] = {name: mean_and_std(run["measures"][name] for run in seeds.values()
                                              if name in run["measures"]) for name in names}
    return summary


def collect(grid: Grid, plans: Mapping[str, Mapping[int, SeedPlan]], chance: Mapping[str, float]) -> dict[str, Any]:
    """The content of a results file.

    Args:
        plans: by set and seed. chance: R@1 and accuracy of guessing, in percent, by set.
    """
    sets = {}
    for name, seeds in plans.items():
        runs: dict[str, dict[str, Any]] = {}
        for seed, plan in seeds.items():
            for method, run in collect_seed(plan).items():
                runs.setdefault(method, {})[str(seed)] = run
        sets[name] = {"chance": chance[name], "summary": summarise(runs), "runs": runs,
                      "oracles": {str(seed): read_oracles(plan) for seed, plan in seeds.items()},
                      "cascades": {str(seed): read_cascades(plan) for seed, plan in seeds.items()},
                      "oracle_commands": [ran["command"] for plan in seeds.values() for step, ran in
                                          records.of_steps(plan.planner.out, plan.steps).items()
                                          if step.startswith(("oracles ", "cascades"))],
                      "skipped": {METHODS[method].title: why for method, why in grid.on(name).skipped.items()}}
    return {"settings": asdict(grid), "code": code_version(), "sets": sets}
