"""Look at a dataset before training on it: lengths, dropped videos, leaks, copies, damaged and still videos, pictures.

    python -m tools.inspect_dataset ucf101
    python -m tools.inspect_dataset mine-2stream-2clip --seq_len 16 --json mine.json --out runs/inspect_mine
    python -m tools.inspect_dataset mine --all --clips 0      # decode every frame, draw no film strips

What it finds is on a page, `inspect.html` in --out. The exit code is 0 without leaks, 1 if train and test of a split
share a video, copies of one, a group or a source, and 2 if the dataset cannot be looked at. With --strict it is 3 if
there are other issues. See docs/data.md.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from engine.options import SECOND_VIEWS, add_roots, positive_int, seed, whole_number
from tools import pages, pictures
from tools.dataset_survey import PARTS, TOO_SHORT, Dataset, Lmdb, Split, check_lmdbs, compare_videos, survey_split
from utils import launch
from utils.console import inline, one_line, say
from utils.errors import DataError
from utils.files import write_json
from utils.parser import Parser

LINES = 10  # on the console
STRIP_FRAMES, STRIP_HEIGHT = 8, 96  # of a film strip; pixels
THUMBS, THUMB_HEIGHT = 1000, 90  # on the page at most, videos to look at first; pixels
BINS = 24  # of the histogram of lengths


def make_parser() -> Parser:
    """Return the parser of the options."""
    parser = Parser(prog="python -m tools.inspect_dataset", description=__doc__)
    parser.add_argument("dataset", metavar="NAME", help="dataset name, as the scripts' --dataset takes it")
    add = parser.topic("data")
    add("--which_split", type=positive_int, metavar="N", help="the only split to look at (default: all)")
    add("--second_view", choices=SECOND_VIEWS, default="flow", help="what the second view is")
    add("--seq_len", type=positive_int, default=32, metavar="FRAMES", help="frames per clip")
    add("--ds", type=positive_int, default=1, metavar="FRAMES", help="take every ds-th frame")
    add_roots(parser)
    add = parser.topic("evaluation")
    add("--sample", type=positive_int, default=100, metavar="N", help="videos of each LMDB to decode some "
        "frames of")
    add("--all", action="store_true", help="decode all frames of all videos, which finds every damaged one")
    add("--seed", type=seed, default=0, help="seed of the videos that are decoded and drawn")
    add("--strict", action="store_true", help="exit with 3 if there are no leaks but other issues")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="folder of the page (default: runs/inspect_NAME)")
    add("--clips", type=whole_number, default=4, metavar="N", help="videos of each part to draw as strips; 0: none")
    add("--json", type=Path, metavar="FILE", help="also write all that was found, every name included")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Survey a dataset, write and print what was found, and return the exit code."""
    args = make_parser().parse_args(argv)
    dataset = Dataset(catalog.parse(args.dataset, args.second_view), Path(args.data_root), Path(args.split_root),
                      args.seq_len, args.ds)
    splits = [survey_split(dataset, number) for number in dataset.splits(args.which_split)]
    lmdbs = check_lmdbs(dataset, None if args.all else args.sample, args.seed)
    problems, near = compare_videos(dataset, splits, args.seed)
    issues, flags = list[str](), defaultdict[str, list[str]](list)
    for line, words in find_issues(splits, lmdbs, problems, near):
        issues.append(line)
        for name, flag in words.items():
            flags[name].append(flag)
    any_leak = any(split.leaks for split in splits)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, {"dataset": args.dataset, "seq_len": args.seq_len, "ds": args.ds, "any_leak": any_leak,
                               "issues": issues, "near_duplicates": near, "lmdbs": [asdict(lmdb) for lmdb in lmdbs],
                               "splits": [asdict(split) for split in splits]})
    out = args.out or Path("runs", f"inspect_{args.dataset}")
    out.mkdir(parents=True, exist_ok=True)
    strips = draw_strips(dataset, {title: part.kept for title, part in splits[0].parts.items()}, args.clips, args.seed)
    lengths = {name: count for lmdb in lmdbs[::-1] for name, count in lmdb.num_frames.items()}  # RGB's where there is
    counts, edges = (each.tolist() for each in np.histogram(list(lengths.values()), BINS))
    drawn = draw_thumbs(dataset, sorted(lengths, key=lambda name: (name not in flags, name)))
    pages.write(out / "inspect.html", "inspect.html", dataset=dataset, splits=splits, lmdbs=lmdbs, issues=issues,
                near=near, flags=flags, lengths=lengths, thumbs=drawn,
                histogram=list(zip(counts, edges[:-1], edges[1:], strict=True)),
                per_class=lambda split, part: [*Counter(split.class_of(part.kept)).values()], strips=strips,
                legend=pictures.data_uri(pictures.flow_legend()))
    for line in report(dataset, splits, lmdbs, issues):
        say(line)
    say(inline(f"page: {out / 'inspect.html'}"))
    return 1 if any_leak else 3 if args.strict and issues else 0


def report(dataset: Dataset, splits: Sequence[Split], lmdbs: Sequence[Lmdb], issues: Sequence[str]) -> Iterator[str]:
    """Yield the lines for the console: the page says more."""
    every = f", every {dataset.ds} frames" if dataset.ds > 1 else ""
    yield f"{dataset.spec.name}: clips of {counted(dataset.seq_len, 'frame')}{every}"
    for lmdb in lmdbs:
        yield (f"{lmdb.kind} of {' and '.join(lmdb.parts)}: {counted(len(lmdb.num_frames), 'video')}, "
               f"{sum(lmdb.num_frames.values()):,} frames; of {sum(lmdb.decoded.values()):,} decoded "
               f"{sum(map(len, lmdb.damaged.values())):,} damaged, {counted(len(lmdb.still), 'video')} still")
    for split in splits:
        parts = (f"{title} {len(part.kept):,} of {counted(len(part.names), 'video')} ({_span(part.num_frames)} frames)"
                 for title, part in split.parts.items())
        yield f"split {split.number}: {', '.join(parts)}; leaks: {leak_counts(split) or 'none'}"
    yield f"{counted(len(issues), 'issue')}:" if issues else "no issues found"
    shown = max(1, LINES - 3 - len(lmdbs) - len(splits))
    yield from (f"  - {one_line(line, 160)}" for line in issues[:shown])


def _span(counts: Collection[int]) -> str:
    return f"{min(counts):,} - {max(counts):,}" if counts else "no"


def find_issues(splits: Sequence[Split], lmdbs: Sequence[Lmdb], problems: Mapping[str, str] | None = None,
                near: Mapping[str, Sequence[str]] | None = None) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield what to look at before a training, a line each, leaks first, with a few words on each video in question.

    See `compare_videos` for the last two.
    """
    for split in splits:
        if split.leaks:
            yield f"split {split.number}: train and test share {leak_counts(split)}", {}
    for split in splits:
        yield from _split_issues(split)
    if problems:
        what = " that evaluation reads slowly, or not at all"
        yield f"{_examples(problems, what)}: {next(iter(problems.values()))}", problems
    for lmdb in lmdbs:
        few = f" ({counted(len(lmdb.decoded), 'video')} decoded)" if len(lmdb.decoded) < len(lmdb.num_frames) else ""
        where = f"{lmdb.kind} LMDB of {' and '.join(lmdb.parts)}{few}"
        if lmdb.damaged:
            reasons = [reason for frames in lmdb.damaged.values() for reason in frames.values()]
            yield (f"{where}: {counted(len(reasons), 'damaged frame')} in {counted(len(lmdb.damaged), 'video')}: "
                   f"{reasons[0]}", {name: f"{lmdb.kind}: {counted(len(frames), 'damaged frame')}"
                                     for name, frames in lmdb.damaged.items()})
        if lmdb.still:
            most = "most frames of" if lmdb.kind == "RGB" else "next to no motion in most frames of"
            yield (f"{where}: {most} {_examples(lmdb.still, ' do not move' if lmdb.kind == 'RGB' else '')}",
                   {name: f"{lmdb.kind}: {100 * share:.0f} % of the frames still"
                    for name, share in lmdb.still.items()})
        if lmdb.stretches:
            yield f"{where}: {_examples(lmdb.stretches, ' with a still stretch that holds a whole clip')}", {}
    if near:
        yield (_examples(near, " that another one nearly equals"),
               {name: f"like {', '.join(others)}" for name, others in near.items()})
    for part in PARTS:
        counts = {lmdb.kind: lmdb.num_frames for lmdb in lmdbs if lmdb.parts[0] == part}
        rgb = counts.get("RGB", {})
        odd = [name for name, count in counts.get("flow", {}).items() if rgb.get(name) != count + 1]
        if odd and rgb:
            yield _examples(odd, " where flow does not have one frame less than RGB"), {}


def _split_issues(split: Split) -> Iterator[tuple[str, Mapping[str, str]]]:
    for title in PARTS:
        if title not in split.parts:
            yield f"split {split.number} has no {title} list", {}
            continue
        where, part = f"split {split.number}, {title}:", split.parts[title]
        if part.refused:
            yield f"{where} training and evaluation refuse the list: {part.refused}", {}
        for reason, names in part.dropped.items():
            if reason != TOO_SHORT or len(names) > 0.05 * len(part.names):  # a few short ones are normal
                yield (f"{where} {_examples(names, f' dropped, {reason}')}",
                       dict.fromkeys(names, f"dropped from {title} of split {split.number}: {reason}"))
        if twice := [name for name, count in Counter(part.names).items() if count > 1]:
            yield f"{where} {_examples(twice, ' listed more than once')}", {}
        if empty := sorted(set(split.classes) - set(split.class_of(part.kept))):
            yield f"{where} {_examples(empty, ' without a video', 'class')}", {}


def leak_counts(split: Split) -> str:
    """Return "2 videos, 1 group, 1 source", or "" without leaks."""
    return ", ".join(counted(count, kind) for kind, count in Counter(leak.kind for leak in split.leaks).items())


def counted(count: int, noun: str) -> str:
    """Return "1 video", "2 videos", "2 classes" or "2 copies"."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


def _examples(names: Collection[str], what: str, noun: str = "video") -> str:
    """Return "5 videos dropped: the first three names and 2 more"."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"{counted(len(names), noun)}{what}: {', '.join(list(names)[:3])}{more}"


def draw_strips(dataset: Dataset, parts: Mapping[str, Sequence[str]], videos: int, seed: int) -> dict[str, list[str]]:
    """Draw film strips of some videos of each part, RGB above flow in colours."""
    found: dict[str, list[str]] = {}
    for title, names in parts.items():
        shuffled = np.random.default_rng(seed).permutation(names).tolist()
        for name, frames in islice(_read(dataset, title, shuffled), videos):
            found[f"{title}: {name}"] = [_picture(kind, images, STRIP_HEIGHT) for kind, images in frames.items()]
    return found


def draw_thumbs(dataset: Dataset, names: Sequence[str]) -> dict[str, str]:
    """Draw the middle frame of the first videos that can be read."""
    found: dict[str, str] = {}
    for part in PARTS:
        for name, frames in _read(dataset, part, [name for name in names[:THUMBS] if name not in found], 1):
            found[name] = _picture(*next(iter(frames.items())), THUMB_HEIGHT, 65)
    return {name: found[name] for name in names[:THUMBS] if name in found}


def _picture(kind: str, images: np.ndarray, height: int, quality: int = 80) -> str:
    if kind == "flow":
        images = pictures.flow_to_colour(pictures.flow_from_frames(images))
    return pictures.data_uri(pictures.film_strip(images, height), quality)


def _read(dataset: Dataset, part: str, names: Sequence[str], count: int = STRIP_FRAMES
          ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield frames of each video that can be read, by "RGB" and "flow"; the report names the others."""
    readers = {kind: LmdbReader(path) for kind, path in dataset.lmdbs(part).items()}
    for name in names:
        with suppress(DataError):
            numbers = pictures.evenly_spaced(min(reader.num_frames(name) for reader in readers.values()), count)
            yield name, {kind: reader.frames(name, numbers) for kind, reader in readers.items()}


if __name__ == "__main__":
    launch.run(main)
