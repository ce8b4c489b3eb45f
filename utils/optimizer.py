"""Adam and SGD with few groups inside, for speed, and one group per parameter in files, as published ones have."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from utils.contents import is_count
from utils.errors import CheckpointError


class RunOptimizer:
    """An optimizer over named parameters, with loss scaling where the precision needs it.

    Args:
        named: (name, parameter) pairs, in the order of the file's groups. Frozen ones get a group in the file, but
            are not trained.
        name: "adam" or "sgd" (momentum 0.9).
        lr, wd: learning rate and weight decay.
        scale: share of the learning rate that a parameter of this name gets; default 1 for all.
        scaler: of the loss (fp16); none by default.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], *, name: str = "adam", lr: float, wd: float,
                 scale: Callable[[str], float] = lambda name: 1.0, scaler: torch.amp.GradScaler | None = None) -> None:
        pairs = list(named)
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
        self.parameters = [parameter for _, parameter in pairs]
        self.scales = [scale(label) for label, _ in pairs]
        self.base_lr = lr
        groups = [{"params": [p for p, s in zip(self.parameters, self.scales, strict=True)
                              if s == scale_ and p.requires_grad], "scale": scale_}
                  for scale_ in sorted(set(self.scales))]
        groups = [group for group in groups if group["params"]]
        # One kernel for all on a GPU. On a CPU it would round differently; a list of tensors at a time does not, and
        # takes 19 ms for S3D where one after the other takes 52.
        fused = all(p.is_cuda for p in self.parameters)
        common: dict[str, Any] = {"lr": lr, "weight_decay": wd, "fused": fused or None,
                                  "foreach": None if fused else True}
        if name == "adam":
            self.inner: torch.optim.Optimizer = torch.optim.Adam(groups, **common)
        else:
            self.inner = torch.optim.SGD(groups, momentum=0.9, **common)
        self.lr = lr
        self.set_lr(lr)

    def set_lr(self, lr: float) -> None:
        """Use this learning rate, times each group's scale, from now on."""
        self.lr = lr
        for group in self.inner.param_groups:
            group["lr"] = lr * group["scale"]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.inner.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled as :meth:`step` expects them."""
        self.scaler.scale(loss).backward()

    def step(self) -> None:
        """Update the trained parameters; scaled gradients that overflowed are left out, and the next scale is lower."""
        self.scaler.step(self.inner)
        self.scaler.update()

    def state_dict(self) -> dict:
        """The state as an optimizer with one group per parameter, frozen ones included, would save it.

        Each group also has ``initial_lr``: the rate before any schedule, which a resumed run starts from.
        """
        common = {key: value for key, value in self.inner.param_groups[0].items() if key not in ("params", "scale")}
        common |= {"fused": None, "foreach": None}  # of this device only
        groups = [{**common, "lr": self.lr * scale, "initial_lr": self.base_lr * scale, "params": [i]}
                  for i, scale in enumerate(self.scales)]
        state = {i: dict(self.inner.state[p]) for i, p in enumerate(self.parameters) if self.inner.state.get(p)}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, saved: dict) -> None:
        """Take over the moments of a state with one group per parameter; rates and decay stay those of the command.

        Raises:
            CheckpointError: the state is of another number or shape of parameters, or of another optimizer.
        """
        groups = [index for group in saved["param_groups"] for index in group["params"]]
        if not set(saved["state"]) <= set(groups) or len(set(groups)) < len(groups):
            raise CheckpointError("the checkpoint's optimizer is damaged: it has a parameter in two groups, or the "
                                  "state of one that is in none")
        if len(groups) != len(self.parameters):
            raise CheckpointError(f"the checkpoint's optimizer has {len(groups)} parameters, this model "
                                  f"{len(self.parameters)}: it was made with another --net, --model or --train_what")
        position = dict(zip(groups, range(len(groups)), strict=True))
        moments = {position[index]: values for index, values in saved["state"].items()}
        wanted = {"exp_avg", "exp_avg_sq"} if isinstance(self.inner, torch.optim.Adam) else {"momentum_buffer"}
        for i, values in moments.items():
            parameter = self.parameters[i]
            # SGD's is None before its first step
            fits = [value is None or (isinstance(value, Tensor) and value.shape == parameter.shape
                                      and value.is_floating_point())
                    for key, value in values.items() if key in wanted]
            if not wanted <= set(values) or not all(fits) or not is_count(values.get("step", 0)):
                raise CheckpointError(f"the checkpoint's optimizer state of parameter {i} does not fit: it was made "
                                      "with another --net or optimizer")
            if not all(_is_sound(key, values[key]) for key in wanted):
                raise CheckpointError(f"the checkpoint's optimizer state of parameter {i} is damaged: it has numbers "
                                      "that are not finite, or squares below 0; take an earlier checkpoint")
        self.inner.load_state_dict({"state": self._numbered(moments), "param_groups": self._groups()})

    def load_scaler(self, saved: dict | None) -> None:
        """Take over the loss's scale from a checkpoint that has one, if this run scales it too."""
        if saved and self.scaler.is_enabled():
            self.scaler.load_state_dict(saved)

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.inner.param_groups for p in group["params"]]

    def _groups(self) -> list[dict]:
        return self.inner.state_dict()["param_groups"]

    def _numbered(self, moments: dict[int, dict]) -> dict[int, dict]:
        """Moments by the inner optimizer's numbers: trained parameters, group by group."""
        place = {id(p): i for i, p in enumerate(self.parameters)}
        numbered = {}
        for number, parameter in enumerate(self._trained()):
            values = moments.get(place[id(parameter)])
            if values is not None:
                numbered[number] = {key: torch.tensor(float(value)) if key == "step" else value
                                    for key, value in values.items()}
        return numbered


def _is_sound(name: str, value: Tensor | None) -> bool:
    least = 0.0 if name == "exp_avg_sq" else -math.inf
    return value is None or bool((value.isfinite() & (value >= least)).all())


def resumed_lr(saved: dict, factor: float, default: float) -> float:
    """The starting learning rate of a saved optimizer state, the largest over its groups.

    Args:
        saved: an optimizer's state_dict. factor: what the schedule had made of the starting rate when it was saved,
            for files that hold only the rate of that epoch. default: the answer where the factor is 0.
    """
    if all("initial_lr" in group for group in saved["param_groups"]):
        return max(float(group["initial_lr"]) for group in saved["param_groups"])
    return max(float(group["lr"]) for group in saved["param_groups"]) / factor if factor else default
