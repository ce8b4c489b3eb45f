"""Signs of good features that need no labels: how clips lie among each other in an embedding space.

Clips z are unit rows (N, D). A pair of clips of one video is rows i of z1 and of z2.
"""

import math

import torch
from torch import Tensor


@torch.no_grad()
def instance_hits(z1: Tensor, z2: Tensor) -> Tensor:
    """Whether a clip's nearest neighbour among all other clips is the second clip of its video: bool (2N,).

    Args:
        z1, z2: two clips of each video, (N, D) each.
    """
    z = torch.cat([z1, z2])  # (2N, D)
    sim = (z @ z.T).fill_diagonal_(float("-inf"))
    second = torch.arange(len(z), device=z.device).roll(len(z1))
    return sim.argmax(dim=1) == second


@torch.no_grad()
def hubness(z: Tensor, excluded: Tensor, n: int) -> float:
    """How often the most popular clip is among the n nearest of the others, as a multiple of the mean, which is n.

    Args:
        excluded: pairs that are no neighbours, (N, N) bool.
    """
    nearest = (z @ z.T).masked_fill(excluded, float("-inf")).topk(n, dim=1).indices
    return float(nearest.flatten().bincount(minlength=len(z)).max() / n)


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """1 - |mean|^2, 0-d: the mean of 1 - cosine over all pairs of rows; 0 where all rows are one."""
    return 1 - z.float().mean(dim=0).square().sum()


@torch.no_grad()
def effective_rank(z: Tensor) -> Tensor:
    """Effective number of dimensions (Roy and Vetterli, EUSIPCO 2007), 0-d: exp of the entropy of the shares of
    variance along the principal axes; 1 ... D, and nan of rows that are not finite."""
    if not z.isfinite().all():
        return z.new_tensor(float("nan"))
    centred = (z - z.mean(dim=0)).double()
    variance = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    share = variance / variance.sum().clamp(min=1e-300)
    return torch.special.entr(share).sum().exp()


def better(one: Tensor, two: Tensor) -> float:
    """How much more often ``one`` hits than ``two`` on the same videos, in standard deviations of no difference.

    A sign test on the videos where they differ: two clips that are nearest to each other are one piece of evidence and
    not two, and a few videos are none, however one-sided. Exact (mid-p), as the normal quantile of its probability.

    Args:
        one, two: of :func:`instance_hits`, (2N,) bool each.
    """
    difference = one.view(2, -1).sum(dim=0) - two.view(2, -1).sum(dim=0)  # (N,)
    a, b = int((difference > 0).sum()), int((difference < 0).sum())
    n, wins = a + b, max(a, b)
    tail = (2 * sum(math.comb(n, k) for k in range(wins + 1, n + 1)) + math.comb(n, wins)) / 2**(n + 1)
    z = -float(torch.special.ndtri(torch.tensor(max(tail, 1e-300), dtype=torch.float64)))
    return z if a > b else -z if b > a else 0.0


OF_ALL = {"spread": spread, "rank": effective_rank}  # of any set of unit rows
