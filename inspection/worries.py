"""What of a survey someone should look at before they train: one line each."""

from collections.abc import Iterator, Mapping, Sequence

from inspection.pair import Pair
from inspection.rows import SHORT
from inspection.split import Part, Split
from inspection.store import Store
from inspection.survey import Survey

MOST_SHORT = 0.05  # share of a list


def worries(survey: Survey) -> list[str]:
    """All of them, leaks first; empty where all is well. Names in them are not escaped."""
    lists = [line for split in survey.splits for line in _of_split(split)]
    return ([f"split {split.number} leaks: {leak_summary(split)}" for split in survey.splits if split.leaks] + lists
            + [line for pair in survey.pairs for line in _of_pair(pair)]
            + [line for store in survey.stores for line in _of_store(store)])


def leak_summary(split: Split) -> str:
    """How much of it: "2 videos, 1 group, 1 source in train and test"."""
    leaks = split.leaks
    counts = [counted(len(found), noun) for found, noun in
              ((leaks.videos, "video"), (leaks.groups, "group"), (leaks.sources, "source")) if found]
    return f"{', '.join(counts)} in train and test"


def counted(count: int, noun: str) -> str:
    """ "1 video", "2 videos", "2 classes"."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def some(names: Sequence[str] | Mapping[str, object], most: int = 3) -> str:
    """The first names of several."""
    return ", ".join(list(names)[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _of_split(split: Split) -> Iterator[str]:
    for title, part in (("train", split.train), ("test", split.test)):
        if part is None:
            yield f"split {split.number} has no {title} list"
        else:
            yield from _of_part(f"split {split.number}, {title}", part)
    for title in ("train", "test"):
        empty = [count.name for count in split.classes if not getattr(count, title)]
        if empty and getattr(split, title):
            yield f"split {split.number}: {counted(len(empty), 'class')} without a {title} video: {some(empty)}"


def _of_part(where: str, part: Part) -> Iterator[str]:
    if part.refused:
        yield f"{where}: training and evaluation refuse the list: {part.refused}"
    for reason, names in part.dropped.items():
        if reason != SHORT or len(names) > MOST_SHORT * part.listed:
            yield f"{where}: {counted(len(names), 'video')} dropped, {reason}: {some(names)}"
    if part.twice:
        yield f"{where}: {counted(len(part.twice), 'video')} listed more than once: {some(part.twice)}"
    if part.overstated:
        yield (f"{where}: {counted(len(part.overstated), 'video')} with more frames in the list than in the LMDB: "
               f"{some(part.overstated)}")


def _of_pair(pair: Pair) -> Iterator[str]:
    for kind, names in (("RGB", pair.only_rgb), ("flow", pair.only_flow)):
        if names:
            yield f"{counted(len(names), 'video')} in the {kind} LMDB alone: {some(names)}"
    if pair.odd:
        first = next(iter(pair.odd))
        yield (f"{counted(len(pair.odd), 'video')} where flow does not have one frame less than RGB: {first} has "
               f"{pair.odd[first][0]} RGB and {pair.odd[first][1]} flow frames")


def _of_store(store: Store) -> Iterator[str]:
    where = f"{store.kind} LMDB ({' and '.join(store.parts)})"
    frames = sum(map(len, store.damaged.values()))
    if frames:
        name, damaged = next(iter(store.damaged.items()))
        number, reason = next(iter(damaged.items()))
        yield (f"{where}: {counted(frames, 'damaged frame')} in {counted(len(store.damaged), 'video')}: {name}, frame "
               f"{number} {reason}")
    for name, reason in list(store.faulty.items())[:3]:
        yield f"{where}: {name} is at fault: {reason}"
    if len(store.faulty) > 3:
        yield f"{where}: {counted(len(store.faulty) - 3, 'more video')} at fault"
    if store.mixed:
        yield f"{where}: {counted(len(store.mixed), 'video')} with frames of several sizes: {some(store.mixed)}"
