"""Read checkpoints safely, write them atomically, and load state dicts with every difference accounted for."""

import pickle
import re
import warnings
import zipfile
from codecs import encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from utils.console import one_line
from utils.errors import CheckpointError
from utils.files import atomic_write

RESUME = ("state_dict", "optimizer", "epoch", "iteration")  # keys that `--resume` needs
# Types of required keys; a key that may be None may also be missing.
FORMS: dict[str, Any] = {"state_dict": dict, "optimizer": dict, "epoch": int, "iteration": int | None}
# Published files hold numpy scalars, such as `best_acc`, which torch.load must be told to allow.
_scalar = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [np.dtype, encode, *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
                      *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]
WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")  # parts of keys: DistributedDataParallel's, torch.compile's
LIGHTNING = re.compile(r"^(?:model\.)+")  # in front of them: PyTorch Lightning's


def load(path: str | Path, require: Iterable[str] = ("state_dict",)) -> dict:
    """Read a checkpoint like :func:`read`; weights alone become its "state_dict".

    CheckpointError if a key of ``require`` is missing or of the wrong type; other keys are not checked.
    """
    content = read(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is the wrong kind of checkpoint: it holds a {type(content).__name__}")
    if _holds_tensors(content):
        content = {"state_dict": content}
    for key in require:
        if key not in content and not isinstance(None, FORMS.get(key, ())):
            raise CheckpointError(f"{path} is the wrong kind of checkpoint: it has no {key!r}"
                                  f"{_other_weights(path, content)}")
        if key == "state_dict" and content[key] != {} and not _holds_tensors(content[key]):
            raise CheckpointError(f"{path} is the wrong kind of checkpoint: its {key!r} does not hold tensors by name")
        if not isinstance(content.get(key), FORMS.get(key, object)):
            raise CheckpointError(f"{path}: its {key!r} is {one_line(repr(content.get(key)), 40)}, which is of no use "
                                  "here: to start from its weights alone, give it as --pretrain")
    return content


def _holds_tensors(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _other_weights(path: str | Path, content: Mapping) -> str:
    """Describe under which key a file without "state_dict" may hold weights, and how to convert it."""
    key = next((key for key, value in content.items() if _holds_tensors(value)), "state_dict")
    if key == "state_dict":
        return f", but {first_keys(content)}"
    return f"; its {key!r} may be one: " + _conversion(path, f"torch.load({str(path)!r})[{key!r}]")


def _conversion(path: str | Path, weights: str) -> str:
    """Return the command that writes weights, a Python expression, into a file of our form."""
    new = str(Path(path).with_name(f"converted-{Path(path).name}"))
    return f'python -c "import torch; torch.save({{\'state_dict\': {weights}}}, {new!r})"'


def read(path: str | Path) -> Any:
    """Load a file of :func:`save`, or a safetensors file, onto the CPU; no code in it is run."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _verify_checksums(path)
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        way = ""
        if zipfile.is_zipfile(path) or "nsupported" in _reason(error):  # its checksums are right, or it has an object
            found = f"torch.load({str(path)!r}, weights_only=False)"
            way = ("; if you trust it, as this runs code of it: "
                   + _conversion(path, f"(lambda c: c['state_dict'] if 'keys' in dir(c) else c.state_dict())({found})"))
        raise CheckpointError(f"{path} is not loaded: it is damaged, not a checkpoint, or holds more than plain data "
                              f"({_reason(error)}){way}") from error
    except Exception as error:  # a damaged file may raise anything
        raise CheckpointError(f"{path} cannot be read: it is cut short, damaged, or not a checkpoint "
                              f"({_reason(error)})") from error


def _verify_checksums(path: Path) -> None:
    """Raise BadZipFile for a damaged file; torch does not check the CRCs of its archives."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            folders = [info.filename for info in file.infolist() if info.external_attr & 0x10]
            damaged = file.testzip() or next(iter(folders), None)  # torch would not read what is marked as a folder
        if damaged:
            raise zipfile.BadZipFile(f"bad checksum of {one_line(damaged)}")


def save(path: str | Path, state: Mapping | Tensor) -> None:
    """Write a checkpoint; after a CheckpointError an earlier file of that name is unchanged."""
    try:
        with atomic_write(Path(path)) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {path} ({_reason(error)}): free some space or check your rights; the "
                              "earlier file is unchanged") from error


def _reason(error: BaseException) -> str:
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)  # torch wraps it in a page of advice
    text = text.partition("Check the documentation of torch.load")[0]
    return one_line(" ".join(text.split()), 120) or type(error).__name__


def load_state(model: nn.Module, state_dict: Mapping[str, Tensor], *, may_miss: Iterable[str] = (),
               may_have: Iterable[str] = ()) -> str:
    """Load a state dict (keys as :func:`renamed`) into a model; return a description of what was loaded.

    Args:
        may_miss: prefixes of keys of the model that the state dict may lack.
        may_have: prefixes of keys of the state dict that the model may lack.

    Of a tensor with two names in the model, one is enough. After a CheckpointError nothing is loaded.
    """
    given, own = renamed(state_dict), model.state_dict()
    loaded = {key: given[key] for key in own if key in given}
    there = {own[key].data_ptr() for key in loaded}
    missing = [key for key in own if key not in given and own[key].data_ptr() not in there]
    unused = [key for key in given if key not in own]
    shapes = [key for key in loaded if own[key].shape != given[key].shape]
    lost = [key for key in missing if not key.startswith(tuple(may_miss))
            and not key.endswith(".num_batches_tracked")]  # nothing uses it, and old or exported files lack it
    extra = [key for key in unused if not key.startswith(tuple(may_have))]
    if lost or extra or shapes:
        raise CheckpointError(_differences(own, given, shapes, lost, extra))
    broken = [key for key, value in loaded.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"the checkpoint has numbers that are not finite ({first_keys(broken)}): its training "
                              "had diverged; take an earlier one")
    model.load_state_dict(loaded, strict=False)
    return (f"{len(loaded)} tensors loaded"
            + (f"; {len(missing)} not in the file, as expected ({first_keys(missing)})" if missing else "")
            + (f"; {len(unused)} of the file not used, as expected ({first_keys(unused)})" if unused else ""))


def renamed(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the wrappers "module.", "_orig_mod." and "model." from the keys."""
    result: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = LIGHTNING.sub("", WRAPPERS.sub("", key))
        if name in result:
            raise CheckpointError(f"the checkpoint has {one_line(name)} twice, once as {one_line(key)}: take one out")
        result[name] = value
    return result


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor], shapes: list[str], lost: list[str],
                 extra: list[str]) -> str:
    parts = []
    if shapes:
        file, model = (tuple(state[shapes[0]].shape) for state in (given, own))
        parts.append(f"{len(shapes)} shapes differ ({one_line(shapes[0])}: file {file}, model {model})")
    if lost:
        parts.append(f"{len(lost)} tensors are not in the file ({first_keys(lost)})")
    if extra:
        parts.append(f"{len(extra)} tensors of the file are unknown to the model ({first_keys(extra)})")
    reason = "another --net or for another model"
    if "queue" in shapes and not lost + extra:
        reason = "another --moco-dim" if given["queue"].shape[0] != own["queue"].shape[0] else "another --moco-k"
    return (f"the checkpoint, which has {first_keys(given)}, does not fit the model: {', '.join(parts)}; it was "
            f"probably made with {reason}")


def first_keys(keys: Iterable[object]) -> str:
    names = [one_line(str(key)) for key in keys]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "no tensors"
