"""Mining positives by two views: cascade positive retrieval, from coarse to fine (CPR, section 3.2), or fused ranks."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from utils.errors import ModelError


def stage_sizes(K: int, topk: int, ratio: float, stage: int) -> list[int]:
    """Return how many queue entries each stage keeps: int(K * ratio^i) for i = 1 ... stage-1, then ``topk``.

    Args:
        K: queue length.
        topk: positives to mine.
        ratio: share kept per stage, in (0, 1).
        stage: number of stages, >= 1.

    Raises:
        ModelError: a stage would keep fewer than ``topk`` entries, or a setting is out of range.
    """
    if stage < 1 or topk < 1 or not 0 < ratio < 1:
        raise ModelError(f"a cascade needs stage >= 1, topk >= 1 and 0 < ratio < 1, "
                         f"but stage is {stage}, topk {topk} and ratio {ratio}")
    sizes = [int(K * ratio**i) for i in range(1, stage)] + [topk]
    if min([K, *sizes]) < topk:
        raise ModelError(f"the cascade is too deep: queue {K}, ratio {ratio} and {stage} stages keep "
                         f"{', '.join(map(str, sizes))} entries, at some stage fewer than topk {topk}; "
                         f"use a smaller --stage, or a larger --ratio or --moco-k")
    return sizes


def stage_views(stage: int, first: str = "other") -> list[str]:
    """Return the view that each stage ranks by: alternating from ``first`` on, and "other" at the last stage.

    Raises:
        ModelError: ``first`` is neither of them.
    """
    if first not in ("other", "own"):
        raise ModelError(f"the first view must be other or own, not {first}")
    second = {"other": "own", "own": "other"}[first]
    return [*((first, second)[i % 2] for i in range(stage - 1)), "other"]


@torch.no_grad()
def cascade_topk(other: Tensor, own: Tensor, excluded: Tensor, topk: int, ratio: float, stage: int, *,
                 first: str = "other") -> Tensor:
    """Return the ``topk`` queue entries that survive the cascade, best first.

    Stage 1 ranks by the other view, stage 2 ranks the survivors by the own view, and so on in turn; the last stage
    always ranks by the other view (CPR, section 3.2; the own view's query is q, as released). Only scalars are
    gathered, so the cost falls with the survivors. Equal similarities rank in no particular order.

    Args:
        other: similarities in the other view, kf . queue_second, (B, K) float.
        own: similarities in the own view, q . queue, (B, K) float.
        excluded: entries not to mine (same source), (B, K) bool; they rank last at every stage.
        topk, ratio, stage: see :func:`stage_sizes`; one stage is plain top-k.
        first: view of stage 1, see :func:`stage_views`.

    Returns:
        Queue indices (B, topk), int64, sorted by the other view's similarity.

    Raises:
        ModelError: see :func:`stage_sizes` and :func:`stage_views`.
    """
    sizes = stage_sizes(other.shape[1], topk, ratio, stage)
    for entries, survivors in _stages(other, own, excluded, sizes, first):  # noqa: B007, we need the last ones
        pass
    return _indices(entries, survivors)


@torch.no_grad()
def cascade_stages(other: Tensor, own: Tensor, excluded: Tensor, topk: int, ratio: float, stage: int, *,
                   first: str = "other") -> list[Tensor]:
    """Return the survivors of each stage of :func:`cascade_topk`, with its arguments: queue indices (B, size) int64.

    Only the last ones, which :func:`cascade_topk` returns, are sorted.
    """
    sizes = stage_sizes(other.shape[1], topk, ratio, stage)
    return [_indices(entries, survivors) for entries, survivors in _stages(other, own, excluded, sizes, first)]


def _stages(other: Tensor, own: Tensor, excluded: Tensor, sizes: Sequence[int], first: str
            ) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield, after each stage, the queue indices that survived stage 1, (B, n), and the positions among them that
    remain, (B, size), or None if all do."""
    views = stage_views(len(sizes), first)
    rows = {"other": other, "own": own}
    # Only the first stage sees the whole queue; later ones work on positions among its survivors.
    leading = rows.pop(views[0]).masked_fill(excluded, float("-inf"))
    found = leading.topk(sizes[0], dim=1, sorted=len(sizes) == 1)
    yield found.indices, None
    if len(sizes) == 1:
        return
    [(name, following)] = rows.items()
    following = following.gather(1, found.indices).masked_fill_(found.values == float("-inf"), float("-inf"))
    rows = {views[0]: found.values, name: following}  # (B, kept)
    survivors = None
    for i, (view, size) in enumerate(zip(views[1:], sizes[1:], strict=True), start=2):
        rank = rows[view] if survivors is None else rows[view].gather(1, survivors)
        kept = rank.topk(size, dim=1, sorted=i == len(sizes)).indices
        survivors = kept if survivors is None else survivors.gather(1, kept)
        yield found.indices, survivors


def _indices(entries: Tensor, survivors: Tensor | None) -> Tensor:
    return entries if survivors is None else entries.gather(1, survivors)


@torch.no_grad()
def fused_topk(other: Tensor, own: Tensor, excluded: Tensor, topk: int) -> Tensor:
    """Return the ``topk`` queue entries with the smallest sum of their ranks in both views, best first.

    A rule of this project, beside the papers': where each view knows a part of the class, it needs no stages and no
    ratio. Equal sums rank by the other view, equal similarities in no set order. Sorting costs O(K log K).

    Args:
        other, own, excluded: see :func:`cascade_topk`; excluded entries rank last in both views.
        topk: positives to mine.

    Returns:
        Queue indices (B, topk), int64.
    """
    first, second = (row.masked_fill(excluded, float("-inf")).argsort(dim=1, descending=True).argsort(dim=1)
                     for row in (other, own))  # (B, K): 0 for the most similar entry
    return ((first + second) * other.shape[1] + first).topk(topk, dim=1, largest=False).indices
