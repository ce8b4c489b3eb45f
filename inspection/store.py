"""An LMDB of a dataset: what it says that it holds, and what was found in frames of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.lmdb_pages import data_file
from dataset.lmdb_reader import LmdbReader
from inspection.frames import look
from inspection.spread import Spread, spread_of


@dataclass(frozen=True)
class Sample:
    """Which frames are decoded. videos, frames: at most so many of an LMDB, and of each; None for all. seed: of the
    draw of videos."""

    videos: int | None
    frames: int | None
    seed: int = 0


@dataclass(frozen=True)
class Store:
    """An LMDB. kind: "RGB" or "flow". parts: of the dataset that it holds, "train", "test". used: whether the
    dataset's name reads it. file_bytes: of its file. with_ends: whether a file of its frames' ends lies beside it.
    looked_at: videos and frames that were decoded. sizes: of these, frames by "width x height". jpeg_bytes: of one.
    damaged, faulty, mixed: see `frames.Frames`."""

    kind: str
    parts: list[str]
    used: bool
    path: str
    videos: int
    frames: int
    file_bytes: int
    with_ends: bool
    looked_at: tuple[int, int]
    sizes: dict[str, int]
    jpeg_bytes: Spread | None
    damaged: dict[str, dict[int, str]]
    faulty: dict[str, str]
    mixed: list[str]


def examine(path: Path, reader: LmdbReader, kind: str, parts: Sequence[str], sample: Sample, *, used: bool) -> Store:
    """Look at an LMDB, with a progress bar on a terminal. path: as it was given. See :class:`Store`.

    Raises:
        DataError: it is damaged as a whole.
    """
    names = reader.names
    if sample.videos is not None and sample.videos < len(names):
        drawn = np.random.default_rng(sample.seed).choice(len(names), sample.videos, replace=False)
        names = [names[i] for i in sorted(drawn.tolist())]
    bar = tqdm(names, desc=f"decoding {kind}", unit="video", leave=False, disable=None)
    found = look(reader, bar, sample.frames)
    sizes = {f"{width} x {height}": count for (width, height), count in found.sizes.most_common()}
    return Store(kind, list(parts), used, str(path), len(reader.names), int(reader.contents.num_frames.sum()),
                 data_file(reader.path).stat().st_size, reader.contents.ends is not None,
                 (found.videos, found.frames), sizes, spread_of(found.size_bytes), found.damaged, found.faulty,
                 found.mixed)
