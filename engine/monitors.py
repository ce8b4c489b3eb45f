"""Monitors: metrics that never influence training: mining (with and without labels), health, kNN accuracy.

Positive mining recall and class mining recall are defined in CPR (arXiv 2201.07989, section 4).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from engine.config import TrainConfig
from engine.health import MEASURES, HealthProbe, agreement
from engine.trainer import Trainer
from model.pretrain import Mining
from utils import distributed
from utils.console import is_main, warn
from utils.metrics import LabelRing, Values

COLLAPSED = 1.5  # effective rank of the queue: 1.0 in runs that failed, at least 2.9 in those that did not


class MiningMonitor:
    """Measures mining at each step, and how often an epoch mines each video; recall only if it ``has_labels``."""

    def __init__(self, K: int, labels: ArrayLike = (), sources: ArrayLike = (), device: torch.device | str = "cpu",
                 has_labels: bool = True) -> None:
        self.ring, self.has_labels = LabelRing(K, device), has_labels
        labels = np.asarray(labels, dtype=np.int64)
        self._counts = len(labels) > 0
        pairs, pair_of_row = np.unique(np.stack([labels, np.asarray(sources, np.int64)]), axis=1, return_inverse=True)
        pair_of_row = pair_of_row.reshape(-1)  # numpy 2.0 gives it another axis
        self._pair_of_row = torch.as_tensor(pair_of_row, device=device)  # (N,): (class, source) pair of a row
        self._class_of_pair = torch.as_tensor(pairs[0])
        self._found = torch.zeros(pairs.shape[1], dtype=torch.long, device=device)  # true positives by pair
        self._mined = torch.zeros(len(labels), dtype=torch.long, device=device)  # by row

    @torch.no_grad()
    def measure(self, mining: Mining | None, labels: Tensor) -> Values:
        """Measure one forward, before the queue's labels are updated. A hit is an entry of the query's class.

        ``recall``: positive mining recall, the share of hits among mined entries; ``recall_topk``: among as many that
        the other view alone would mine; ``chance``: among all entries.
        ``mining_r1``: share of queries whose best mined entry is a hit. ``stage1_hits``, ...: hits that survive a
        stage, per query. ``agreement``: see :func:`engine.health.agreement`, with lists as long as what is mined.
        Entries of the query's own source never count. Empty if nothing was mined, or the queue's labels are not all
        known. ``labels`` are the classes of the queries, (B,).
        """
        if mining is None or not self.ring.full:
            return {}
        allowed = ~mining.excluded
        right = allowed & (labels[:, None] == self.ring.labels[None, :])  # (B, K)
        mined = mining.stages[-1]  # (B, topk)
        valid, hits = allowed.gather(1, mined), right.gather(1, mined)
        if self._counts:
            rows = self.ring.rows[mined.flatten()]
            self._mined.index_add_(0, rows, valid.flatten().long())
            self._found.index_add_(0, self._pair_of_row[rows], hits.flatten().long())
        found = {"agreement": agreement(mining.other, mining.own, allowed, mined.shape[1])}
        if not self.has_labels:
            return found
        values = {"recall": hits.sum() / valid.sum().clamp(min=1), "chance": right.sum() / allowed.sum().clamp(min=1),
                  "mining_r1": hits[:, 0].sum() / valid[:, 0].sum().clamp(min=1)}
        plain = mining.other.masked_fill(mining.excluded, -math.inf).topk(mined.shape[1], dim=1).indices
        values["recall_topk"] = right.gather(1, plain).sum() / allowed.gather(1, plain).sum().clamp(min=1)
        values |= {f"stage{i}_hits": right.gather(1, kept).sum(dim=1).float().mean()
                   for i, kept in enumerate(mining.stages, start=1)}
        return values | found

    def end_epoch(self, queues: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the epoch's measures, none if nothing was mined; reset the counts. All processes call this.

        ``cmr_median``: median of class mining recall over classes. ``mined_videos``: share of the training videos that
        were mined at least once. ``most_mined``: count of the most mined video, divided by the mean. ``spread_*``,
        ``rank_*``: see :mod:`engine.health`, for each of the ``queues`` (D, K).
        """
        found, mined = self._totals()
        if not mined.any():
            return {}
        self._found.zero_()
        self._mined.zero_()
        recalls = class_recalls(found, self._class_of_pair) if self.has_labels else {}
        counts = mined.double()
        values = {"cmr_median": median(recalls.values())} if recalls else {}
        values |= {"mined_videos": float((counts > 0).double().mean()),
                   "most_mined": float(counts.max() / counts.mean())}
        return values | {f"{name}_{view}": float(measure(queue.T)) for view, queue in queues.items()
                         for name, measure in MEASURES.items()}

    def _totals(self) -> tuple[Tensor, Tensor]:
        both = torch.cat([self._found, self._mined])
        total = distributed.all_gather(both[None]).sum(dim=0).cpu()
        return total[:len(self._found)], total[len(self._found):]

    def state_dict(self) -> dict:
        """Return ring and total counts for a checkpoint; all processes call this."""
        found, mined = self._totals()
        return {**self.ring.state_dict(), "found": found, "mined": mined}

    def load_state_dict(self, state: Mapping) -> None:
        """Restore ring and counts; the counts are totals, and go to the main process."""
        same = "found" in state and (len(state["found"]), len(state["mined"])) == (len(self._found), len(self._mined))
        if self._counts and not same:  # an earlier file without counts, or other videos
            self.ring.align(int(state["pointer"]))
            return
        self.ring.load_state_dict(state)
        if self._counts and is_main():
            self._found.copy_(state["found"])
            self._mined.copy_(state["mined"])


def class_recalls(found: Tensor, class_of_pair: Tensor) -> dict[int, float]:
    """Compute class mining recall: for each class, the share of its sources that were mined as true positives.

    Classes with a single source have nothing to mine and are skipped. ``found`` counts by (class, source) pair.
    """
    sources = {label: found[class_of_pair == label] for label in class_of_pair.unique().tolist()}
    return {label: float((own > 0).double().mean()) for label, own in sources.items() if len(own) > 1}


@dataclass
class Monitors:
    """A run's monitors; None disables one. The last epoch is always measured."""

    model: Any  # CoCLR where mining or health are measured
    dtype: torch.dtype | None
    train: TrainConfig
    mining: MiningMonitor | None = None
    health: HealthProbe | None = None
    knn: Callable[..., dict[str, float]] | None = None  # see eval.knn.KnnMonitor.measure
    collapsed: bool = False  # the queue, when it was last measured

    def end_epoch(self, epoch: int, trainer: Trainer) -> None:
        """Measure queue, mining and health; all processes call this."""
        if self.mining is None:
            values = {f"{name}_own": float(measure(self.model.queue.T)) for name, measure in MEASURES.items()}
            trainer.log("queue", epoch, values)
        else:
            values = self.mining.end_epoch({"own": self.model.queue, "other": self.model.queue_second})
            if values:
                trainer.log("mining", epoch, values)
        rank = values.get("rank_own", math.inf)
        self.collapsed = rank < COLLAPSED and self.model.queue.shape[1] > 2  # two keys span one direction
        if self.collapsed and is_main():
            warn(f"the embeddings have nearly collapsed: the queue's keys vary in {rank:.2f} of {self.model.dim} "
                 "directions (effective rank), so top-1 and loss mean little: try a smaller --lr (docs/training.md)")
        if self.health is not None and self._is_due(epoch, self.train.health_freq):
            trainer.log("health", epoch, self.health.now(self.model))

    def after_save(self, epoch: int, trainer: Trainer) -> None:
        if self.knn is not None and self._is_due(epoch, self.train.knn_freq):
            values = self.knn(self.model.encoder_q[0], self.dtype, title=f"knn epoch {epoch}", after_video=trainer.poll)
            trainer.log("knn", epoch, values)

    def _is_due(self, epoch: int, every: int) -> bool:
        return (epoch + 1) % every == 0 or epoch == self.train.epochs - 1
