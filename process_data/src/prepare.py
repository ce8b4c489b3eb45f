"""Make everything that a dataset needs from a folder of videos, in one command:

    python process_data/src/prepare.py --videos clips --name mine

From `clips/Class/video.avi` it writes `data/mine/mine_frame.lmdb` and `data/mine/mine_tvl1_frame.lmdb` (RGB and flow),
and `process_data/data/mine/` (class list, splits, video_source.json). The dataset is then used as
`--dataset mine`; without flow, `--flow none`, together with `--second_view residual`. No frame files are left. A
stopped run continues where it was; until it is done, finished videos wait under `data/mine/prepare.partial`. Nothing
existing is replaced without --overwrite, but where videos were added, removed or renamed since: then the frames and
flow of all others are taken over, and the lists written again.

Several machines share the work: each runs the same command with `--shard I/N` and does every N-th video; then the
command with `--merge` joins the parts, and does the rest. See scripts/prepare.sbatch.
"""

import hashlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.lmdb_reader import LmdbReader
from process_data.src import convert_video_to_lmdb as to_lmdb
from process_data.src import extract_ff, write_csv
from process_data.src.splits import plan_splits, videos_of
from process_data.src.video_io import NO_FLOW, Timing, VideoError, coded_frames, find_videos, make_flow, read_frames
from utils.console import duration, say, say_block, track
from utils.errors import OptionError
from utils.files import atomic_write, lock, read_json, remove_partial, require_writable, write_json
from utils.launch import run
from utils.parser import Parser

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = {"ucf101": "UCF101", "hmdb51": "HMDB51"}  # of the published datasets, under the data root
PIECE = 1 << 20  # bytes of a value that are copied at once
RECORD = "part.json"  # settings of a part, and when it is done {video: fingerprint}
COUNTED = 50  # videos whose frames are counted for an estimate
PROBE = 1 << 16  # bytes of a file that are hashed, at three places


class Layout:
    """The files of a dataset, and those of a run that is not finished."""

    def __init__(self, name: str, data_root: Path, split_root: Path, method: str) -> None:
        home = data_root / FOLDERS.get(name, name)
        self.flow = home / f"{name}_tvl1_frame.lmdb"
        self.lmdbs = {"rgb": home / f"{name}_frame.lmdb"} | ({} if method == NO_FLOW else {"flow": self.flow})
        self.record = home / f"{name}_prepare.json"  # settings, {video: fingerprint} of each finished LMDB, and lists
        self.work = home / "prepare.partial"  # folder of the finished videos of an unfinished run
        self.parts = home / "prepare.parts"  # folders of the videos of each shard, by its number
        self.splits = split_root / name


class Stream:
    """Frames or flow: those in the LMDB of an earlier run, made of the videos ``marks``, and files in a work folder."""

    def __init__(self, lmdb: Path, folder: Path, marks: Mapping[str, str]) -> None:
        self.lmdb, self.folder, self._reader = lmdb, folder, LmdbReader(lmdb)
        self._names = {mark: name for name, mark in marks.items() if name in self._reader} if lmdb.exists() else {}

    def file(self, mark: str) -> Path:
        """Return the path of the packed frames of a video in the work folder."""
        return self.folder / f"{mark}.msgpack"

    def __contains__(self, mark: str) -> bool:
        return mark in self._names or self.file(mark).is_file()

    def load(self, marks: Mapping[str, str], name: str) -> to_lmdb.Pieces:
        """Yield the value of a video in pieces, by its name and the fingerprints of all."""
        mark = marks[name]
        if not self.file(mark).is_file():
            yield self._reader.value(self._names[mark]).view
            return
        with open(self.file(mark), "rb") as file:
            while piece := file.read(PIECE):
                yield piece


def fingerprint(path: Path) -> str:
    """Return a hash of a file's size and three pieces of it."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with suppress(OSError), open(path, "rb") as file:  # one that cannot be read is left out later, by name
        for place in (0, size // 2, max(0, size - PROBE)):
            file.seek(place)
            found.update(file.read(PROBE))
    return found.hexdigest()[:32]


def pack_video(video: Path, outputs: Sequence[Path], short_side: int, method: str, strict: bool) -> extract_ff.Outcome:
    """Write the packed frames of a video, and with a second output its flow; memory holds one frame."""
    timing, count = Timing(), 0
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(atomic_write(path)) for path in outputs]
            for file in files:
                file.write(to_lmdb.list_header(0))
            for coded in coded_frames(video, short_side, method, timing):
                if not count and method != NO_FLOW and len(coded[0]) * timing.promised > to_lmdb.MAX_VALUE / 4:
                    require_fit(video, short_side)  # before hours of flow
                for file, jpeg in zip(files, coded, strict=False):
                    if jpeg is not None:
                        file.write(to_lmdb.pack_frame(jpeg))
                    if file.tell() > to_lmdb.MAX_VALUE:
                        raise VideoError(to_lmdb.TOO_LONG)
                count += 1
            outcome = extract_ff.outcome_of(timing, strict)
            for less, file in enumerate(files):
                file.seek(0)
                file.write(to_lmdb.list_header(count - less))
    except VideoError as error:
        return extract_ff.Outcome(left_out=str(error))
    return outcome


def require_fit(video: Path, short_side: int) -> None:
    """Raise a VideoError if the frames of a video are too much for one value."""
    if sum(len(jpeg) for jpeg, _ in coded_frames(video, short_side, NO_FLOW)) > to_lmdb.MAX_VALUE:
        raise VideoError(to_lmdb.TOO_LONG)


def tvl1_cost(videos: Sequence[Path], short_side: int, workers: int) -> str:
    """Estimate how long TV-L1 takes for some videos, from the first frames of one; "" if none can be read."""
    counts, seconds = list[float](), 0.0  # frames of a video; seconds of a frame
    for path in videos[:COUNTED]:
        timing = Timing()
        with suppress(VideoError, cv2.error):
            first = list(islice(read_frames(path, short_side, timing), 2))
            counts += [timing.promised] if timing.promised > 0 else []
            if len(first) == 2 and not seconds:
                estimate, begun = make_flow("tvl1"), time.perf_counter()
                estimate(*(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in first))
                seconds = time.perf_counter() - begun
    if not counts or not seconds:
        return ""
    total = sum(counts) / len(counts) * len(videos)
    return (f"TV-L1 flow of some {total:.0f} frames, {seconds:.2g} s each: about "
            f"{duration(total * seconds / workers)} on {workers} processes; --flow dis is some 300 times faster, and "
            "coarser")


def begin(layout: Layout, settings: Mapping[str, Any], overwrite: bool) -> dict[str, Any]:
    """Return the record of an earlier run of these settings, which is continued, or a new one.

    Raises:
        OptionError: files of other settings are in the way; nothing is touched then.
    """
    record = read_json(layout.record, {})
    changes = extract_ff.difference(record.get("settings", {}), settings)
    if record and not changes and not (overwrite and set(layout.lmdbs) <= set(record["streams"])):
        return record
    if record and not overwrite:
        raise OptionError(f"{layout.record} was made with other settings: {changes}; use these, or add --overwrite")
    existing = [path for path in (*layout.lmdbs.values(), layout.flow, *layout.splits.glob("*.csv")) if path.exists()]
    if existing and not overwrite:
        raise OptionError(f"{existing[0]} exists and was not made by this command: add --overwrite to replace it")
    if "flow" not in layout.lmdbs and layout.flow.exists():
        raise OptionError(f"{layout.flow} exists, and with --flow {NO_FLOW} its flow would not fit the new frames: "
                          "remove it, or choose a method with --flow")
    shutil.rmtree(layout.work, ignore_errors=True)
    return {"settings": settings, "streams": {}}


def write_lmdbs(layout: Layout, videos: Mapping[str, Path], settings: Mapping[str, Any], workers: int,
                overwrite: bool, merge: bool = False) -> None:
    """Write the LMDB of each stream; what an earlier run or shards of the same settings have made is kept."""
    marks = fingerprints(videos)
    parts = finished_parts(layout, marks, settings) if merge else []
    record = begin(layout, settings, overwrite)
    write_json(layout.record, record, indent=1)
    made = record["streams"]
    if all(path.exists() and made.get(stream) == marks for stream, path in layout.lmdbs.items()):
        return
    streams = {key: Stream(path, layout.work / key, made.get(key, {})) for key, path in layout.lmdbs.items()}
    for key, stream in streams.items():
        stream.folder.mkdir(parents=True, exist_ok=True)
        for file in [file for part in parts for file in (part / key).glob("*.msgpack")]:
            shutil.move(file, stream.folder / file.name)
    left_out = pack_videos(streams, videos, marks, settings, workers)
    extract_ff.require_videos(len(videos) - left_out, videos)
    done = [name for name in videos if all(marks[name] in stream for stream in streams.values())]
    for key, stream in streams.items():
        to_lmdb.write_lmdb(stream.lmdb, done, partial(stream.load, marks))
        made[key] = marks
        write_json(layout.record, record, indent=1)
        shutil.rmtree(stream.folder)
    shutil.rmtree(layout.work)


def fingerprints(videos: Mapping[str, Path]) -> dict[str, str]:
    return {name: fingerprint(path) for name, path in track(videos.items(), len(videos), "look at")}


def pack_videos(streams: Mapping[str, Stream], videos: Mapping[str, Path], marks: Mapping[str, str],
                settings: Mapping[str, Any], workers: int) -> int:
    """Pack the videos that the streams lack into their folders, and return the number of those left out."""
    method, short_side, strict = (settings[key] for key in extract_ff.SETTINGS)
    for stream in streams.values():
        stream.folder.mkdir(parents=True, exist_ok=True)
        remove_partial(stream.folder)
    jobs = {name: (path, [stream.file(marks[name]) for stream in streams.values()], short_side, method, strict)
            for name, path in videos.items() if not all(marks[name] in stream for stream in streams.values())}
    if method == "tvl1" and (cost := tvl1_cost([job[0] for job in jobs.values()], short_side, workers)):
        say(cost)
    return extract_ff.process(pack_video, jobs, videos, workers, "frames" if method == NO_FLOW else "frames and flow")


def make_part(layout: Layout, videos: Mapping[str, Path], settings: Mapping[str, Any], workers: int, number: int,
              count: int) -> None:
    """Pack every count-th video into a part of its own; its record lists the videos when all are done."""
    folder, settings = layout.parts / str(number), {**settings, "shards": count}
    record = folder / RECORD
    require_writable(record)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, "preparing"):
        changes = extract_ff.difference(read_json(record, {}).get("settings", settings), settings)
        if changes:
            raise OptionError(f"{folder} was made with other settings: {changes}; use these, or remove it")
        write_json(record, {"settings": settings}, indent=1)
        videos = extract_ff.part_of(videos, number, count)
        marks = fingerprints(videos)
        streams = {key: Stream(path, folder / key, {}) for key, path in layout.lmdbs.items()}
        left_out = pack_videos(streams, videos, marks, settings, workers)
        write_json(record, {"settings": settings, "videos": marks}, indent=1)
    say(f"part {number} of {count}: {len(videos) - left_out} videos in {folder}, {left_out} left out")


def finished_parts(layout: Layout, marks: Mapping[str, str], settings: Mapping[str, Any]) -> list[Path]:
    """Return the folders of all parts, after a check that each is complete and made of these videos and settings."""
    records = {int(path.parent.name): read_json(path) for path in layout.parts.glob(f"*/{RECORD}")}
    count = max((record["settings"]["shards"] for record in records.values()), default=0)
    if not count:
        raise OptionError(f"no parts in {layout.parts}: make them with --shard")
    for number in range(1, count + 1):
        folder, record = layout.parts / str(number), records.get(number, {})
        if changes := record and extract_ff.difference(record["settings"], {**settings, "shards": count}):
            raise OptionError(f"{folder} was made with other settings: {changes}; use these, or make it again")
        made, wanted = record.get("videos"), extract_ff.part_of(marks, number, count)
        if made != wanted:
            reason = "is missing or not finished" if made is None else "was made of other videos"
            raise OptionError(f"part {folder} {reason}: run --shard {number}/{count} again")
    return [layout.parts / str(number) for number in records]


def summarize(layout: Layout, videos: Mapping[str, Path], lengths: Mapping[str, int], rows: Mapping[str, int]) -> None:
    """Print what the dataset holds: of the videos found the lengths in frames, and the number in each csv list."""
    left_out = sorted(set(videos) - set(lengths))
    examples = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
    say_block({
        "videos": f"{len(lengths)}" + (f" ({len(left_out)} left out: {examples})" if left_out else ""),
        "classes": f"{len({name.split('/')[0] for name in lengths})}",
        "frames": f"{sum(lengths.values())} ({min(lengths.values())} to {max(lengths.values())} a video)",
        **{stream: f"{path}  {path.stat().st_size / 1e6:.1f} MB" for stream, path in layout.lmdbs.items()},
        **({} if "flow" in layout.lmdbs else {"flow": "none: train with --second_view residual"}),
        "splits": [f"{layout.splits}", *(f"{name}: {count} videos" for name, count in rows.items())]})


def make_parser() -> Parser:
    parser = Parser(__doc__)
    write_csv.add_split_options(parser)
    add = parser.topic("data")
    add("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    add("--labels", choices=["folders", "none", "auto"], default="folders", help="classes: the folders, or "
        "none, with all videos in one class; auto: folders where every video lies one folder deep, and two or more "
        "folders have two or more")
    add = parser.topic("output")
    add("--data_root", type=Path, default=REPOSITORY / "data", metavar="FOLDER",
        help="where LMDBs go (default: the repository's data/)")
    add("--overwrite", action="store_true", help="replace what an earlier run has written")
    extract_ff.add_extraction_options(parser)
    parser.topic("hardware")("--merge", action="store_true", help="join the parts that --shard has made")
    return parser


def main() -> None:
    options = make_parser().parse_args()
    write_csv.check_name(options.name)
    if options.name == "k400":
        raise OptionError("K400 has two LMDBs a stream: use extract_ff.py, convert_video_to_lmdb.py and write_csv.py")
    layout = Layout(options.name, options.data_root, options.split_root, options.flow)
    videos = find_videos(options.videos, options.labels)
    settings = {key: getattr(options, key) for key in extract_ff.SETTINGS}
    if options.shard:
        if options.merge:
            raise OptionError("--merge joins the parts when all are done: give it without --shard")
        make_part(layout, videos, settings, options.workers, *options.shard)
        return
    splits = plan_splits(options.name, videos, options.splits, options.seed, options.allow_missing, options.num_splits)
    made_from = f"{options.splits}, seed {options.seed}"
    earlier = read_json(layout.record, {}).get("lists", {})
    own = write_csv.unchanged(layout.splits, earlier.get(made_from, {}))
    classes = write_csv.class_list(options.name, options.split_root, options.splits, videos_of(splits),
                                   options.overwrite or write_csv.CLASS_LIST in own)
    for path in (*layout.lmdbs.values(), layout.splits / write_csv.CLASS_LIST):
        require_writable(path)
    layout.record.parent.mkdir(parents=True, exist_ok=True)
    with lock(layout.record.parent, "preparing"):
        write_lmdbs(layout, videos, settings, options.workers, options.overwrite, options.merge)
        lengths = to_lmdb.check_lmdbs(*layout.lmdbs.values())
        files = write_csv.split_files(classes, splits, lengths)
        lists = write_csv.write_files(layout.splits, files, options.overwrite, own)
        write_json(layout.record, read_json(layout.record, {}) | {"lists": {made_from: lists}}, indent=1)
        if options.merge:
            shutil.rmtree(layout.parts)
        summarize(layout, videos, lengths, write_csv.row_counts(files))


if __name__ == "__main__":
    run(main)
