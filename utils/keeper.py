"""Which checkpoints of a run stay: the last one, the one before, and the best five (of k400 runs, every epoch's)."""

import math
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from utils import checkpoint
from utils.console import warn
from utils.errors import CheckpointError
from utils.files import remove_drafts, whole_file

LAST = re.compile(r"epoch(\d+)\.pth\.tar")
BEST = re.compile(r"model_best_epoch(\d+)\.pth\.tar")
INSIDE = re.compile(r"epoch(\d+)-step(\d+)\.pth\.tar")  # inside of an epoch, after so many of its steps
PREVIOUS = "previous-"  # put before the name of the file that the newest one has followed
ASIDE = "set-aside-"  # put before the names of files that are later than the one a run goes on from
# LAST and BEST stand at the end of an epoch, INSIDE after some of its steps.
RESUMABLE = re.compile(rf"(?:{PREVIOUS}|model_best_)?epoch(\d+)(?:-step(\d+))?\.pth\.tar")

Moment = tuple[int, float]  # epoch, and steps done of it, infinity for all


class Keeper:
    """Writes checkpoints into a folder and removes those that are past.

    `epochN.pth.tar` is of a finished epoch, `epochN-stepM.pth.tar` of M steps of one. The one before is kept as
    `previous-...`, for the case that the last one gets damaged.

    Args:
        folder: the run's ``model/`` folder. keep_all: leave all ``epochN`` files (k400). best: number of best ones
            kept. resumed: the file that the run goes on from; it is never removed as one of the best.
    """

    def __init__(self, folder: str | Path, keep_all: bool = False, best: int = 5, resumed: str | Path = "") -> None:
        self.folder, self.keep_all, self.best = Path(folder), keep_all, best
        self.resumed = Path(resumed).resolve() if resumed else None

    def save(self, state: Mapping, epoch: int, is_best: bool = False) -> None:
        """Write the checkpoint of a finished epoch (0-based), and then remove those that are past.

        Raises:
            CheckpointError: it could not be written; nothing was removed.
        """
        if is_best:  # first: a run that ends in between goes on from either, with its best ones complete
            checkpoint.save(self.folder / f"model_best_epoch{epoch}.pth.tar", state)
        self._save(state, f"epoch{epoch}.pth.tar")
        if is_best:
            others = [path for number, path in numbered(self.folder, BEST).items() if number != epoch]
            for path in others[:max(0, len(others) + 1 - self.best)]:
                if path.resolve() != self.resumed:
                    path.unlink()

    def save_inside(self, state: Mapping, epoch: int, steps: int) -> None:
        """Write the checkpoint of ``steps`` steps of an epoch. Raises as :meth:`save` does."""
        self._save(state, f"epoch{epoch}-step{steps}.pth.tar")

    def _save(self, state: Mapping, name: str) -> None:
        checkpoint.save(self.folder / name, state)
        now = _moment(Path(name))
        earlier = [path for path in resumable(self.folder) if not BEST.fullmatch(path.name) and _moment(path) < now]
        for path in earlier[1:]:
            if not (self.keep_all and LAST.fullmatch(path.name)):
                path.unlink()
        for path in earlier[:1]:
            if not path.name.startswith(PREVIOUS) and not (self.keep_all and LAST.fullmatch(path.name)):
                path.rename(path.with_name(PREVIOUS + path.name))


def numbered(folder: str | Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """The checkpoints whose name matches, by epoch, in order; none where there is no such folder."""
    return dict(sorted((int(match.group(1)), path) for path in _files(folder)
                       if (match := pattern.fullmatch(path.name))))


def resumable(folder: str | Path) -> list[Path]:
    """All files that a run can go on from, the newest first; of the same moment, the best one's copy last."""
    found = [path for path in _files(folder) if RESUMABLE.fullmatch(path.name)]
    return sorted(found, key=lambda path: (_moment(path), not BEST.fullmatch(path.name)), reverse=True)


def beyond(folder: str | Path, names: Iterable[str]) -> list[Path]:
    """Those files that a run can go on from that are later than all of these names."""
    newest = max((_moment(Path(name)) for name in names), default=(-1, 0.0))
    return [path for path in resumable(folder) if _moment(path) > newest]


def newest_complete(folder: str | Path) -> Path | None:
    """The newest file that can be read to its end, None where there is none; says which ones it passes over.

    Raises:
        CheckpointError: there are files, and all of them are damaged.
    """
    damaged = []
    for path in resumable(folder):
        try:
            checkpoint.load(path, require=("state_dict", "optimizer", "epoch"))
        except CheckpointError as error:
            warn(f"passed over: {error}")
            damaged.append(path)
        else:
            return path
    if damaged:
        raise CheckpointError(f"none of the {len(damaged)} checkpoints in {folder} can be read: remove them to start "
                              "anew")
    return None


def clear_up(folder: Path, resumed: str | Path) -> list[Path]:
    """Before a run begins or goes on: remove half-written files, and set later checkpoints aside, which are returned.

    A run that ended between the two files of an epoch, since the disk was full perhaps, gets the second one.

    resumed: the file that the run goes on from, "" for none.
    """
    remove_drafts(folder)
    start = Path(resumed).resolve() if resumed else None
    if start is None or start.parent != folder.resolve() or not RESUMABLE.fullmatch(start.name):
        return []
    later = [path for path in resumable(folder) if _moment(path) > _moment(start)]
    if BEST.fullmatch(start.name) and not later:
        _complete(start)
    return [path.rename(_aside(path)) for path in later]


def _complete(best: Path) -> None:
    """Write the last checkpoint of an epoch whose run ended after its best one, of the same content, was written."""
    last = best.with_name(best.name.removeprefix("model_best_"))
    if not last.exists():
        with open(best, "rb") as source, whole_file(last) as target:
            shutil.copyfileobj(source, target)


def _aside(path: Path) -> Path:
    """A name that no file set aside earlier has."""
    names = (f"{ASIDE}{number}{'-' if number else ''}{path.name}" for number in ("", *range(2, 10_000)))
    return next(free for name in names if not (free := path.with_name(name)).exists())


def _files(folder: str | Path) -> Iterable[Path]:
    return list(Path(folder).iterdir()) if Path(folder).is_dir() else []


def _moment(path: Path) -> Moment:
    match = RESUMABLE.fullmatch(path.name)
    assert match
    return int(match.group(1)), int(match.group(2)) if match.group(2) else math.inf
