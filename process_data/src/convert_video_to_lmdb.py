"""Write frame folders to one LMDB, the format that datasets are read from.

    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --out data/UCF101/ucf101_frame.lmdb

Frames that other tools have extracted are read, too: numbers of any width, from 0 or 1, after any prefix
(image_00001.jpg, img_00000.png, frame000001.JPG, 1.jpeg). Flow is flow_00001.jpg, or a pair of grey images: flow_x_ and
flow_y_, x_ and y_, or in the folders u/ and v/. docs/data.md describes the format; `<lmdb>-order` lists the videos.
"""

import os
import random
import re
import struct
import sys
from collections.abc import Callable, Iterable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryFile

import cv2
import lmdb
import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataset.lmdb_pages import frame_spans
from dataset.lmdb_reader import LmdbReader
from process_data.src.video_io import jpeg, name_passed_over, require_name, walk
from utils.console import say, track, warn
from utils.errors import DataError, OptionError
from utils.files import naming, require_writable, write_text
from utils.launch import run
from utils.parser import Parser

Frame = tuple[Path, ...]  # its file, or those of its horizontal and vertical flow
Value = mmap | memoryview  # the msgpack list of a video's JPEGs
MAX_VALUE = (1 << 32) - 1  # bytes; a node keeps the size of its value in 32 bits
TOO_LONG = "its frames take more than the 4 GiB that an LMDB can hold of a video: cut it into several"
SPARE = 1 << 24  # bytes by which the file is longer while it is written
SUFFIXES = {".jpg", ".jpeg", ".png"}
# First bytes of JPEG and PNG files (datasets read both), and the marker near the end of a complete one.
FORMATS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
TAIL = 1024  # bytes, as some programs append to a file
# Words in file names that mark horizontal flow, vertical flow, or both; all other files are RGB frames.
WORDS = {"x": {"x", "u", "flow_x", "flowx"}, "y": {"y", "v", "flow_y", "flowy"}, "flow": {"flow"}}


def find_folders(frames: Path) -> dict[str, Path]:
    """Find the frame folders ``Class/video/`` of a folder: {"Class/video": path}."""
    if not frames.is_dir():
        raise DataError(f"no folder {frames}: give the folder that holds Class/video/image_00001.jpg, ...")
    found = {f"{path.parent.name}/{path.name}": path for path in sorted(frames.glob("*/*"))
             if path.is_dir() and not path.name.startswith(".")}
    if not found:
        raise DataError(f"no frame folders in {frames}: it should hold Class/video/image_00001.jpg, ...")
    for name, path in found.items():
        require_name(name, path)
    return found


def frame_files(folder: Path, kind: str) -> tuple[list[Frame], list[Path]]:
    """Return the frames of a kind, "image" or "flow", of one video in order, and the files that are no frames.

    DataError if there are none, one is missing or twice there, or several sequences could be meant.
    """
    sequences, others = _sequences(folder)
    whole, x, y = ([files for prefix, files in sequences.items() if _kind(prefix) == each] for each in (kind, "x", "y"))
    used = whole or (x + y if kind == "flow" else [])
    if not used:
        raise DataError(f"{folder} holds no frames such as {kind}_00001.jpg: extract this video again")
    first = [files[min(files)] for files in used]
    if len(whole) > 1 or not (whole or len(x) == len(y) == 1):
        raise DataError(f"{folder} holds {' and '.join(path.name for path in first)}: leave one sequence of frames, or "
                        "a pair of the two directions of flow")
    numbers = range(min(1, *map(min, used)), max(map(max, used)) + 1)
    for files, like in zip(used, first, strict=True):
        for missing in (number for number in numbers if number not in files):
            stem = like.stem.rstrip("0123456789")
            raise DataError(f"{like.parent} lacks {stem}{missing:0{len(like.stem) - len(stem)}d}{like.suffix}: extract "
                            "this video again")
    return [tuple(files[number] for files in used) for number in numbers], others


def _sequences(folder: Path) -> tuple[dict[str, dict[int, Path]], list[Path]]:
    """Return images by path prefix and number, and other files, among them copies such as "image_00001 (1).jpg"."""
    sequences: dict[str, dict[int, Path]] = {}
    others = []
    for path in walk(folder):
        place = path.relative_to(folder).with_suffix("").as_posix()
        found = re.fullmatch(r"(.*?)(?<![0-9])(?<![0-9] )([0-9]+)", place, re.DOTALL)
        if not found or path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            others.append(path)
            continue
        twin = sequences.setdefault(found[1], {}).setdefault(int(found[2]), path)
        if twin != path:
            raise DataError(f"{twin} and {path.name} have the same number: remove one")
    return sequences, others


def _kind(prefix: str) -> str:
    """Return the kind of files, a key of `WORDS` or "image", by the last word before their number, or their folder."""
    folder, _, name = prefix.lower().rpartition("/")
    words = {folder, re.split(r"[\W_]+", name.rstrip("_-. "))[-1]}
    return next((kind for kind, known in WORDS.items() if words & known), "image")


def read_frame(frame: Frame) -> bytes:
    """Return a frame as an LMDB holds it: its file as it is, or a JPEG of the two directions of its flow."""
    coded = [path.read_bytes() for path in frame]
    for path, data in zip(frame, coded, strict=True):
        if not any(data.startswith(start) and end in data[-TAIL:] for start, end in FORMATS.items()):
            raise DataError(f"{path} is not a whole JPEG or PNG: extract this video again")
    if len(coded) == 1:
        return coded[0]
    x, y = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) for data in coded)
    if x is None or y is None or x.shape != y.shape:
        raise DataError(f"{frame[0]} and {frame[1]} do not decode, or differ in size: extract this video again")
    return jpeg(np.dstack([x, y, np.full_like(x, 128)]))


def list_header(count: int) -> bytes:
    """Return the header of a video's value, a msgpack list of so many JPEGs."""
    return struct.pack(">BI", 0xDD, count)


def pack(count: int, jpegs: Iterable[bytes], place: Path | None = None) -> mmap:
    """Write a video's value to a temporary file in a folder and map it; memory holds one JPEG at a time."""
    with TemporaryFile(dir=place) as file:
        file.write(list_header(count))
        file.writelines(map(msgpack.packb, jpegs))
        file.flush()
        return mmap(file.fileno(), 0, access=ACCESS_READ)


def write_lmdb(path: Path, names: Iterable[str], load: Callable[[str], Value]) -> None:
    """Write an LMDB of the values that ``load`` returns of each video.

    The file grows as ``<path>.partial`` and takes its name when all of it is on the disk; on an error nothing is left.
    """
    written = sorted(names)  # class by class
    order = written.copy()
    random.Random(0).shuffle(order)
    keys, lengths = {name: b"%09d" % i for i, name in enumerate(order)}, []
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    # Through a writable map the library copies a mapped value from file to file; otherwise it would hold all of it.
    settings = {"subdir": False, "lock": False, "sync": False, "meminit": False, "writemap": True}
    try:
        with naming(partial), lmdb.open(str(partial), map_size=SPARE, **settings) as environment:
            for name in track(written, len(written), f"write {partial.stem}"):
                value = load(name)
                lengths.append(frame_spans(memoryview(value), [])[0])
                _put(environment, keys[name], value)
            for key, entry in (("keys", [keys[name] for name in written]), ("len", len(keys)), ("order", order),
                               ("vlen", lengths)):
                _put(environment, f"__{key}__".encode(), msgpack.packb(entry))
            environment.sync(True)
            end = _end(environment)
        os.truncate(partial, end)
        write_text(path.with_name(path.name + "-order"), "".join(f"{name}\n" for name in order))
        os.replace(partial, path)
    except lmdb.Error as error:
        raise DataError(f"cannot write {partial} ({error}): is the disk full?") from error
    finally:
        partial.unlink(missing_ok=True)


def _put(environment: lmdb.Environment, key: bytes, value: bytes | Value) -> None:
    """Write a value after growing the file: on a full disk, writing to its map would kill the process."""
    needed = _end(environment) + len(value) + SPARE
    with open(environment.path(), "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, needed)
    if needed > environment.info()["map_size"]:
        environment.set_mapsize(needed)
    with environment.begin(write=True) as transaction:
        transaction.put(key, value)


def _end(environment: lmdb.Environment) -> int:
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def frame_counts(path: Path) -> dict[str, int]:
    reader = LmdbReader(path)
    return {name: reader.num_frames(name) for name in reader.names}


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--frames", type=Path, required=True, metavar="FOLDER", help="folder of Class/video/image_00001.jpg, ...")
    add("--kind", choices=("image", "flow"), default="image", help="RGB frames or flow")
    add = parser.topic("output")
    add("--out", type=Path, required=True, metavar="FILE", help="LMDB file to write")
    add("--overwrite", action="store_true", help="replace --out")
    return parser


def main() -> None:
    options = make_parser().parse_args()
    if options.out.exists() and not options.overwrite:
        raise OptionError(f"{options.out} exists: add --overwrite to replace it")
    require_writable(options.out)
    folders, passed_over = {}, list[Path]()
    for name, folder in find_folders(options.frames).items():
        frames, others = frame_files(folder, options.kind)  # reports a missing frame before hours of writing
        passed_over += others
        if sum(5 + path.stat().st_size for frame in frames for path in frame) > MAX_VALUE - 5:
            warn(f"left out {folder}: {TOO_LONG}")
        else:
            folders[name] = folder
    name_passed_over(passed_over)

    def load(name: str) -> mmap:
        frames = frame_files(folders[name], options.kind)[0]
        return pack(len(frames), map(read_frame, frames), options.out.parent)

    write_lmdb(options.out, folders, load)
    say(f"{len(folders)} videos in {options.out}")


if __name__ == "__main__":
    run(main)
