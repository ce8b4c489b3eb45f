"""Watches over a training: losses and weights that are not finite, and frames of the videos that do not decode."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from utils.console import say, warn
from utils.errors import TrainingError

MOST_DAMAGED = 0.01  # share of an epoch's frames

NamesOf = Callable[[Tensor], list[str]]


class LossWatch:
    """Keeps each step's loss until it is cheap to look at, and with it the rows of its batch.

    Args:
        names_of: names of the videos of a batch, from its "index".
    """

    def __init__(self, names_of: NamesOf) -> None:
        self._names_of = names_of
        self._pending: list[tuple[int, Tensor, Tensor]] = []  # iteration, index, loss

    def add(self, iteration: int, batch: Mapping[str, Any], loss: Tensor) -> None:
        """Take a step's loss (0-d); on a CPU it is looked at right away."""
        self._pending.append((iteration, batch["index"], loss))
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Look at the losses so far.

        Raises:
            TrainingError: one is NaN or infinite; it names the step and its videos.
        """
        if not self._pending:
            return
        finite = torch.stack([loss for _, _, loss in self._pending]).isfinite().tolist()
        if not all(finite):
            iteration, index, loss = self._pending[finite.index(False)]
            raise TrainingError(f"the loss of iteration {iteration} is {float(loss)}; its videos: "
                                f"{', '.join(self._names_of(index))}. Look at them, or take a smaller --lr or a finer "
                                "--precision; the checkpoints are from before")
        self._pending.clear()


def refuse_non_finite(state_dict: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
    """Refuse to save weights that are lost, or moments of the optimizer: infinite ones hold their weights for ever.

    Args:
        optimizer: its state dict.

    Raises:
        TrainingError: some are NaN or infinite.
    """
    moments = {f"optimizer's {key} of {number}": value for number, each in optimizer["state"].items()
               for key, value in each.items() if isinstance(value, Tensor) and key != "step"}
    named = {key: value for key, value in {**state_dict, **moments}.items() if value.is_floating_point()}
    largest = torch._foreach_norm(list(named.values()), torch.inf)
    if not torch.stack([norm.float().cpu() for norm in largest]).isfinite().all():
        lost = [key for key, norm in zip(named, largest, strict=True) if not norm.isfinite()]
        raise TrainingError(f"{len(lost)} tensors of the model are no longer finite ({lost[0]}, ...), and are not "
                            "saved: take a smaller --lr or a finer --precision; the checkpoints are from before")


class FrameWatch:
    """Counts frames that did not decode, names each video once, and ends a run that has too many of them.

    Args:
        names_of: as of :class:`LossWatch`. frames: of an epoch, of this process; more than 1 % end the run.
    """

    def __init__(self, names_of: NamesOf, frames: int) -> None:
        self._names_of, self._frames = names_of, frames
        self._named: set[int] = set()
        self.count = 0

    def new_epoch(self) -> None:
        """Count from 0 again."""
        self.count = 0

    def report(self, title: str) -> None:
        """Say how many there were since :meth:`new_epoch`, if any. title: ("train epoch 3")."""
        if self.count:
            say(f"{title}: others stood in for {self.count} of {self._frames} frames that could not be read")

    def add(self, batch: Mapping[str, Any]) -> None:
        """Look at a batch's "damaged", int64 (B, S, 2): for each stream how many frames, and the first one's number.

        Raises:
            TrainingError: there are too many.
        """
        damaged = batch.get("damaged")
        if damaged is None or not damaged[..., 0].any():
            return
        self.count += int(damaged[..., 0].sum())
        for row, streams in zip(batch["index"].tolist(), damaged.tolist(), strict=True):
            first = [frame for count, frame in streams if count]
            if first and row not in self._named:
                self._named.add(row)
                warn(f"video {self._names_of(torch.tensor([row]))[0]}: frame {first[0]} cannot be read; the nearest "
                     "one that can stands in for it, as for any other of this video (said once)")
        if self.count > MOST_DAMAGED * self._frames:
            raise TrainingError(f"{self.count} of {self._frames} frames could not be read, more than "
                                f"{MOST_DAMAGED:.0%}: the LMDB is damaged, make it again")


def video_names(dataset: object) -> NamesOf:
    """Row numbers of a dataset to the names of its videos."""
    names = getattr(getattr(dataset, "index", None), "names", None)
    return lambda index: [str(row) if names is None else names[row] for row in index.tolist()]
