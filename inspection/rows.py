"""What becomes of every row of a split's lists: kept, or dropped and why.

`dataset.video_index.read_index` decides that for a training, and refuses whole lists; here each row gets its reason,
and a list that would be refused is looked at all the same.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.catalog import DatasetSpec
from dataset.clip_sampler import too_short
from dataset.errors import DataError
from dataset.split_files import read_classes, read_rows, source_ids, video_name
from dataset.video_index import Reader, read_index

KEPT, UNLISTED, SHORT = "kept", "class not in ClassInd.txt", "too short"
KINDS = {"rgb": "RGB", "flow": "flow"}  # what the streams of a `DatasetSpec` are called here
MOST_SPLITS = 99  # numbers of lists have two digits


@dataclass(frozen=True)
class Place:
    """Where a dataset lies and what clips are taken from it.

    spec: of its name. data_root, split_root: folders. seq_len: frames of a clip. ds: every how many frames.
    """

    spec: DatasetSpec
    data_root: Path
    split_root: Path
    seq_len: int
    ds: int

    @property
    def streams(self) -> tuple[str, ...]:
        """What the streams show: "RGB", "flow" or "residual"."""
        return tuple("RGB" if stream == "rgb" else self.spec.second_view for stream in self.spec.streams)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The LMDB that each stream is read from, "RGB" or "flow"."""
        return tuple("RGB" if self.spec.second_view == "residual" else KINDS[stream] for stream in self.spec.streams)


@dataclass(frozen=True)
class Rows:
    """A list, row by row; n of them.

    csv: the list. names: "Class/video". counts: frames by the list, int32 (n,). frames: those that every stream has,
    int32 (n,), 0 where one lacks the video. fates: `KEPT`, or why a row is dropped. overstated: videos of which the
    list promises more frames than the LMDB holds. refused: why a training would refuse the list, "" if it would not.
    """

    csv: Path
    names: list[str]
    counts: np.ndarray
    frames: np.ndarray
    fates: list[str]
    overstated: list[str]
    refused: str

    @property
    def kept(self) -> np.ndarray:
        """Which rows are kept, bool (n,)."""
        return np.array([fate == KEPT for fate in self.fates], dtype=bool)

    @property
    def twice(self) -> list[str]:
        """Videos that the list has more than once."""
        return [name for name, count in Counter(self.names).items() if count > 1]


def splits_there(place: Place, asked: int | None = None) -> list[int]:
    """The numbers of the splits of which a list is there; of the one that is asked for alone, if any is.

    Raises:
        DataError: there is none.
    """
    spec = place.spec
    numbers = range(1, (spec.files.splits or MOST_SPLITS) + 1) if asked is None else [asked]
    found = [number for number in numbers
             if any(spec.csv(place.split_root, number, train=train).is_file() for train in (True, False))]
    if not found:
        example = spec.csv(place.split_root, asked or 1, train=True)
        raise DataError(f"dataset {spec.name} has no list of videos, such as {example}: check the name and "
                        "--split_root, or make the set with process_data/src/prepare.py")
    return found


def read(place: Place, readers: Sequence[Reader], which_split: int, *, train: bool) -> Rows | None:
    """The rows of a list, None where there is no such list. readers: one per stream, in the order of the spec.

    Raises:
        DataError: the class list, or an LMDB, is missing or damaged.
    """
    csv = place.spec.csv(place.split_root, which_split, train=train)
    if not csv.is_file():
        return None
    classes = set(read_classes(csv.parent / "ClassInd.txt"))
    refused = _refusal(place, csv, readers)
    try:
        paths, counts = read_rows(csv)
    except DataError:  # that is why it is refused
        return Rows(csv, [], np.zeros(0, np.int32), np.zeros(0, np.int32), [], [], refused)
    names = [video_name(path) for path in paths]
    frames, overstated = _frames(place, names, counts, readers)
    rules = place.spec.rules()
    short = np.asarray(too_short(frames, place.seq_len, place.ds, rules.length))
    missing = [_missing(place, name, readers) for name in names]
    fates = [UNLISTED if name.split("/")[0] not in classes else lack or (SHORT if is_short else KEPT)
             for name, lack, is_short in zip(names, missing, short, strict=True)]
    return Rows(csv, names, counts, frames, fates, overstated, refused)


def sources(place: Place, names: list[str]) -> np.ndarray:
    """The source id of each video, int64 (n,), as co-training takes it. See `split_files.source_ids`."""
    return source_ids(names, place.split_root / place.spec.base / "video_source.json",
                      by_video=place.spec.rules().source_by_video)


def _refusal(place: Place, csv: Path, readers: Sequence[Reader]) -> str:
    try:
        read_index(csv, readers, place.spec.rules(), seq_len=place.seq_len, ds=place.ds)
    except DataError as error:
        return str(error)
    return ""


def _frames(place: Place, names: list[str], counts: np.ndarray, readers: Sequence[Reader]
            ) -> tuple[np.ndarray, list[str]]:
    """Frames that every stream has of each video, int32 (n,), and the videos of which the list promises too many."""
    frames = np.full(len(names), np.iinfo(np.int32).max, dtype=np.int32)
    overstated: dict[str, None] = {}
    for reader, from_csv in zip(readers, place.spec.rules().csv_counts, strict=True):
        held = np.array([reader.num_frames(name) if name in reader else 0 for name in names], dtype=np.int32)
        if from_csv:
            overstated |= dict.fromkeys(names[i] for i in np.flatnonzero((counts > held) & (held > 0)))
            held = np.where(held > 0, counts, 0)
        frames = np.minimum(frames, held)
    return frames, list(overstated)


def _missing(place: Place, name: str, readers: Sequence[Reader]) -> str:
    """Which LMDBs lack a video, "" where none does."""
    lacking = dict.fromkeys(kind for kind, reader in zip(place.kinds, readers, strict=True) if name not in reader)
    return f"not in the {' and '.join(lacking)} LMDB{'s' * (len(lacking) > 1)}" if lacking else ""
