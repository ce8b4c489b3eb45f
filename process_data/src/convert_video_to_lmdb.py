"""Frame folders -> one LMDB, the format that datasets are read from.

    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --kind image \\
        --out data/UCF101/ucf101_frame.lmdb
    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --kind flow \\
        --out data/UCF101/ucf101_tvl1_frame.lmdb

Memory holds one video, the file grows as needed and takes its name only when complete.
"""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset import jpeg
from dataset.regular import regular
from process_data.src.console import say
from process_data.src.errors import PrepareError, run
from process_data.src.files import require_writable
from process_data.src.lmdb_file import pack, write_lmdb
from process_data.src.names import require_name
from process_data.src.options import Parser

MOST_BYTES = 4 * jpeg.MAX_PIXELS  # of a frame


def frame_files(folder: Path, kind: str) -> list[Path]:
    """The frames `kind_%05d.jpg` of one video in order. Raises PrepareError when there are none, or one is missing."""
    numbered = {int(path.stem.rpartition("_")[2]): path for path in folder.glob(f"{kind}_*.jpg")
                if re.fullmatch(rf"{kind}_\d+", path.stem)}
    gap = next((i for i in range(1, len(numbered) + 1) if i not in numbered), None)
    if not numbered or gap is not None:
        raise PrepareError(f"{folder} lacks {kind}_{gap or 1:05d}.jpg: extract this video again")
    return [numbered[i] for i in sorted(numbered)]


def pack_folder(folder: Path, kind: str) -> bytes:
    """The LMDB value of one video: its frame files as they are. Raises PrepareError for a file that is no JPEG."""
    return pack(frame_bytes(path) for path in frame_files(folder, kind))


def frame_bytes(path: Path) -> bytes:
    """The bytes of a frame file, or of the one that it links to. Raises PrepareError where they are no JPEG.

    What else a link leads to would be passed on with the LMDB.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise PrepareError(f"{path} has more bytes than any frame, {MOST_BYTES}: extract this video again")
            data = file.read()
        jpeg.checked_size(memoryview(data))
    except OSError as error:
        raise PrepareError(f"{path} cannot be read ({error.strerror}): extract this video again") from error
    except jpeg.FrameError as error:
        raise PrepareError(f"{path} {error}: extract this video again") from error
    return data


def find_folders(frames: Path) -> dict[str, Path]:
    """The frame folders `Class/video/` of a folder, {"Class/video": path}. Raises PrepareError when there are none."""
    if not frames.is_dir():
        raise PrepareError(f"no folder {frames}: give the folder that holds Class/video/image_00001.jpg, ...")
    found = {f"{path.parent.name}/{path.name}": path for path in sorted(frames.glob("*/*"))
             if path.is_dir() and not path.name.startswith(".")}
    if not found:
        raise PrepareError(f"no frame folders in {frames}: it should hold Class/video/image_00001.jpg, ...")
    for name, path in found.items():
        require_name(name, path)
    return found


def make_parser() -> Parser:
    """The options."""
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
        raise PrepareError(f"{options.out} exists: add --overwrite to replace it")
    require_writable(options.out)
    folders = find_folders(options.frames)
    for folder in folders.values():
        frame_files(folder, options.kind)  # a missing frame is told before hours of writing
    write_lmdb(options.out, folders, lambda name: pack_folder(folders[name], options.kind))
    say(f"{len(folders)} videos in {options.out}")


if __name__ == "__main__":
    run(main)
