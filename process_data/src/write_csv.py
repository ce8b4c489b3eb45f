"""Write the split folder of a dataset: ClassInd.txt, csv lists with frame counts, video_source.json.

    python process_data/src/write_csv.py --name ucf101 --data data/UCF101/ucf101_frame.lmdb
    python process_data/src/write_csv.py --name hmdb51 --data data/HMDB51/hmdb51_frame.lmdb --splits testTrainMulti_7030
    python process_data/src/write_csv.py --name k400 --splits kinetics400_lists \\
        --data data/K400/k400_frame_train.lmdb data/K400/k400_frame_val.lmdb
    python process_data/src/write_csv.py --name mine --data data/mine/mine_frame.lmdb

--data is what holds the RGB frames: LMDBs, or a folder of Class/video/image_00001.jpg, ... A dataset of your own is
split by its official lists (--splits), else by source group (_gNN), else at random.
"""

import csv
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.video_index import class_labels, read_classes, source_of
from process_data.src import splits as rules
from process_data.src.convert_video_to_lmdb import find_folders, frame_counts, frame_files
from utils.console import say, warn
from utils.errors import DataError, OptionError
from utils.files import read_text, require_writable, write_text
from utils.launch import run
from utils.parser import Parser

SHIPPED = Path(__file__).resolve().parents[1] / "data"  # class lists of the published datasets
CLASS_LIST = "ClassInd.txt"
PUBLISHED = ("ucf101", "hmdb51", "k400")


def check_name(name: str) -> None:
    """Raise an OptionError if ``--dataset`` could not select a dataset of this name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or ".." in name or re.search(r"-(f|2clip|2stream)$", name):
        raise OptionError(f"--name {name!r}: use letters, digits, _, - and ., a letter or digit first, no two dots in "
                          "a row, and none of the endings that select a stream (-f, -2clip, -2stream)")


def class_list(name: str, split_root: Path, official: Path | None, videos: Iterable[str],
               renew: bool = False) -> list[str]:
    """Return the classes of a dataset in the order of their labels.

    They come from the first of these that exists: its ClassInd.txt (with ``renew`` the last, and only if it lists
    exactly the class folders), the shipped list of a published dataset, the official classInd.txt, the class folders.
    """
    present = sorted({video.split("/")[0] for video in videos})
    own, lists = split_root / name / CLASS_LIST, [SHIPPED / name / CLASS_LIST] if name in PUBLISHED else []
    if official is not None:
        lists += sorted(rules.list_folder(official, "[cC]lass[iI]nd.txt").glob("[cC]lass[iI]nd.txt"))
    renew = renew and name not in PUBLISHED
    if not renew:
        lists.insert(0, own)
    elif own.is_file() and sorted(read_classes(own)) == present:
        lists.append(own)
    found = next((path for path in lists if path.is_file()), None)
    classes = read_classes(found) if found else present
    if unknown := set(present) - class_labels(classes, present).keys():
        raise DataError(f"class {min(unknown)} is not in {found}: add it there, rename its folder, or write the list "
                        "of an own set again with --overwrite")
    return classes


def split_files(classes: list[str], splits: list[rules.Split], lengths: dict[str, int]) -> dict[str, str]:
    """Return the files of a split folder, {file name: text}, of those videos that have a number of RGB frames."""
    files, untested = {CLASS_LIST: class_text(classes)}, []
    for i, split in enumerate(splits, 1):
        train, test = ([name for name in side if name in lengths] for side in split)
        files[f"train_split{i:02d}.csv"] = _csv_text(train, classes, lengths)
        files[f"test_split{i:02d}.csv"] = _csv_text(test, classes, lengths)
        if not test:
            untested.append(f"{i}")
    if untested:
        warn(f"split {', '.join(untested)} has no test videos, so it can be trained on but not evaluated")
    # A source goes by its class, too, where several classes have one of that name (001.avi in every class).
    sources = {source: source.split("/")[1] for source in map(source_of, lengths)}
    count = Counter(sources.values())
    files["video_source.json"] = _source_text(name if count[name] == 1 else source for source, name in sources.items())
    return files


def k400_files(folder: Path, lengths: dict[str, int]) -> dict[str, str]:
    """Return K400's split files from its lists; videos are named "label/id_000001_000011" as there, or "label/id"."""
    classes = read_classes(SHIPPED / "k400" / CLASS_LIST)
    files = {CLASS_LIST: class_text(classes), "video_source.json": _source_text(lengths)}
    sides = {side: k400_list(folder, side) for side in ("train", "val")}
    everything = [*sides["train"], *sides["val"]]
    labels = class_labels(classes, (name.split("/")[0] for name in everything))
    listed = [name for name in everything if name.split("/")[0] in labels]
    exact, plain = (rules.match([name[:end] for name in listed], lengths) for end in (None, -14))
    found = {name: hit for name in listed if (hit := exact.get(name) or plain.get(name[:-14]))}
    for side, names in sides.items():
        present = [found[name] for name in names if name in found]
        if not present:
            raise DataError(f"no video of the {side} list in {folder} exists: name class folders as in {CLASS_LIST}")
        files[f"{side}_split.csv"] = _csv_text(present, classes, lengths)
    say(f"{sum(name not in found for name in listed)} listed videos are not in the data")
    rules.report_unmatched(folder, listed, found, lengths)
    if unknown := set(everything) - set(listed):
        say(f"{len(unknown)} listed videos are of classes that {CLASS_LIST} lacks, such as "
            f"{min(unknown).split('/')[0]!r}")
    return files


def k400_list(folder: Path, side: str) -> list[str]:
    """Read K400's "train" or "val" list: its videos' names, "label/id_000001_000011"."""
    path = next(iter(sorted(folder.glob(f"*{side}*.csv"))), None)
    if path is None:
        raise DataError(f"no K400 list of {side} videos in {folder}: it should hold {side}.csv")
    names, rows = [], csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        for row in rows:
            start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
            names.append(f"{row['label']}/{row['youtube_id']}_{start:06d}_{end:06d}")
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise DataError(f"{path}, line {rows.line_num}: rows need label, youtube_id, time_start, time_end ({error!r})"
                        ) from error
    return names


def class_text(classes: list[str]) -> str:
    """Return the text of ClassInd.txt: one class a line, indexed if a class's own name begins like an index."""
    indexed = any(re.match(r"\d+[\s,]", name) for name in classes)
    return "".join(f"{i},{name}\n" if indexed else f"{name}\n" for i, name in enumerate(classes, 1))


def _csv_text(names: Collection[str], classes: list[str], lengths: dict[str, int]) -> str:
    """Return lines `Class/video,num_frames`, ordered by class index, then name."""
    label, out = class_labels(classes, (name.split("/")[0] for name in names)), io.StringIO()
    rows = sorted(names, key=lambda name: (label[name.split("/")[0]], name))
    csv.writer(out, lineterminator="\n").writerows((name, lengths[name]) for name in rows)
    return out.getvalue()


def _source_text(sources: Iterable[str]) -> str:
    return json.dumps({source: i for i, source in enumerate(sorted(sources))}, indent=0)


def unchanged(folder: Path, checksums: Mapping[str, int]) -> set[str]:
    """Return the names of those files of a split folder that still have the checksums of :func:`write_files`."""
    return {name for name, checksum in checksums.items()
            if (folder / name).is_file() and zlib.crc32((folder / name).read_bytes()) == checksum}


def write_files(folder: Path, files: dict[str, str], overwrite: bool, own: Collection[str] = ()) -> dict[str, int]:
    """Write a split folder; return the checksums, by name, of the files we wrote.

    ``overwrite`` replaces files of other content, and removes csv lists of other splits; without it only those in
    ``own`` go, and others are a DataError. A ClassInd.txt of the same classes in another notation stays as it is.
    """
    changed = dict(files)
    for name, text in files.items():
        path = folder / name
        if name == CLASS_LIST and path.is_file() and class_text(read_classes(path)) == text:
            del changed[name]
        elif path.exists() and path.read_bytes() != text.encode() and not (overwrite or name in own):
            raise DataError(f"{path} exists with other content: add --overwrite to replace it, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    for name in {*own, *(path.name for path in folder.glob("*_split*.csv") if overwrite)} - set(files):
        (folder / name).unlink()
    for name, text in changed.items():
        write_text(folder / name, text)
        if name.endswith(".csv"):
            say(f"{folder / name}: {text.count(chr(10))} videos")
    return {name: zlib.crc32(text.encode()) for name, text in files.items() if name in changed or name in own}


def count_frames(data: Iterable[Path]) -> dict[str, int]:
    """Count the RGB frames of each video of LMDBs or frame folders: {"Class/video": frames}, sorted by name."""
    lengths: dict[str, int] = {}
    for path in data:
        if path.is_dir() and not (path / "data.mdb").is_file():
            lengths |= {name: len(frame_files(folder, "image")[0]) for name, folder in find_folders(path).items()}
        else:
            lengths |= frame_counts(path)
    return dict(sorted(lengths.items()))


def add_split_options(parser: Parser) -> None:
    add = parser.topic("data")
    add("--name", required=True, help="name of the dataset, as in --dataset")
    add("--splits", type=Path, metavar="FOLDER", help="folder of official lists: trainlist01.txt, testlist01.txt, "
        "classInd.txt; hmdb51: *_test_split1.txt; k400: train.csv, val.csv (default: by source group, else random)")
    add("--seed", type=int, default=0, help="seed of random splits")
    add("--allow_missing", action="store_true", help="leave out listed videos that do not exist")
    add = parser.topic("output")
    add("--split_root", type=Path, default=SHIPPED, metavar="FOLDER", help="for splits (default: process_data/data/)")


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add_split_options(parser)
    parser.topic("data")("--data", type=Path, nargs="+", required=True, help="its RGB LMDBs, or its folder of frames")
    parser.topic("output")("--overwrite", action="store_true", help="replace files of other content")
    return parser


def plan(videos: Iterable[str], renew: bool, /, *, name: str, split_root: Path, splits: Path | None, seed: int,
         allow_missing: bool, **_: Any) -> tuple[list[rules.Split], list[str]]:
    """Return the splits and the classes of a dataset; the keywords are the options of :func:`add_split_options`."""
    found = rules.plan_splits(name, videos, splits, seed, allow_missing)
    used = {video for split in found for side in split for video in side}
    return found, class_list(name, split_root, splits, used, renew)


def main() -> None:
    options = make_parser().parse_args()
    check_name(options.name)
    folder = options.split_root / options.name
    require_writable(folder / "ClassInd.txt")
    lengths = count_frames(options.data)
    if options.name != "k400":
        splits, classes = plan(lengths, options.overwrite, **vars(options))
        files = split_files(classes, splits, lengths)
    elif options.splits is None:
        raise OptionError("K400's splits come from its lists: give the folder of train.csv and val.csv as --splits")
    else:
        files = k400_files(options.splits, lengths)
    write_files(folder, files, options.overwrite)


if __name__ == "__main__":
    run(main)
