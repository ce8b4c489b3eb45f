"""How exact a graph is on features that are made up, for those who want to know before they have so many videos."""

import time
from argparse import Namespace

import numpy as np

from eval.report import table
from eval.search.nearest import Nearest
from utils.console import say

DIMENSIONS, NOISE = 32, 0.5  # what features of an encoder are like: few dimensions vary much, all of them a little


def features(clips: int, width: int, dimensions: int) -> np.ndarray:
    """Gaussian features float32 (clips, width) that vary in some dimensions, and by half as much in all.

    With as many dimensions as numbers nothing is near anything, which no graph can follow.
    """
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((clips, width), dtype=np.float32)
    if dimensions >= width:
        return noise
    turn = rng.standard_normal((dimensions, width), dtype=np.float32)
    return rng.standard_normal((clips, dimensions), dtype=np.float32) @ turn + NOISE * noise


def report_recall(args: Namespace) -> None:
    """Say it for features of an encoder's kind, and for noise. args: clips and width."""
    rows = []
    for name, dimensions in ((f"{DIMENSIONS} dimensions", DIMENSIONS), ("noise", args.width)):
        made = features(args.clips, args.width, dimensions)
        began = time.perf_counter()
        exactness = Nearest.build(made, 1, hnsw_from=1).exactness()
        assert exactness is not None
        rows.append([name, f"{exactness.recall:.4f}", f"{1000 * exactness.seconds:.2f}",
                     f"{1000 * exactness.exact_seconds:.2f}", f"{time.perf_counter() - began:.0f}"])
    say(f"{args.clips} made-up features of {args.width} numbers")
    say(table(["features", "recall@10", "ms a query", "exact, ms", "s in all"], rows))
