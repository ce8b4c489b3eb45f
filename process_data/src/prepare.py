"""Make everything that a dataset needs from a folder of videos, in one command:

    python process_data/src/prepare.py --videos clips --name mine

From `clips/Class/video.avi` it writes `data/mine/mine_frame.lmdb` and `data/mine/mine_tvl1_frame.lmdb` (RGB and flow),
and `process_data/data/mine/` (class list, splits, video_source.json), and checks them. The dataset is then used as
`--dataset mine`; without flow, `--flow none`, together with `--second_view residual`. No frame files are left. A
stopped run continues where it was; until it is done, finished videos wait under `data/mine/prepare.partial`. Nothing
existing is replaced without --overwrite, but where videos were added, removed or renamed since: then the frames and
flow of all others are taken over, and the lists written again.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.lmdb_reader import LmdbReader
from process_data.src.common import (
    Outcome,
    add_extraction_options,
    check_extraction_options,
    difference,
    fingerprint,
    outcome_of,
    process,
    read_settings,
    require_writable,
)
from process_data.src.flow import NO_FLOW, coded_frames
from process_data.src.lmdb_file import (
    MAX_VALUE,
    TOO_LONG,
    Pieces,
    check_lmdbs,
    frame_counts,
    list_header,
    pack_frame,
    write_lmdb,
)
from process_data.src.split_folder import (
    CLASS_LIST,
    SHIPPED,
    check_name,
    check_rows,
    class_list,
    split_files,
    unchanged,
    write_files,
)
from process_data.src.splits import add_split_options, keep, plan_splits, videos_of, warn_untested
from process_data.src.video_io import Timing, VideoError, find_videos
from utils.console import say
from utils.errors import OptionError
from utils.files import atomic_write, lock, remove_partial, write_json
from utils.launch import run
from utils.parser import Parser

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = {"ucf101": "UCF101", "hmdb51": "HMDB51"}  # of the published datasets, under the data root
PIECE = 1 << 20  # bytes of a value that are copied at once


@dataclass(frozen=True)
class Layout:
    """The files of a dataset, and those of a run that is not finished."""

    rgb: Path
    flow: Path
    record: Path  # JSON file of the settings, the videos that each finished LMDB was made of, and the lists written
    work: Path  # folder of the finished videos of an unfinished run
    splits: Path
    streams: tuple[str, ...]  # to be written: "rgb", or "rgb" and "flow"

    @property
    def lmdbs(self) -> list[Path]:
        """The LMDB of each stream."""
        return [self.rgb, self.flow][:len(self.streams)]

    def packed(self, stream: str, mark: str) -> Path:
        """Return the path of a video's packed frames in the work folder, by its fingerprint."""
        return self.work / stream / f"{mark}.msgpack"


def make_layout(name: str, data_root: Path, split_root: Path, method: str) -> Layout:
    """Lay out a dataset by its name and flow method."""
    home = data_root / FOLDERS.get(name, name)
    return Layout(home / f"{name}_frame.lmdb", home / f"{name}_tvl1_frame.lmdb", home / f"{name}_prepare.json",
                  home / "prepare.partial", split_root / name, ("rgb",) if method == NO_FLOW else ("rgb", "flow"))


def pack_video(video: Path, outputs: Sequence[Path], short_side: int, method: str, strict: bool) -> Outcome:
    """Write the packed frames of a video, and with a second output its flow; memory holds one frame."""
    timing, count = Timing(), 0
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(atomic_write(path)) for path in outputs]
            for file in files:
                file.write(list_header(0))
            for coded in coded_frames(video, short_side, method, timing):
                if not count and method != NO_FLOW and len(coded[0]) * timing.promised > MAX_VALUE / 4:
                    require_fit(video, short_side)  # before hours of flow
                for file, jpeg in zip(files, coded, strict=False):
                    if jpeg is not None:
                        file.write(pack_frame(jpeg))
                    if file.tell() > MAX_VALUE:
                        raise VideoError(TOO_LONG)
                count += 1
            outcome = outcome_of(timing, strict)
            for less, file in enumerate(files):
                file.seek(0)
                file.write(list_header(count - less))
    except VideoError as error:
        return Outcome(left_out=str(error))
    return outcome


def require_fit(video: Path, short_side: int) -> None:
    """Raise a VideoError if the frames of a video are too much for a value."""
    size = 0
    for jpeg, _ in coded_frames(video, short_side, NO_FLOW):
        size += len(jpeg)
        if size > MAX_VALUE:
            raise VideoError(TOO_LONG)


def begin(layout: Layout, settings: dict[str, Any], marks: Mapping[str, str], overwrite: bool) -> dict[str, Any]:
    """Compare with an earlier run, get ready for this one, and return the record that counts.

    Args:
        marks: fingerprint of each video.

    Raises:
        OptionError: files of other settings are in the way; nothing is touched then.
    """
    record = read_settings(layout.record)
    if "finished" in record:  # of a version that recorded no fingerprints: what an LMDB holds by name is taken over
        record = {"settings": settings | record["settings"], "streams": {
            stream: {name: marks[name] for name in frame_counts(path) if name in marks}
            for stream, path in zip(layout.streams, layout.lmdbs, strict=True) if stream in record["finished"]}}
    changes = difference(record.get("settings", {}), settings)
    if record and not changes and not (overwrite and all(stream in record["streams"] for stream in layout.streams)):
        return record
    existing = [path for path in (layout.rgb, layout.flow, *sorted(layout.splits.glob("*.csv"))) if path.exists()]
    if record and not overwrite:
        raise OptionError(f"{layout.record} was made with other settings: {changes}; use these, or add --overwrite")
    if existing and not overwrite:
        raise OptionError(f"{existing[0]} exists and was not made by this command: add --overwrite to replace it")
    if "flow" not in layout.streams and layout.flow.exists():
        raise OptionError(f"{layout.flow} exists, and with --flow {NO_FLOW} its flow would not fit the new frames: "
                          "remove it, or choose a method with --flow")
    shutil.rmtree(layout.work, ignore_errors=True)
    return {"settings": settings, "streams": {}}


class Finished:
    """The videos of one stream that need no work: those in the work folder, and those in the LMDB of an earlier run.

    Args:
        marks: fingerprint of each video that the LMDB was made of.
    """

    def __init__(self, layout: Layout, stream: str, lmdb: Path, marks: Mapping[str, str]) -> None:
        self._layout, self._stream, self._reader = layout, stream, LmdbReader(lmdb)
        self._names = {mark: name for name, mark in marks.items() if name in self._reader} if lmdb.exists() else {}

    def __contains__(self, mark: str) -> bool:
        return mark in self._names or self._layout.packed(self._stream, mark).is_file()

    def load(self, marks: Mapping[str, str], name: str) -> Pieces:
        """Yield the value of a video in pieces, by its name and the fingerprints of all."""
        mark = marks[name]
        path = self._layout.packed(self._stream, mark)
        if not path.is_file():
            yield self._reader.packed(self._names[mark])
            return
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                yield piece


def write_lmdbs(layout: Layout, videos: Mapping[str, Path], *, short_side: int, method: str, strict: bool, workers: int,
                overwrite: bool) -> None:
    """Write the LMDB of each stream; what an earlier run of the same settings has made of a video is kept."""
    marks = {name: fingerprint(path) for name, path in videos.items()}
    record = begin(layout, {"flow": method, "short_side": short_side, "strict": strict}, marks, overwrite)
    made: dict[str, Mapping[str, str]] = record["streams"]
    write_json(layout.record, record, indent=1)
    finished = {stream: Finished(layout, stream, path, made.get(stream, {}))
                for stream, path in zip(layout.streams, layout.lmdbs, strict=True)}
    complete = [path.exists() and made.get(stream) == marks
                for stream, path in zip(layout.streams, layout.lmdbs, strict=True)]
    # What a complete LMDB lacks was left out of it, and is not tried again.
    wanted = [name for name in videos if all(marks[name] in each for each, is_complete
                                             in zip(finished.values(), complete, strict=True) if is_complete)]
    jobs = {name: (videos[name], [layout.packed(stream, marks[name]) for stream in layout.streams], short_side, method,
                   strict) for name in wanted if not all(marks[name] in each for each in finished.values())}
    if jobs:
        for stream in layout.streams:
            (layout.work / stream).mkdir(parents=True, exist_ok=True)
            remove_partial(layout.work / stream)
        process(pack_video, jobs, videos, workers, "frames" if method == NO_FLOW else "frames and flow")
    done = [name for name in videos if all(marks[name] in each for each in finished.values())]
    for (stream, each), path, is_complete in zip(finished.items(), layout.lmdbs, complete, strict=True):
        if not is_complete:
            write_lmdb(path, done, partial(each.load, marks))
            made[stream] = marks
            write_json(layout.record, record, indent=1)
        shutil.rmtree(layout.work / stream, ignore_errors=True)
    shutil.rmtree(layout.work, ignore_errors=True)


def summarize(layout: Layout, videos: Mapping[str, Path], lengths: Mapping[str, int], rows: Mapping[str, int]) -> None:
    """Print what the dataset holds: of the videos found the lengths in frames, and the number in each csv list."""
    left_out = sorted(set(videos) - set(lengths))
    examples = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
    table = [
        ("videos", f"{len(lengths)}" + (f" ({len(left_out)} left out: {examples})" if left_out else "")),
        ("classes", f"{len({name.split('/')[0] for name in lengths})}"),
        ("frames", f"{sum(lengths.values())} ({min(lengths.values())} to {max(lengths.values())} a video)"),
        *((f"{stream} LMDB", f"{path}  {path.stat().st_size / 1e6:.1f} MB")
          for stream, path in zip(("RGB", "flow"), layout.lmdbs, strict=False)),
        *([] if "flow" in layout.streams else [("flow", "none: train with --second_view residual")]),
        ("splits", f"{layout.splits}"),
        *((f"  {name}", f"{count} videos") for name, count in rows.items()),
        ("check", "LMDBs and splits are complete and fit each other"),
    ]
    for key, value in table:
        say(f"{key:22s} {value}")


def make_parser() -> Parser:
    """Return the parser of the options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    add("--name", required=True, help="name of the dataset, as in --dataset")
    add("--splits", type=Path, metavar="FOLDER", help="folder of official lists (trainlist01.txt, testlist01.txt, "
        "classInd.txt; hmdb51: *_test_split1.txt) (default: none, by source group, else random)")
    add_split_options(parser)
    add = parser.topic("output")
    add("--data_root", type=Path, default=REPOSITORY / "data", metavar="FOLDER", help="where LMDBs go (default: data/ "
        "of the repository)")
    add("--split_root", type=Path, default=SHIPPED, metavar="FOLDER", help="where splits go (default: "
        "process_data/data/ of the repository)")
    add("--overwrite", action="store_true", help="replace what an earlier run has written")
    add_extraction_options(parser)
    return parser


def main() -> None:
    """Prepare a dataset."""
    options = make_parser().parse_args()
    check_extraction_options(options.workers, options.short_side)
    check_name(options.name)
    if options.name == "k400":
        raise OptionError("--name k400: K400 has two LMDBs a stream, make them with extract_ff.py, "
                          "convert_video_to_lmdb.py and write_csv.py")
    layout = make_layout(options.name, options.data_root, options.split_root, options.flow)
    videos = find_videos(options.videos)
    splits = plan_splits(options.name, videos, options.splits, options.seed, options.allow_missing, options.num_splits)
    made_from = f"{options.splits}, seed {options.seed}"
    own = unchanged(layout.splits, read_settings(layout.record).get("lists", {}).get(made_from, {}))
    classes = class_list(options.name, options.split_root, options.splits, videos_of(splits),
                         options.overwrite or CLASS_LIST in own)
    for path in (*layout.lmdbs, layout.splits / CLASS_LIST):
        require_writable(path)
    layout.record.parent.mkdir(parents=True, exist_ok=True)
    with lock(layout.record.parent, "preparing"):
        write_lmdbs(layout, videos, short_side=options.short_side, method=options.flow, strict=options.strict,
                    workers=options.workers, overwrite=options.overwrite)
        lengths = check_lmdbs(*layout.lmdbs)
        splits = keep(splits, lengths)
        lists = write_files(layout.splits, split_files(classes, splits, lengths), options.overwrite, own)
        write_json(layout.record, read_settings(layout.record) | {"lists": {made_from: lists}}, indent=1)
        warn_untested(splits)
        summarize(layout, videos, lengths, check_rows(layout.splits, lengths))


if __name__ == "__main__":
    run(main)
