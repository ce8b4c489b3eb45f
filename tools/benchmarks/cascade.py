"""The cascade, against a loop over stages and samples that gathers the features of the survivors."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model.cascade import cascade_topk, stage_sizes
from tools.benchmarks.data import Sizes
from tools.benchmarks.measure import Case, Disagreement

SAME_SOURCE = 0.01  # share of the queue that comes from a query's own source
DIM = 128
BATCHES, LONG = 4, 1 << 17  # batches per call; one is enough for a queue too long for any cache


def plain_cascade(query: Tensor, key: Tensor, queues: tuple[Tensor, Tensor], excluded: Tensor, sizes: list[int]
                  ) -> Tensor:
    """Mine in the usual way: loop over samples, and gather features.

    Args:
        query: embeddings in the own view, (B, D); key: in the other.
        queues: of the own and the other view, (D, K) each.
        excluded: entries that must not be mined, bool (B, K).
        sizes: number of entries that each stage keeps.

    Returns:
        Queue indices of the mined entries, (B, topk).
    """
    B, K = excluded.shape
    own, other = (queue.t().expand(B, -1, -1) for queue in queues)  # (B, kept, D)
    left = torch.arange(K, device=query.device).repeat(B, 1)  # (B, kept)
    banned = excluded
    for stage, size in enumerate(sizes, start=1):
        by_other = stage % 2 == 1 or stage == len(sizes)
        found = []
        for b in range(B):
            similarity = other[b] @ key[b] if by_other else own[b] @ query[b]  # (kept,)
            similarity[banned[b]] = float("-inf")
            found.append(similarity.sort(descending=True).indices[:size])
        own = torch.stack([own[b][found[b]] for b in range(B)])
        other = torch.stack([other[b][found[b]] for b in range(B)])
        left = torch.stack([left[b][found[b]] for b in range(B)])
        banned = torch.stack([banned[b][found[b]] for b in range(B)])
    return left


def cases(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Yield a case for each queue length and batch size."""
    for K in sizes.queues:
        for B in sizes.batches:
            yield _case(sizes, K, B)


def _case(sizes: Sizes, K: int, B: int) -> Case:
    # Several batches: branch prediction and caches would adapt to a repeated one.
    batches = [_batch(K, B, seed, sizes.device) for seed in range(BATCHES if K < LONG else 1)]
    settings = sizes.topk, sizes.ratio, sizes.stage
    kept = stage_sizes(K, *settings)

    def plain() -> list[Tensor]:
        return [plain_cascade(query, key, queues, excluded, kept) for query, key, queues, excluded, _ in batches]

    def ours() -> list[Tensor]:
        return [cascade_topk(key @ queues[1], own, excluded, *settings) for _, key, queues, excluded, own in batches]

    def bound() -> None:
        for _, key, queues, _, _ in batches:
            (key @ queues[1]).topk(kept[0], dim=1, sorted=False)

    return Case("cascade", f"K={K} B={B}", plain, ours, _equal, bound=bound, units=len(batches),
                bound_of=f"keys times queue, and one unsorted top-{kept[0]} of it")


def _equal(plain: list[Tensor], ours: list[Tensor]) -> str:
    if not torch.equal(torch.stack(plain), torch.stack(ours)):
        raise Disagreement("the mined entries differ")
    return "equal"


def _batch(K: int, B: int, seed: int, device: torch.device
           ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
    """Make input of `plain_cascade`, and similarities (B, K) in the own view, which a model has from its logits."""
    draw = torch.Generator().manual_seed(K + B + seed)
    query, key = (F.normalize(torch.randn(B, DIM, generator=draw), dim=1).to(device) for _ in range(2))
    own, other = (F.normalize(torch.randn(DIM, K, generator=draw), dim=0).to(device) for _ in range(2))
    excluded = (torch.rand(B, K, generator=draw) < SAME_SOURCE).to(device)
    return query, key, (own, other), excluded, query @ own
