"""Read the files of a split folder: ClassInd.txt, csv lists and video_source.json."""

import csv
import json
import re
from pathlib import Path

import numpy as np

from utils import files
from utils.errors import DataError

INDEX = re.compile(r"\d+\s*[,\s]\s*")  # a leading integer and its separator
CLIP_SUFFIX = re.compile(r"_c\d+$")
MAX_COUNT = (1 << 31) - 1  # frames, as int32


def _read_text(path: Path, what: str) -> str:
    try:
        return files.read_text(path)
    except OSError as error:
        raise DataError(f"cannot read {what} {path} ({error.strerror}): check --split_root, or write it with "
                        "process_data/src/write_csv.py") from error


def read_classes(path: Path) -> list[str]:
    """Read class names in label order: a label is the 0-based line number.

    A line is a class, "index,class" or "index class"; names may hold spaces (K400).

    Raises:
        DataError: the file is missing or empty, has an empty line inside, or a class twice.
    """
    lines = [line.strip() for line in _read_text(path, "the class list").rstrip().splitlines()]
    classes = [INDEX.sub("", line, count=1) if INDEX.match(line) else line for line in lines]
    if not classes or "" in classes:
        raise DataError(f"the class list {path} is empty or has an empty line: labels are line numbers")
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"the class list {path} has {twice} twice")
    return classes


def video_name(path: str) -> str:
    """Return "Class/video", the last two components of a csv path; it may have any prefix and a trailing slash."""
    return "/".join(path.rstrip("/").split("/")[-2:])


def read_rows(path: Path) -> tuple[list[str], np.ndarray]:
    """Read paths (verbatim) and frame counts, int32 (n,), of a csv list `path,num_frames` without a header.

    Raises:
        DataError: the file is missing or has no row, or a row is not a "…/Class/video" path and a whole number.
    """
    paths: list[str] = []
    counts: list[int] = []
    rows = csv.reader(_read_text(path, "the split list").splitlines())
    try:
        for number, row in enumerate(rows, start=1):
            if not row:
                continue
            if len(row) != 2 or "/" not in row[0].rstrip("/") or not re.fullmatch(r"\s*\d{1,10}\s*", row[1]):
                raise DataError(f"{path}, line {number}: {','.join(row)!r:.200} is not 'Class/video,number of frames'")
            paths.append(row[0])
            counts.append(min(int(row[1]), MAX_COUNT))
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num}: {error}: it is not 'Class/video,number of frames'") from error
    if not paths:
        raise DataError(f"the split list {path} is empty")
    return paths, np.array(counts, dtype=np.int32)


def source_names(name: str, *, by_video: bool) -> tuple[str, str]:
    """Return the names of a "Class/video"'s source that video_source.json may use: with its class, and without.

    With `by_video` every video is its own source (K400); else the source is its name without the suffix _cNN.
    """
    if not by_video:
        name = CLIP_SUFFIX.sub("", name)
    return name, name.split("/")[-1]


def source_ids(names: list[str], path: Path, *, by_video: bool) -> np.ndarray:
    """Return the source id of each video, int64 (n,): that of video_source.json, where there is one.

    Sources that the file lacks (all, if there is no file) get the numbers after its largest, in sorted order: all that
    matters is whether two videos share a source.

    Raises:
        DataError: the file is not a JSON object of whole numbers.
    """
    known: dict[str, int] = {}
    if path.exists():
        try:
            known = json.loads(_read_text(path, "the list of sources"))
        except ValueError as error:
            raise DataError(f"the list of sources {path} is damaged ({error}): write it again") from error
        if not isinstance(known, dict) or not all(type(number) is int for number in known.values()):
            raise DataError(f"the list of sources {path} is not a JSON object of source name -> whole number")
    pairs = [source_names(name, by_video=by_video) for name in names]
    missing = sorted({full for full, short in pairs if full not in known and short not in known})
    numbers = {source: number for number, source in enumerate(missing, start=max(known.values(), default=-1) + 1)}
    return np.array([known.get(full, known.get(short, numbers.get(full))) for full, short in pairs], dtype=np.int64)
