"""Monitors: metrics that never influence training (mining, health of the views, kNN accuracy)."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from engine.health import MEASURES, HealthProbe
from engine.mining import MiningMonitor
from engine.trainer import Trainer
from model.momentum import MomentumContrast
from model.pretrain import CoCLR
from utils.console import warn
from utils.distributed import is_main

COLLAPSED = 1.5  # effective rank of the queue: 1.0 in runs that failed, at least 2.9 in those that did not


class FeatureMonitor(Protocol):
    """Measures the features of a backbone, see :class:`eval.knn.KnnMonitor`."""

    def measure(self, backbone: nn.Module, dtype: torch.dtype | None, *, title: str, epoch_seconds: float,
                after_video: Callable[[], None]) -> dict[str, float]:
        """Return measures by name; call ``after_video`` between videos."""
        ...


@dataclass
class Monitors:
    """The monitors of a run; None switches one off. ``*_freq`` are in epochs, and the last epoch is always measured."""

    model: MomentumContrast
    dtype: torch.dtype | None
    epochs: int
    classes: Sequence[str] = ()
    mining: MiningMonitor | None = None
    health: HealthProbe | None = None
    health_freq: int = 1
    knn: FeatureMonitor | None = None
    knn_freq: int = 1
    _epoch_start: float = 0.0
    _warned: bool = False

    def begin_epoch(self) -> None:
        """Start the epoch's clock."""
        self._epoch_start = time.perf_counter()

    def before_training(self, trainer: Trainer) -> None:
        """Measure the starting point."""
        if self.health is not None and isinstance(self.model, CoCLR):
            trainer.log("health", -1, self.health.before(self.model))

    def end_epoch(self, epoch: int, trainer: Trainer) -> None:
        """Measure queue, mining and health; all processes call this."""
        if self.mining is None or not isinstance(self.model, CoCLR):
            values = {f"{name}_own": float(measure(self.model.queue.T)) for name, measure in MEASURES.items()}
            trainer.log("queue", epoch, values)
        else:
            values, recalls = self.mining.end_epoch({"own": self.model.queue, "other": self.model.queue_second})
            if values:
                trainer.log("mining", epoch, values,
                            classes={self.classes[label]: recall for label, recall in recalls.items()})
        self._warn_of_collapse(values)
        if self.health is not None and isinstance(self.model, CoCLR) and self._is_due(epoch, self.health_freq):
            trainer.log("health", epoch, self.health.now(self.model))

    def after_save(self, epoch: int, trainer: Trainer) -> None:
        """Measure the features by kNN, which is slow."""
        if self.knn is not None and self._is_due(epoch, self.knn_freq):
            values = self.knn.measure(self.model.encoder_q[0], self.dtype, title=f"knn epoch {epoch}",
                                      epoch_seconds=time.perf_counter() - self._epoch_start, after_video=trainer.poll)
            trainer.log("knn", epoch, values, quiet=True)

    def _warn_of_collapse(self, values: Mapping[str, float]) -> None:
        rank = values.get("rank_own", math.inf)
        if rank < COLLAPSED and is_main() and not self._warned:
            self._warned = True
            warn(f"the embeddings have nearly collapsed: the queue's keys vary in {rank:.2f} directions of "
                 f"{self.model.dim} (effective rank), so top-1 and loss mean little. A smaller --lr is the first "
                 "thing to try (docs/mining.md)")

    def _is_due(self, epoch: int, every: int) -> bool:
        return (epoch + 1) % every == 0 or epoch == self.epochs - 1
