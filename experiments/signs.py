"""How well the signs of mining health, which need no labels, foretell the positive mining recall (PMR), which does."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

LABELLED = ("cmr_median",)


def rank(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs: (N,) float."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of two (N,) arrays; nan where one of them is constant or N < 3."""
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(rank(x), rank(y))[0, 1])


def pairs(journal: Iterable[Mapping[str, Any]]) -> list[tuple[dict[str, float], float]]:
    """(signs, PMR) of a run's moments: the health after an epoch with that epoch's recall, before the first with its.

    Of the lines of what an epoch mined, too, but for what needs labels.
    """
    lines = list(journal)
    recall = {line["epoch"]: line["values"]["recall"] for line in lines
              if line["kind"] == "epoch" and "recall" in line["values"]}
    found = []
    for line in lines:
        epoch = max(line["epoch"], 0)
        if line["kind"] in ("health", "mining") and epoch in recall:
            signs = {f"{line['kind']} {name}": value for name, value in line["values"].items() if name not in LABELLED}
            found.append((signs, recall[epoch]))
    return found


def correlations(journals: Iterable[Iterable[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Of each sign: rank correlation with PMR over all moments of all runs, and over the last moments of the runs.

    Returns:
        {sign: {"moments": rho, "moments_n": N, "moments_values": how many different values the sign has among them,
        "runs": rho, "runs_n": N, "runs_values"}}. A frozen miner's sign is the same in all moments of all its runs, so
        that many moments may be few observations.
    """
    runs = [found for journal in journals if (found := pairs(journal))]
    result: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for run in runs for signs, _ in run for name in signs):
        by_run = [[(signs[name], pmr) for signs, pmr in run if name in signs] for run in runs]
        everywhere, last = [point for points in by_run for point in points], [points[-1] for points in by_run if points]
        result[name] = {}
        for title, points in (("moments", everywhere), ("runs", last)):
            x, y = np.array(points, dtype=float).reshape(-1, 2).T
            result[name] |= {title: rank_correlation(x, y), f"{title}_n": len(points),
                             f"{title}_values": len(np.unique(x))}
    return result


def of_oracles(oracles: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of each sign of `experiments/oracles.py`: rank correlation with PMR over encoders."""
    oracles = list(oracles)
    told = ("view", "epochs", "miner", "PMR", "chance")
    names = [name for name in (oracles[0] if oracles else {}) if name not in told]
    recall = np.array([each["PMR"] for each in oracles])
    return {name: rank_correlation(np.array([each[name] for each in oracles], dtype=float), recall) for name in names}
