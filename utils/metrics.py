"""Accuracies of contrastive training, running means on the device, and the queue's labels for monitoring."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from utils import distributed

Values = dict[str, Tensor]  # 0-d tensors by name


def topk_accuracy(logits: Tensor, target: Tensor, ks: Sequence[int] = (1, 5)) -> list[Tensor]:
    """Return the share of rows (B, N) whose target (B,) is among the k highest logits, one 0-d tensor per k."""
    return mask_accuracy(logits, torch.zeros_like(logits).scatter_(1, target[:, None], 1), ks)


@torch.no_grad()
def mask_accuracy(logits: Tensor, mask: Tensor, ks: Sequence[int] = (1, 5)) -> list[Tensor]:
    """Return the share of rows (B, 1+K) with a positive among the k highest logits, one 0-d tensor per k."""
    best = logits.topk(min(max(ks), logits.shape[1]), dim=1).indices  # (B, max k)
    hits = mask.gather(1, best) != 0
    return [hits[:, :k].any(dim=1).float().mean() for k in ks]


class LabelRing:
    """Label, source and dataset row (K,) of each queue entry, -1 until written; training never sees them."""

    def __init__(self, K: int, device: torch.device | str = "cpu") -> None:
        self._entries = torch.full((3, K), -1, dtype=torch.long, device=device)
        self.labels, self.sources, self.rows = self._entries  # views
        self.pointer, self.written = 0, 0  # on the host: reading them waits for no device

    @property
    def full(self) -> bool:
        return self.written >= len(self.labels)

    def update(self, labels: Tensor, sources: Tensor, rows: Tensor) -> None:
        """Write the entries (B,) of all processes in rank order, as the queue writes its keys."""
        entries = distributed.all_gather(torch.stack([labels, sources, rows], dim=1))  # (W*B, 3)
        where = (self.pointer + torch.arange(len(entries), device=self.labels.device)) % len(self.labels)
        self._entries[:, where] = entries.T
        self.pointer = (self.pointer + len(where)) % len(self.labels)
        self.written = min(self.written + len(where), len(self.labels))

    def state_dict(self) -> dict:
        return {"labels": self.labels.cpu(), "sources": self.sources.cpu(), "rows": self.rows.cpu(),
                "pointer": self.pointer, "written": self.written}

    def load_state_dict(self, state: Mapping) -> None:
        self._entries.copy_(torch.stack([state[name] for name in ("labels", "sources", "rows")]))
        self.pointer, self.written = int(state["pointer"]), int(state["written"])

    def align(self, pointer: int) -> None:
        """Start empty at the queue's pointer, for a checkpoint without a ring."""
        self._entries.fill_(-1)
        self.pointer, self.written = pointer, 0


class Meters:
    """Running means that stay on the device; only reading them waits for it."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._read: dict[str, tuple[float, int]] = {}

    def add(self, values: Values, weight: int = 1) -> None:
        """Add one step's values, 0-d tensors, and how much they count; a name may be missing in some steps."""
        for name, value in values.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros((), dtype=torch.float64, device=self._device)
                self._counts[name] = 0
            self._sums[name].add_(value.detach(), alpha=weight)
            self._counts[name] += weight

    def window(self) -> dict[str, float]:
        result: dict[str, float] = {}
        totals = torch.stack(list(self._sums.values())).tolist() if self._sums else []
        for name, total in zip(self._sums, totals, strict=True):
            before, count = self._read.get(name, (0.0, 0))
            if self._counts[name] > count:
                result[name] = (total - before) / (self._counts[name] - count)
            self._read[name] = (total, self._counts[name])
        return result

    def means(self) -> dict[str, float]:
        """Return the means over all steps and processes; all processes call this."""
        if not self._sums:
            return {}
        own = torch.stack([total / self._counts[name] for name, total in self._sums.items()])
        return dict(zip(self._sums, distributed.all_gather(own[None]).mean(dim=0).tolist(), strict=True))

    def state_dict(self) -> dict:
        """Return sums and counts of all processes, and this one's window; all processes call this."""
        counts = torch.tensor(list(self._counts.values()), dtype=torch.float64, device=self._device)
        sums = torch.stack(list(self._sums.values())) if self._sums else counts
        rows = torch.stack([sums, counts])[None]  # (1, 2, names)
        return {"names": list(self._sums), "rows": distributed.all_gather(rows).cpu(),
                "read": {name: list(pair) for name, pair in self._read.items()}}

    def load_state_dict(self, state: dict) -> None:
        """Restore this process's sums; if the number of processes has changed, the mean over all."""
        rows = state["rows"]  # (W, 2, names)
        same = len(rows) == distributed.world_size()
        sums, counts = rows[distributed.rank()] if same else rows.mean(dim=0)
        self._sums = {name: sums[i].clone().to(self._device) for i, name in enumerate(state["names"])}
        self._counts = {name: int(counts[i]) for i, name in enumerate(state["names"])}
        self._read = {name: (float(total), int(count)) for name, (total, count) in state["read"].items()}
