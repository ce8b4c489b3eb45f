"""Rows of the cascade: against the usual way, and how its cost grows with the queue."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain_cascade
from benchmarks.measure import Case, same
from benchmarks.sizes import Sizes
from model.cascade import cascade_topk, stage_sizes

SAME_SOURCE = 0.01  # share of queue entries that are of a query's own source
DIM = 128
BATCHES, LONG = 4, 1 << 17  # of a queue so long that it is in no cache, one batch is enough


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
    """A call is one of several batches: the same one over and over would be learned by the processor."""
    batches = [_inputs(K, B, seed, sizes.device) for seed in range(BATCHES if K < LONG else 1)]
    settings = sizes.topk, sizes.ratio, sizes.stage
    kept = stage_sizes(K, *settings)

    def plain(batches: list[Batch] = batches) -> list[Tensor]:
        return [plain_cascade.cascade(batch.query, batch.key, batch.queues, batch.excluded, kept) for batch in batches]

    def ours(batches: list[Batch] = batches) -> list[Tensor]:
        return [cascade_topk(batch.key @ batch.queues[1], batch.own, batch.excluded, *settings) for batch in batches]

    def core() -> list[Tensor]:
        return [cascade_topk(batch.other, batch.own, batch.excluded, *settings) for batch in batches]

    return Case(row, f"K={K} B={B}", plain=plain, ours=ours, core=core, units=len(batches),
                once=(partial(plain, batches[:1]), partial(ours, batches[:1])),
                agree=lambda a, b: same(torch.stack(a), torch.stack(b)),
                bound=lambda: [batch.other.topk(kept[0], dim=1, sorted=False) for batch in batches],
                bound_of=f"one unsorted top-{kept[0]} of the queue",
                goals={"ratio": ">= 40", "bound": "<= 3", "memory": "<= 1/30"} if row == "cascade" else {})


class Batch(NamedTuple):
    """query in the own view, key in the other, (B, 128). queues of both, (128, K). excluded (B, K): own sources.
    own, other: similarities (B, K); a model has the own ones from its logits."""

    query: Tensor
    key: Tensor
    queues: tuple[Tensor, Tensor]
    excluded: Tensor
    own: Tensor
    other: Tensor


def _inputs(K: int, B: int, seed: int, device: torch.device) -> Batch:
    draw = torch.Generator().manual_seed(K + B + seed)
    query, key = (F.normalize(torch.randn(B, DIM, generator=draw), dim=1).to(device) for _ in range(2))
    first, second = (F.normalize(torch.randn(DIM, K, generator=draw), dim=0).to(device) for _ in range(2))
    excluded = (torch.rand(B, K, generator=draw) < SAME_SOURCE).to(device)
    return Batch(query, key, (first, second), excluded, query @ first, key @ second)
