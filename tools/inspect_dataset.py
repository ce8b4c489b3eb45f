"""Look at a dataset before training on it: lengths, dropped videos, leaks, copies, damaged and still videos, pictures.

    python -m tools.inspect_dataset ucf101
    python -m tools.inspect_dataset mine-2stream-2clip --seq_len 16 --json mine.json --out runs/inspect_mine
    python -m tools.inspect_dataset mine --all --clips 0      # decode every frame, draw no film strips

What it finds is on a page, `inspect.html` in --out. The exit code is 0 without leaks, 1 if train and test of a split
share a video, copies of one, a group or a source, and 2 if the dataset cannot be looked at. See docs/data.md.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from engine.options import SECOND_VIEWS, add_roots, positive_int, whole_number
from tools.dataset_survey import PARTS, TOO_SHORT, Dataset, Lmdb, Split, check_lmdbs, compare_videos, survey_split
from tools.pictures import data_uri, evenly_spaced, flow_legend, strip_uri, write_page
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
    parser = Parser(prog="python -m tools.inspect_dataset", description=__doc__)
    parser.add_argument("dataset", metavar="NAME", help="dataset name, as the scripts' --dataset takes it")
    add = parser.topic("data")
    add("--which_split", type=positive_int, metavar="N", help="the only split to look at (default: all)")
    add("--second_view", choices=SECOND_VIEWS, default="flow", help="what the second view is")
    add("--seq_len", type=positive_int, default=32, metavar="FRAMES", help="frames per clip")
    add("--ds", type=positive_int, default=1, metavar="FRAMES", help="take every ds-th frame")
    add_roots(parser)
    add = parser.topic("evaluation")
    add("--sample", type=positive_int, default=100, metavar="N", help="videos of each LMDB to decode frames of")
    add("--all", action="store_true", help="decode all frames of all videos, which finds every damaged one")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="folder of the page (default: runs/inspect_NAME)")
    add("--clips", type=whole_number, default=4, metavar="N", help="videos of each part to draw as strips; 0: none")
    add("--json", type=Path, metavar="FILE", help="also write all that was found, every name included")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    dataset = Dataset(catalog.parse(args.dataset, args.second_view), Path(args.data_root), Path(args.split_root),
                      args.seq_len, args.ds)
    splits = [survey_split(dataset, number) for number in dataset.splits(args.which_split)]
    lmdbs = check_lmdbs(dataset, None if args.all else args.sample)
    near = compare_videos(dataset, splits)
    issues = list(find_issues(splits, lmdbs, near))
    any_leak = any(split.leaks for split in splits)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, {"dataset": args.dataset, "seq_len": args.seq_len, "ds": args.ds, "any_leak": any_leak,
                               "issues": issues, "near_duplicates": near, "lmdbs": [asdict(lmdb) for lmdb in lmdbs],
                               "splits": [asdict(split) for split in splits]})
    out = args.out or Path("runs", f"inspect_{args.dataset}")
    out.mkdir(parents=True, exist_ok=True)
    lengths = {name: count for lmdb in lmdbs[::-1] for name, count in lmdb.num_frames.items()}  # RGB's where there is
    counts, edges = (each.tolist() for each in np.histogram(list(lengths.values()), BINS))
    dropped = (names for split in splits for part in split.parts.values() for names in part.dropped.values())
    flagged = {*near}.union(*dropped, *([*lmdb.damaged, *lmdb.still] for lmdb in lmdbs))
    first = sorted(lengths, key=lambda name: (name not in flagged, name))[:THUMBS]
    write_page(out / "inspect.html", "inspect.html", dataset=dataset, splits=splits, lmdbs=lmdbs, issues=issues,
               near=near, flagged=flagged, lengths=lengths, thumbs=draw_thumbs(dataset, first),
               histogram=list(zip(counts, edges[:-1], edges[1:], strict=True)),
               strips=draw_strips(dataset, splits[0], args.clips), legend=data_uri(flow_legend()))
    for line in report(dataset, splits, lmdbs, issues):
        say(line)
    say(inline(f"page: {out / 'inspect.html'}"))
    return int(any_leak)


def report(dataset: Dataset, splits: Sequence[Split], lmdbs: Sequence[Lmdb], issues: Sequence[str]) -> Iterator[str]:
    every = f", every {dataset.ds} frames" if dataset.ds > 1 else ""
    yield f"{dataset.spec.name}: clips of {counted(dataset.seq_len, 'frame')}{every}"
    for lmdb in lmdbs:
        yield (f"{lmdb.kind} of {' and '.join(lmdb.parts)}: {counted(len(lmdb.num_frames), 'video')}, "
               f"{sum(lmdb.num_frames.values()):,} frames; of {sum(lmdb.decoded.values()):,} decoded "
               f"{sum(map(len, lmdb.damaged.values())):,} damaged, {counted(len(lmdb.still), 'video')} still")
    for split in splits:
        parts = (f"{title} {len(part.kept):,} of {counted(len(part.names), 'video')} "
                 f"({min(part.num_frames, default=0):,} - {max(part.num_frames, default=0):,} frames)"
                 for title, part in split.parts.items())
        yield f"split {split.number}: {', '.join(parts)}; leaks: {leak_counts(split) or 'none'}"
    yield f"{counted(len(issues), 'issue')}:" if issues else "no issues found"
    shown = max(1, LINES - 3 - len(lmdbs) - len(splits))
    yield from (f"  - {one_line(line, 160)}" for line in issues[:shown])


def find_issues(splits: Sequence[Split], lmdbs: Sequence[Lmdb], near: Collection[str] = ()) -> Iterator[str]:
    """Yield one line per issue to look at before training, leaks first; ``near``: videos with near-duplicates."""
    for split in splits:
        if split.leaks:
            yield f"split {split.number}: train and test share {leak_counts(split)}"
    for split in splits:
        yield from (f"split {split.number} has no {title} list" for title in PARTS if title not in split.parts)
        for title, part in split.parts.items():
            where = f"split {split.number}, {title}:"
            if part.refused:
                yield f"{where} training and evaluation refuse the list: {part.refused}"
            for reason, names in part.dropped.items():
                if reason != TOO_SHORT or len(names) > 0.05 * len(part.names):  # a few short ones are normal
                    yield f"{where} {_examples(names, f' dropped, {reason}')}"
    for lmdb in lmdbs:
        few = f" ({counted(len(lmdb.decoded), 'video')} decoded)" if len(lmdb.decoded) < len(lmdb.num_frames) else ""
        where = f"{lmdb.kind} LMDB of {' and '.join(lmdb.parts)}{few}"
        if lmdb.damaged:
            reasons = [reason for frames in lmdb.damaged.values() for reason in frames.values()]
            yield (f"{where}: {counted(len(reasons), 'damaged frame')} in {counted(len(lmdb.damaged), 'video')}: "
                   f"{reasons[0]}")
        if lmdb.still:
            most = "most frames of" if lmdb.kind == "RGB" else "next to no motion in most frames of"
            yield f"{where}: {most} {_examples(lmdb.still, ' do not move' if lmdb.kind == 'RGB' else '')}"
    if near:
        yield _examples(near, " that another one nearly equals")


def leak_counts(split: Split) -> str:
    """Return "2 videos, 1 group, 1 source", or "" without leaks."""
    return ", ".join(counted(count, kind) for kind, count in Counter(leak.kind for leak in split.leaks).items())


def counted(count: int, noun: str) -> str:
    """Return "1 video", "2 videos" or "2 copies"."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


def _examples(names: Collection[str], what: str) -> str:
    """Return "5 videos dropped: the first three names and 2 more"."""
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"{counted(len(names), 'video')}{what}: {', '.join(list(names)[:3])}{more}"


def draw_strips(dataset: Dataset, split: Split, videos: int) -> dict[str, list[str]]:
    """Draw film strips of some videos of each part, RGB above flow in colours."""
    found: dict[str, list[str]] = {}
    for title, part in split.parts.items():
        shuffled = np.random.default_rng(0).permutation(part.kept).tolist()
        for name, frames in islice(_read(dataset, title, shuffled, STRIP_FRAMES), videos):
            found[f"{title}: {name}"] = [strip_uri(kind, images, STRIP_HEIGHT) for kind, images in frames.items()]
    return found


def draw_thumbs(dataset: Dataset, names: Sequence[str]) -> dict[str, str]:
    """Draw the middle frame of each video that can be read, in the order of the names."""
    found: dict[str, str] = {}
    for part in PARTS:
        for name, frames in _read(dataset, part, [name for name in names if name not in found], 1):
            found[name] = strip_uri(*next(iter(frames.items())), THUMB_HEIGHT, 65)
    return {name: found[name] for name in names if name in found}


def _read(dataset: Dataset, part: str, names: Sequence[str], count: int) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yield frames of each video that can be read, by "RGB" and "flow"; the report names the others."""
    readers = {kind: LmdbReader(path) for kind, path in dataset.lmdbs(part).items()}
    for name in names:
        with suppress(DataError):
            numbers = evenly_spaced(min(reader.num_frames(name) for reader in readers.values()), count)
            yield name, {kind: reader.frames(name, numbers) for kind, reader in readers.items()}


if __name__ == "__main__":
    launch.run(main)
