"""Extract RGB frames and optical flow of videos as JPEG files, one process per core.

    python process_data/src/extract_ff.py --videos UCF101/videos --out UCF101/frames

writes `Class/video/image_%05d.jpg` and `flow_%05d.jpg` (from 1; one flow frame less than RGB frames). A stopped run
continues where it was: a video's folder appears only when it is complete. `prepare.py` needs none of these files.
TV-L1 takes about a second a frame and core at 320x240; DIS some 4 ms. `--flow none` writes RGB frames alone.
Several machines share the work and one --out: `--shard 2/8` does every eighth video, from the second.
"""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.jpeg import MAX_BYTES
from process_data.src import video_io
from process_data.src.video_io import METHODS, NO_FLOW, Timing, VideoError, coded_frames, find_videos
from utils.console import say, track, warn
from utils.errors import DataError, OptionError
from utils.files import lock, naming, read_json, require_writable, write_json
from utils.launch import allotted_cores, run
from utils.parser import Parser
from utils.stop import end_with_parent

SETTINGS = ("flow", "short_side", "strict")  # options that decide what is made of a video


class Outcome(NamedTuple):
    """What there is to say of a video, each "" if there is nothing."""

    left_out: str = ""  # why it is not used
    damage: str = ""  # what is wrong though it is used
    rate: str = ""  # what is odd about its frame rate


Task = Callable[..., Outcome]
Jobs = Mapping[str, tuple]  # arguments of the task by the video's name


def add_extraction_options(parser: Parser) -> None:
    add = parser.topic("method")
    add("--flow", choices=(*METHODS, NO_FLOW), default="tvl1", help="flow method; dis is some 300 times faster; none: "
        "no flow, for training with --second_view residual")
    add("--short_side", type=int, default=240, metavar="PIXELS", help="scale larger frames down to this "
        "short side (0: never)")
    add("--strict", action="store_true", help="leave out videos that give over 5 percent fewer frames than their files "
        "promise; without it, they are named and used")
    add = parser.topic("hardware")
    add("--workers", type=int, default=allotted_cores(), metavar="PROCESSES",
        help="processes (default: one per allotted core)")
    add("--shard", type=shard, metavar="I/N", help="do the I-th of N parts of the videos, 1 to N (default: all)")


def shard(text: str) -> tuple[int, int]:
    """Read the number of a part and that of all, such as "2/8"."""
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise ValueError(text)
    return number, count


def part_of(videos: Mapping[str, Any], number: int, count: int) -> dict[str, Any]:
    """Return every count-th video, from the number-th."""
    return dict(list(videos.items())[number - 1::count])


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the settings that differ as "flow (dis, now tvl1)", or "" if none does."""
    return ", ".join(f"{key} ({old.get(key)}, now {value})" for key, value in new.items() if old.get(key) != value)


def process(task: Task, jobs: Jobs, videos: Mapping[str, Path], workers: int, title: str) -> int:
    """Run a task on the videos that are not done yet, and return the number of those that it leaves out by name.

    Args:
        jobs: the task's arguments for each of these videos.
        videos: all videos of the dataset.
    """
    if len(jobs) < len(videos):
        say(f"{len(videos) - len(jobs)} of {len(videos)} videos are done already")
    left_out, rates = 0, {}
    for name, outcome in track(_results(task, jobs, workers), len(jobs), title):
        left_out += bool(outcome.left_out)
        if outcome.left_out or outcome.damage:  # said at once: a run may be stopped before its end
            warn(f"left out {videos[name]}: {outcome.left_out}" if outcome.left_out
                 else f"{videos[name]}: {outcome.damage}")
        if outcome.rate:
            rates[name] = f"{videos[name]} ({outcome.rate})"
    if rates:
        examples = ", ".join(rates[name] for name in sorted(rates)[:3])
        warn(f"{len(rates)} of {len(jobs)} videos have a frame rate that varies or is implausible, such as {examples}; "
             "their frames are kept as they come")
    return left_out


def require_videos(used: int, videos: Mapping[str, Path]) -> None:
    if not used:
        raise DataError(f"none of the {len(videos)} videos can be used: are they videos, and complete?")


def outcome_of(timing: Timing, strict: bool) -> Outcome:
    """Judge a video that was read to its end. With ``strict``, raise a VideoError if frames are missing."""
    missing = timing.missing()
    if missing and strict:
        raise VideoError(missing)
    damage = missing and f"{missing}: was it copied whole, or cut without encoding? --strict leaves it out"
    if not missing and timing.decoded > MAX_BYTES:
        damage = (f"its frames take {timing.decoded / 2**30:.1f} GiB when decoded, which makes evaluation slow: cut it "
                  "into several, or give a smaller --short_side")
    return Outcome(damage=damage, rate=timing.odd_rate())


def _results(task: Task, jobs: Jobs, workers: int) -> Iterator[tuple[str, Outcome]]:
    if workers <= 1:
        _start_worker()
        for name, job in jobs.items():
            yield name, task(*job)
        return
    context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    executor = ProcessPoolExecutor(min(workers, max(len(jobs), 1)), context, _start_worker)
    try:
        futures = {executor.submit(task, *job): name for name, job in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError("a worker process died (out of memory, or a file that crashes the decoder): finished videos "
                        "are kept, run again with fewer --workers to continue") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Set up this process for videos: one thread, a silent decoder, and if its parent ends, it ends."""
    cv2.setNumThreads(1)
    video_io.silence_decoder()
    if multiprocessing.parent_process() is not None:
        end_with_parent(signal.SIGKILL)


def extract(video: Path, folder: Path, short_side: int, method: str, strict: bool) -> Outcome:
    """Write the frame files of one video to a folder, which appears when they are complete."""
    timing = Timing()
    partial = folder.with_name(f".{video_io.short_name(folder.name)}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming(partial):
            for number, (frame, flow) in enumerate(coded_frames(video, short_side, method, timing), 1):
                (partial / f"image_{number:05d}.jpg").write_bytes(frame)
                if flow is not None:
                    (partial / f"flow_{number - 1:05d}.jpg").write_bytes(flow)
        outcome = outcome_of(timing, strict)
    except VideoError as error:
        shutil.rmtree(partial)
        return Outcome(left_out=str(error))
    os.replace(partial, folder)
    return outcome


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.topic("data")("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    parser.topic("output")("--out", type=Path, required=True, metavar="FOLDER", help="folder for "
                           "Class/video/image_00001.jpg, ...")
    add_extraction_options(parser)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    videos, out = find_videos(options.videos), options.out
    record, settings = out / "extract.json", {key: getattr(options, key) for key in SETTINGS}
    earlier = read_json(record, {})
    changes = difference(earlier, settings)
    if earlier and changes:
        raise OptionError(f"{out} was begun with other settings: {changes}; use the same, or another --out")
    require_writable(record)
    if not earlier and out.exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise OptionError(f"{out} holds other files: give a new or empty folder as --out")
    locked = out
    if options.shard:
        videos, locked = part_of(videos, *options.shard), out / f".shard{options.shard[0]}"
    locked.mkdir(parents=True, exist_ok=True)
    with lock(locked, "extracting"):
        write_json(record, settings)
        jobs = {name: (path, out / name, options.short_side, options.flow, options.strict)
                for name, path in videos.items() if not (out / name).is_dir()}
        left_out = process(extract, jobs, videos, options.workers, "extract")
    if not options.shard:
        require_videos(len(videos) - left_out, videos)
    say(f"{len(videos) - left_out} videos in {out}, {left_out} left out")


if __name__ == "__main__":
    run(main)
