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
        best: number of best ones kept.
    """

    def __init__(self, folder: str | Path, keep_all: bool = False, best: int = 5) -> None:
        self.folder, self.keep_all, self.best = Path(folder), keep_all, best

    def save(self, state: Mapping, epoch: int, is_best: bool = False) -> None:
        """Write the checkpoint of a finished epoch (0-based), and then remove the one before.

        Raises:
            CheckpointError: it could not be written; nothing was removed.
        """
        save(self.folder / f"epoch{epoch}.pth.tar", state)
        if not self.keep_all:
            earlier = [number for number in numbered(self.folder, LAST) if number < epoch]
            for number in earlier[-1:]:
                (self.folder / f"epoch{number}.pth.tar").unlink()
        if is_best:
            save(self.folder / f"model_best_epoch{epoch}.pth.tar", state)
            others = [number for number in numbered(self.folder, BEST) if number != epoch]
            for number in others[:max(0, len(others) + 1 - self.best)]:
                (self.folder / f"model_best_epoch{number}.pth.tar").unlink()


def numbered(folder: str | Path, pattern: re.Pattern[str]) -> list[int]:
    """The epochs of the checkpoints whose name matches, in order."""
    matches = (pattern.fullmatch(path.name) for path in Path(folder).iterdir())
    return sorted(int(match.group(1)) for match in matches if match)
