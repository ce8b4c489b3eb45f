"""Extract RGB frames and optical flow of videos as JPEG files, one process per core.

    python process_data/src/extract_ff.py --videos UCF101/videos --out UCF101/frames

writes `Class/video/image_%05d.jpg` and `flow_%05d.jpg` (from 1; one flow frame less than RGB frames). A stopped run
continues where it was: a video's folder appears only when it is complete. `prepare.py` needs none of these files.
TV-L1 takes about a second a frame and core at 320x240; DIS some 4 ms. `--flow none` writes RGB frames alone.
"""

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src.common import (
    Outcome,
    add_extraction_options,
    check_extraction_options,
    difference,
    outcome_of,
    process,
    read_settings,
    require_writable,
)
from process_data.src.flow import coded_frames
from process_data.src.video_io import Timing, VideoError, find_videos, short_name
from utils.console import say
from utils.errors import OptionError
from utils.files import lock, naming, write_json
from utils.launch import run
from utils.parser import Parser


def extract(video: Path, folder: Path, short_side: int, method: str, strict: bool) -> Outcome:
    """Write the frame files of one video to a folder, which appears when they are complete."""
    timing = Timing()
    partial = folder.with_name(f".{short_name(folder.name)}.partial")
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


def extract_all(source: Path, out: Path, *, short_side: int, method: str, strict: bool, workers: int) -> None:
    """Extract the videos of the folder ``source`` that are not in ``out`` yet."""
    videos = find_videos(source)
    record = out / "extract.json"
    settings = {"flow": method, "short_side": short_side, "strict": strict}
    earlier = read_settings(record)
    changes = difference(earlier, settings)
    if earlier and changes:
        raise OptionError(f"{out} was begun with other settings: {changes}; use the same, or another --out")
    require_writable(record)
    if not earlier and out.exists() and any(out.iterdir()):
        raise OptionError(f"{out} holds other files: give a new or empty folder as --out")
    out.mkdir(parents=True, exist_ok=True)
    with lock(out, "extracting"):
        write_json(record, settings)
        jobs = {name: (path, out / name, short_side, method, strict) for name, path in videos.items()
                if not (out / name).is_dir()}
        left_out = process(extract, jobs, videos, workers, "extract")
    say(f"{len(videos) - left_out} videos in {out}, {left_out} left out")


def make_parser() -> Parser:
    """Return the parser of the options."""
    parser = Parser(__doc__)
    parser.topic("data")("--videos", type=Path, required=True, metavar="FOLDER", help="folder of Class/video files")
    parser.topic("output")("--out", type=Path, required=True, metavar="FOLDER", help="folder for "
                           "Class/video/image_00001.jpg, ...")
    add_extraction_options(parser)
    return parser


def main() -> None:
    """Extract the frames of all videos."""
    options = make_parser().parse_args()
    check_extraction_options(options.workers, options.short_side)
    extract_all(options.videos, options.out, short_side=options.short_side, method=options.flow,
                strict=options.strict, workers=options.workers)


if __name__ == "__main__":
    run(main)
