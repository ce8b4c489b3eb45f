"""Learning-rate schedules; Adam and SGD with few parameter groups in memory, and one per parameter in files."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import CheckpointError


@dataclass(frozen=True)
class LrSchedule:
    """The learning rate as a function of the epoch alone, so that a resumed run follows it too."""

    lr: float  # at the start
    schedule: tuple[int, ...]  # epochs at which the rate drops to a tenth; ignored with cos
    cos: bool  # half a cosine from 1 to 0 over the epochs (SGDR, arXiv 1608.03983, without restarts)
    epochs: int

    def factor(self, epoch: int) -> float:
        if self.cos:
            return 0.5 * (1.0 + math.cos(math.pi * epoch / self.epochs))
        return 0.1 ** sum(epoch >= milestone for milestone in self.schedule)

    def __str__(self) -> str:
        if self.cos:
            return "falling as a cosine"
        return f"a tenth from epochs {' '.join(map(str, self.schedule))}" if self.schedule else "constant"


class Optimizer:
    """Adam or SGD (momentum 0.9) over named parameters, with loss scaling under fp16.

    Saved groups, frozen parameters' too, are in the order of `named`. `scale`: factor of the learning rate by name.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], *, name: str = "adam", lr: float, wd: float,
                 scale: Callable[[str], float] = lambda name: 1.0, scaler: torch.amp.GradScaler | None = None) -> None:
        pairs = list(named)
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.parameters = [parameter for _, parameter in pairs]
        self.scales = [scale(label) for label, _ in pairs]
        self.base_lr = self.lr = lr
        trained = [(p, s) for p, s in zip(self.parameters, self.scales, strict=True) if p.requires_grad]
        groups = [{"params": [p for p, s in trained if s == share], "scale": share}
                  for share in sorted({s for _, s in trained})]
        # On a GPU one kernel updates all parameters. On a CPU a fused update rounds differently; foreach does not, and
        # takes 19 ms for S3D where a loop takes 52.
        fused = all(p.is_cuda for p in self.parameters)
        common: dict[str, Any] = {"lr": lr, "weight_decay": wd, "fused": fused or None,
                                  "foreach": None if fused else True}
        self.inner: torch.optim.Optimizer = (
            torch.optim.Adam(groups, **common) if name == "adam" else torch.optim.SGD(groups, momentum=0.9, **common))
        self.set_lr(lr)

    def set_lr(self, lr: float) -> None:
        self.lr = lr
        for group in self.inner.param_groups:
            group["lr"] = lr * group["scale"]

    def zero_grad(self) -> None:
        self.inner.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss, scaled as :meth:`step` expects."""
        self.scaler.scale(loss).backward()

    def step(self) -> None:
        """Update the parameters; if scaled gradients overflowed, skip the step and lower the scale."""
        self.scaler.step(self.inner)
        self.scaler.update()

    def state_dict(self) -> dict:
        """Return one group per parameter, frozen or not, each with ``initial_lr``, its rate before any schedule."""
        common = {key: value for key, value in self.inner.param_groups[0].items() if key not in ("params", "scale")}
        common |= {"fused": None, "foreach": None}  # device-dependent
        groups = [{**common, "lr": self.lr * scale, "initial_lr": self.base_lr * scale, "params": [i]}
                  for i, scale in enumerate(self.scales)]
        state = {i: dict(self.inner.state[p]) for i, p in enumerate(self.parameters) if self.inner.state.get(p)}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore the moments of a state with one group per parameter; learning rate and decay stay as they are."""
        groups = [index for group in saved.get("param_groups", ()) for index in group["params"]]
        by_index = dict(zip(groups, self.parameters, strict=False))
        wanted = {"exp_avg", "exp_avg_sq"} if isinstance(self.inner, torch.optim.Adam) else {"momentum_buffer"}
        if len(groups) != len(self.parameters) or not all(
                index in by_index and wanted <= set(values)  # SGD's buffer is None before its first step
                and all(values[key] is None or values[key].shape == by_index[index].shape for key in wanted)
                for index, values in saved["state"].items()):
            raise CheckpointError(f"the checkpoint's optimizer, of {len(groups)} parameters, does not fit this model's "
                                  f"{len(self.parameters)}: it was made with another --net, --model, --train_what or "
                                  "--optim, or published without its optimizer; start from it with --pretrain")
        places = {p: i for i, p in enumerate(p for group in self.inner.param_groups for p in group["params"])}
        state = {places[by_index[index]]: values for index, values in saved["state"].items()
                 if by_index[index] in places}  # frozen parameters have none
        self.inner.load_state_dict({**self.inner.state_dict(), "state": state})


def resumed_lr(saved: Mapping[str, Any], factor: float, default: float) -> float:
    """Return the starting learning rate of a saved optimizer, the largest over its groups.

    Files without ``initial_lr`` hold the rate of their epoch, ``factor`` times as much; if that is 0, use ``default``.
    """
    if all("initial_lr" in group for group in saved["param_groups"]):
        return max(float(group["initial_lr"]) for group in saved["param_groups"])
    return max(float(group["lr"]) for group in saved["param_groups"]) / factor if factor else default
