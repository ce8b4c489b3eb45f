"""One training or evaluation step of each contrastive model: batch -> logits -> loss -> update -> metrics."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.loss import coclr_loss, drop_self, infonce_loss, ubernce_loss
from model.pretrain import CoCLR
from utils.console import say
from utils.engine import Step
from utils.metrics import mask_accuracy, topk_accuracy
from utils.mining import MiningMonitor
from utils.optimizer import RunOptimizer
from utils.presets import to_blocks

StepOfEpoch = Callable[[int], Step]
Values = dict[str, Tensor]


def infonce_steps(network: nn.Module, optimizer: RunOptimizer | None, device: torch.device,
                  parts: int = 1) -> StepOfEpoch:
    """Steps of InfoNCE; without an optimizer they only measure. parts: see :func:`take_step`."""
    def contrast(batch: dict) -> Values:
        logits, labels = network(to_blocks(batch, device)[:, :, 0])  # block: (B, 2, 3, T, H, W)
        top1, top5 = topk_accuracy(logits, labels)
        return {"loss": infonce_loss(logits), "top1": top1, "top5": top5}

    def step(batch: dict, iteration: int) -> Values:
        return {**take_step(network, optimizer, split(batch, parts), contrast), **rate(optimizer)}
    return lambda epoch: step


def ubernce_steps(network: nn.Module, optimizer: RunOptimizer | None, device: torch.device,
                  parts: int = 1) -> StepOfEpoch:
    """Steps of UberNCE, whose positives come from the classes; without an optimizer they only measure."""
    def contrast(batch: dict) -> Values:
        classes = batch["label"].to(device, non_blocking=True)
        logits, mask = network(to_blocks(batch, device)[:, :, 0], classes)  # block: (B, 2, 3, T, H, W)
        return {"loss": ubernce_loss(logits, mask), **accuracies(logits, mask)}

    def step(batch: dict, iteration: int) -> Values:
        return {**take_step(network, optimizer, split(batch, parts), contrast), **rate(optimizer)}
    return lambda epoch: step


@dataclass
class CoclrSteps:
    """Steps of CoCLR; without an optimizer they only measure.

    Until the queue is full there is nothing to mine: the keys are queued, and no optimizer step is taken.

    Args:
        network: the model, or its wrapper that averages gradients over processes. model: the model itself.
        monitor: measures what is mined; labels go nowhere else. seed, self_mask: see :func:`masks_self`.
        parts: see :func:`take_step`.
    """

    network: nn.Module
    model: CoCLR
    optimizer: RunOptimizer | None
    monitor: MiningMonitor
    device: torch.device
    seed: int
    parts: int = 1
    self_mask: float = 0.9

    def __post_init__(self) -> None:
        self._full = self.model.queue_is_full
        self.model.watch = self.monitor.watch

    def __call__(self, epoch: int) -> Step:
        return partial(self.step, epoch)

    def step(self, epoch: int, batch: dict, iteration: int) -> Values:
        """One batch: loss, accuracies, and once positives are mined their recall."""
        full = self._is_full(iteration)
        network = self.network if full else self.model  # no gradients to average while the queue fills
        batches = split(batch, self.parts)
        contrast = partial(self._contrast, network, full, masks_self(self.seed, epoch, iteration, self.self_mask))
        values = take_step(network, self.optimizer if full else None, batches, contrast)
        if self.optimizer is not None:
            for part in batches:  # in the order in which the queue took them
                self.monitor.ring.update(*(part[name].to(self.device) for name in ("label", "source", "index")))
        return {**values, **rate(self.optimizer)}

    def _contrast(self, network: nn.Module, full: bool, without_self: bool, batch: dict) -> Values:
        views = to_blocks(batch, self.device)  # (B, 2 clips, 2 streams, 3, T, H, W)
        source = batch["source"].to(self.device, non_blocking=True)
        logits, mask = network(views[:, 0], views[:, 1], source)  # (B, 1+K) each
        loss = coclr_loss(logits, drop_self(mask) if without_self else mask)
        values = {"loss": loss, **accuracies(logits, mask)}
        return values | self.monitor.read(batch["label"].to(self.device, non_blocking=True))

    def _is_full(self, iteration: int) -> bool:
        if not self._full and self.model.queue_is_full:
            self._full = True
            say(f"the queue is full at iteration {iteration}: mining and training begin")
        return self._full


def masks_self(seed: int, epoch: int, iteration: int, share: float = 0.9) -> bool:
    """Whether this iteration, as a share of all, leaves column 0 out of the positives; one draw for all processes."""
    return bool(np.random.default_rng([seed, epoch, iteration]).random() < share)


def split(batch: dict, parts: int) -> list[dict]:
    """A batch of N*B samples as N batches of B; tensors, and tensors in dicts, are cut in their first dimension."""
    if parts == 1:
        return [batch]
    pieces = {key: split(value, parts) if isinstance(value, dict) else value.chunk(parts)
              for key, value in batch.items()}
    return [{key: piece[i] for key, piece in pieces.items()} for i in range(parts)]


def take_step(network: nn.Module, optimizer: RunOptimizer | None, batches: list[dict],
              contrast: Callable[[dict], Values]) -> Values:
    """One optimizer step down the gradient of the batches' mean loss; without an optimizer only the values.

    Several batches (``--accumulate``) are one batch to queue, momentum encoder and optimizer, if the model knows their
    number (its ``accumulate``); BatchNorm sees each alone.

    Args:
        network: what ``contrast`` calls; where it averages gradients over processes, it does so once.
        contrast: a batch's "loss" and metrics, 0-d tensors.

    Returns:
        The means of the values over the batches.
    """
    if optimizer is not None:
        optimizer.zero_grad()
    steps: list[Values] = []
    for i, batch in enumerate(batches, start=1):
        with network.no_sync() if isinstance(network, DistributedDataParallel) and i < len(batches) else nullcontext():
            values = contrast(batch)
            if optimizer is not None:
                optimizer.backward(values["loss"] / len(batches))
        steps.append({name: value.detach() for name, value in values.items()})
    if optimizer is not None:
        optimizer.step()
    return {name: torch.stack([values[name] for values in steps]).mean() for name in steps[0]}


def accuracies(logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Top-1 and top-5 against the mask of positives, and of the query's own key (column 0)."""
    top1, top5 = mask_accuracy(logits, mask)
    own1, own5 = topk_accuracy(logits, logits.new_zeros(len(logits), dtype=torch.long))
    return {"top1": top1, "top5": top5, "self_top1": own1, "self_top5": own5}


def rate(optimizer: RunOptimizer | None) -> dict[str, Tensor]:
    """The learning rate as a metric, where there is one."""
    return {} if optimizer is None else {"lr": torch.tensor(optimizer.lr)}
