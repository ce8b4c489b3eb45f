"""Contrastive losses on logits (B, 1+K): column 0 is the query's own key, the rest is the queue.

InfoNCE: van den Oord et al. (arXiv 1807.03748). UberNCE and the multiple-instance loss: CoCLR, equations 2 and 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def infonce_loss(logits: Tensor) -> Tensor:
    """Compute the cross-entropy with column 0 as the class, 0-d: the batch mean of -log softmax(logits)[0].

    Args:
        logits: (B, 1+K) float.
    """
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def ubernce_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Compute the batch mean of -(mean over positives of log-softmax), 0-d (CoCLR, equation 2).

    Args:
        logits: (B, 1+K) float.
        mask: positives, (B, 1+K) bool or float, at least one per row.
    """
    mask = mask.to(logits.dtype)
    positives = (logits.log_softmax(dim=1) * mask).sum(dim=1) / mask.sum(dim=1)
    return -positives.mean()


def coclr_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Compute the batch mean of -log(softmax mass on the positives), 0-d (CoCLR, equation 3).

    As a difference of two log-sum-exps it cannot overflow.

    Args:
        logits: (B, 1+K) float.
        mask: positives, (B, 1+K) bool or float, at least one per row.
    """
    positives = logits.masked_fill(mask == 0, float("-inf")).logsumexp(dim=1)
    return (logits.logsumexp(dim=1) - positives).mean()


def drop_self(mask: Tensor) -> Tensor:
    """Return a copy of the mask (B, 1+K) of positives, without column 0 in rows that have another positive.

    After InfoNCE a query is already close to its own key: the mined positives are the new information.
    """
    dropped = mask.clone()
    has_other = (mask[:, 1:] != 0).any(dim=1)
    dropped[:, 0] = torch.where(has_other, torch.zeros_like(mask[:, 0]), mask[:, 0])
    return dropped
