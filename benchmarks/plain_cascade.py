"""The cascade as it is usually written: a loop over stages and samples that carries the survivors' features."""

import torch
from torch import Tensor


def cascade(query: Tensor, key: Tensor, queues: tuple[Tensor, Tensor], excluded: Tensor, sizes: list[int]) -> Tensor:
    """Queue indices (B, topk) of the survivors.

    Args:
        query: in the own view, key: in the other view, (B, D). queues: own and other view, (D, K). excluded: (B, K).
        sizes: how many each stage keeps.
    """
    B, K = excluded.shape
    own, other = (queue.t().expand(B, -1, -1) for queue in queues)  # features that are left, (B, kept, D)
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
