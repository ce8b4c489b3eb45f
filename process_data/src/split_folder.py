"""The split folder of a dataset: ClassInd.txt, the csv lists and video_source.json."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dataset.video_index import class_labels, read_classes, read_rows, source_of, video_name
from process_data.src.splits import Split, k400_list, list_folder, match, report_unmatched, require_training
from utils.console import say
from utils.errors import DataError, OptionError
from utils.files import write_text

SHIPPED = Path(__file__).resolve().parents[1] / "data"  # class lists of the published datasets
PUBLISHED = ("ucf101", "hmdb51", "k400")


def check_name(name: str) -> None:
    """Raise an OptionError if ``--dataset`` could not select a dataset of this name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or ".." in name:
        raise OptionError(f"--name {name!r}: use letters, digits, _, - and ., a letter or digit first, no two dots in "
                          "a row")
    if re.search(r"-(f|2clip|2stream)$", name):
        raise OptionError(f"--name {name}: this ending selects a stream in --dataset, choose a name without it")


def class_list(name: str, split_root: Path, official: Path | None, videos: Iterable[str],
               renew: bool = False) -> list[str]:
    """Return the classes of a dataset in the order of their labels.

    They come from the first of these that exists: the dataset's ClassInd.txt, the shipped list of a published dataset,
    classInd.txt among the official lists, the sorted class folders. With ``renew`` the ClassInd.txt of a dataset that
    is not published comes last, and counts only if it lists exactly the class folders.
    """
    present = sorted({video.split("/")[0] for video in videos})
    own, published = split_root / name / "ClassInd.txt", name in PUBLISHED
    candidates = [SHIPPED / name / "ClassInd.txt"] if published else []
    if published or not renew:
        candidates.insert(0, own)
    if official is not None and official.is_dir():
        lists = list_folder(official, "[cC]lass[iI]nd.txt")
        candidates += sorted(path for path in lists.iterdir() if path.name.lower() == "classind.txt")
    if renew and not published and own.is_file() and sorted(read_classes(own)) == present:
        candidates.append(own)
    found = next((path for path in candidates if path.is_file()), None)
    classes = read_classes(found) if found else present
    unknown = set(present) - class_labels(classes, present).keys()
    if unknown:
        renewal = "" if renew or published else ", or write the list again with --overwrite"
        raise DataError(f"class {min(unknown)} is not in {found}: add it there, or rename the class's folder{renewal}")
    return classes


def split_files(classes: list[str], splits: list[Split], lengths: dict[str, int]) -> dict[str, str]:
    """Return the files of a split folder, {file name: text}; ``lengths`` are the RGB frames of each video."""
    require_training(splits)
    files = {"ClassInd.txt": class_text(classes)}
    for i, (train, test) in enumerate(splits, 1):
        files[f"train_split{i:02d}.csv"] = _csv_text(train, classes, lengths)
        files[f"test_split{i:02d}.csv"] = _csv_text(test, classes, lengths)
    # A source goes by its class, too, where several classes have one of that name: a user's videos may be called
    # 001.avi, 002.avi, ... in every class.
    sources = {(source_of(name), source_of(name).split("/")[-1]) for name in lengths}
    shared = Counter(short for _, short in sources)
    files["video_source.json"] = _source_text(short if shared[short] == 1 else full for full, short in sources)
    return files


def k400_files(folder: Path, lengths: dict[str, int]) -> dict[str, str]:
    """Return K400's split files from the lists in a folder, and count the listed videos that are left out.

    Videos are named "label/id_000001_000011" as in the lists, or "label/id", and each is its own source.
    """
    classes = read_classes(SHIPPED / "k400" / "ClassInd.txt")
    files = {"ClassInd.txt": class_text(classes)}
    unknown: list[str] = []
    all_listed: list[str] = []
    all_found: dict[str, str] = {}
    for side in ("train", "val"):
        everything = k400_list(folder, side)
        known = class_labels(classes, (name.split("/")[0] for name in everything))
        listed = [name for name in everything if name.split("/")[0] in known]
        unknown += sorted(set(everything) - set(listed))
        plain = match([name[:-14] for name in everything], lengths)
        found = {name: plain[name[:-14]] for name in everything if name[:-14] in plain} | match(everything, lengths)
        names = [found[name] for name in listed if name in found]
        if not names:
            example = f"such as {listed[0]}" if listed else "and none is of a known class"
            raise DataError(f"no video of the {side} list in {folder} exists, {example}: name class folders as in "
                            "ClassInd.txt")
        all_listed += listed
        all_found |= found
        files[f"{side}_split.csv"] = _csv_text(names, classes, lengths)
    files["video_source.json"] = _source_text(lengths)
    say(f"{sum(name not in all_found for name in all_listed)} listed videos are not in the data")
    report_unmatched(folder, all_listed, all_found, lengths)
    if unknown:
        say(f"{len(unknown)} listed videos are of classes that ClassInd.txt lacks, such as "
            f"{unknown[0].split('/')[0]!r}")
    return files


def class_text(classes: list[str]) -> str:
    """Return the text of ClassInd.txt: one class a line, indexed if a class's own name begins like an index."""
    indexed = any(re.match(r"\d+[\s,]", name) for name in classes)
    return "".join(f"{i},{name}\n" if indexed else f"{name}\n" for i, name in enumerate(classes, 1))


def _csv_text(names: Iterable[str], classes: list[str], lengths: dict[str, int]) -> str:
    """Return lines `Class/video,num_frames`, ordered by class index, then name."""
    names = list(names)
    label = class_labels(classes, (name.split("/")[0] for name in names))
    out = io.StringIO()
    rows = sorted(names, key=lambda name: (label[name.split("/")[0]], name))
    csv.writer(out, lineterminator="\n").writerows((name, lengths[name]) for name in rows)
    return out.getvalue()


def _source_text(sources: Iterable[str]) -> str:
    return json.dumps({source: i for i, source in enumerate(sorted(sources))}, indent=0)


def write_files(folder: Path, files: dict[str, str], overwrite: bool) -> None:
    """Write a split folder. A ClassInd.txt that lists the same classes in another notation stays as it is.

    Raises:
        DataError: a file exists with other content, and may not be overwritten; nothing is written then.
    """
    changed = {}
    for name, text in files.items():
        path = folder / name
        if name == "ClassInd.txt" and path.is_file() and class_text(read_classes(path)) == text:
            continue
        if path.exists() and path.read_bytes() != text.encode() and not overwrite:
            raise DataError(f"{path} exists with other content: add --overwrite to replace it, or remove it")
        changed[path] = text
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*_split*.csv") if overwrite else ():  # of splits that there are no more
        if path.name not in files:
            path.unlink()
    for path, text in changed.items():
        write_text(path, text)


def check_rows(folder: Path, lengths: dict[str, int]) -> dict[str, int]:
    """Check that each row of the csv lists is a video of that length, and return {csv file name: rows}."""
    rows = {}
    for path in sorted(folder.glob("*_split*.csv")):
        rows[path.name] = 0
        if not path.stat().st_size:  # a split without test videos
            continue
        paths, counts = read_rows(path)
        rows[path.name] = len(paths)
        for name, frames in zip(map(video_name, paths), counts, strict=True):
            if lengths.get(name) != frames:
                raise DataError(f"{path}: {name} with {frames} frames, but the LMDB holds {lengths.get(name)}: write "
                                "the splits again with --overwrite, or remove this file")
    return rows
