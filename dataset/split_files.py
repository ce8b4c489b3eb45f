"""The files of a split folder: ClassInd.txt, csv lists and video_source.json."""

import csv
import json
import re
from pathlib import Path

import numpy as np

from dataset.errors import DataError
from dataset.regular import read_bytes

INDEX = re.compile(r"\d+\s*[,\s]\s*")  # a leading integer and its separator
CLIP_SUFFIX = re.compile(r"_c\d+$")


def read_text(path: Path, what: str) -> str:
    """The text of a file, or a DataError that says what it is."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {what} {path} ({error.strerror}): check --split_root, or write it with "
                        "process_data/src/write_csv.py") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{what} {path} is not UTF-8 text ({error})") from error


def read_classes(path: Path) -> list[str]:
    """Class names in label order: a label is the 0-based line number.

    A line is a class, "index,class" or "index class"; names may hold spaces (K400).

    Raises:
        DataError: the file is missing or empty, has an empty line inside, or a class twice.
    """
    lines = [line.strip() for line in read_text(path, "the class list").rstrip().splitlines()]
    classes = [INDEX.sub("", line, count=1) if INDEX.match(line) else line for line in lines]
    if not classes or "" in classes:
        raise DataError(f"the class list {path} is empty or has an empty line: labels are line numbers")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"the class list {path} has {twice} twice")
    return classes


def video_name(path: str) -> str:
    """ "Class/video", the last two components of a csv path; a trailing slash and any prefix may be there."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def read_rows(path: Path) -> tuple[list[str], np.ndarray]:
    """Paths (verbatim) and frame counts, int32 (n,), of a csv list `path,num_frames` without a header.

    Raises:
        DataError: the file is missing or has no row, or a row is not a "…/Class/video" path and a whole number.
    """
    paths: list[str] = []
    counts: list[int] = []
    rows = csv.reader(read_text(path, "the split list").splitlines())
    try:
        for number, row in enumerate(rows, start=1):
            if not row:
                continue
            if len(row) != 2 or not _is_count(row[1].strip()) or "/" not in row[0].rstrip("/"):
                raise DataError(f"{path}, line {number}: {','.join(row)!r:.200} is not 'Class/video,number of frames'")
            paths.append(row[0])
            counts.append(int(row[1]))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}: it is not 'Class/video,number of frames'") from error
    if not paths:
        raise DataError(f"the split list {path} is empty")
    return paths, np.array(counts, dtype=np.int32)


def _is_count(text: str) -> bool:
    digits = text.lstrip("0")
    return text.isdecimal() and len(digits) <= 10 and int(text) < 1 << 31


def source_names(name: str, *, by_video: bool) -> tuple[str, str]:
    """What a video's source may be called in video_source.json: with its class, and without.

    by_video: every video is its own source (K400); else the source is the video's name without its suffix _cNN.
    """
    if not by_video:
        name = CLIP_SUFFIX.sub("", name)
    return name, name.split("/")[-1]


def source_ids(names: list[str], path: Path, *, by_video: bool) -> np.ndarray:
    """The source id of each video, int64 (n,): that of video_source.json, where there is one.

    Sources that the file lacks, or all where there is no file, get the numbers after its largest, in sorted order.
    Only whether two videos share a source matters, so that is as good.

    Raises:
        DataError: the file is not a JSON object of whole numbers.
    """
    known: dict[str, int] = {}
    if path.exists():
        try:
            known = json.loads(read_text(path, "the list of sources"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"the list of sources {path} is damaged ({error}): write it again") from error
        if not isinstance(known, dict) or not all(type(number) is int and abs(number) < 1 << 62
                                                  for number in known.values()):
            raise DataError(f"the list of sources {path} is not a JSON object of source name -> whole number")
    ids = np.empty(len(names), dtype=np.int64)
    missing: dict[int, str] = {}  # row -> source
    for row, name in enumerate(names):
        full, short = source_names(name, by_video=by_video)
        number = known.get(full, known.get(short))
        if number is None:
            missing[row] = full
        else:
            ids[row] = number
    first = max(known.values(), default=-1) + 1
    numbers = {source: number for number, source in enumerate(sorted(set(missing.values())), start=first)}
    for row, source in missing.items():
        ids[row] = numbers[source]
    return ids
