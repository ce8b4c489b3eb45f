"""What a co-training mines: measured against labels, which training never sees, and by signs that need none.

Positive mining recall and class mining recall are those of CPR (arXiv 2201.07989, section 4).
"""

from collections.abc import Sequence
from statistics import median
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from utils import distributed
from utils.health import OF_ALL
from utils.metrics import LabelRing

Values = dict[str, Tensor]


class Mining(Protocol):
    """What a forward mined: similarities to the queue in both views (B, K), entries that must not be mined (B, K) bool,
    and the queue indices that survived each stage, (B, size) int64, the last ones best first."""

    @property
    def other(self) -> Tensor: ...

    @property
    def own(self) -> Tensor: ...

    @property
    def excluded(self) -> Tensor: ...

    @property
    def stages(self) -> Sequence[Tensor]: ...


class MiningMonitor:
    """Watches what is mined; over an epoch it counts which videos are, and how often.

    Args:
        K: queue length. labels, sources: of the training videos by row of the dataset, (N,) int64; without them nothing
            is counted.
    """

    def __init__(self, K: int, labels: ArrayLike = (), sources: ArrayLike = (), device: torch.device | str = "cpu"
                 ) -> None:
        self.ring = LabelRing(K, device)
        labels = np.asarray(labels, dtype=np.int64)
        self._counts = len(labels) > 0
        pairs, pair_of_row = np.unique(np.stack([labels, np.asarray(sources, np.int64)]), axis=1, return_inverse=True)
        self._pair_of_row = torch.as_tensor(pair_of_row, device=device)  # (N,): which source of which class
        self._class_of_pair = torch.as_tensor(pairs[0])
        self._found = torch.zeros(pairs.shape[1], dtype=torch.long, device=device)  # true positives by pair
        self._mined = torch.zeros(len(labels), dtype=torch.long, device=device)  # by row
        self._counted = False
        self._last: Mining | None = None

    def watch(self, mining: Mining) -> None:
        """Take what the model's forward is mining; to be read before the queue's labels move on."""
        self._last = mining

    @torch.no_grad()
    def read(self, labels: Tensor) -> Values:
        """Measures of the last forward, as 0-d tensors; none if it mined nothing, or labels of the queue are unknown.

        ``recall``: share of the mined entries that are of their query's class (positive mining recall), and ``chance``:
        that share of the whole queue. ``mining_r1``: share of the best mined entries that are. ``stage1_hits``, ...:
        how many of a stage's survivors are, a query. ``agreement``: see :func:`agreement`, of as many as are mined.
        Entries of a query's own source are no candidates.

        Args:
            labels: classes of the queries, (B,) int64.
        """
        mining, self._last = self._last, None
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

    def end_epoch(self, queues: dict[str, Tensor]) -> tuple[dict[str, float], dict[int, float]]:
        """Measures of the epoch, and its class mining recall by class, both empty where nothing was mined; counting
        starts again. All processes call this.

        ``cmr_median``: median over classes of class mining recall, the share of a class's sources that its queries have
        found. ``mined_videos``: share of the training videos that were mined at all. ``most_mined``: how often the most
        mined one was, as a multiple of the mean. ``spread_*``, ``rank_*``: see :mod:`utils.health`, of each queue.

        Args:
            queues: by name, (D, K) unit columns.
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
        values |= {f"{name}_{of}": float(measure(queue.T)) for of, queue in queues.items()
                   for name, measure in OF_ALL.items()}
        return values, classes

    def _totals(self) -> tuple[Tensor, Tensor]:
        """Both counts over all processes, on the CPU."""
        both = torch.cat([self._found, self._mined])
        total = distributed.all_gather(both[None]).sum(dim=0).cpu()
        return total[:len(self._found)], total[len(self._found):]

    def state_dict(self) -> dict:
        """What a checkpoint keeps: the ring, and the counts of all processes. Every process must call this."""
        found, mined = self._totals()
        return {**self.ring.state_dict(), "found": found, "mined": mined, "counted": self._counted}

    def load_state_dict(self, state: dict) -> None:
        """Take over a saved monitor; the counts go to the main process, whose sum with the others' they are."""
        if not self._counts:
            self.ring.load_state_dict(state)
            return
        same = ("found" in state and (len(state["found"]), len(state["mined"])) == (len(self._found), len(self._mined))
                and bool(((state["rows"] >= -1) & (state["rows"] < len(self._mined))).all()))
        if same:
            self.ring.load_state_dict(state)
        else:  # from before there were counts, or of other videos
            self.ring.align(int(state["pointer"]))
        self._counted = same and bool(state["counted"])
        if same and distributed.is_main():
            self._found.copy_(state["found"])
            self._mined.copy_(state["mined"])


@torch.no_grad()
def agreement(one: Tensor, two: Tensor, allowed: Tensor, n: int) -> Tensor:
    """How far two views agree on the n nearest entries, above chance: 0 as by chance, 1 the same lists; 0-d.

    (overlap - chance) / (1 - chance), the overlap being the share of a list that is in the other, and the chance
    n / number of candidates.

    Args:
        one, two: similarities (B, K). allowed: candidates (B, K) bool.
    """
    lists = [rows.masked_fill(~allowed, float("-inf")).topk(n, dim=1).indices for rows in (one, two)]
    both = lists[0][:, :, None] == lists[1][:, None, :]  # (B, n, n)
    overlap = both.any(dim=2).float().mean(dim=1)
    chance = (n / allowed.sum(dim=1).clamp(min=n)).clamp(max=1)
    return ((overlap - chance) / (1 - chance).clamp(min=1e-6)).mean()


def class_recalls(found: Tensor, class_of_pair: Tensor) -> dict[int, float]:
    """Class mining recall: by class, the share of its sources of which a true positive was mined.

    A class of one source has nothing to mine, and is left out.

    Args:
        found: true positives mined by pair of class and source, (P,) int64. class_of_pair: (P,) int64.
    """
    result = {}
    for label in class_of_pair.unique().tolist():
        own = found[class_of_pair == label]
        if len(own) > 1:
            result[label] = float((own > 0).double().mean())
    return result
