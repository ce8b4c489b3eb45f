"""One training or evaluation step of each contrastive model: batch -> logits -> loss -> update -> metrics."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from model.loss import coclr_loss, drop_self, infonce_loss, ubernce_loss
from model.pretrain import CoCLR
from utils.console import say
from utils.engine import Step
from utils.metrics import LabelRing, mask_accuracy, mining_recall, topk_accuracy
from utils.optimizer import RunOptimizer
from utils.presets import to_blocks

SELF_MASK_SHARE = 0.9  # share of iterations that leave a query's own key out of its positives, as released

StepOfEpoch = Callable[[int], Step]


def infonce_steps(network: nn.Module, optimizer: RunOptimizer | None, device: torch.device) -> StepOfEpoch:
    """Steps of InfoNCE; without an optimizer they only measure."""
    def step(batch: dict, iteration: int) -> dict[str, Tensor]:
        logits, labels = network(to_blocks(batch, device)[:, :, 0])  # block: (B, 2, 3, T, H, W)
        loss = infonce_loss(logits)
        update(optimizer, loss)
        top1, top5 = topk_accuracy(logits, labels)
        return {"loss": loss, "top1": top1, "top5": top5, **rate(optimizer)}
    return lambda epoch: step


def ubernce_steps(network: nn.Module, optimizer: RunOptimizer | None, device: torch.device) -> StepOfEpoch:
    """Steps of UberNCE, whose positives come from the classes; without an optimizer they only measure."""
    def step(batch: dict, iteration: int) -> dict[str, Tensor]:
        classes = batch["label"].to(device, non_blocking=True)
        logits, mask = network(to_blocks(batch, device)[:, :, 0], classes)  # block: (B, 2, 3, T, H, W)
        loss = ubernce_loss(logits, mask)
        update(optimizer, loss)
        return {"loss": loss, **accuracies(logits, mask), **rate(optimizer)}
    return lambda epoch: step


@dataclass
class CoclrSteps:
    """Steps of CoCLR; without an optimizer they only measure.

    Until the queue is full there is nothing to mine: the keys are queued, and no optimizer step is taken.

    Args:
        network: the model, or its wrapper that averages gradients over processes. model: the model itself.
        ring: labels of the queue's entries, for the mining recall alone. seed: of the draws of :func:`masks_self`.
    """

    network: nn.Module
    model: CoCLR
    optimizer: RunOptimizer | None
    ring: LabelRing
    device: torch.device
    seed: int

    def __post_init__(self) -> None:
        self._full = self.model.queue_is_full

    def __call__(self, epoch: int) -> Step:
        return partial(self.step, epoch)

    def step(self, epoch: int, batch: dict, iteration: int) -> dict[str, Tensor]:
        """One batch: loss, accuracies, and once positives are mined their recall."""
        views = to_blocks(batch, self.device)  # (B, 2 clips, 2 streams, 3, T, H, W)
        source = batch["source"].to(self.device, non_blocking=True)
        label = batch["label"].to(self.device, non_blocking=True)
        full = self._is_full(iteration)
        network = self.network if full else self.model  # no gradients to average while the queue fills
        logits, mask = network(views[:, 0], views[:, 1], source)  # (B, 1+K) each
        loss = coclr_loss(logits, drop_self(mask) if masks_self(self.seed, epoch, iteration) else mask)
        if full:
            update(self.optimizer, loss)
        values = {"loss": loss, **accuracies(logits, mask), **rate(self.optimizer)}
        if full and self.ring.full and self.model.topk:
            values["recall"] = mining_recall(mask, label, source, self.ring)
        if self.optimizer is not None:
            self.ring.update(label, source)
        return values

    def _is_full(self, iteration: int) -> bool:
        if not self._full and self.model.queue_is_full:
            self._full = True
            say(f"the queue is full at iteration {iteration}: mining and training begin")
        return self._full


def masks_self(seed: int, epoch: int, iteration: int) -> bool:
    """Whether this iteration leaves column 0 out of the positives: one draw, the same on all processes."""
    return bool(np.random.default_rng([seed, epoch, iteration]).random() < SELF_MASK_SHARE)


def update(optimizer: RunOptimizer | None, loss: Tensor) -> None:
    """One optimizer step down the loss's gradient; nothing without an optimizer."""
    if optimizer is not None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def accuracies(logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Top-1 and top-5 against the mask of positives, and of the query's own key (column 0)."""
    top1, top5 = mask_accuracy(logits, mask)
    own1, own5 = topk_accuracy(logits, logits.new_zeros(len(logits), dtype=torch.long))
    return {"top1": top1, "top5": top5, "self_top1": own1, "self_top5": own5}


def rate(optimizer: RunOptimizer | None) -> dict[str, Tensor]:
    """The learning rate as a metric, where there is one."""
    return {} if optimizer is None else {"lr": torch.tensor(optimizer.lr)}
