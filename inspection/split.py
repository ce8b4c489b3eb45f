"""What is counted of a split: its two lists, their classes and groups, and what they share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.clip_sampler import windows
from dataset.errors import DataError
from dataset.split_files import read_classes
from dataset.video_index import Reader
from inspection import leaks, rows
from inspection.leaks import Leaks
from inspection.rows import Place, Rows
from inspection.spread import Spread, spread_of

BINS = 8


@dataclass(frozen=True)
class Part:
    """The list of training or test videos.

    listed, kept: rows. dropped: videos by reason. twice, overstated, refused: see `rows.Rows`. frames: of the kept
    videos. windows: of all kept videos, None where one is too long for windows. siblings: of the kept videos, how many
    others of them share each one's source. alone: kept videos without a sibling.
    """

    csv: str
    listed: int
    kept: int
    dropped: dict[str, list[str]]
    twice: list[str]
    overstated: list[str]
    refused: str
    frames: Spread | None
    windows: int | None
    siblings: Spread | None
    alone: int


@dataclass(frozen=True)
class Count:
    """Of a class: kept videos, and their sources (groups), in training and in test."""

    name: str
    train: int
    test: int
    train_groups: int
    test_groups: int


@dataclass(frozen=True)
class Split:
    """A split. A part is None where there is no list of it. histogram: (fewest, most, training, test videos) by the
    number of frames. classes: in the order of their labels."""

    number: int
    train: Part | None
    test: Part | None
    histogram: list[tuple[int, int, int, int]]
    classes: list[Count]
    leaks: Leaks


def look(place: Place, number: int, train_readers: Sequence[Reader], test_readers: Sequence[Reader]) -> Split:
    """Look at the lists of a split.

    Raises:
        DataError: the class list, the list of sources or an LMDB is missing or damaged.
    """
    train = rows.read(place, train_readers, number, train=True)
    test = rows.read(place, test_readers, number, train=False)
    train_names, test_names = (part.names if part else [] for part in (train, test))
    ids = rows.sources(place, train_names + test_names)
    train_ids, test_ids = ids[:len(train_names)], ids[len(train_names):]
    classes = read_classes(place.split_root / place.spec.base / "ClassInd.txt")
    return Split(number, _part(place, train, train_ids) if train else None,
                 _part(place, test, test_ids) if test else None,
                 _histogram(_lengths(train), _lengths(test)), _counts(classes, (train, test), (train_ids, test_ids)),
                 leaks.find(train_names, test_names, train_ids, test_ids))


def _lengths(part: Rows | None) -> np.ndarray:
    """Frames of the kept videos."""
    return part.frames[part.kept] if part else np.zeros(0, np.int32)


def _part(place: Place, part: Rows, sources: np.ndarray) -> Part:
    kept = part.kept
    dropped: dict[str, list[str]] = {}
    for name, fate in zip(part.names, part.fates, strict=True):
        if fate != rows.KEPT:
            dropped.setdefault(fate, []).append(name)
    own = sources[kept].tolist()
    sizes = Counter(own)
    siblings = [sizes[source] - 1 for source in own]
    return Part(str(part.csv), len(part.names), int(kept.sum()), dropped, part.twice, part.overstated, part.refused,
                spread_of(part.frames[kept]), _windows(place, part.frames[kept]), spread_of(siblings),
                siblings.count(0))


def _windows(place: Place, lengths: np.ndarray) -> int | None:
    try:
        return sum(count * len(windows(length, place.seq_len, place.ds))
                   for length, count in Counter(lengths.tolist()).items())
    except DataError:
        return None


def _histogram(train: np.ndarray, test: np.ndarray) -> list[tuple[int, int, int, int]]:
    lengths = np.concatenate([train, test])
    if not len(lengths):
        return []
    lowest, highest = int(lengths.min()), int(lengths.max())
    width = -(-(highest - lowest + 1) // BINS)
    starts = range(lowest, highest + 1, width)
    in_train, in_test = (np.bincount((part - lowest) // width, minlength=len(starts)) for part in (train, test))
    return [(low, low + width - 1, int(in_train[i]), int(in_test[i])) for i, low in enumerate(starts)]


def _counts(classes: Sequence[str], parts: Sequence[Rows | None], ids: Sequence[np.ndarray]) -> list[Count]:
    videos: list[Counter[str]] = []
    groups: list[Counter[str]] = []
    for part, sources in zip(parts, ids, strict=True):
        kept = [] if part is None else [(name.split("/")[0], source) for name, source, keep
                                        in zip(part.names, sources.tolist(), part.kept.tolist(), strict=True) if keep]
        videos.append(Counter(name for name, _ in kept))
        groups.append(Counter(name for name, _ in set(kept)))
    return [Count(name, *(count[name] for count in (*videos, *groups))) for name in classes]
