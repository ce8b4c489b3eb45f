"""Write frame folders to one LMDB, the format that datasets are read from.

    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --kind image \\
        --out data/UCF101/ucf101_frame.lmdb
    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --kind flow \\
        --out data/UCF101/ucf101_tvl1_frame.lmdb

Frames that other tools have extracted are read, too: see frame_folder.py. The file takes its name only when it is
complete. A video beyond the 4 GiB that a value can hold is left out.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src.common import require_writable
from process_data.src.frame_folder import find_folders, frame_files, read_frame
from process_data.src.lmdb_file import MAX_VALUE, TOO_LONG, pack, value_size, write_lmdb
from process_data.src.video_io import name_passed_over
from utils.console import say, warn
from utils.errors import DataError, OptionError
from utils.launch import run
from utils.parser import Parser


def pack_folder(folder: Path, kind: str) -> Iterator[bytes]:
    """Yield the LMDB value of one video in pieces: its frames of a kind, "image" or "flow"."""
    files = frame_files(folder, kind)[0]
    return pack(len(files), map(read_frame, files))


def make_parser() -> Parser:
    """Return the parser of the options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--frames", type=Path, required=True, metavar="FOLDER", help="folder of Class/video/image_00001.jpg, ...")
    add("--kind", choices=("image", "flow"), default="image", help="RGB frames or flow")
    add = parser.topic("output")
    add("--out", type=Path, required=True, metavar="FILE", help="LMDB file to write")
    add("--overwrite", action="store_true", help="replace --out")
    return parser


def main() -> None:
    """Write an LMDB."""
    options = make_parser().parse_args()
    if options.out.exists() and not options.overwrite:
        raise OptionError(f"{options.out} exists: add --overwrite to replace it")
    require_writable(options.out)
    folders = find_folders(options.frames)
    passed_over: list[Path] = []
    for name, folder in list(folders.items()):
        frames, others = frame_files(folder, options.kind)  # reports a missing frame before hours of writing
        passed_over += others
        if value_size([path.stat().st_size for frame in frames for path in frame]) > MAX_VALUE:
            warn(f"left out {folder}: {TOO_LONG}")
            del folders[name]
    name_passed_over(passed_over)
    if not folders:
        raise DataError(f"none of the videos in {options.frames} can be used: {TOO_LONG}")
    write_lmdb(options.out, folders, lambda name: pack_folder(folders[name], options.kind))
    say(f"{len(folders)} videos in {options.out}")


if __name__ == "__main__":
    run(main)
