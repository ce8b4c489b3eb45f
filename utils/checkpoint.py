"""Checkpoint files: safe to read, never half written; and state dicts loaded with every difference accounted for."""

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils import damage
from utils.console import one_line
from utils.contents import wrong_part
from utils.errors import CheckpointError
from utils.files import whole_file
from utils.pickles import CALLABLE


def load(path: str | Path, require: Iterable[str] = ("state_dict",)) -> dict:
    """Read a checkpoint to the CPU, without running anything that it may contain.

    Args:
        path: of the file. require: keys that the file's dict must have.

    Raises:
        CheckpointError: the file is missing, cut short, holds something else, or more than plain data.
    """
    content = read(path)
    missing = [key for key in require if not isinstance(content, dict) or key not in content]
    if missing:
        raise CheckpointError(f"{path} is no checkpoint: it has no {missing[0]!r}")
    wrong = wrong_part(content)
    if wrong:
        raise CheckpointError(f"{path} is damaged, or no checkpoint of this project: its {wrong!r} is not what it "
                              "should be")
    return content


def read(path: str | Path) -> Any:
    """What a file that :func:`save` wrote holds, a tensor for one, on the CPU; nothing in it is run.

    Raises:
        CheckpointError: the file is missing, cut short, or holds more than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: check the path")
    try:
        source = damage.opened(path)
        with torch.serialization.safe_globals(CALLABLE):
            content = torch.load(source, map_location="cpu", weights_only=True)
        damage.Plain(path.stat().st_size).check(content)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is damaged, or no checkpoint, or holds more than plain data, and is not loaded "
                              f"({_short(error)})") from error
    except damage.BROKEN as error:
        raise CheckpointError(f"{path} cannot be read: it is cut short, damaged, or no checkpoint "
                              f"({_short(error)})") from error
    return content


def save(path: str | Path, state: Mapping | Tensor) -> None:
    """Write a checkpoint, or a tensor; a file of that name is replaced once the new one is complete and on the disk.

    Raises:
        CheckpointError: it could not be written. The file that was there is as before.
    """
    path = Path(path)
    try:
        with whole_file(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {path} ({_cause(error)}): free some space or check the rights; what was "
                              "there before is unchanged") from error


def _cause(error: BaseException) -> str:
    """What the disk has to say; PyTorch may complain on top that it is at another place of the file than expected."""
    each: BaseException | None = error
    while each is not None and not (isinstance(each, OSError) and each.strerror):
        each = each.__context__
    return (isinstance(each, OSError) and each.strerror) or _short(error)


@dataclass
class LoadReport:
    """What a model took from a state dict, and the differences that were expected."""

    loaded: int
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.loaded} tensors loaded"]
        if self.missing:
            parts.append(f"{len(self.missing)} not in the file, as expected ({_name_a_few(self.missing)})")
        if self.unused:
            parts.append(f"{len(self.unused)} of the file not used, as expected ({_name_a_few(self.unused)})")
        return "; ".join(parts)


def load_state(model: nn.Module, state_dict: Mapping[str, Tensor], *, may_miss: Iterable[str] = (),
               may_have: Iterable[str] = (), rename: Mapping[str, str] | None = None) -> LoadReport:
    """Load a state dict into a model; any difference that was not announced is an error, and loads nothing.

    Args:
        may_miss: prefixes of the model's keys that the state dict need not have.
        may_have: prefixes of the state dict's keys (after renaming) that the model need not have.
        rename: prefix to the prefix that replaces it. A leading "module." is always taken off.

    Raises:
        CheckpointError: keys are missing or left over, shapes differ, or numbers are not finite.
    """
    given = renamed(state_dict, rename or {})
    own = model.state_dict()
    missing, unused = [key for key in own if key not in given], [key for key in given if key not in own]
    shapes = [key for key in own if key in given and _form(own[key]) != _form(given[key])]
    lost = [key for key in missing if not key.startswith(tuple(may_miss))]
    extra = [key for key in unused if not key.startswith(tuple(may_have))]
    if lost or extra or shapes:
        raise CheckpointError(_differences(own, given, shapes, lost, extra))
    lost = [key for key in own if key in given and not given[key].isfinite().all()]
    if lost:
        raise CheckpointError(f"the checkpoint has numbers that are not finite ({_name_a_few(lost)}): its training had "
                              "diverged; take an earlier one")
    model.load_state_dict({key: given[key] for key in own if key in given}, strict=False)
    return LoadReport(len(own) - len(missing), missing, unused)


def renamed(state_dict: Mapping[str, Tensor], rename: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict without "module." in front of keys, and with prefixes replaced (the first that fits)."""
    result = {}
    for key, value in state_dict.items():
        key = key.removeprefix("module.")
        prefix = next((old for old in rename if key.startswith(old)), "")
        result[rename.get(prefix, "") + key[len(prefix):]] = value
    return result


def _form(value: Tensor) -> tuple:
    return tuple(value.shape), "fractions" if value.is_floating_point() else "whole numbers"


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor], shapes: list[str], lost: list[str],
                 extra: list[str]) -> str:
    parts = []
    if shapes:
        key = shapes[0]
        file, model = ((_form(state[key])[0] if own[key].shape != given[key].shape else _form(state[key])[1])
                       for state in (given, own))
        parts.append(f"{len(shapes)} shapes differ ({one_line(key)}: file {file}, model {model})")
    if lost:
        parts.append(f"{len(lost)} tensors are not in the file ({_name_a_few(lost)})")
    if extra:
        parts.append(f"{len(extra)} tensors of the file are unknown to the model ({_name_a_few(extra)})")
    reason = "another --net or for another model"
    if "queue" in shapes and not lost + extra:
        reason = "another --moco-dim" if given["queue"].shape[0] != own["queue"].shape[0] else "another --moco-k"
    return f"the checkpoint does not fit the model: {', '.join(parts)}; it was probably made with {reason}"


def _name_a_few(keys: list[str]) -> str:
    return ", ".join(one_line(key) for key in keys[:3]) + (", ..." if len(keys) > 3 else "")


def _short(error: BaseException) -> str:
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)  # torch puts a page of advice around it
    text = text.partition("Check the documentation of torch.load")[0]
    return one_line(" ".join(text.split()), 120) or type(error).__name__

