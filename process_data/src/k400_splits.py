"""K400's splits from its csv lists, against what was downloaded and converted."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

from process_data.src.errors import PrepareError
from process_data.src.files import read_text
from process_data.src.split_folder import SHIPPED, class_text, csv_text, read_classes


def k400_names(path: Path) -> list[str]:
    """The videos of a list with the columns label, youtube_id, time_start, time_end: "label/id_000001_000011"."""
    names, rows = [], csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        for row in rows:
            start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
            names.append(f"{row['label']}/{row['youtube_id']}_{start:06d}_{end:06d}")
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise PrepareError(f"{path}, line {rows.line_num}: rows need label, youtube_id, time_start, time_end "
                           f"({error!r})") from error
    return names


def find_list(folder: Path, side: str) -> Path:
    """The list of a side ("train" or "val") in a folder: train.csv, kinetics-400_train.csv, ..."""
    found = sorted(folder.glob(f"*{side}*.csv"))
    if not found:
        raise PrepareError(f"no K400 list of {side} videos in {folder}: it should hold {side}.csv")
    return found[0]


def present(listed: Iterable[str], lengths: dict[str, int]) -> list[str]:
    """The listed videos that exist, by the names they have there: "label/id_000001_000011" or "label/id"."""
    there = [next((name for name in (full, full[:-14]) if name in lengths), None) for full in listed]
    return [name for name in there if name]


def k400_files(folder: Path, lengths: dict[str, int]) -> tuple[dict[str, str], list[str]]:
    """The files of K400's split folder, {file name: text}, and lines that count the listed videos that are left out.

    Each video is its own source. Raises PrepareError when none exists.
    """
    classes = read_classes(SHIPPED / "k400" / "ClassInd.txt")
    files, missing, known, unknown = {"ClassInd.txt": class_text(classes)}, 0, set(classes), []
    for side in ("train", "val"):
        everything = k400_names(find_list(folder, side))
        listed = [name for name in everything if name.split("/")[0] in known]
        unknown += [name.split("/")[0] for name in everything if name.split("/")[0] not in known]
        names = present(listed, lengths)
        if not names:
            example = f"such as {listed[0]}" if listed else "and none is of a known class"
            raise PrepareError(f"no video of {find_list(folder, side)} is there, {example}: name class folders "
                               "as in ClassInd.txt")
        missing += len(listed) - len(names)
        files[f"{side}_split.csv"] = csv_text(names, classes, lengths)
    files["video_source.json"] = json.dumps({name: i for i, name in enumerate(sorted(lengths))}, indent=0)
    notes = [f"{missing} listed videos are not in the data"]
    if unknown:
        notes.append(f"{len(unknown)} listed videos are of classes that ClassInd.txt lacks, such as {unknown[0]!r}")
    return files, notes
