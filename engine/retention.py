"""Which checkpoints a run keeps: the last one, the one before, and the best five (for k400 all epochs).

`epochN.pth.tar` is from the end of an epoch, `epochN-stepM.pth.tar` from M steps into one, `model_best_epochN.pth.tar`
a copy of one of the best. The second to last stays as `previous-...`, in case the last is damaged.
"""

import math
import re
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from engine import checkpoint
from utils.console import warn
from utils.errors import CheckpointError
from utils.files import atomic_write, remove_partial

LAST = re.compile(r"epoch(\d+)\.pth\.tar")
BEST = re.compile(r"model_best_epoch(\d+)\.pth\.tar")
PREVIOUS = "previous-"
RESUMABLE = re.compile(rf"(?:{PREVIOUS}|model_best_)?epoch(\d+)(?:-step(\d+))?\.pth\.tar")


class CheckpointManager:
    """Writes checkpoints and removes outdated ones, except the ``best`` best and the one the run resumed from.

    ``keep_all`` keeps every ``epochN`` file (k400).
    """

    def __init__(self, folder: str | Path, keep_all: bool = False, best: int = 5, resumed: str | Path = "") -> None:
        self.folder, self.keep_all, self.best = Path(folder), keep_all, best
        self.resumed = Path(resumed).resolve() if resumed else None

    def save_epoch(self, state: Mapping, epoch: int, is_best: bool = False) -> None:
        """Write the checkpoint of a finished epoch (0-based), then remove outdated ones."""
        if is_best:  # first: a run killed in between keeps all its best, and can resume from this one
            checkpoint.save(self.folder / f"model_best_epoch{epoch}.pth.tar", state)
        self._save(state, f"epoch{epoch}.pth.tar")
        if is_best:
            others = [path for number, path in numbered(self.folder, BEST).items() if number != epoch]
            for path in others[:max(0, len(others) + 1 - self.best)]:
                if path.resolve() != self.resumed:
                    path.unlink()

    def save_step(self, state: Mapping, epoch: int, steps: int) -> None:
        """Write a checkpoint from ``steps`` steps into an epoch."""
        self._save(state, f"epoch{epoch}-step{steps}.pth.tar")

    def _save(self, state: Mapping, name: str) -> None:
        checkpoint.save(self.folder / name, state)
        now = _moment(Path(name))
        earlier = [path for path in resumable(self.folder) if not BEST.fullmatch(path.name) and _moment(path) < now]
        for number, path in enumerate(earlier):
            if self.keep_all and LAST.fullmatch(path.name):
                continue
            if number > 0:
                path.unlink()
            elif not path.name.startswith(PREVIOUS):
                path.rename(path.with_name(PREVIOUS + path.name))


def numbered(folder: str | Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """Return the checkpoints whose names match, sorted by epoch; none if the folder does not exist."""
    return dict(sorted((int(match.group(1)), path) for path in Path(folder).glob("*")
                       if (match := pattern.fullmatch(path.name))))


def resumable(folder: str | Path) -> list[Path]:
    """Return all files that a run can resume from, newest first; a best copy comes after its original."""
    found = [path for path in Path(folder).glob("*") if RESUMABLE.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_moment(path), not BEST.fullmatch(path.name)), reverse=True)


def newest_complete(folder: str | Path) -> Path | None:
    """Return the newest readable checkpoint, if any; warn of unreadable ones. CheckpointError if all are."""
    found = resumable(folder)
    for path in found:
        try:
            checkpoint.load(path, require=checkpoint.RESUME)
        except CheckpointError as error:
            warn(f"skipped: {error}")
        else:
            return path
    if found:
        raise CheckpointError(f"none of the {len(found)} checkpoints in {folder} can be read: remove them to start "
                              "over")
    return None


def prepare_folder(folder: Path, resumed: str | Path) -> list[Path]:
    """Remove half-written files, and set aside checkpoints later than the one to resume from.

    If the run was killed between the two files of a best epoch, write the second.

    Returns:
        The files set aside, under their new names.
    """
    remove_partial(folder)
    start = Path(resumed).resolve() if resumed else None
    if start is None or start.parent != folder.resolve() or not RESUMABLE.fullmatch(start.name):
        return []
    later = [path for path in resumable(folder) if _moment(path) > _moment(start)]
    last = start.with_name(start.name.removeprefix("model_best_"))
    if not later and not last.exists():
        with open(start, "rb") as source, atomic_write(last) as target:
            shutil.copyfileobj(source, target)
    return [path.rename(_set_aside(path)) for path in later]


def _set_aside(path: Path) -> Path:
    """Return an unused name: set-aside-NAME, set-aside-2-NAME, ..."""
    names = (path.with_name(f"set-aside-{'' if number == 1 else f'{number}-'}{path.name}") for number in count(1))
    return next(name for name in names if not name.exists())


def _moment(path: Path) -> tuple[int, float]:
    """Return (epoch, steps into it) from a checkpoint's name; infinitely many steps at the epoch's end."""
    match = RESUMABLE.fullmatch(path.name)
    assert match
    return int(match.group(1)), int(match.group(2)) if match.group(2) else math.inf
