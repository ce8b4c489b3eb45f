"""Evaluation protocols as pure functions of tensors: nothing here reads a file, an option or a random number.

A video is cut into W windows, each seen in C crops. Class probabilities are averaged over the windows of a
crop, then over crops (CoCLR, arXiv 2010.09709, section 4). Retrieval ranks the gallery by cosine similarity of
centred features and counts a hit when one of the k nearest gallery videos has the query's class (R@k).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CROP_SETS = {"center": 1, "five": 5, "ten": 10}
RECALL_AT = (1, 5, 10, 20, 50)
ROWS_AT_ONCE = 4096  # ranking a block of rows at a time bounds the memory of the top-k


def window_mean(rows: Tensor, normalise: bool = False) -> Tensor:
    """Average features or probabilities (W, D) over the windows of a video, (D,); each L2-normalised first if asked."""
    if normalise:
        rows = F.normalize(rows, dim=1)
    return rows.mean(dim=0)


def crop_mean(rows: Tensor, crops: int) -> Tensor:
    """Average (C, D) over the first `crops` crops, (D,); they come in the order centre, four corners, their flips."""
    return rows[:crops].mean(dim=0)


def centre_and_normalise(features: Tensor) -> Tensor:
    """Subtract the mean of the set from each row of raw features (N, D), then L2-normalise the rows."""
    return F.normalize(features - features.mean(dim=0, keepdim=True), dim=1)


def similarity(query: Tensor, gallery: Tensor) -> Tensor:
    """Compute the cosine similarity (Q, G) of raw features (Q, D) and (G, D), each set centred by its own mean."""
    return centre_and_normalise(query) @ centre_and_normalise(gallery).T


def recall_at_k(sim: Tensor, query_label: Tensor, gallery_label: Tensor, ks: tuple[int, ...] = RECALL_AT
                ) -> dict[int, float]:
    """Compute the share of queries with a video of their class among the k most similar gallery videos, {k: share}.

    CoCLR, arXiv 2010.09709, section 4. `sim` is (Q, G); labels are (Q,) and (G,) int64, on the CPU. k may exceed G.
    """
    depth = min(max(ks), sim.shape[1])
    hits = torch.zeros(depth, dtype=torch.float64)
    for start in range(0, len(sim), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        nearest = sim[rows].topk(depth, dim=1).indices.cpu()  # (R, depth), best first
        same = gallery_label[nearest] == query_label[rows, None]
        hits += same.cummax(dim=1).values.sum(dim=0)  # a hit at rank i is one at every larger k
    return {k: float(hits[min(k, depth) - 1]) / len(sim) for k in ks}


def topk_accuracy(score: Tensor, label: Tensor, ks: tuple[int, ...] = (1, 5)) -> dict[int, float]:
    """Compute the share of rows whose label (N,) is among their k highest scores (N, classes), {k: share in 0-1}."""
    depth = min(max(ks), score.shape[1])
    right = score.topk(depth, dim=1).indices == label[:, None]  # (N, depth)
    return {k: right[:, : min(k, depth)].any(dim=1).double().mean().item() for k in ks}


def weighted_knn(sim: Tensor, query_label: Tensor, gallery_label: Tensor, classes: int, k: int = 200,
                 T: float = 0.07, ks: tuple[int, ...] = (1, 5)) -> dict[int, float]:
    """Compute the share of queries whose class is among the first by `knn_votes`, {rank: share in 0-1}.

    Labels are (Q,) and (G,) int64, on the CPU. A class without a vote is never a hit.
    """
    votes, best = knn_votes(sim, gallery_label, classes, k, T).topk(min(max(ks), classes), dim=1)
    right = (best == query_label[:, None]) & (votes > 0)
    return {rank: float(right[:, :rank].any(dim=1).sum()) / len(sim) for rank in ks}


def knn_votes(sim: Tensor, gallery_label: Tensor, classes: int, k: int, T: float) -> Tensor:
    """Sum the votes exp(sim / T) of the k most similar gallery entries (of all, if G < k) by class, (Q, classes).

    The weighted kNN classifier of Wu et al. (arXiv 1805.01978, section 3.4). Each row is divided by the vote of its
    nearest entry, which leaves the order of the classes and keeps small T from overflowing. `sim` is (Q, G); labels
    (G,) int64 and votes float64 are on the CPU.
    """
    near, index = (x.cpu() for x in sim.topk(min(k, sim.shape[1]), dim=1))  # (Q, k), best first
    weights = ((near - near[:, :1]).double() / T).exp()
    return weights.new_zeros(len(sim), classes).scatter_add_(1, gallery_label[index], weights)
