"""Which videos train and which test: the rules of every kind of data set. Names are "Class/video"."""

import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from process_data.src.console import complain
from process_data.src.errors import PrepareError
from process_data.src.files import read_text

Split = tuple[list[str], list[str]]  # train and test names
TEST_SHARE = 0.28  # 7 of UCF101's 25 groups


def source_of(name: str) -> str:
    """The source of a video: its name without the class folder and the suffix _cNN."""
    return re.sub(r"_c\d+$", "", name.split("/")[-1])


def source_keys(names: Iterable[str]) -> dict[str, str]:
    """What each video's source is called in video_source.json: its source, with the class where two classes share one.

    A user's videos may be called 001.avi, 002.avi, ... in every class, and are then not of the same source.
    """
    classes: dict[str, set[str]] = {}
    names = list(names)
    for name in names:
        classes.setdefault(source_of(name), set()).add(name.split("/")[0])
    return {name: source if len(classes[source]) == 1 else f"{name.split('/')[0]}/{source}"
            for name, source in ((name, source_of(name)) for name in names)}


def require_training(splits: Iterable[Split]) -> None:
    """Raises PrepareError for a split without training videos."""
    empty = [f"{number}" for number, (train, _) in enumerate(splits, 1) if not train]
    if empty:
        raise PrepareError(f"split {', '.join(empty)} has no training videos: prepare more videos, or correct the "
                           "lists, or give the set another --name")


def warn_untested(splits: Iterable[Split]) -> None:
    """Say which splits have no test videos."""
    empty = [f"{number}" for number, (_, test) in enumerate(splits, 1) if not test]
    if empty:
        complain(f"warning: split {', '.join(empty)} has no test videos, so it can be trained on but not evaluated")


def ucf101_splits(names: Iterable[str]) -> list[Split]:
    """UCF101's three official splits: split 1 tests groups 1-7, split 2 groups 8-14, split 3 groups 15-21."""
    names = list(names)
    tested = [(_group(name) - 1) // 7 for name in names]
    return [
        ([n for n, t in zip(names, tested, strict=True) if t != split],
         [n for n, t in zip(names, tested, strict=True) if t == split])
        for split in range(3)
    ]


def _group(name: str) -> int:
    found = re.search(r"_g(\d+)_c\d+$", name)
    if not found:
        raise PrepareError(f"{name} is no UCF101 name (v_Class_gNN_cNN): give the set another --name")
    return int(found[1])


def source_splits(names: Iterable[str], seed: int = 0) -> list[Split]:
    """Three splits by source: no source of a class is on both sides; 28 % of its sources, at least one, are tested.

    Where names hold groups (_gNN), split i tests the i-th block of each class's groups, so 25 groups give UCF101's
    splits; other names are taken in an order drawn from the seed. A class of one source is trained on only.
    """
    names = sorted(names)
    grouped = all(re.search(r"_g\d+(_c\d+)?$", name) for name in names)
    by_class: dict[str, list[str]] = {}
    for name in names:
        sources = by_class.setdefault(name.split("/")[0], [])
        if source_of(name) not in sources:
            sources.append(source_of(name))
    shuffle = random.Random(seed).shuffle
    tested: list[set[tuple[str, str]]] = [set(), set(), set()]
    for label, sources in by_class.items():
        if grouped:
            sources.sort(key=lambda source: int(source.rpartition("_g")[2]))
        else:
            shuffle(sources)
        block = min(max(round(TEST_SHARE * len(sources)), 1), len(sources) - 1)
        for split in range(3):
            tested[split].update((label, sources[(split * block + i) % len(sources)]) for i in range(block))
    where = {name: (name.split("/")[0], source_of(name)) for name in names}
    return [([n for n in names if where[n] not in test], [n for n in names if where[n] in test]) for test in tested]


def official_splits(folder: Path) -> list[Split]:
    """The splits of `trainlist01.txt`, `testlist01.txt`, ... in a folder; lines "Class/video.ext", labels ignored."""
    splits = []
    for train in sorted(folder.glob("trainlist*.txt")):
        test = train.with_name(train.name.replace("train", "test", 1))
        if not test.is_file():
            raise PrepareError(f"{train} has no {test.name} beside it")
        splits.append((_listed(train), _listed(test)))
        both = set(splits[-1][0]) & set(splits[-1][1])
        if both:
            raise PrepareError(f"{train.name} and {test.name} in {folder} both list {min(both)}: remove it from one")
    if not splits:
        raise PrepareError(f"no split lists in {folder}: it should hold trainlist01.txt and testlist01.txt")
    return splits


def _listed(path: Path) -> list[str]:
    names = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        entry = re.sub(r"\s+\d+$", "", line.strip())
        if not entry:
            continue
        listed = PurePath(entry)
        name = "/".join((*listed.parts[-2:-1], listed.stem))
        if "/" not in name:
            raise PrepareError(f"{path}, line {number}: {entry!r} should read Class/video.ext")
        names.append(name)
    _refuse_twice(path, names)
    return names


def _refuse_twice(path: Path, names: list[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise PrepareError(f"{path} lists {twice} twice: remove one of its lines")


def hmdb51_splits(folder: Path) -> list[Split]:
    """HMDB51's splits from its `<class>_test_split{1,2,3}.txt` lists: 1 trains, 2 tests, 0 is left out."""
    splits: list[Split] = []
    for split in (1, 2, 3):
        train: list[str] = []
        test: list[str] = []
        for path in sorted(folder.glob(f"*_test_split{split}.txt")):
            name = path.name.removesuffix(f"_test_split{split}.txt")
            for video, use in _uses(path):
                {"1": train, "2": test, "0": []}[use].append(f"{name}/{video}")
        if not train:
            raise PrepareError(f"no HMDB51 lists in {folder}: it should hold brush_hair_test_split{split}.txt, ...")
        splits.append((train, test))
    return splits


def _uses(path: Path) -> list[tuple[str, str]]:
    """The videos of an HMDB51 list and what they are for: "0", "1" or "2"."""
    entries = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.rsplit(maxsplit=1)
        if not words:
            continue
        if len(words) < 2 or words[1] not in ("0", "1", "2"):
            raise PrepareError(f"{path}, line {number}: {line.strip()!r} should read 'video.avi 1', with 1 for "
                               "training, 2 for testing, 0 for neither")
        entries.append((Path(words[0]).stem, words[1]))
    _refuse_twice(path, [video for video, _ in entries])
    return entries
