"""Read checkpoints safely, write them atomically, and load state dicts with every difference accounted for."""

import pickle
import struct
import zipfile
from codecs import encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.console import one_line
from utils.errors import CheckpointError
from utils.files import atomic_write

RESUME = ("state_dict", "optimizer", "epoch")  # keys that `--resume` needs
# Published files hold numpy scalars, such as `best_acc`, which torch.load must be told to allow.
_scalar = np.float64(0).__reduce__()[0]
ALLOWED: list[Any] = [
    np.dtype, encode, (_scalar, "numpy._core.multiarray.scalar"), (_scalar, "numpy.core.multiarray.scalar"),
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]
# torch.load raises any of these for a truncated or damaged file, or another format.
BROKEN = (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
          NotImplementedError, OverflowError, struct.error, zipfile.BadZipFile)


def load(path: str | Path, require: Iterable[str] = ("state_dict",)) -> dict:
    """Read a checkpoint like :func:`read`; CheckpointError also if it lacks a key of ``require``."""
    content = read(path)
    missing = [key for key in require if not isinstance(content, dict) or key not in content]
    if missing:
        raise CheckpointError(f"{path} is the wrong kind of checkpoint: it has no {missing[0]!r}")
    state = content.get("state_dict", {})
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is the wrong kind of checkpoint: its 'state_dict' does not hold tensors by name")
    return content


def read(path: str | Path) -> Any:
    """Read to the CPU what :func:`save` wrote; CheckpointError if it is damaged or holds more than plain data.

    No code in it is run.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: check the path")
    try:
        _verify_checksums(path)
        with torch.serialization.safe_globals(ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is not loaded: it is damaged, not a checkpoint, or holds more than plain data "
                              f"({_reason(error)})") from error
    except BROKEN as error:
        raise CheckpointError(f"{path} cannot be read: it is cut short, damaged, or not a checkpoint "
                              f"({_reason(error)})") from error
    return _plain(content)


def _verify_checksums(path: Path) -> None:
    """Raise BadZipFile for a damaged file; torch does not check the CRCs of its archives."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            folders = [info.filename for info in file.infolist() if info.external_attr & 0x10]
            damaged = file.testzip() or next(iter(folders), None)  # torch would not read what is marked as a folder
        if damaged:
            raise zipfile.BadZipFile(f"bad checksum of {one_line(damaged)}")


def _plain(value: Any) -> Any:
    """Convert numpy scalars inside dicts and lists to Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if type(value) is list else value


def save(path: str | Path, state: Mapping | Tensor) -> None:
    """Write a checkpoint; after a CheckpointError an earlier file of that name is unchanged."""
    try:
        with atomic_write(Path(path)) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"cannot write {path} ({_disk_error(error)}): free some space or check your rights; the "
                              "earlier file is unchanged") from error


def _disk_error(error: BaseException) -> str:
    """Return the disk's message, which torch may hide behind an error of its own."""
    each: BaseException | None = error
    while each is not None and not (isinstance(each, OSError) and each.strerror):
        each = each.__context__
    return (isinstance(each, OSError) and each.strerror) or _reason(error)


def _reason(error: BaseException) -> str:
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)  # torch wraps it in a page of advice
    text = text.partition("Check the documentation of torch.load")[0]
    return one_line(" ".join(text.split()), 120) or type(error).__name__


def load_state(model: nn.Module, state_dict: Mapping[str, Tensor], *, may_miss: Iterable[str] = (),
               may_have: Iterable[str] = (), rename: Mapping[str, str] | None = None) -> str:
    """Load a state dict into a model; after any unexpected difference nothing is loaded.

    Args:
        model: receives the tensors.
        state_dict: tensors by name; a leading "module." is always dropped.
        may_miss: prefixes of model keys that the state dict may lack.
        may_have: prefixes of state-dict keys (after renaming) that the model may lack.
        rename: prefixes of state-dict keys and their replacements.

    Returns:
        How many tensors were loaded, and the expected differences.

    Raises:
        CheckpointError: keys are missing or left over, shapes differ, or numbers are not finite.
    """
    given, own = renamed(state_dict, rename), model.state_dict()
    loaded = {key: given[key] for key in own if key in given}
    missing, unused = [key for key in own if key not in given], [key for key in given if key not in own]
    shapes = [key for key in loaded if own[key].shape != given[key].shape]
    lost = [key for key in missing if not key.startswith(tuple(may_miss))]
    extra = [key for key in unused if not key.startswith(tuple(may_have))]
    if lost or extra or shapes:
        raise CheckpointError(_differences(own, given, shapes, lost, extra))
    broken = [key for key, value in loaded.items() if not value.isfinite().all()]
    if broken:
        raise CheckpointError(f"the checkpoint has numbers that are not finite ({_first(broken)}): its training had "
                              "diverged; take an earlier one")
    model.load_state_dict(loaded, strict=False)
    return (f"{len(loaded)} tensors loaded"
            + (f"; {len(missing)} not in the file, as expected ({_first(missing)})" if missing else "")
            + (f"; {len(unused)} of the file not used, as expected ({_first(unused)})" if unused else ""))


def renamed(state_dict: Mapping[str, Tensor], rename: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Drop "module." from the keys, and replace the first matching prefix."""
    result, rename = {}, rename or {}
    for key, value in state_dict.items():
        key = key.removeprefix("module.")
        prefix = next((old for old in rename if key.startswith(old)), "")
        result[rename.get(prefix, "") + key[len(prefix):]] = value
    return result


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor], shapes: list[str], lost: list[str],
                 extra: list[str]) -> str:
    parts = []
    if shapes:
        file, model = (tuple(state[shapes[0]].shape) for state in (given, own))
        parts.append(f"{len(shapes)} shapes differ ({one_line(shapes[0])}: file {file}, model {model})")
    if lost:
        parts.append(f"{len(lost)} tensors are not in the file ({_first(lost)})")
    if extra:
        parts.append(f"{len(extra)} tensors of the file are unknown to the model ({_first(extra)})")
    reason = "another --net or for another model"
    if "queue" in shapes and not lost + extra:
        reason = "another --moco-dim" if given["queue"].shape[0] != own["queue"].shape[0] else "another --moco-k"
    return f"the checkpoint does not fit the model: {', '.join(parts)}; it was probably made with {reason}"


def _first(keys: list[str]) -> str:
    return ", ".join(one_line(key) for key in keys[:3]) + (", ..." if len(keys) > 3 else "")
