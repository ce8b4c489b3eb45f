"""Cascade positive retrieval: positives mined from coarse to fine, by two views in turn (CPR, section 3.2)."""

import torch
from torch import Tensor

from model.errors import ModelError


def stage_sizes(K: int, topk: int, ratio: float, stage: int) -> list[int]:
    """How many queue entries each stage keeps: int(K * ratio^i) for i = 1 ... stage-1, then ``topk``.

    Args:
        K: queue length. topk: positives wanted. ratio: share kept per stage, in (0, 1). stage: number of stages, >= 1.

    Raises:
        ModelError: a stage would keep fewer than ``topk`` entries, or the settings are out of range.
    """
    if stage < 1 or topk < 1 or not 0 < ratio < 1:
        raise ModelError(f"a cascade needs stage >= 1, topk >= 1 and 0 < ratio < 1, "
                         f"but stage is {stage}, topk {topk} and ratio {ratio}")
    sizes = [int(K * ratio**i) for i in range(1, stage)] + [topk]
    if min([K, *sizes]) < topk:
        raise ModelError(f"the cascade is too deep: queue {K}, ratio {ratio} and {stage} stages keep "
                         f"{', '.join(map(str, sizes))} entries, fewer than topk {topk} on the way; "
                         f"take a smaller --stage, or a larger --ratio or --moco-k")
    return sizes


@torch.no_grad()
def cascade_topk(other: Tensor, own: Tensor, excluded: Tensor, topk: int, ratio: float, stage: int) -> Tensor:
    """The ``topk`` queue entries that survive the cascade, best first.

    Stage 1 ranks by the other view, stage 2 ranks the survivors by the own view, and so on in turn; the last stage
    always ranks by the other view (CPR, section 3.2; the own view's query is q, as released). Only scalars are
    gathered, so the cost falls with the survivors. Equal similarities rank in no particular order.

    Args:
        other: similarities in the other view, kf . queue_second, (B, K) float.
        own: similarities in the own view, q . queue, (B, K) float.
        excluded: entries that must not be mined (same source), (B, K) bool. They come last at every stage.
        topk, ratio, stage: see :func:`stage_sizes`. ``stage`` 1 is plain top-k.

    Returns:
        Queue indices (B, topk), int64, sorted by the other view's similarity.

    Raises:
        ModelError: see :func:`stage_sizes`.
    """
    sizes = stage_sizes(other.shape[1], topk, ratio, stage)
    # Only the first stage looks at the whole queue: from then on there are just its survivors, with numbers among them.
    found = other.masked_fill(excluded, float("-inf")).topk(sizes[0], dim=1, sorted=len(sizes) == 1)
    if len(sizes) == 1:
        return found.indices
    other = found.values  # (B, kept)
    own = own.gather(1, found.indices).masked_fill_(other == float("-inf"), float("-inf"))
    survivors = None  # None stands for all of the first stage's
    for i, size in enumerate(sizes[1:], start=2):
        last = i == len(sizes)
        rows = other if last or i % 2 == 1 else own
        rank = rows if survivors is None else rows.gather(1, survivors)
        kept = rank.topk(size, dim=1, sorted=last).indices
        survivors = kept if survivors is None else survivors.gather(1, kept)
    return found.indices.gather(1, survivors)
