"""Checks during training: finite losses and weights, readable frames."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from utils.console import say, warn
from utils.errors import TrainingError

MAX_DAMAGED = 0.01  # share of an epoch's frames


class LossCheck:
    """Checks that losses are finite without stalling a GPU: there, only when a line is printed anyway."""

    def __init__(self, dataset: object) -> None:
        self._dataset = dataset
        self._pending: list[tuple[int, Tensor, Tensor]] = []  # iteration, rows of the dataset, loss

    def add(self, iteration: int, rows: Tensor, loss: Tensor, now: bool) -> None:
        """Add the loss (0-d) of a step and the dataset rows (B,) of its batch; check now on a CPU, or if ``now``."""
        self._pending.append((iteration, rows, loss.detach()))
        if now or loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise TrainingError with step and videos if a loss added so far is NaN or infinite."""
        if not self._pending:
            return
        finite = torch.stack([loss for _, _, loss in self._pending]).isfinite().tolist()
        if not all(finite):
            iteration, rows, loss = self._pending[finite.index(False)]
            raise TrainingError(f"the loss of iteration {iteration} is {float(loss)}; its videos: "
                                f"{', '.join(video_names(self._dataset, rows.tolist()))}. Check them, or use a "
                                "smaller --lr or a higher --precision; the checkpoints predate this step")
        self._pending.clear()


def check_finite(state_dict: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
    """Raise TrainingError unless weights and optimizer moments are finite; infinite moments freeze weights forever."""
    moments = {f"optimizer's {key} of {number}": value for number, each in optimizer["state"].items()
               for key, value in each.items() if isinstance(value, Tensor) and key != "step"}
    named = {key: value for key, value in {**state_dict, **moments}.items() if value.is_floating_point()}
    largest = torch._foreach_norm(list(named.values()), torch.inf)
    if not torch.stack([norm.float().cpu() for norm in largest]).isfinite().all():
        lost = [key for key, norm in zip(named, largest, strict=True) if not norm.isfinite()]
        raise TrainingError(f"{len(lost)} tensors of the model are no longer finite ({lost[0]}, ...), and are not "
                            "saved: use a smaller --lr or a higher --precision; the saved checkpoints are finite")


class DamageCounter:
    """Counts an epoch's unreadable frames, warns once per video, and stops the run if there are too many."""

    def __init__(self, dataset: object, frames: int) -> None:
        self._dataset, self._frames = dataset, frames
        self._named: set[int] = set()  # rows
        self.count = 0

    def reset(self) -> None:
        """Start a new epoch; videos already named are not named again."""
        self.count = 0

    def report(self, title: str) -> None:
        """Print the count unless it is 0."""
        if self.count:
            say(f"{title}: {self.count} of {self._frames} frames could not be read and were replaced")

    def add(self, batch: Mapping[str, Any]) -> None:
        """Add a batch's "damaged", (B, 2) int64: count of unreadable frames, and the first of them."""
        damaged = batch.get("damaged")
        if damaged is None or not damaged[..., 0].any():
            return
        self.count += int(damaged[..., 0].sum())
        for row, (count, first) in zip(batch["index"].tolist(), damaged.tolist(), strict=True):
            if count and row not in self._named:
                self._named.add(row)
                warn(f"video {video_names(self._dataset, [row])[0]}: frame {first} cannot be read; the nearest "
                     "readable one replaces it, and likewise for others of this video (not reported again)")
        if self.count > MAX_DAMAGED * self._frames:
            raise TrainingError(f"{self.count} of {self._frames} frames could not be read, more than "
                                f"{MAX_DAMAGED:.0%}: the LMDB is damaged, rebuild it")


def frames_per_epoch(loader: DataLoader) -> int:
    """Return the frames that this process reads in an epoch."""
    assert loader.batch_size is not None and isinstance(loader.sampler, Sized)
    samples = min(len(loader) * loader.batch_size, len(loader.sampler))  # a training drops the rest, validation not
    return samples * getattr(loader.dataset, "frames_per_sample", 1)


def video_names(dataset: object, rows: Sequence[int]) -> list[str]:
    """Return the names of the videos in these rows."""
    names = getattr(getattr(dataset, "index", None), "names", None)
    return [str(row) if names is None else names[row] for row in rows]
