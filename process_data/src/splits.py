"""Split the videos of a dataset into training and test videos. Names are "Class/video"."""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path, PurePath

from dataset.video_index import name_key, source_of
from utils.console import say, warn
from utils.errors import DataError, OptionError
from utils.files import read_text

Split = tuple[list[str], list[str]]  # names of training and of test videos
Lists = list[list[str]]  # paths of training and of test videos, and for HMDB51 of unused ones
TEST_SHARE = 0.28  # 7 of UCF101's 25 groups
SPLITS = 3  # of a set without lists
HELD_OUT = 20  # least number of held-out videos that is worth measuring


def plan_splits(name: str, videos: Iterable[str], official: Path | None, seed: int = 0,
                allow_missing: bool = False) -> list[Split]:
    """Split the videos of a dataset by the official lists of a folder; without one by UCF101's rule, or by source.

    Without ``allow_missing``, listed videos must exist.
    """
    videos = list(videos)
    if official is not None:
        if not official.is_dir():
            raise OptionError(f"no folder {official}: --splits is the (unpacked) folder of the official lists")
        lists = hmdb51_lists(official) if name == "hmdb51" else official_lists(official)
        splits = _listed_splits(official, lists, videos, allow_missing)
    elif name == "hmdb51":
        raise OptionError("HMDB51's splits come from its lists: give the folder of *_test_split1.txt as --splits")
    elif name == "ucf101":
        splits = ucf101_splits(videos)
    elif len({video.split("/")[0] for video in videos}) < 2:
        splits = [held_out_split(videos, seed)]
    else:
        splits = source_splits(videos, seed)
    for number, (train, _) in enumerate(splits, 1):
        if not train:
            raise DataError(f"split {number} has no training videos: prepare more videos, correct the lists, or give "
                            "the dataset another --name")
    return splits


def _listed_splits(folder: Path, lists: list[Lists], videos: list[str], allow_missing: bool) -> list[Split]:
    listed = dict.fromkeys(path for split in lists for side in split for path in side)
    found = match(listed, videos)
    missing = [path for path in listed if path not in found]
    if missing and not allow_missing:
        raise DataError(f"the lists in {folder} name {len(missing)} videos that do not exist, such as {missing[0]}: "
                        "get these, remove them from the lists, or leave them out with --allow_missing")
    report_unmatched(folder, listed, found, videos)
    splits: list[Split] = []
    for number, sides in enumerate(lists, 1):
        train, test = ([found[path] for path in side if path in found] for side in sides[:2])
        if both := set(train) & set(test):
            raise DataError(f"split {number} of the lists in {folder} has {min(both)} for training and for testing: "
                            "remove it from one list")
        splits.append((list(dict.fromkeys(train)), list(dict.fromkeys(test))))
    return splits


def match(listed: Iterable[str], videos: Iterable[str]) -> dict[str, str]:
    """Find listed videos among those that exist: {path without ending: "Class/video"}.

    A path may lie deeper, or begin above the class. Where no name is the same, they match by :func:`name_key`.
    """
    names = set(videos)
    keys = Counter(map(name_key, names))
    alike = {key: name for name in names if keys[key := name_key(name)] == 1}
    found = {}
    for path in listed:
        *folders, video = path.split("/")
        tried = [f"{folders[i]}/{name}" for i in reversed(range(len(folders)))  # the folder just above it first
                 for name in ("_".join([*folders[i + 1:], video]), video)]  # as `video_io.find_videos` names it
        hits = [name for name in tried if name in names] or [alike[key] for key in map(name_key, tried) if key in alike]
        if hits:
            found[path] = hits[0]
    return found


def report_unmatched(source: Path, listed: Collection[str], found: Mapping[str, str], videos: Collection[str]) -> None:
    """Warn of listed videos that do not exist, and of videos that no list names, with examples."""
    missing = [path for path in listed if path not in found]
    unlisted = sorted(set(videos) - set(found.values()))
    for names, what in ((missing, f"the {len(listed)} listed videos do not exist"),
                        (unlisted, f"the {len(videos)} videos are in no list, so no split uses them")):
        if names:
            examples = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            warn(f"{source}: {len(names)} of {what}: {examples}")


def ucf101_splits(names: Iterable[str]) -> list[Split]:
    """Return UCF101's official splits: split 1 tests groups 1-7, split 2 groups 8-14, split 3 groups 15-21."""
    tested = {}
    for name in names:
        group = re.search(r"_g(\d+)_c\d+$", name)
        if not group:
            raise DataError(f"{name} is no UCF101 name (v_Class_gNN_cNN): give the dataset another --name")
        tested[name] = (int(group[1]) - 1) // 7
    return [([name for name, block in tested.items() if block != split],
             [name for name, block in tested.items() if block == split]) for split in range(3)]


def source_splits(names: Iterable[str], seed: int = 0) -> list[Split]:
    """Split by source: no source of a class is on both sides; 28 % of its sources, at least one, are tested.

    Where names hold groups (_gNN), split i tests the i-th block of each class's groups, as in UCF101. Otherwise the
    sources are shuffled with the seed. A class of one source is only trained on.
    """
    source = {name: source_of(name) for name in sorted(names)}  # "Class/v_Class_g01"
    grouped = all(re.search(r"_g\d+$", each) for each in source.values())
    shuffle = random.Random(seed).shuffle
    tested: list[set[str]] = [set() for _ in range(SPLITS)]
    for _, of_class in groupby(dict.fromkeys(source.values()), key=lambda each: each.split("/")[0]):
        sources = list(of_class)
        if grouped:
            sources.sort(key=lambda each: int(each.rpartition("_g")[2]))
        else:
            shuffle(sources)
        block = min(max(round(TEST_SHARE * len(sources)), 1), len(sources) - 1)
        for split in range(SPLITS):
            tested[split].update(sources[(split * block + i) % len(sources)] for i in range(block))
    return [([name for name, own in source.items() if own not in test],
             [name for name, own in source.items() if own in test]) for test in tested]


def held_out_split(names: Iterable[str], seed: int = 0) -> Split:
    """Split a set without labels: hold out a tenth of its videos, at least 20, but none if that is over a third.

    A source is held out whole, and only if it is no more than what is still wanted.
    """
    by_source: dict[str, list[str]] = {}
    for name in sorted(names):
        by_source.setdefault(source_of(name), []).append(name)
    videos = sum(map(len, by_source.values()))
    wanted, held = max(round(videos / 10), HELD_OUT), set[str]()
    for source in random.Random(seed).sample(sorted(by_source), len(by_source)) if 3 * wanted <= videos else []:
        if len(held) + len(by_source[source]) <= wanted:
            held.update(by_source[source])
    say(f"{len(held)} of {videos} videos are held out: they are not trained on, and check what was learnt" if held else
        f"no videos are held out to check what is learnt: that takes {3 * wanted} videos, and there are {videos}")
    return [name for name in sorted(names) if name not in held], sorted(held)


def list_folder(folder: Path, pattern: str) -> Path:
    """Return the folder that holds lists: the given one, or the one in it that a zip file makes around them."""
    found = {path.parent for path in folder.rglob(pattern) if not path.name.startswith(".")}
    return found.pop() if len(found) == 1 else folder


def official_lists(folder: Path) -> list[Lists]:
    """Read `trainlist01.txt`, `testlist01.txt`, ... of a folder: lines "Class/video.ext", labels ignored."""
    folder, splits = list_folder(folder, "trainlist*.txt"), list[Lists]()
    for train in sorted(folder.glob("trainlist*.txt"), key=lambda path: (len(path.name), path.name)):
        test = train.with_name(train.name.replace("train", "test", 1))
        if not test.is_file():
            raise DataError(f"{train} has no {test.name} beside it")
        splits.append([_listed(train), _listed(test)])
    if not splits:
        raise DataError(f"no split lists in {folder}: it should hold trainlist01.txt and testlist01.txt")
    return splits


def _listed(path: Path) -> list[str]:
    names = []
    for place, line in _lines(path):
        line = re.sub(r"(?<=\.)(\w{2,5})([\s,]+\d+)+$|[\s,]+\d+$", r"\1", line)  # a label, or frames and a label
        entry = PurePath(line if "/" in line else line.replace("\\", "/"))
        if len(entry.parts) < 2:
            raise DataError(f"{place}: {line!r} should read Class/video.ext")
        names.append(f"{entry.parent.as_posix()}/{entry.stem}")
    return names


def hmdb51_lists(folder: Path) -> list[Lists]:
    """Read HMDB51's `<class>_test_split{1,2,3}.txt`: 1 is for training, 2 for testing, 0 for neither."""
    folder, splits = list_folder(folder, "*_test_split1.txt"), list[Lists]()
    for end in (f"_test_split{split}.txt" for split in (1, 2, 3)):
        names: dict[str, list[str]] = {"1": [], "2": [], "0": []}
        for path in sorted(folder.glob(f"[!.]*{end}")):
            for place, line in _lines(path):
                words = line.rsplit(maxsplit=1)
                if len(words) < 2 or words[1] not in names:
                    raise DataError(f"{place}: {line!r} should read 'video.avi 1', with 1 for training, 2 for testing, "
                                    "0 for neither")
                names[words[1]].append(f"{path.name.removesuffix(end)}/{Path(words[0]).stem}")
        if not names["1"]:
            raise DataError(f"no HMDB51 lists in {folder}: it should hold brush_hair{end}, ...")
        splits.append(list(names.values()))
    return splits


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()
