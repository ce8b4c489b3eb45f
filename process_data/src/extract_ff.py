"""Extract RGB frames and optical flow of videos as JPEG files, one process per core.

    python process_data/src/extract_ff.py --videos UCF101/videos --out UCF101/frames

writes `Class/video/image_%05d.jpg` and `flow_%05d.jpg` (from 1; one flow frame less than RGB frames). A stopped run
continues where it was: a video's folder appears only when it is complete. TV-L1 takes about a second a frame and core
at 320x240; DIS some 4 ms. Several machines share one --out: `--shard 2/8` does every eighth video, from the second.
"""

import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.jpeg import MAX_BYTES
from process_data.src import video_io
from process_data.src.video_io import METHODS, NO_FLOW, Settings, Timing, VideoError
from utils.console import say, track, warn
from utils.errors import DataError, OptionError
from utils.files import lock, naming, read_json, require_writable, write_json
from utils.launch import allotted_cores, run
from utils.parser import Parser
from utils.stop import end_with_parent

# Whether a video is used, what is wrong with it, and what is odd about its frame rate ("" if nothing is).
Outcome = tuple[bool, str, str]
Task = Callable[[Path, Any, Settings, Timing], None]  # processes a video file into an output
Jobs = Mapping[str, tuple[Path, Any]]  # video file and output, by the video's name


def add_extraction_options(parser: Parser) -> None:
    add = parser.topic("method")
    add("--flow", choices=(*METHODS, NO_FLOW), default="tvl1", help="flow method; dis is some 300 times faster; none: "
        "no flow, for training with --second_view residual")
    add("--short_side", type=int, default=240, metavar="PIXELS", help="scale larger frames down to it; 0: never")
    add("--strict", action="store_true", help="leave out videos that give over 5 percent fewer frames than their files "
        "promise; without it, they are named and used")
    add = parser.topic("hardware")
    add("--workers", type=int, default=allotted_cores(), metavar="N", help="processes (default: one per allotted core)")
    add("--shard", type=shard, metavar="I/N", help="do the I-th of N parts of the videos, 1 to N (default: all)")


def shard(text: str) -> tuple[int, int]:
    """Parse a shard's number and the number of shards, such as "2/8"."""
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise ValueError(text)
    return number, count


def part_of(videos: Mapping[str, Any], number: int, count: int) -> dict[str, Any]:
    return dict(list(videos.items())[number - 1::count])


def require_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], remedy: str) -> None:
    """Raise OptionError if the files at a path were made with different settings."""
    changes = ", ".join(f"{key} ({old.get(key)}, now {value})" for key, value in new.items() if old.get(key) != value)
    if changes:
        raise OptionError(f"{path} was made with other settings: {changes}; use these, or {remedy}")


def process(task: Task, jobs: Jobs, settings: Settings, videos: Mapping[str, Path], workers: int, title: str) -> int:
    """Run a task on the videos that are not done yet; name those it leaves out, and return their number."""
    if len(jobs) < len(videos):
        say(f"{len(videos) - len(jobs)} of {len(videos)} videos are done already")
    left_out, rates = 0, list[str]()
    for name, (used, problem, rate) in track(_outcomes(task, jobs, settings, workers), len(jobs), title):
        left_out += not used
        if problem:  # said at once: a run may be stopped before its end
            warn(f"{'' if used else 'left out '}{videos[name]}: {problem}")
        if rate:
            rates.append(f"{videos[name]} ({rate})")
    if rates:
        warn(f"{len(rates)} of {len(jobs)} videos have a frame rate that varies or is implausible, such as "
             f"{', '.join(sorted(rates)[:3])}; their frames are kept as they come")
    return left_out


def _outcomes(task: Task, jobs: Jobs, settings: Settings, workers: int) -> Iterator[tuple[str, Outcome]]:
    if workers <= 1:
        _start_worker()
        for name, job in jobs.items():
            yield name, _outcome(task, *job, settings)
        return
    context = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    executor = ProcessPoolExecutor(min(workers, max(len(jobs), 1)), context, _start_worker)
    try:
        futures = {executor.submit(_outcome, task, *job, settings): name for name, job in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError("a worker process died (out of memory, or a file that crashes the decoder): finished videos "
                        "are kept, run again with fewer --workers to continue") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Set up this process to decode: one thread, a silent decoder, and it ends with its parent."""
    cv2.setNumThreads(1)
    video_io.silence_decoder()
    if multiprocessing.parent_process() is not None:
        end_with_parent(signal.SIGKILL)


def _outcome(task: Task, video: Path, output: Any, settings: Settings) -> Outcome:
    timing = Timing()
    try:
        task(video, output, settings, timing)
    except VideoError as error:
        return False, str(error), ""
    problem = timing.missing()
    if problem:
        problem += ": was it copied whole, or cut without encoding? --strict leaves it out"
    elif timing.decoded > MAX_BYTES:
        problem = (f"its frames take {timing.decoded / 2**30:.1f} GiB when decoded, which makes evaluation slow: cut "
                   "it into several, or give a smaller --short_side")
    return True, problem, timing.odd_rate()


def extract(video: Path, folder: Path, settings: Settings, timing: Timing) -> None:
    """Write the frame files of one video to a folder, which appears when they are complete."""
    partial = folder.with_name(f".{hashlib.sha256(os.fsencode(folder.name)).hexdigest()}.partial")  # as long as any
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with naming(partial):
            for number, jpegs in enumerate(video_io.coded_frames(video, settings, timing), 1):
                names = f"image_{number:05d}.jpg", f"flow_{number - 1:05d}.jpg"
                for name, jpeg in zip(names, jpegs, strict=False):
                    (partial / name).write_bytes(jpeg)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.topic("data")("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    parser.topic("output")("--out", type=Path, required=True, metavar="FOLDER", help="folder of the frames' folders")
    add_extraction_options(parser)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    videos, out = video_io.find_videos(options.videos), options.out
    settings = Settings(options.flow, options.short_side, options.strict)
    record = out / "extract.json"
    require_writable(record)
    if record.exists():
        require_same(out, read_json(record), settings._asdict(), "another --out")
    elif out.exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise OptionError(f"{out} holds other files: give a new or empty folder as --out")
    locked = out
    if options.shard:
        videos, locked = part_of(videos, *options.shard), out / f".shard{options.shard[0]}"
    locked.mkdir(parents=True, exist_ok=True)
    with lock(locked, "extracting"):
        write_json(record, settings._asdict())
        jobs = {name: (path, out / name) for name, path in videos.items() if not (out / name).is_dir()}
        left_out = process(extract, jobs, settings, videos, options.workers, "extract")
    if left_out == len(videos) and not options.shard:
        raise DataError(f"none of the {len(videos)} videos can be used: are they videos, and complete?")
    say(f"{len(videos) - left_out} videos in {out}, {left_out} left out")


if __name__ == "__main__":
    run(main)
