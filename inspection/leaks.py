"""What lies in both the training and the test part of a split, and so makes a test look better than it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GROUP = re.compile(r"_g(\d+)(_c\d+)?$")  # of UCF101's names: videos of a class and a group are cut from one recording


@dataclass(frozen=True)
class Leak:
    """One source that is in both parts. source: its id. train, test: the videos of it."""

    source: int
    train: list[str]
    test: list[str]


@dataclass(frozen=True)
class Leaks:
    """What is in both parts: videos by name, groups as (class, number), sources by id; in the order of the test list.

    Mostly the same leak is seen in several ways: a group is a source wherever video_source.json says nothing else.
    """

    videos: list[str]
    groups: list[tuple[str, int]]
    sources: list[Leak]

    def __bool__(self) -> bool:
        return bool(self.videos or self.groups or self.sources)


def group_of(name: str) -> tuple[str, int] | None:
    """Class and group of a video "Class/v_Class_gNN_cNN"; None where its name has no group."""
    found = GROUP.search(name)
    return (name.split("/")[0], int(found[1])) if found else None


def find(train: Sequence[str], test: Sequence[str], train_sources: np.ndarray, test_sources: np.ndarray) -> Leaks:
    """The leaks between two lists of videos. The sources: ids of each list's videos, int64 (n,)."""
    known, known_groups = set(train), {group_of(name) for name in train}
    groups = dict.fromkeys(group for group in map(group_of, test) if group and group in known_groups)
    shared = set(train_sources.tolist()) & set(test_sources.tolist())
    by_source: dict[int, Leak] = {}
    for part, names, ids in (("test", test, test_sources), ("train", train, train_sources)):
        for name, source in zip(names, ids.tolist(), strict=True):
            if source in shared:
                leak = by_source.setdefault(source, Leak(source, [], []))
                getattr(leak, part).append(name)
    return Leaks([name for name in dict.fromkeys(test) if name in known], list(groups), list(by_source.values()))
