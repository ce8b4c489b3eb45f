"""Survey a dataset: its lists and LMDBs, dropped videos, leaks and copies between train and test, damaged frames.

The fingerprint of a video is a few frames, evenly spaced so that lengths may differ, in grey at 8 x 8 pixels and
without their brightness. Two videos are nearly equal if their mean pictures are alike and change alike; videos that
stand still, or show one colour, are like many others, so they have to be equal.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from dataset.catalog import DatasetSpec
from dataset.clip_sampler import too_short
from dataset.lmdb_reader import LmdbReader
from dataset.video_index import class_labels, read_classes, read_index, read_rows, source_ids, video_name
from tools.pictures import evenly_spaced, flow_from_frames
from utils.console import track
from utils.errors import DataError

PARTS = ("train", "test")
TOO_SHORT = "too short"
MOST_SPLITS = 999  # looked for
GROUP = re.compile(r"_g(\d+)(_c\d+)?$")  # in UCF101's names: videos of a class and group are cut from one recording
FRAMES = 8  # of a fingerprint, evenly spaced in the video
MOST_FRAMES = 256  # decoded of a video of a sample, evenly spaced, each with the one after it
BATCH = 32  # frames decoded at a time
STILL_LEVELS, STILL_SHARE = 10, 0.001  # nothing moves if a smaller share of the pixels changes by more grey levels
FLOW_SPEED, FLOW_SHARE = 0.6, 0.005  # flow shows none if a smaller share moves faster, in pixels; JPEG alone makes 0.55
SIDE = 8  # pixels of a fingerprint's frames
MOST_LOOK = 10.0  # grey levels between two mean pictures that are alike
LEAST_CORRELATION = 0.8  # of the changes of two videos; of different real ones at most 0.54
SAME = 1e-4  # squared grey levels between two equal mean pictures
MOVING, FLAT = 1.5, 2.0  # grey levels: less change stands still, less contrast is one colour
BLOCK = 1024  # videos compared at a time
MOST_VIDEOS = 10_000  # compared of a list, drawn at random from longer ones


@dataclass(frozen=True)
class Dataset:
    """A dataset, and the clips that training takes from it."""

    spec: DatasetSpec
    data_root: Path  # folder of the LMDBs
    split_root: Path  # folder of the splits
    seq_len: int  # frames of a clip
    ds: int  # a clip takes every ds-th frame

    def lmdbs(self, part: str) -> dict[str, Path]:
        """Return the LMDBs of a part that exist, "RGB" and "flow", even those that the dataset's name does not use."""
        both = replace(self.spec, streams=("rgb", "flow"), second_view="flow")
        paths = both.lmdbs(self.data_root, train=part == "train")
        return {kind: path for kind, path in zip(("RGB", "flow"), paths, strict=True) if path.exists()}

    def csv(self, split: int, part: str) -> Path:
        return self.spec.csv(self.split_root, split, train=part == "train")

    def splits(self, wanted: int | None = None) -> list[int]:
        """Return the splits that have a list, or the wanted one. Raises DataError if there is no list."""
        numbers = [wanted] if wanted else range(1, (self.spec.files.splits or MOST_SPLITS) + 1)
        found = [number for number in numbers if any(self.csv(number, part).is_file() for part in PARTS)]
        if not found:
            raise DataError(f"dataset {self.spec.name} has no list of videos such as {self.csv(numbers[0], 'train')}: "
                            "check the name and --split_root, or make the dataset with process_data/src/prepare.py")
        return found


@dataclass
class Part:
    names: list[str]  # "Class/video" of every row
    kept: list[str] = field(default_factory=list)  # those that a training uses
    num_frames: list[int] = field(default_factory=list)  # of those, that all streams have
    dropped: dict[str, list[str]] = field(default_factory=dict)  # the others, by reason
    refused: str = ""  # why a training refuses the whole list


@dataclass(frozen=True)
class Leak:
    kind: str  # "video", "group" (of a class, by the video's name), "source" (by video_source.json or name) or "copy"
    what: str  # the video's name, the group's number and class, or the source's id; of copies the tested one's name
    train: list[str]  # its videos
    test: list[str]


@dataclass(frozen=True)
class Split:
    number: int
    classes: list[str]  # by label
    parts: dict[str, Part]  # "train" and "test", as far as there is a list
    leaks: list[Leak]

    def names(self, part: str) -> list[str]:
        return self.parts[part].names if part in self.parts else []


@dataclass
class Lmdb:
    """An LMDB, and what decoding some of its frames showed."""

    kind: str  # "RGB" or "flow"
    path: str
    parts: list[str]  # "train", "test"
    num_frames: dict[str, int]  # of every video
    decoded: dict[str, int] = field(default_factory=dict)  # decoded frames by video
    damaged: dict[str, dict[int, str]] = field(default_factory=dict)  # what is wrong, by video and frame
    still: dict[str, float] = field(default_factory=dict)  # share of frames that do not move, if above half


def survey_split(dataset: Dataset, number: int) -> Split:
    """Read the lists of a split. Raises DataError if one of them, or an LMDB that they need, is missing or damaged."""
    folder = dataset.split_root / dataset.spec.base
    classes = read_classes(folder / "ClassInd.txt")
    parts = {part: _read_part(dataset, number, part, classes) for part in PARTS if dataset.csv(number, part).is_file()}
    split = Split(number, classes, parts, [])
    train, test = map(split.names, PARTS)
    ids = source_ids(train + test, folder / "video_source.json", by_video=dataset.spec.rules().source_by_video)
    split.leaks.extend(find_leaks(train, test, dict(zip(train + test, ids.tolist(), strict=True))))
    return split


def _read_part(dataset: Dataset, number: int, part: str, classes: Sequence[str]) -> Part:
    csv, rules = dataset.csv(number, part), dataset.spec.rules()
    readers = dataset.spec.readers(dataset.data_root, train=part == "train")
    paths, counts = read_rows(csv)
    known = class_labels(classes, (video_name(path).split("/")[0] for path in paths))
    found = Part([video_name(path) for path in paths])
    for name, count in zip(found.names, counts.tolist(), strict=True):
        lacking = dict.fromkeys(Path(reader.path).name for reader in readers if name not in reader)
        frames = 0 if lacking else min(count if from_csv else reader.num_frames(name)
                                       for reader, from_csv in zip(readers, rules.csv_counts, strict=True))
        reason = ("class not in ClassInd.txt" if name.split("/")[0] not in known else
                  f"not in {' and '.join(lacking)}" if lacking else
                  TOO_SHORT if too_short(frames, dataset.seq_len, dataset.ds, rules.length) else "")
        if reason:
            found.dropped.setdefault(reason, []).append(name)
        else:
            found.kept.append(name)
            found.num_frames.append(frames)
    try:
        read_index(csv, readers, rules, seq_len=dataset.seq_len, ds=dataset.ds)
    except DataError as error:
        found.refused = str(error)
    return found


def find_leaks(train: Collection[str], test: Collection[str], sources: dict[str, int]) -> list[Leak]:
    """Find what two lists of videos share, dropped ones included; most leaks show up in several kinds."""
    found: dict[tuple[str, str], Leak] = {}
    for part, names in zip(PARTS, (train, test), strict=True):
        for name in names:
            keys = [("video", name), ("source", str(sources[name]))]
            if group := GROUP.search(name):
                keys.append(("group", f"{int(group[1]):02d} of class {name.split('/')[0]}"))
            for key in keys:
                getattr(found.setdefault(key, Leak(*key, [], [])), part).append(name)
    shared = [leak for leak in found.values() if leak.train and leak.test]
    return sorted(shared, key=lambda leak: ("video", "group", "source").index(leak.kind))


def check_lmdbs(dataset: Dataset, sample: int | None) -> list[Lmdb]:
    """Decode frames of a random ``sample`` of the videos of each LMDB; every frame of all videos if it is None."""
    found: dict[Path, Lmdb] = {}  # K400 has others for each part
    for part in PARTS:
        for kind, path in dataset.lmdbs(part).items():
            if path in found:
                found[path].parts.append(part)
                continue
            reader = LmdbReader(path)
            names = reader.names
            found[path] = Lmdb(kind, str(path), [part], {name: reader.num_frames(name) for name in names})
            if sample is not None and sample < len(names):
                drawn = np.random.default_rng(0).choice(len(names), sample, replace=False)
                names = [names[i] for i in sorted(drawn)]
            for name in track(names, len(names), f"decoding {kind}"):
                _check_video(found[path], reader, name, MOST_FRAMES if sample else None)
    return list(found.values())


def _check_video(found: Lmdb, reader: LmdbReader, name: str, frames: int | None) -> None:
    count = found.num_frames[name]
    firsts = evenly_spaced(max(1, count - 1), frames or count)
    indices = np.unique([firsts, np.minimum(firsts + 1, count - 1)])
    found.decoded[name] = len(indices)
    damaged, moves = dict[int, str](), list[bool]()
    last, before = -2, np.empty(0, np.uint8)
    for batch in np.split(indices, range(BATCH, len(indices), BATCH)):
        try:
            _, images, faults = reader.read(name, batch)
        except DataError as error:
            damaged |= dict.fromkeys(batch.tolist(), str(error))
            continue
        damaged |= faults
        for index, image in zip(batch.tolist(), images, strict=True):
            if index in faults:
                continue
            if found.kind == "flow":
                moves.append(bool((np.abs(flow_from_frames(image)).max(axis=2) > FLOW_SPEED).mean() >= FLOW_SHARE))
            elif last == index - 1 and before.shape == image.shape:
                changed = cv2.absdiff(before, image).max(axis=2) > STILL_LEVELS
                moves.append(bool(changed.mean() >= STILL_SHARE))
            last, before = index, image
    if damaged:
        found.damaged[name] = damaged
    if sum(moves) < len(moves) / 2:
        found.still[name] = round(1 - sum(moves) / len(moves), 3)


def compare_videos(dataset: Dataset, splits: Sequence[Split]) -> dict[str, list[str]]:
    """Add copies across train and test to each split's leaks; return near-duplicates by name, each pair once."""
    readers = {part: LmdbReader(next(iter(paths.values()))) for part in PARTS if (paths := dataset.lmdbs(part))}
    todo: dict[str, LmdbReader] = {}
    for split in splits:
        for part, reader in readers.items():
            names = split.names(part)
            rows = np.random.default_rng(0).permutation(len(names))[:MOST_VIDEOS]
            todo |= {names[row]: reader for row in sorted(rows) if names[row] in reader}
    prints: dict[str, np.ndarray] = {}
    for name, reader in track(todo.items(), len(todo), "comparing"):
        with suppress(DataError):  # `check_lmdbs` reports videos that cannot be read
            prints[name] = fingerprint(reader, name)
    copies = find_copies(prints)
    for split in splits:
        train, test = (dict.fromkeys(split.names(part)) for part in PARTS)
        shared = {name: [other for other in copies.get(name, ()) if other in train] for name in test}
        split.leaks.extend(Leak("copy", name, others, [name]) for name, others in shared.items() if others)
    near = {name: [other for other in others if other > name] for name, others in sorted(copies.items())}
    return {name: others for name, others in near.items() if others}


def fingerprint(reader: LmdbReader, name: str) -> np.ndarray:
    """Return float32 (FRAMES, SIDE * SIDE) of a video; DataError if none of its frames can be read."""
    numbers = ((np.arange(FRAMES) + 0.5) * reader.num_frames(name) / FRAMES).astype(np.int64)
    [frames] = reader.clips(name, numbers[None], damaged=[])
    small = [cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32), (SIDE, SIDE),
                        interpolation=cv2.INTER_AREA).ravel() for frame in frames]
    return np.stack(small) - np.mean(small, axis=1, keepdims=True)


def find_copies(prints: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    copies: dict[str, list[str]] = {}
    if not prints:
        return copies
    names, frames = list(prints), np.stack(list(prints.values()))
    look = frames.mean(axis=1, dtype=np.float64)  # mean pictures (N, 64)
    change = (frames - look[:, None]).reshape(len(names), -1)
    level = np.sqrt((change ** 2).mean(axis=1, keepdims=True))
    still = level[:, 0] < MOVING
    change = np.where(still[:, None], 0, change / np.maximum(level, MOVING) / np.sqrt(change.shape[1]))  # of length 1
    pictured, power = look.std(axis=1) > FLAT, (look ** 2).mean(axis=1)
    for start in range(0, len(names), BLOCK):
        rows = slice(start, start + BLOCK)
        square = power[rows, None] + power - 2 / look.shape[1] * look[rows] @ look.T
        alike = (change[rows] @ change.T > LEAST_CORRELATION) & (square < MOST_LOOK ** 2)
        equal = (still & pictured)[rows, None] & still & (square < SAME)
        for i, j in zip(*np.nonzero(alike | equal), strict=True):
            if start + i != j:
                copies.setdefault(names[start + i], []).append(names[j])
    return copies
