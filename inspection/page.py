"""A survey as text for the console. Names are escaped, and stay in their line."""

from collections.abc import Iterator, Sequence

from eval.report import table
from inspection.split import Count, Part, Split
from inspection.spread import Spread
from inspection.store import Store
from inspection.survey import Survey
from inspection.worries import counted, worries
from utils.console import one_line

MOST_LEAKS = 10  # lines of each kind
MOST_CLASSES = 24  # in the table; of more, the largest and the smallest
BAR = 30  # characters of the longest


def lines(survey: Survey) -> Iterator[str]:
    """All lines, from the LMDBs to the worries."""
    every = f", every {survey.ds} frames" if survey.ds > 1 else ""
    yield (f"{survey.name}: {' and '.join(survey.streams)}, {counted(survey.clips, 'clip')} a training sample, of "
           f"{counted(survey.seq_len, 'frame')}{every}")
    yield from ("", *_stores(survey.stores), "")
    for pair in survey.pairs:
        fit = f"of {len(pair.odd):,} of them flow does not have" if pair.odd else "flow has"
        yield (f"RGB beside flow: {counted(pair.both, 'video')} in both, {len(pair.only_rgb):,} in RGB alone, "
               f"{len(pair.only_flow):,} in flow alone; {fit} one frame less than RGB")
    for split in survey.splits:
        yield from ("", *_split(survey, split))
    found = worries(survey)
    yield from ("", f"{counted(len(found), 'thing')} to look at:" if found else "nothing to worry about")
    yield from (f"  - {one_line(line, 400)}" for line in found)


def _stores(stores: Sequence[Store]) -> list[str]:
    header = ["LMDB", "for", "videos", "frames", "MB", "ends", "decoded", "damaged", "JPEG bytes (median)", "pixels"]
    rows = [[store.kind + ("" if store.used else " (not used)"), ", ".join(store.parts), f"{store.videos:,}",
             f"{store.frames:,}", f"{store.file_bytes / 1e6:.1f}", "yes" if store.with_ends else "no",
             f"{store.looked_at[1]:,} of {counted(store.looked_at[0], 'video')}",
             f"{sum(map(len, store.damaged.values())):,}", _range(store.jpeg_bytes), _sizes(store.sizes)]
            for store in stores]
    return [*table(header, rows).splitlines(), *(f"{store.kind}: {one_line(store.path)}" for store in stores)]


def _range(spread: Spread | None) -> str:
    """ "310-4,120 (1,205)"."""
    return f"{spread.smallest:,}-{spread.largest:,} ({spread.median:,.0f})" if spread else "-"


def _sizes(sizes: dict[str, int]) -> str:
    """The most frequent size."""
    return (next(iter(sizes)) + (f" and {len(sizes) - 1} more" if len(sizes) > 1 else "")) if sizes else "-"


def _split(survey: Survey, split: Split) -> Iterator[str]:
    parts = [part for part in (split.train, split.test) if part]
    yield f"split {split.number}: {', '.join(one_line(part.csv) for part in parts)}"
    yield ""
    titles = [title for title, part in (("train", split.train), ("test", split.test)) if part]
    rows = [[name, *(row(part) for part in parts)] for name, row in _rows(survey, split, parts).items()]
    yield from table(["", *titles], rows).splitlines()
    yield from ("", *_histogram(split), "", *_classes(split.classes), "", *_leaks(split))


def _rows(survey: Survey, split: Split, parts: Sequence[Part]) -> dict:
    """The lines of a split's table: the name of each, and what it is of a part."""
    reasons = sorted({reason for part in parts for reason in part.dropped})
    of_frames = {f"frames a video, {name}": name for name in ("smallest", "median", "mean", "largest")}
    return {
        "videos listed": lambda part: f"{part.listed:,}",
        "kept": lambda part: f"{part.kept:,}",
        "dropped": lambda part: f"{part.listed - part.kept:,}",
        **{f"  {reason}": lambda part, reason=reason: f"{len(part.dropped.get(reason, [])):,}" for reason in reasons},
        "listed more than once": lambda part: f"{len(part.twice):,}",
        "more frames listed than held": lambda part: f"{len(part.overstated):,}",
        **{title: lambda part, name=name: _number(part.frames, name) for title, name in of_frames.items()},
        "clips an epoch of training": lambda part: "-" if part is split.test else f"{part.kept * survey.clips:,}",
        "windows, all of them": lambda part: "too long" if part.windows is None else f"{part.windows:,}",
        "siblings a video, median": lambda part: _number(part.siblings, "median"),
        "siblings a video, largest": lambda part: _number(part.siblings, "largest"),
        "videos without a sibling": lambda part: f"{part.alone:,}"}


def _number(spread: Spread | None, name: str) -> str:
    return "-" if spread is None else f"{getattr(spread, name):,.1f}".removesuffix(".0")


def _histogram(split: Split) -> list[str]:
    """How many videos have how many frames, in numbers and as bars."""
    most = max((train + test for _, _, train, test in split.histogram), default=1)
    rows = [[f"{low}-{high}" if high > low else f"{low}", f"{train:,}", f"{test:,}",
             ("#" * _bar(train, most) + "+" * _bar(test, most)).ljust(BAR)]
            for low, high, train, test in split.histogram]
    header = ["frames a video", "train", "test", "# train, + test".ljust(BAR)]
    return [line.rstrip() for line in table(header, rows).splitlines()]


def _bar(count: int, most: int) -> int:
    return -(-count * BAR // most) if most > 0 and count else 0


def _classes(classes: Sequence[Count]) -> Iterator[str]:
    counts = [count.train for count in classes if count.train]
    yield f"{counted(len(classes), 'class')}, {len(counts):,} with training videos{_balance(counts)}"
    shown = sorted(classes, key=lambda count: -count.train)
    left_out = max(0, len(shown) - MOST_CLASSES)
    half = MOST_CLASSES // 2
    if left_out:
        yield f"  (the {half} largest and the {half} smallest; --json has all)"
        shown = shown[:half] + shown[-half:]
    rows = [[one_line(count.name, 40), f"{count.train:,}", f"{count.test:,}", f"{count.train_groups:,}",
             f"{count.test_groups:,}"] for count in shown]
    header = ["class", "train videos", "test videos", "train groups", "test groups"]
    yield from table(header, rows).splitlines()


def _balance(counts: Sequence[int]) -> str:
    """How even the classes are, from the videos of each."""
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    if low == high:
        return f": {counted(low, 'video')} in each"
    return f": {low:,} to {high:,}, the largest class {high / low:.1f} times the smallest"


def _leaks(split: Split) -> Iterator[str]:
    leaks = split.leaks
    if not (split.train and split.test):
        yield "leaks between train and test: there are not both lists"
        return
    yield (f"leaks between train and test: {counted(len(leaks.videos), 'video')}, "
           f"{counted(len(leaks.groups), 'group')}, {counted(len(leaks.sources), 'source')}")
    yield from _first(f"  video {one_line(name)}" for name in leaks.videos)
    yield from _first(f"  group {number:02d} of class {one_line(name)}" for name, number in leaks.groups)
    yield from _first(f"  source {leak.source}: in train {one_line(leak.train[0])} ({len(leak.train):,}), in test "
                      f"{one_line(leak.test[0])} ({len(leak.test):,})" for leak in leaks.sources)


def _first(found: Iterator[str]) -> Iterator[str]:
    for number, line in enumerate(found):
        if number == MOST_LEAKS:
            yield "  ... (--json has all)"
            return
        yield line
