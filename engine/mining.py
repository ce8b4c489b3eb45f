"""Measures of mining, with labels, which training never sees, and without.

Positive mining recall and class mining recall are defined in CPR (arXiv 2201.07989, section 4).
"""

from collections.abc import Mapping
from statistics import median

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from engine.health import MEASURES, agreement
from model.pretrain import Mining
from utils import distributed
from utils.metrics import LabelRing, Values


class MiningMonitor:
    """Measures each step's mining, and counts over an epoch how often each video is mined."""

    def __init__(self, K: int, labels: ArrayLike = (), sources: ArrayLike = (), device: torch.device | str = "cpu"
                 ) -> None:
        self.ring = LabelRing(K, device)
        labels = np.asarray(labels, dtype=np.int64)
        self._counts = len(labels) > 0
        pairs, pair_of_row = np.unique(np.stack([labels, np.asarray(sources, np.int64)]), axis=1, return_inverse=True)
        self._pair_of_row = torch.as_tensor(pair_of_row, device=device)  # (N,): (class, source) pair of a row
        self._class_of_pair = torch.as_tensor(pairs[0])
        self._found = torch.zeros(pairs.shape[1], dtype=torch.long, device=device)  # true positives by pair
        self._mined = torch.zeros(len(labels), dtype=torch.long, device=device)  # by row
        self._counted = False

    @torch.no_grad()
    def measure(self, mining: Mining | None, labels: Tensor) -> Values:
        """Measure one forward, before the queue's labels are updated. A hit is an entry of the query's class.

        ``recall``: positive mining recall, the share of hits among mined entries; ``chance``: among all entries.
        ``mining_r1``: share of queries whose best mined entry is a hit. ``stage1_hits``, ...: hits that survive a
        stage, per query. ``agreement``: see :func:`engine.health.agreement`, with lists as long as what is mined.
        Entries of the query's own source never count.

        Args:
            mining: see :class:`model.pretrain.Mining`.
            labels: classes of the queries, (B,) int64.

        Returns:
            0-d tensors by name; empty if nothing was mined, or the queue's labels are not all known.
        """
        if mining is None or not self.ring.full:
            return {}
        allowed = ~mining.excluded
        right = allowed & (labels[:, None] == self.ring.labels[None, :])  # (B, K)
        mined = mining.stages[-1]  # (B, topk)
        valid, hits = allowed.gather(1, mined), right.gather(1, mined)
        if self._counts:
            self._count(mined, valid, hits)
        values = {"recall": hits.sum() / valid.sum().clamp(min=1), "chance": right.sum() / allowed.sum().clamp(min=1),
                  "mining_r1": hits[:, 0].sum() / valid[:, 0].sum().clamp(min=1)}
        values |= {f"stage{i}_hits": right.gather(1, kept).sum(dim=1).float().mean()
                   for i, kept in enumerate(mining.stages, start=1)}
        return values | {"agreement": agreement(mining.other, mining.own, allowed, mined.shape[1])}

    def _count(self, mined: Tensor, valid: Tensor, hits: Tensor) -> None:
        rows = self.ring.rows[mined.flatten()]
        self._mined.index_add_(0, rows, valid.flatten().long())
        self._found.index_add_(0, self._pair_of_row[rows], hits.flatten().long())
        self._counted = True

    def end_epoch(self, queues: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[int, float]]:
        """Return the epoch's measures, and class mining recall by class; reset the counts. All processes call this.

        ``cmr_median``: median of class mining recall over classes. ``mined_videos``: share of the training videos that
        were mined at all. ``most_mined``: count of the most mined video, as a multiple of the mean. ``spread_*``,
        ``rank_*``: see :mod:`engine.health`, of each queue. Both are empty if nothing was mined.

        Args:
            queues: (D, K) unit columns, by name.
        """
        if not self._counted:
            return {}, {}
        found, mined = self._totals()
        self._found.zero_()
        self._mined.zero_()
        self._counted = False
        classes, counts = class_recalls(found, self._class_of_pair), mined.double()
        values = {"cmr_median": median(classes.values())} if classes else {}
        values |= {"mined_videos": float((counts > 0).double().mean()),
                   "most_mined": float(counts.max() / counts.mean())}
        values |= {f"{name}_{view}": float(measure(queue.T)) for view, queue in queues.items()
                   for name, measure in MEASURES.items()}
        return values, classes

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Sum both counts over all processes, on the CPU."""
        both = torch.cat([self._found, self._mined])
        total = distributed.all_gather(both[None]).sum(dim=0).cpu()
        return total[:len(self._found)], total[len(self._found):]

    def state_dict(self) -> dict:
        """Return ring and total counts for a checkpoint; all processes call this."""
        found, mined = self._totals()
        return {**self.ring.state_dict(), "found": found, "mined": mined, "counted": self._counted}

    def load_state_dict(self, state: Mapping) -> None:
        """Restore ring and counts; the counts are totals, and go to the main process."""
        if not self._counts:
            self.ring.load_state_dict(state)
            return
        same = "found" in state and (len(state["found"]), len(state["mined"])) == (len(self._found), len(self._mined))
        if same:
            self.ring.load_state_dict(state)
        else:  # an earlier file without counts, or other videos
            self.ring.align(int(state["pointer"]))
        self._counted = same and bool(state["counted"])
        if same and distributed.is_main():
            self._found.copy_(state["found"])
            self._mined.copy_(state["mined"])


def class_recalls(found: Tensor, class_of_pair: Tensor) -> dict[int, float]:
    """Compute class mining recall: for each class, the share of its sources that were mined as true positives.

    A class with a single source has nothing to mine, and is left out.

    Args:
        found: true positives mined by (class, source) pair, (P,) int64.
        class_of_pair: (P,) int64.
    """
    result = {}
    for label in class_of_pair.unique().tolist():
        own = found[class_of_pair == label]
        if len(own) > 1:
            result[label] = float((own > 0).double().mean())
    return result
