"""Write frame folders to one LMDB, the format that datasets are read from.

    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --kind image \\
        --out data/UCF101/ucf101_frame.lmdb
    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --kind flow \\
        --out data/UCF101/ucf101_tvl1_frame.lmdb

Frames that other tools have extracted are read, too: see frame_folder.py. Memory holds one video at a time. The file
takes its name only when it is complete.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from process_data.src.common import require_writable
from process_data.src.frame_folder import find_folders, frame_files, read_frame
from process_data.src.lmdb_file import pack, write_lmdb
from process_data.src.video_io import name_passed_over
from utils.console import say
from utils.errors import OptionError
from utils.launch import run
from utils.parser import Parser


def pack_folder(folder: Path, kind: str) -> bytes:
    """Return the LMDB value of one video: its frames of a kind, "image" or "flow"."""
    return pack(map(read_frame, frame_files(folder, kind)[0]))


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
    # Before hours of writing: a missing frame is an error.
    name_passed_over(path for folder in folders.values() for path in frame_files(folder, options.kind)[1])
    write_lmdb(options.out, folders, lambda name: pack_folder(folders[name], options.kind))
    say(f"{len(folders)} videos in {options.out}")


if __name__ == "__main__":
    run(main)
