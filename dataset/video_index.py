"""Index of a split: its usable csv rows, with labels, sources and frame counts.

A split folder holds ClassInd.txt, csv lists `path,num_frames` without a header, and video_source.json.
"""

import csv
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataset.clip_sampler import LengthRule, too_short
from dataset.residual import Reader
from utils import files
from utils.errors import DataError

INDEX = re.compile(r"\d+\s*[,\s]\s*")  # a leading integer and its separator
CLIP_SUFFIX = re.compile(r"_c\d+$")
MAX_COUNT = (1 << 31) - 1  # frames, as int32
MAX_MISSING = 0.05  # share of a csv's rows that may be missing from an LMDB or from the class list
VALIDATION_SHARE, VALIDATION_SEED = 0.3, 666
EXAMPLES = 3


def _read_text(path: Path, what: str) -> str:
    try:
        return files.read_text(path)
    except OSError as error:
        raise DataError(f"cannot read the {what} {path} ({error.strerror}): check --split_root, or write it with "
                        "process_data/src/write_csv.py") from error


def read_classes(path: Path) -> list[str]:
    """Read class names in label order, the 0-based line number, from lines "class", "index,class" or "index class"."""
    lines = [line.strip() for line in _read_text(path, "class list").rstrip().splitlines()]
    classes = [INDEX.sub("", line, count=1) if INDEX.match(line) else line for line in lines]
    if not classes or "" in classes:
        raise DataError(f"the class list {path} is empty or has an empty line: labels are line numbers")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"the class list {path} lists {twice} twice")
    return classes


def require_labels(classes: Sequence[str], what: str) -> None:
    """Raise DataError if there is a single class, where `what` needs labels."""
    if len(classes) < 2:
        raise DataError(f"{what} needs labels, but {classes[0]} is the only class of this dataset: there is nothing to "
                        "learn (main_classifier.py --test CKPT --retrieval measures features without labels)")


def class_key(name: str) -> str:
    """Normalise a class name for comparison: case, spaces or underscores, and Unicode form do not matter."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").split())


def name_key(name: str) -> str:
    """Normalise "Class/video" for comparison, see :func:`class_key`."""
    label, _, video = name.partition("/")
    return f"{class_key(label)}/{unicodedata.normalize('NFC', video)}"


def class_labels(classes: Sequence[str], names: Iterable[str]) -> dict[str, int]:
    """Return the labels of those names that the class list has, exactly or in another notation."""
    exact = {name: label for label, name in enumerate(classes)}
    keys = [class_key(name) for name in classes]
    alike = {key: label for label, key in enumerate(keys) if keys.count(key) == 1}
    found = {name: exact.get(name, alike.get(class_key(name))) for name in set(names)}
    return {name: label for name, label in found.items() if label is not None}


def video_name(path: str) -> str:
    """Return "Class/video", the last two components of a csv path; it may have any prefix and a trailing slash."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def read_rows(path: Path) -> tuple[list[str], np.ndarray]:
    """Read paths (verbatim) and frame counts, int32 (n,), of a csv list; DataError if it or one of its rows is bad."""
    paths: list[str] = []
    counts: list[int] = []
    rows = csv.reader(_read_text(path, "split list").splitlines())
    try:
        for row in rows:
            if not row:
                continue
            if len(row) != 2 or "/" not in row[0].rstrip("/") or not re.fullmatch(r"\s*\d{1,10}\s*", row[1]):
                raise csv.Error(f"{','.join(row)!r:.200}")
            paths.append(row[0])
            counts.append(min(int(row[1]), MAX_COUNT))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error} is not 'Class/video,number of frames'") from error
    if not paths:
        raise DataError(f"the split list {path} is empty: prepare more videos (without labels 60 or more, as 20 are "
                        "held out), or give lists with --splits")
    return paths, np.array(counts, dtype=np.int32)


def source_of(name: str) -> str:
    """Return the source of "Class/video": its name without the suffix _cNN."""
    return CLIP_SUFFIX.sub("", name)


def source_ids(names: list[str], path: Path, *, by_video: bool) -> np.ndarray:
    """Return the source id of each "Class/video", int64 (n,): that of video_source.json, where there is one.

    The file may name a source with its class or without. Sources that it lacks get the numbers after its largest, in
    sorted order: all that matters is whether two videos share a source.
    """
    known: dict[str, int] = {}
    if path.exists():
        try:
            known = json.loads(_read_text(path, "list of sources"))
            if not all(type(number) is int for number in known.values()):
                raise ValueError("not whole numbers by source name")
        except (ValueError, AttributeError) as error:
            raise DataError(f"the list of sources {path} is damaged ({error}): write it again") from error
    sources = names if by_video else [source_of(name) for name in names]
    ids = [known.get(source, known.get(source.split("/")[-1])) for source in sources]
    missing = sorted({source for source, number in zip(sources, ids, strict=True) if number is None})
    new = {source: number for number, source in enumerate(missing, start=max(known.values(), default=-1) + 1)}
    return np.array([new[source] if number is None else number for source, number in zip(sources, ids, strict=True)],
                    dtype=np.int64)


@dataclass(frozen=True)
class IndexRules:
    drop_unknown_classes: bool  # drop rows of classes that the list lacks (K400), which elsewhere is an error
    source_by_video: bool  # every video is its own source (K400); else videos that differ in _cNN share one
    csv_counts: tuple[bool, ...]  # by LMDB; True: frame counts come from the csv (RGB); False: from the LMDB
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

    @property
    def has_labels(self) -> bool:
        """Whether there are two classes or more; with one, every metric that uses labels is trivially perfect."""
        return len(self.classes) > 1

    def take(self, rows: Sequence[int] | np.ndarray) -> "VideoIndex":
        rows = np.asarray(rows, dtype=np.int64)
        return replace(self, paths=[self.paths[i] for i in rows], names=[self.names[i] for i in rows],
                       labels=self.labels[rows], sources=self.sources[rows], num_frames=self.num_frames[rows])

    def validation(self) -> "VideoIndex":
        """Return 30 % of the videos, at least one, always the same: as pandas' sample(frac=0.3, random_state=666)."""
        count = max(1, round(VALIDATION_SHARE * len(self)))
        return self.take(np.random.RandomState(VALIDATION_SEED).choice(len(self), size=count, replace=False))


def read_index(csv_path: Path, readers: Sequence[Reader], rules: IndexRules, *, seq_len: int, ds: int) -> VideoIndex:
    """Read the usable videos of a csv list; ClassInd.txt and video_source.json lie beside it."""
    class_list = csv_path.with_name("ClassInd.txt")
    classes = read_classes(class_list)
    paths, counts = read_rows(csv_path)
    names = [video_name(path) for path in paths]
    label_of = class_labels(classes, (name.split("/")[0] for name in names))
    labels = np.array([label_of.get(name.split("/")[0], -1) for name in names], dtype=np.int64)
    unknown = list(dict.fromkeys(names[i].split("/")[0] for i in np.flatnonzero(labels < 0)))
    if unknown and not rules.drop_unknown_classes:
        raise DataError(f"{csv_path} has classes that {class_list} lacks: {', '.join(unknown[:EXAMPLES])}"
                        f"{' ...' if len(unknown) > EXAMPLES else ''}; add them there, or take the rows out")
    present = (labels >= 0) & np.array([all(name in reader for reader in readers) for name in names], dtype=bool)
    missing = np.flatnonzero(~present)
    if len(missing) > MAX_MISSING * len(paths):
        raise DataError(f"{len(missing)} of the {len(paths)} videos of {csv_path} are missing from "
                        f"{' or '.join(reader.path for reader in readers)} or from the class list, for example "
                        f"{', '.join(paths[i] for i in missing[:EXAMPLES])}: at most 5 % may be; make the LMDB and the "
                        "lists from the same videos")
    rows = np.flatnonzero(present)
    lengths = _frame_counts(csv_path, [names[i] for i in rows], counts[rows], readers, rules.csv_counts)
    short = np.asarray(too_short(lengths, seq_len, ds, rules.length))
    if short.all():
        raise DataError(f"every video of {csv_path} is too short for --seq_len {seq_len} and --ds {ds}: the longest "
                        f"has {lengths.max(initial=0)} frames")
    kept = rows[~short]
    kept_names = [names[i] for i in kept]
    sources = source_ids(kept_names, csv_path.with_name("video_source.json"), by_video=rules.source_by_video)
    report = (f"{csv_path.name}: {len(kept)} of {len(paths)} videos used; dropped {len(missing)} that are missing from "
              f"an LMDB or the class list and {short.sum()} that are too short" if len(kept) < len(paths) else "")
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
