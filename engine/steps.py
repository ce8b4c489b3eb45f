"""One training step of each contrastive model: a batch in, loss and metrics out as 0-d tensors.

``network`` is the model, or its DistributedDataParallel wrapper; ``dtype`` the autocast type of the encoders, None for
float32; ``generator`` shuffles the clips for BatchNorm. Only UberNCE learns from labels; CoCLR's monitor reads them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataset.transforms.presets import to_blocks
from engine.monitors import MiningMonitor
from model.loss import coclr_loss, drop_self, infonce_loss, ubernce_loss
from utils.metrics import Values, mask_accuracy, topk_accuracy


def infonce_step(network: nn.Module, batch: Mapping[str, Any], device: torch.device, *,
                 dtype: torch.dtype | None = None, generator: torch.Generator | None = None) -> Values:
    """Contrast two clips of each video (CoCLR, equation 1)."""
    block = to_blocks(batch, device)[:, :, 0]  # (B, 2, 3, T, H, W)
    logits, labels = network(block, dtype=dtype, generator=generator)  # (B, 1+K), (B,)
    top1, top5 = topk_accuracy(logits, labels)
    return {"loss": infonce_loss(logits), "top1": top1, "top5": top5}


def ubernce_step(network: nn.Module, batch: Mapping[str, Any], device: torch.device, *,
                 dtype: torch.dtype | None = None, generator: torch.Generator | None = None) -> Values:
    """Contrast two clips of each video; queue entries of its class are positives, too (CoCLR, equation 2)."""
    block = to_blocks(batch, device)[:, :, 0]  # (B, 2, 3, T, H, W)
    labels = batch["label"].to(device, non_blocking=True)
    logits, mask = network(block, labels, dtype=dtype, generator=generator)  # (B, 1+K) each
    return {"loss": ubernce_loss(logits, mask), **accuracies(logits, mask)}


def coclr_step(network: nn.Module, batch: Mapping[str, Any], device: torch.device, monitor: MiningMonitor, *,
               without_self: bool, dtype: torch.dtype | None = None, generator: torch.Generator | None = None
               ) -> Values:
    """Contrast two clips of each video with positives mined in the other view (CoCLR, equation 3; CPR, section 3.2).

    Until the queue is full nothing can be mined: the step only enqueues its keys, and its loss has no gradient.

    Args:
        batch: of the loader: clips in both views; "source", "label" and "index", (B,) int64.
        monitor: measures what was mined; nothing else uses the labels.
        without_self: drop the query's own key (column 0) where there are other positives, see :func:`draw_self_mask`.
    """
    model = getattr(network, "module", network)  # without DistributedDataParallel
    full = model.queue_is_full
    views = to_blocks(batch, device)  # (B, 2 clips, 2 views, 3, T, H, W)
    source, label = (batch[name].to(device, non_blocking=True) for name in ("source", "label"))
    forward = network if full else model  # no gradients to average while the queue fills
    logits, mask, mining = forward(views[:, 0], views[:, 1], source, dtype=dtype, generator=generator,
                                   return_mining=True)  # (B, 1+K) each
    loss = coclr_loss(logits, drop_self(mask) if without_self else mask)
    values = {"loss": loss if full else loss.detach(), **accuracies(logits, mask), **monitor.measure(mining, label)}
    if model.training:
        # Last, because the ring now describes the keys that this forward has enqueued.
        monitor.ring.update(label, source, batch["index"].to(device))
    return values


def draw_self_mask(seed: int, epoch: int, iteration: int, share: float = 0.9) -> bool:
    """Draw whether a step drops column 0 from the positives: once per iteration, the same on all processes."""
    return bool(np.random.default_rng([seed, epoch, iteration]).random() < share)


def accuracies(logits: Tensor, mask: Tensor) -> Values:
    """Compute top-1 and top-5 against the positives, and against the query's own key (column 0)."""
    top1, top5 = mask_accuracy(logits, mask)
    self_top1, self_top5 = topk_accuracy(logits, logits.new_zeros(len(logits), dtype=torch.long))
    return {"top1": top1, "top5": top5, "self_top1": self_top1, "self_top5": self_top5}
