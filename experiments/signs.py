"""How well the signs of mining health, which need no labels, foretell the positive mining recall (PMR), which does."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


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
    """(signs, PMR) of each epoch of a run that has both: the health at an epoch's start, and the epoch's recall."""
    lines = list(journal)
    recall = {line["epoch"]: line["values"]["recall"] for line in lines
              if line["kind"] == "epoch" and "recall" in line["values"]}
    return [(line["values"], recall[line["epoch"]]) for line in lines
            if line["kind"] == "health" and line["epoch"] in recall]


def correlations(journals: Iterable[Iterable[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Of each sign: rank correlation with PMR over all epochs of all runs, and over the last epochs of the runs.

    Returns:
        {sign: {"epochs": rho, "epochs_n": N, "runs": rho, "runs_n": N}}.
    """
    runs = [found for journal in journals if (found := pairs(journal))]
    result = {}
    for name in dict.fromkeys(name for run in runs for signs, _ in run for name in signs):
        everywhere = [(signs[name], pmr) for run in runs for signs, pmr in run if name in signs]
        last = [(run[-1][0][name], run[-1][1]) for run in runs if name in run[-1][0]]
        result[name] = {}
        for title, points in (("epochs", everywhere), ("runs", last)):
            x, y = np.array(points, dtype=float).reshape(-1, 2).T
            result[name] |= {title: rank_correlation(x, y), f"{title}_n": len(points)}
    return result
