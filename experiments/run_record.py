"""What a run left for those who come after it: how it was made, its epochs' means, and results beside its checkpoints.

Only JSON is read, never a checkpoint.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report import read_json
from experiments.recipe import TRAINING, is_number
from utils.errors import CheckpointError, OptionError
from utils.journal import FILE as METRICS


@dataclass(frozen=True)
class RunRecord:
    """A run. model: folder of its checkpoints. made_with: options, and "processes" where it says so. epochs: means of
    the training's epochs by their number, 0-1 where they are shares; None of an evaluation."""

    model: Path
    made_with: Mapping[str, Any]
    epochs: Mapping[int, Mapping[str, Any]] | None

    @property
    def unfinished(self) -> str:
        """How far an unfinished training is, "" for a finished one and for an evaluation."""
        if self.epochs is None:
            return ""
        wanted, done = self.made_with.get("epochs"), max(self.epochs, default=-1) + 1
        return "" if isinstance(wanted, int) and done >= wanted else f"{done} of {wanted} epochs are done"


class Unknown(Exception):
    """A number that the run does not show; the text says why."""


def read(folder: Path, record: str) -> RunRecord:
    """A run, from its folder; for an evaluation's ``record`` also the folder of a checkpoint.

    Raises:
        OptionError: the folder is no run's. CheckpointError: what it holds is damaged. In one line.
    """
    if not folder.is_dir():
        raise OptionError(f"there is no folder {folder}: RUN is the folder of a run, with its model/ folder in it")
    model = folder / "model" if (folder / "model").is_dir() else folder
    if record != TRAINING:
        return RunRecord(model, _object(model / record, "a retrieval of main_classifier.py writes it"), None)
    start = _last_start(folder / TRAINING)
    options = dict(start["options"])
    workers = start.get("processes", start.get("gpus"))
    return RunRecord(model, options | ({} if workers is None else {"processes": workers}), _epochs(folder / METRICS))


def _last_start(path: Path) -> Mapping[str, Any]:
    starts = _object(path, "RUN is the folder of a run (ckpt/log-.../... or log-eval-.../...)").get("starts")
    last = starts[-1] if isinstance(starts, list) and starts else None
    if not isinstance(last, dict) or not isinstance(last.get("options"), dict):
        raise CheckpointError(f"{path} does not list a run's starts with their options: it is damaged, or no run's")
    return last


def _epochs(path: Path) -> dict[int, Mapping[str, Any]]:
    """The means of each epoch, and what it mined; a last line that was cut short is of a run that was killed."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror}): every training writes it into its folder"
                          ) from error
    epochs: dict[int, Mapping[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            wanted = (record["kind"], record.get("title")) in (("epoch", "train"), ("mining", None))
            epoch, values = record["epoch"], record["values"]
            if type(epoch) is not int or epoch < -1 or not isinstance(values, dict):
                raise ValueError("no epoch")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if number == len(lines):
                break
            raise CheckpointError(f"{path}, line {number} is no line of a run's metrics: the file is damaged"
                                  ) from error
        if wanted:
            epochs[epoch] = {**epochs.get(epoch, {}), **values}
    return epochs


def _object(path: Path, hint: str) -> Mapping[str, Any]:
    """The object in a JSON file. hint: what writes it."""
    if not path.exists():
        raise OptionError(f"there is no {path}: {hint}")
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object: it is damaged, or of something else")
    return content


def note(path: Path) -> Mapping[str, Any]:
    """How a number was made; nothing where there is no such file. Raises as :func:`read` does."""
    return _object(path, "") if path.exists() else {}


def metric(run: RunRecord, name: str, at: str) -> float:
    """A metric in percent, of the first or last epoch that has it. Raises Unknown."""
    epochs = run.epochs or {}
    having = [epoch for epoch in sorted(epochs) if name in epochs[epoch]]
    if run.unfinished and at == "last":
        raise Unknown(f"the run is not finished, {run.unfinished}: go on with --resume auto")
    if not having:
        raise Unknown(f"no epoch of {METRICS} has {name!r}")
    epoch = having[0] if at == "first" else having[-1]
    value = epochs[epoch][name]
    if not is_number(value):
        raise Unknown(f"{name!r} of epoch {epoch} is {value!r}, not a number")
    return 100 * value


def result(run: RunRecord, pattern: str, keys: Sequence[str], make: str) -> float:
    """A number in percent from a JSON file below the folder of the checkpoints. make: what writes it. Raises Unknown.

    Raises:
        CheckpointError: the file is damaged.
    """
    files = sorted(run.model.glob(pattern))
    if not files:
        raise Unknown(f"there is no {run.model / pattern}: make it with {make.replace('{model}', str(run.model))}")
    if len(files) > 1:
        raise Unknown(f"{files[0]} and {len(files) - 1} more fit {pattern}: move away all but one")
    value: Any = _object(files[0], make)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not is_number(value):
        raise Unknown(f"{files[0]} has no number at {' > '.join(keys)}")
    return value
