"""The videos of a split: the rows of its csv that are used, with labels, sources and frame counts.

An index is a few flat lists and arrays, so that one of 240,000 videos takes tens of megabytes and is cheap to share.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from dataset.clip_sampler import LengthRule, too_short
from dataset.split_files import read_classes, read_rows, source_ids, video_name
from utils.errors import DataError

MAX_MISSING = 0.05  # share of a csv's rows that may be missing from an LMDB or from the class list
VALIDATION_SHARE, VALIDATION_SEED = 0.3, 666
EXAMPLES = 3


class Reader(Protocol):
    """What the index needs of an LMDB."""

    @property
    def path(self) -> str:
        """The file."""

    def __contains__(self, name: str) -> bool: ...

    def num_frames(self, name: str) -> int:
        """Return the number of frames of the video "Class/video"."""


@dataclass(frozen=True)
class IndexRules:
    """Rules for the rows of a dataset."""

    drop_unknown_classes: bool  # drop rows of classes that the list lacks (K400), which elsewhere is an error
    source_by_video: bool  # every video is its own source (K400); else videos that differ in _cNN share one
    csv_counts: tuple[bool, ...]  # for each LMDB, whether the csv's frame counts hold (RGB), or the LMDB's
    length: LengthRule  # which videos are too short


@dataclass(frozen=True)
class VideoIndex:
    """The videos of a split, one row each, in csv order."""

    paths: list[str]  # as the csv has them
    names: list[str]  # "Class/video"
    labels: np.ndarray  # int64 (n,)
    sources: np.ndarray  # int64 (n,)
    num_frames: np.ndarray  # int32 (n,)
    classes: list[str]  # names by label
    report: str = ""  # one line about dropped rows

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Sequence[int] | np.ndarray) -> "VideoIndex":
        """Return the index of some rows (m,), in their order."""
        rows = np.asarray(rows, dtype=np.int64)
        return replace(self, paths=[self.paths[i] for i in rows], names=[self.names[i] for i in rows],
                       labels=self.labels[rows], sources=self.sources[rows], num_frames=self.num_frames[rows])

    def validation(self) -> "VideoIndex":
        """Return 30 % of the videos, always the same: what pandas' sample(frac=0.3, random_state=666) draws."""
        count = round(VALIDATION_SHARE * len(self))
        return self.take(np.random.RandomState(VALIDATION_SEED).choice(len(self), size=count, replace=False))


def read_index(csv_path: Path, readers: Sequence[Reader], rules: IndexRules, *, seq_len: int, ds: int) -> VideoIndex:
    """Read the usable videos of a csv list; ClassInd.txt and video_source.json lie beside it.

    Args:
        csv_path: the list, rows `path,num_frames`.
        readers: one LMDB per stream.
        rules: of the dataset.
        seq_len, ds: frames of a clip, and the step between them.

    Raises:
        DataError: a file is missing or damaged, a class is not in the list, more than 5 % of the rows are missing
            from an LMDB (or are of unlisted classes, K400), a row has more frames than the LMDB, or no video is left.
    """
    folder = csv_path.parent
    classes = read_classes(folder / "ClassInd.txt")
    label_of = {name: label for label, name in enumerate(classes)}
    paths, counts = read_rows(csv_path)
    names = [video_name(path) for path in paths]
    labels = np.array([label_of.get(name.split("/")[0], -1) for name in names], dtype=np.int64)
    if not rules.drop_unknown_classes:
        _refuse_unknown_classes(csv_path, names, labels)
    present = (labels >= 0) & np.array([all(name in reader for reader in readers) for name in names], dtype=bool)
    _refuse_missing(csv_path, paths, present, readers)
    rows = np.flatnonzero(present)
    lengths = _frame_counts(csv_path, [names[i] for i in rows], counts[rows], readers, rules.csv_counts)
    short = np.asarray(too_short(lengths, seq_len, ds, rules.length))
    if short.all():
        raise DataError(f"every video of {csv_path} is too short for --seq_len {seq_len} and --ds {ds}: the longest "
                        f"has {lengths.max(initial=0)} frames")
    kept = rows[~short]
    kept_names = [names[i] for i in kept]
    sources = source_ids(kept_names, folder / "video_source.json", by_video=rules.source_by_video)
    report = ""
    if len(kept) < len(paths):
        report = (f"{csv_path.name}: {len(kept)} of {len(paths)} videos used; dropped {(~present).sum()} that are "
                  f"missing from an LMDB or the class list and {short.sum()} that are too short")
    return VideoIndex([paths[i] for i in kept], kept_names, labels[kept], sources, lengths[~short], classes, report)


def _frame_counts(csv_path: Path, names: list[str], counts: np.ndarray, readers: Sequence[Reader],
                  csv_counts: tuple[bool, ...]) -> np.ndarray:
    """Return the frames of each video that all streams have, int32 (n,)."""
    streams = []
    for reader, from_csv in zip(readers, csv_counts, strict=True):
        held = np.array([reader.num_frames(name) for name in names], dtype=np.int32)
        if from_csv and (counts > held).any():
            worst = int(np.flatnonzero(counts > held)[0])
            raise DataError(f"{csv_path}: {names[worst]} has {counts[worst]} frames, but {held[worst]} in "
                            f"{reader.path}: make both from the same frames")
        streams.append(counts if from_csv else held)
    return np.minimum.reduce(streams)


def _refuse_unknown_classes(csv_path: Path, names: list[str], labels: np.ndarray) -> None:
    if (labels < 0).any():
        unknown = dict.fromkeys(names[i].split("/")[0] for i in np.flatnonzero(labels < 0))
        raise DataError(f"{csv_path} has classes that {csv_path.parent / 'ClassInd.txt'} lacks: "
                        f"{', '.join(list(unknown)[:EXAMPLES])}{' ...' if len(unknown) > EXAMPLES else ''}; "
                        "add them there, or take the rows out")


def _refuse_missing(csv_path: Path, paths: list[str], present: np.ndarray, readers: Sequence[Reader]) -> None:
    missing = np.flatnonzero(~present)
    if len(missing) > MAX_MISSING * len(paths):
        examples = ", ".join(paths[i] for i in missing[:EXAMPLES])
        raise DataError(f"{len(missing)} of the {len(paths)} videos of {csv_path} are missing from "
                        f"{' or '.join(reader.path for reader in readers)} or from the class list, for example "
                        f"{examples}: at most 5 % may be; make the LMDB and the lists from the same videos")
