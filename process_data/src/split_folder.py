"""The split folder of a data set: ClassInd.txt, {train,test}_split0N.csv and video_source.json."""

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path

from dataset.regular import read_bytes
from process_data.src.errors import PrepareError
from process_data.src.files import read_text, write_text
from process_data.src.splits import (
    Split,
    hmdb51_splits,
    official_splits,
    require_training,
    source_keys,
    source_splits,
    ucf101_splits,
)

SHIPPED = Path(__file__).resolve().parents[1] / "data"  # class lists of the published data sets
PUBLISHED = ("ucf101", "hmdb51", "k400")


def check_name(name: str) -> None:
    """Raises PrepareError for a data set's name that `--dataset` could not select, or that is a path."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or ".." in name:
        raise PrepareError(f"--name {name!r}: use letters, digits, _, - and ., a letter or digit first, no two dots "
                           "in a row")
    if re.search(r"-(f|2clip|2stream)$", name):
        raise PrepareError(f"--name {name}: this ending selects a stream in --dataset, choose a name without it")


def read_classes(path: Path) -> list[str]:
    """A class list: one class a line, or "index,class" / "index class" (a leading integer only is an index)."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [re.sub(r"^\d+\s*[,\s]\s*", "", line) for line in lines if line]


def class_list(name: str, split_root: Path, official: Path | None, names: Iterable[str],
               renew: bool = False) -> list[str]:
    """The classes of a data set in the order of their labels.

    From, in this order: its ClassInd.txt, where there is one already; the shipped list of a published data set;
    classInd.txt among the official lists; the class folders, sorted. Raises PrepareError when it lacks a video's class.
    With `renew` an own set's ClassInd.txt counts last, and only when it lists the class folders, no more and no less.
    """
    present = sorted({video.split("/")[0] for video in names})
    own, published = split_root / name / "ClassInd.txt", name in PUBLISHED
    places = [SHIPPED / name / "ClassInd.txt"] if published else []
    if not renew or published:
        places.insert(0, own)
    if official is not None and official.is_dir():
        places += sorted(path for path in official.iterdir() if path.name.lower() == "classind.txt")
    if renew and not published and own.is_file() and sorted(read_classes(own)) == present:
        places.append(own)
    found = next((place for place in places if place.is_file()), None)
    classes = read_classes(found) if found else present
    unknown = set(present) - set(classes)
    if unknown:
        renewal = "" if renew or published else ", or write the list again with --overwrite"
        raise PrepareError(f"class {min(unknown)} is not in {found}: add it there, or rename the class's folder"
                           f"{renewal}")
    return classes


def plan_splits(name: str, names: Iterable[str], official: Path | None, seed: int = 0,
                allow_missing: bool = False) -> list[Split]:
    """The splits of a data set of these videos, by its name and the official lists, where there are some.

    Raises PrepareError for a missing folder of lists, for a split without training videos, and when a list names a
    video that is not there (with `allow_missing` these are left out).
    """
    names = list(names)
    if name == "hmdb51" and official is None:
        raise PrepareError("HMDB51's splits are given by its lists: give the folder of *_test_split1.txt as --splits")
    if official is None:
        splits = ucf101_splits(names) if name == "ucf101" else source_splits(names, seed)
        require_training(splits)
        return splits
    if not official.is_dir():
        raise PrepareError(f"no folder {official}: --splits is the folder that holds the official lists")
    splits = hmdb51_splits(official) if name == "hmdb51" else official_splits(official)
    missing = sorted({video for split in splits for side in split for video in side} - set(names))
    if missing and not allow_missing:
        raise PrepareError(f"the lists in {official} name {len(missing)} videos that do not exist, such as "
                           f"{missing[0]}: get these, or remove them from the lists")
    splits = keep(splits, names)
    require_training(splits)
    return splits


def keep(splits: Iterable[Split], names: Iterable[str]) -> list[Split]:
    """The splits without the videos that are not among `names` (those that did not decode)."""
    names = set(names)
    return [([n for n in train if n in names], [n for n in test if n in names]) for train, test in splits]


def csv_text(names: Iterable[str], classes: list[str], lengths: dict[str, int]) -> str:
    """Lines `Class/video,num_frames`, ordered by class index, then name."""
    label = {name: i for i, name in enumerate(classes)}
    out = io.StringIO()
    rows = sorted(names, key=lambda name: (label[name.split("/")[0]], name))
    csv.writer(out, lineterminator="\n").writerows((name, lengths[name]) for name in rows)
    return out.getvalue()


def class_text(classes: list[str]) -> str:
    """ClassInd.txt: one class a line; with an index before each where a class's own name begins like one."""
    indexed = any(re.match(r"\d+[\s,]", name) for name in classes)
    return "".join(f"{i},{name}\n" if indexed else f"{name}\n" for i, name in enumerate(classes, 1))


def split_files(classes: list[str], splits: list[Split], lengths: dict[str, int]) -> dict[str, str]:
    """The files of a split folder, {file name: text}. Raises PrepareError for a split without training videos."""
    require_training(splits)
    files = {"ClassInd.txt": class_text(classes)}
    for i, (train, test) in enumerate(splits, 1):
        files[f"train_split{i:02d}.csv"] = csv_text(train, classes, lengths)
        files[f"test_split{i:02d}.csv"] = csv_text(test, classes, lengths)
    sources = sorted(set(source_keys(lengths).values()))
    files["video_source.json"] = json.dumps({source: i for i, source in enumerate(sources)}, indent=0)
    return files


def write_files(folder: Path, files: dict[str, str], overwrite: bool) -> None:
    """Write a split folder. Raises PrepareError, before anything is written, when a file is there with other content.

    ClassInd.txt is left as it is when it lists the same classes in another notation.
    """
    todo = {}
    for name, text in files.items():
        path = folder / name
        if name == "ClassInd.txt" and path.is_file() and class_text(read_classes(path)) == text:
            continue
        if path.exists() and read_bytes(path) != text.encode() and not overwrite:
            raise PrepareError(f"{path} exists with other content: add --overwrite to replace it, or remove it")
        todo[path] = text
    for path, text in todo.items():
        write_text(path, text)
