"""Which checkpoints of a run stay: the last one and the best five (of k400 runs, every one)."""

import re
from collections.abc import Mapping
from pathlib import Path

from utils.checkpoint import save

LAST = re.compile(r"epoch(\d+)\.pth\.tar")
BEST = re.compile(r"model_best_epoch(\d+)\.pth\.tar")


class Keeper:
    """Writes ``epochN.pth.tar`` and ``model_best_epochN.pth.tar`` into a folder and removes those that are past.

    Args:
        folder: the run's ``model/`` folder. keep_all: leave the previous ``epochN`` files (k400).
        best: number of best ones kept. resumed: the file that the run goes on from; it is removed only as the
            ``epochN`` before, never as one of the best.
    """

    def __init__(self, folder: str | Path, keep_all: bool = False, best: int = 5, resumed: str | Path = "") -> None:
        self.folder, self.keep_all, self.best = Path(folder), keep_all, best
        self.resumed = Path(resumed).resolve() if resumed else None

    def save(self, state: Mapping, epoch: int, is_best: bool = False) -> None:
        """Write the checkpoint of a finished epoch (0-based), and then remove the one before.

        Raises:
            CheckpointError: it could not be written; nothing was removed.
        """
        save(self.folder / f"epoch{epoch}.pth.tar", state)
        if not self.keep_all:
            earlier = [path for number, path in numbered(self.folder, LAST).items() if number < epoch]
            for path in earlier[-1:]:
                path.unlink()
        if is_best:
            save(self.folder / f"model_best_epoch{epoch}.pth.tar", state)
            others = [path for number, path in numbered(self.folder, BEST).items() if number != epoch]
            for path in others[:max(0, len(others) + 1 - self.best)]:
                if path.resolve() != self.resumed:
                    path.unlink()


def numbered(folder: str | Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """The checkpoints whose name matches, by epoch, in order; none where there is no such folder."""
    paths = Path(folder).iterdir() if Path(folder).is_dir() else ()
    return dict(sorted((int(match.group(1)), path) for path in paths if (match := pattern.fullmatch(path.name))))
