"""Videos -> RGB frames and optical flow as JPEG files, one process per core.

    python process_data/src/extract_ff.py --videos UCF101/videos --out UCF101/frames

writes `Class/video/image_%05d.jpg` and `flow_%05d.jpg` (from 1; one flow frame less than RGB frames). A stopped run
continues where it was: a video's folder appears only when all of it is written. `prepare.py` needs none of these files.
TV-L1 takes about a second a frame and core at 320x240; DIS some 4 ms. `--flow none` writes RGB frames alone.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src import record
from process_data.src.console import complain, say
from process_data.src.errors import PrepareError, VideoError, run
from process_data.src.files import draft
from process_data.src.flow import METHODS, NONE, flow_images, jpeg
from process_data.src.names import below
from process_data.src.options import Parser
from process_data.src.pool import each
from process_data.src.video_io import find_videos, read_frames


def coded_frames(video: Path, short_side: int, method: str) -> Iterator[tuple[bytes, bytes | None]]:
    """The JPEGs of each frame of a video and of the flow that leads to it (none for the first frame, or method)."""
    for frame, flow in flow_images(read_frames(video, short_side), method):
        yield jpeg(frame), None if flow is None else jpeg(flow)


def extract(video: Path, folder: Path, short_side: int, method: str) -> str:
    """Write the frame files of one video; returns what is wrong with it, "" for nothing."""
    part = draft(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    number = 0
    try:
        for number, (frame, flow) in enumerate(coded_frames(video, short_side, method), 1):
            (part / f"image_{number:05d}.jpg").write_bytes(frame)
            if flow is not None:
                (part / f"flow_{number - 1:05d}.jpg").write_bytes(flow)
    except (cv2.error, VideoError) as error:
        wrong = failure(error, number + 1)
    else:
        wrong = too_few(number)
    if wrong:
        shutil.rmtree(part)
    else:
        os.replace(part, folder)
    return wrong


def failure(error: cv2.error | VideoError, number: int) -> str:
    """What is wrong with a video of which frame `number` could not be made."""
    return str(error) if isinstance(error, VideoError) else f"frame {number} fails: {error.err}"


def too_few(frames: int) -> str:
    """What is wrong with a video that gave so many frames, "" for nothing: flow and residual frames need two."""
    return "" if frames > 1 else "only one frame decodes" if frames else "does not decode"


def report(failed: dict[str, str], videos: dict[str, Path]) -> None:
    """Name the videos that were left out."""
    for name, wrong in sorted(failed.items()):
        complain(f"left out {videos[name]}: {wrong}".replace("\n", "\\n"))
    if len(failed) == len(videos):
        raise PrepareError(f"none of the {len(videos)} videos decodes: are they videos, and complete?")


def add_extraction(parser: Parser) -> None:
    """The options that say how frames and flow are made."""
    add = parser.topic("method")
    add("--flow", choices=(*METHODS, NONE), default="tvl1", help="method of flow; dis is some 300 times faster; none: "
        "no flow, for training with --second_view residual")
    add("--short_side", type=int, default=240, metavar="PIXELS", help="scale larger frames down to this short side in "
        "pixels (240 is UCF101's own; 0: never)")
    parser.topic("hardware")("--workers", type=int, default=os.cpu_count(), metavar="PROCESSES", help="processes "
                             "(default: one per core)")


def check_extraction(options: argparse.Namespace) -> None:
    """Raises PrepareError for extraction settings that make no sense."""
    if options.workers < 1:
        raise PrepareError(f"--workers {options.workers}: give 1 or more")
    if options.short_side < 0 or 0 < options.short_side < 16:
        raise PrepareError(f"--short_side {options.short_side}: give 16 or more pixels, or 0 for no scaling")


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    parser.topic("data")("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    parser.topic("output")("--out", type=Path, required=True, metavar="FOLDER", help="folder for "
                           "Class/video/image_00001.jpg, ...")
    add_extraction(parser)
    return parser


def main() -> None:
    """Extract the frames of all videos."""
    options = make_parser().parse_args()
    check_extraction(options)
    videos = find_videos(options.videos)
    settings = {"flow": options.flow, "short_side": options.short_side}
    begun = record.read(options.out / "extract.json", "remove what is there, or give a new folder as --out")
    if begun and record.difference(begun, settings):
        raise PrepareError(f"{options.out} was begun with other settings: {record.difference(begun, settings)}; "
                           "use the same, or another --out")
    if not begun and options.out.exists() and any(options.out.iterdir()):
        raise PrepareError(f"{options.out} holds files of something else: give a new or empty folder as --out")
    record.write(options.out / "extract.json", settings)
    todo = {name: (path, below(options.out, name), options.short_side, options.flow) for name, path in videos.items()
            if not below(options.out, name).is_dir()}
    if len(todo) < len(videos):
        say(f"{len(videos) - len(todo)} of {len(videos)} videos are done already")
    failed = {name: wrong for name, wrong in each(extract, todo, options.workers, "extract") if wrong}
    report(failed, videos)
    say(f"{len(videos) - len(failed)} videos in {options.out}, {len(failed)} left out")


if __name__ == "__main__":
    run(main)
