"""Rows of the cascade: against the usual way, and how its cost grows with the queue."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain_cascade
from benchmarks.measure import Case, same
from benchmarks.sizes import Sizes
from model.cascade import cascade_topk, stage_sizes

SAME_SOURCE = 0.01  # share of queue entries that are of a query's own source
DIM = 128


def cascade(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Every queue length and batch."""
    for K in sizes.queues:
        for B in sizes.batches:
            yield _case(sizes, K, B, "cascade")


def scaling(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Queue lengths up to 256 thousand, at the first batch size."""
    for K in sizes.scaling:
        yield _case(sizes, K, sizes.batches[0], "cascade scaling")


def _case(sizes: Sizes, K: int, B: int, row: str) -> Case:
    query, key, queues, excluded = _inputs(K, B, sizes.device)
    kept = stage_sizes(K, sizes.topk, sizes.ratio, sizes.stage)
    own = query @ queues[0]  # (B, K): a model has these from its logits
    other = key @ queues[1]

    def ours() -> Tensor:
        return cascade_topk(key @ queues[1], own, excluded, sizes.topk, sizes.ratio, sizes.stage)

    def core() -> Tensor:
        return cascade_topk(other, own, excluded, sizes.topk, sizes.ratio, sizes.stage)

    return Case(row, f"K={K} B={B}", ours=ours, agree=same, core=core,
                plain=lambda: plain_cascade.cascade(query, key, queues, excluded, kept),
                bound=lambda: other.topk(kept[0], dim=1, sorted=False),
                bound_of=f"one unsorted top-{kept[0]} of the queue",
                goals={"ratio": ">= 40", "bound": "<= 3", "memory": "<= 1/30"} if row == "cascade" else {})


def _inputs(K: int, B: int, device: torch.device) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
    draw = torch.Generator().manual_seed(K + B)
    query, key = (F.normalize(torch.randn(B, DIM, generator=draw), dim=1).to(device) for _ in range(2))
    queues = tuple(F.normalize(torch.randn(DIM, K, generator=draw), dim=0).to(device) for _ in range(2))
    return query, key, queues, (torch.rand(B, K, generator=draw) < SAME_SOURCE).to(device)
