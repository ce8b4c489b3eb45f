"""Features that no index has yet, kept piece by piece while an update runs, so that an interruption loses little."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from eval.search.files import VideoFile
from utils.console import inline, say
from utils.files import remove_drafts, whole_file


@dataclass(frozen=True)
class Embedded:
    """Features float32 (n, D) of all clips of a file, and where each begins and ends, float64 (n, 2) seconds."""

    file: VideoFile
    features: np.ndarray
    seconds: np.ndarray


class Pending:
    """The pieces in the folder of an index.

    Args:
        made_from: what the features depend on besides the files; pieces of other ones are not looked at.
    """

    def __init__(self, folder: Path, made_from: dict[str, Any]) -> None:
        self._folder = folder / "pending"
        self._key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
        self._count = len(self._pieces())

    def _pieces(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._key}-*.npz"))

    def read(self) -> list[Embedded]:
        """What an interrupted update has left; a piece that cannot be read counts as not there."""
        found: list[Embedded] = []
        for piece in self._pieces():
            try:
                with np.load(piece, allow_pickle=False) as arrays:
                    files = [VideoFile(*entry) for entry in json.loads(arrays["files"].item())]
                    ends = np.cumsum(arrays["counts"])[:-1]
                    parts = zip(files, np.split(arrays["features"], ends), np.split(arrays["seconds"], ends),
                                strict=True)
                    found += [Embedded(*part) for part in parts]
            except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
                say(inline(f"{piece} cannot be read ({error}): its videos are read again"))
        return found

    def add(self, embedded: Sequence[Embedded]) -> None:
        """Write a piece."""
        if not embedded:
            return
        self._folder.mkdir(exist_ok=True)
        with whole_file(self._folder / f"{self._key}-{self._count:08d}.npz") as file:
            np.savez(file, files=np.array(json.dumps([astuple(each.file) for each in embedded])),
                     counts=np.array([len(each.features) for each in embedded]),
                     features=np.concatenate([each.features for each in embedded]),
                     seconds=np.concatenate([each.seconds for each in embedded]))
        self._count += 1


def clear_pending(folder: Path) -> None:
    """Remove what interrupted updates have left."""
    for piece in (folder / "pending").glob("*.npz"):
        piece.unlink()
    if (folder / "pending").is_dir():
        remove_drafts(folder / "pending")
        (folder / "pending").rmdir()
