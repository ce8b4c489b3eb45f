"""Make everything that a dataset needs from a folder of videos:

    python process_data/src/prepare.py --videos clips --name mine

From `clips/Class/video.avi` it writes `data/mine/mine_frame.lmdb` and `data/mine/mine_tvl1_frame.lmdb` (RGB and flow),
and `process_data/data/mine/` (class list, splits, video_source.json). The dataset is then used as `--dataset mine`;
without flow, `--flow none`, together with `--second_view residual`. A stopped run continues where it was.
If videos were added, removed or renamed since, frames and flow of the others are kept and the lists written again;
only --overwrite replaces anything else.

On several machines, `--shard I/N` does every N-th video; then `--merge` joins the parts: see scripts/prepare.sbatch.
"""

import hashlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.lmdb_reader import LmdbReader
from process_data.src import convert_video_to_lmdb as to_lmdb
from process_data.src import extract_ff, video_io, write_csv
from process_data.src.video_io import NO_FLOW, Settings, Timing, VideoError, coded_frames, find_videos
from utils.console import duration, say, say_block, track
from utils.errors import DataError, OptionError
from utils.files import atomic_write, lock, read_json, remove_partial, require_writable, write_json
from utils.launch import run
from utils.parser import Parser

FOLDERS = {"ucf101": "UCF101", "hmdb51": "HMDB51"}  # of the published datasets, under the data root
RECORD = "part.json"  # a shard's settings, and once it is done {video: fingerprint}
COUNTED = 50  # videos whose frames are counted for an estimate
PROBE = 1 << 16  # bytes of a file that are hashed, at three places


class Layout:
    """Paths of a dataset's files and of an unfinished run's, and the settings they are made with."""

    def __init__(self, name: str, data_root: Path, split_root: Path, settings: Settings) -> None:
        self.settings, home = settings, data_root / FOLDERS.get(name, name)
        self.flow = home / f"{name}_tvl1_frame.lmdb"
        self.lmdbs = {"rgb": home / f"{name}_frame.lmdb"} | ({} if settings.flow == NO_FLOW else {"flow": self.flow})
        self.record = home / f"{name}_prepare.json"  # settings, {video: fingerprint} of each finished LMDB, and lists
        self.work = home / "prepare.partial"  # folder of the finished videos of an unfinished run
        self.parts = home / "prepare.parts"  # folders of the videos of each shard, by its number
        self.splits = split_root / name


class Stream:
    """RGB or flow of videos: values in files of a folder, and in the LMDB of an earlier run.

    ``made`` are the fingerprints of the videos in that LMDB by name, ``marks`` those of the current videos.
    """

    def __init__(self, lmdb: Path, folder: Path, made: Mapping[str, str], marks: Mapping[str, str]) -> None:
        self.lmdb, self.folder, self.marks, self._reader = lmdb, folder, marks, LmdbReader(lmdb)
        self._names = {mark: name for name, mark in made.items() if name in self._reader} if lmdb.exists() else {}
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)

    def file(self, name: str) -> Path:
        return self.folder / f"{self.marks[name]}.msgpack"

    def __contains__(self, name: str) -> bool:
        return self.marks[name] in self._names or self.file(name).is_file()

    def value(self, name: str) -> memoryview:
        if self.file(name).is_file():
            return np.memmap(self.file(name), mode="r").data
        return self._reader.value(self._names[self.marks[name]]).view


def fingerprints(videos: Mapping[str, Path]) -> dict[str, str]:
    """Return a hash of the size and three pieces of each file."""
    marks = {}
    for name, path in track(videos.items(), len(videos), "look at"):
        size = path.stat().st_size
        found = hashlib.sha256(str(size).encode())
        with suppress(OSError), open(path, "rb") as file:  # an unreadable one is reported later
            for place in (0, size // 2, max(0, size - PROBE)):
                file.seek(place)
                found.update(file.read(PROBE))
        marks[name] = found.hexdigest()[:32]
    return marks


def pack_video(video: Path, outputs: Sequence[Path], settings: Settings, timing: Timing) -> None:
    """Write the packed frames of a video, and with a second output its flow; memory holds one frame."""
    count = 0
    with ExitStack() as stack:
        files = [stack.enter_context(atomic_write(path)) for path in outputs]
        for file in files:
            file.write(to_lmdb.list_header(0))
        for jpegs in coded_frames(video, settings, timing):
            if not count and settings.flow != NO_FLOW and len(jpegs[0]) * timing.promised > to_lmdb.MAX_VALUE / 4:
                frames = coded_frames(video, settings._replace(flow=NO_FLOW), Timing())  # before hours of flow
                if sum(len(frame) for [frame] in frames) > to_lmdb.MAX_VALUE:
                    raise VideoError(to_lmdb.TOO_LONG)
            for file, jpeg in zip(files, jpegs, strict=False):
                file.write(msgpack.packb(jpeg))
                if file.tell() > to_lmdb.MAX_VALUE:
                    raise VideoError(to_lmdb.TOO_LONG)
            count += 1
        for less, file in enumerate(files):
            file.seek(0)
            file.write(to_lmdb.list_header(count - less))


def say_tvl1_cost(videos: Sequence[Path], short_side: int, workers: int) -> None:
    """Estimate how long TV-L1 will take, from the lengths of some videos and the first frames of one."""
    counts, seconds = list[float](), 0.0  # frames of a video; seconds of a frame
    for path in videos[:COUNTED]:
        timing, begun = Timing(), time.perf_counter()
        with suppress(VideoError, cv2.error):
            frames = video_io.flow_images(video_io.read_frames(path, short_side, timing), "tvl1")
            if len(list(islice(frames, 1 if seconds else 2))) == 2:
                seconds = time.perf_counter() - begun
        counts += [timing.promised] if timing.promised > 0 else []
    if counts and seconds:
        total = sum(counts) / len(counts) * len(videos)
        say(f"TV-L1 flow of some {total:.0f} frames, {seconds:.2g} s each: about {duration(total * seconds / workers)} "
            f"on {workers} processes; --flow dis is some 300 times faster, and coarser")


def begin(layout: Layout, overwrite: bool) -> dict[str, Any]:
    """Return the record of an earlier run with these settings to continue, or a new one if nothing is in the way."""
    record, settings = read_json(layout.record, {}), layout.settings._asdict()
    if record and not overwrite:
        extract_ff.require_same(layout.record, record["settings"], settings, "add --overwrite")
        return record
    if record.get("settings") == settings and not set(layout.lmdbs) <= set(record["streams"]):
        return record  # of an --overwrite that was stopped
    existing = [path for path in (*layout.lmdbs.values(), layout.flow, *layout.splits.glob("*.csv")) if path.exists()]
    if existing and not overwrite:
        raise OptionError(f"{existing[0]} exists and was not made by this command: add --overwrite to replace it")
    if "flow" not in layout.lmdbs and layout.flow.exists():
        raise OptionError(f"{layout.flow} exists, and with --flow {NO_FLOW} its flow would not fit the new frames: "
                          "remove it, or choose a method with --flow")
    shutil.rmtree(layout.work, ignore_errors=True)
    return {"settings": settings, "streams": {}}


def write_lmdbs(layout: Layout, videos: Mapping[str, Path], workers: int, overwrite: bool, merge: bool) -> None:
    """Write the LMDB of each stream; what an earlier run or shards of the same settings have made is kept."""
    marks = fingerprints(videos)
    if merge:
        require_parts(layout, marks)
    record = begin(layout, overwrite)
    write_json(layout.record, record, indent=1)
    made = record["streams"]
    if all(path.exists() and made.get(stream) == marks for stream, path in layout.lmdbs.items()):
        return
    streams = {key: Stream(path, layout.work / key, made.get(key, {}), marks) for key, path in layout.lmdbs.items()}
    for key, stream in streams.items():
        for file in list(layout.parts.glob(f"*/{key}/*.msgpack")) if merge else []:
            shutil.move(file, stream.folder / file.name)
    pack_videos(streams, videos, layout.settings, workers)
    done = [name for name in videos if all(name in stream for stream in streams.values())]
    if not done:
        raise DataError(f"none of the {len(videos)} videos can be used: are they videos, and complete?")
    for key, stream in streams.items():
        to_lmdb.write_lmdb(stream.lmdb, done, stream.value)
        made[key] = marks
        write_json(layout.record, record, indent=1)
        shutil.rmtree(stream.folder)
    shutil.rmtree(layout.work)


def pack_videos(streams: Mapping[str, Stream], videos: Mapping[str, Path], settings: Settings, workers: int) -> int:
    """Pack the videos that the streams lack into their folders, and return the number of those left out."""
    jobs = {name: (path, [stream.file(name) for stream in streams.values()]) for name, path in videos.items()
            if not all(name in stream for stream in streams.values())}
    if settings.flow == "tvl1":
        say_tvl1_cost([path for path, _ in jobs.values()], settings.short_side, workers)
    title = "frames" if settings.flow == NO_FLOW else "frames and flow"
    return extract_ff.process(pack_video, jobs, settings, videos, workers, title)


def make_part(layout: Layout, videos: Mapping[str, Path], workers: int, number: int, count: int) -> None:
    """Pack every count-th video into a shard of its own; its record lists the videos once all are done."""
    folder, settings = layout.parts / str(number), layout.settings._asdict() | {"shards": count}
    record = folder / RECORD
    require_writable(record)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder, "preparing"):
        extract_ff.require_same(folder, read_json(record, {}).get("settings", settings), settings, "remove it")
        write_json(record, {"settings": settings}, indent=1)
        videos = extract_ff.part_of(videos, number, count)
        marks = fingerprints(videos)
        streams = {key: Stream(path, folder / key, {}, marks) for key, path in layout.lmdbs.items()}
        left_out = pack_videos(streams, videos, layout.settings, workers)
        write_json(record, {"settings": settings, "videos": marks}, indent=1)
    say(f"part {number} of {count}: {len(videos) - left_out} videos in {folder}, {left_out} left out")


def require_parts(layout: Layout, marks: Mapping[str, str]) -> None:
    """Raise OptionError unless all shards exist, are complete, and were made from these videos with these settings."""
    records = {int(path.parent.name): read_json(path) for path in layout.parts.glob(f"*/{RECORD}")}
    if not records:
        raise OptionError(f"no parts in {layout.parts}: make them with --shard")
    count = max(record["settings"]["shards"] for record in records.values())
    settings = layout.settings._asdict() | {"shards": count}
    for number in range(1, count + 1):
        folder = layout.parts / str(number)
        record = records.get(number, {"settings": settings})
        extract_ff.require_same(folder, record["settings"], settings, "make it again")
        if record.get("videos") != extract_ff.part_of(marks, number, count):
            reason = "was made of other videos" if "videos" in record else "is missing or not finished"
            raise OptionError(f"part {folder} {reason}: run --shard {number}/{count} again")


def check_counts(layout: Layout) -> dict[str, int]:
    """Check that each video's flow has one frame less than its RGB; return the numbers of RGB frames."""
    lengths, *flows = map(to_lmdb.frame_counts, layout.lmdbs.values())
    for flow in flows:
        for name in lengths.keys() | flow.keys():
            if lengths.get(name, 0) != flow.get(name, 0) + 1:
                raise DataError(f"{name} has {lengths.get(name)} frames in {layout.lmdbs['rgb']} and {flow.get(name)} "
                                f"in {layout.flow}, not one less: prepare again with --overwrite")
    return lengths


def summarize(layout: Layout, videos: Mapping[str, Path], lengths: Mapping[str, int]) -> None:
    left_out = sorted(set(videos) - set(lengths))
    examples = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
    say_block({
        "videos": f"{len(lengths)}" + (f" ({len(left_out)} left out: {examples})" if left_out else ""),
        "classes": f"{len({name.split('/')[0] for name in lengths})}",
        "frames": f"{sum(lengths.values())} ({min(lengths.values())} to {max(lengths.values())} a video)",
        **{stream: f"{path}  {path.stat().st_size / 1e6:.1f} MB" for stream, path in layout.lmdbs.items()},
        **({} if "flow" in layout.lmdbs else {"flow": "none: train with --second_view residual"}),
        "splits": f"{layout.splits}"})


def make_parser() -> Parser:
    parser = Parser(__doc__)
    write_csv.add_split_options(parser)
    add = parser.topic("data")
    add("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    add("--labels", choices=["folders", "none", "auto"], default="folders", help="classes: the folders, or "
        "none; auto: the folders where every video lies one folder deep, and two or more folders have two or more")
    add = parser.topic("output")
    data_root = Path(__file__).resolve().parents[2] / "data"
    add("--data_root", type=Path, default=data_root, metavar="FOLDER", help="for the LMDBs (default: data/)")
    add("--overwrite", action="store_true", help="replace what an earlier run has written")
    extract_ff.add_extraction_options(parser)
    parser.topic("hardware")("--merge", action="store_true", help="join the parts that --shard has made")
    return parser


def main() -> None:
    options = make_parser().parse_args()
    write_csv.check_name(options.name)
    if options.name == "k400":
        raise OptionError("K400 has two LMDBs a stream: use extract_ff.py, convert_video_to_lmdb.py and write_csv.py")
    videos = find_videos(options.videos, options.labels)
    layout = Layout(options.name, options.data_root, options.split_root,
                    Settings(options.flow, options.short_side, options.strict))
    if options.shard:
        if options.merge:
            raise OptionError("--merge joins the parts when all are done: give it without --shard")
        make_part(layout, videos, options.workers, *options.shard)
        return
    made_from = f"{options.splits}, seed {options.seed}"
    earlier = read_json(layout.record, {}).get("lists", {})
    own = write_csv.unchanged(layout.splits, earlier.get(made_from, {}))
    splits, classes = write_csv.plan(videos, options.overwrite or write_csv.CLASS_LIST in own, **vars(options))
    for path in (*layout.lmdbs.values(), layout.splits / write_csv.CLASS_LIST):
        require_writable(path)
    layout.record.parent.mkdir(parents=True, exist_ok=True)
    with lock(layout.record.parent, "preparing"):
        write_lmdbs(layout, videos, options.workers, options.overwrite, options.merge)
        lengths = check_counts(layout)
        files = write_csv.split_files(classes, splits, lengths)
        lists = write_csv.write_files(layout.splits, files, options.overwrite, own)
        write_json(layout.record, read_json(layout.record) | {"lists": {made_from: lists}}, indent=1)
        if options.merge:
            shutil.rmtree(layout.parts)
        summarize(layout, videos, lengths)


if __name__ == "__main__":
    run(main)
