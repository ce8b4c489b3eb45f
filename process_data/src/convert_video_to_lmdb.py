"""Write frame folders to one LMDB, the format that datasets are read from.

    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --kind image \\
        --out data/UCF101/ucf101_frame.lmdb
    python process_data/src/convert_video_to_lmdb.py --frames UCF101/frames --kind flow \\
        --out data/UCF101/ucf101_tvl1_frame.lmdb

Frames that other tools have extracted are read, too: numbers of any width, from 0 or 1, after any prefix
(image_00001.jpg, img_00000.png, frame000001.JPG, 1.jpeg). Flow is flow_00001.jpg, or a pair of grey images: flow_x_ and
flow_y_, x_ and y_, or in the folders u/ and v/. The file takes its name only when it is complete.

Each video has a key, the zero-padded 9-digit index of the video in `__order__`, whose value is a msgpack list of JPEGs.
`__keys__` lists the keys in writing order, `__vlen__` the frame counts in the same order, `__len__` their number,
`__order__` the names "Class/video": sorted, then shuffled with seed 0. The text file `<lmdb>-order` repeats them.
"""

import os
import random
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
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
Sequences = dict[str, dict[int, Path]]  # files by number, by the path in the folder up to the number
Pieces = Iterable[bytes | memoryview]  # a value; the first piece holds the header of its list
MAX_VALUE = (1 << 32) - 1  # bytes; a node keeps the size of its value in 32 bits
TOO_LONG = "its frames take more than the 4 GiB that an LMDB can hold of a video: cut it into several"
SPARE = 1 << 24  # bytes by which the file is longer while it is written

SUFFIXES = {".jpg", ".jpeg", ".png"}
# First bytes of a JPEG and a PNG, which datasets read both, and what is near the end of a whole one.
FORMATS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
TAIL = 1024  # bytes, as some programs append to a file
AXES = ({"x", "u", "flow_x", "flowx"}, {"y", "v", "flow_y", "flowy"})  # words that say horizontal and vertical flow


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

    Raises:
        DataError: there are none, one is missing or twice there, or several sequences could be meant.
    """
    sequences, others = _sequences(folder)
    meant = [prefix for prefix in sequences if (kind == "flow") == bool(_words(prefix) & {"flow", *AXES[0], *AXES[1]})]
    x, y = ([prefix for prefix in meant if _words(prefix) & axis] for axis in AXES)
    whole = [prefix for prefix in meant if prefix not in x + y]
    used = whole or x + y
    if not used:
        raise DataError(f"{folder} holds no frames such as {kind}_00001.jpg: extract this video again")
    if len(whole) > 1 or not (whole or len(x) == len(y) == 1):
        examples = " and ".join(sequences[prefix][min(sequences[prefix])].name for prefix in meant)
        raise DataError(f"{folder} holds {examples}: leave one sequence of frames, or a pair of the two directions of "
                        "flow")
    numbers = sorted(set().union(*(sequences[prefix] for prefix in used)))
    for prefix in used:
        for number in range(min(1, numbers[0]), numbers[-1] + 1):
            if number not in sequences[prefix]:
                like = sequences[prefix][min(sequences[prefix])]
                stem = like.stem.rstrip("0123456789")
                raise DataError(f"{like.parent} lacks {stem}{number:0{len(like.stem) - len(stem)}d}{like.suffix}: "
                                "extract this video again")
    return [tuple(sequences[prefix][number] for prefix in used) for number in numbers], others


def _sequences(folder: Path) -> tuple[Sequences, list[Path]]:
    """Return the numbered images below a folder, and all other files, copies such as "image_00001 (1).jpg" included."""
    sequences: Sequences = {}
    others = []
    for path in walk(folder):
        found = re.fullmatch(r"(.*?)([0-9]+)", path.relative_to(folder).with_suffix("").as_posix(), re.DOTALL)
        copied = found and re.search("[0-9] $", found[1])  # "image_00001 2.jpg"
        if found is None or copied or path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            others.append(path)
            continue
        twin = sequences.setdefault(found[1], {}).setdefault(int(found[2]), path)
        if twin != path:
            raise DataError(f"{twin} and {path.name} have the same number: remove one")
    return sequences, others


def _words(prefix: str) -> set[str]:
    """Return what says of a sequence which it is: the last word before the number, and the folder."""
    folder, _, name = prefix.lower().rpartition("/")
    return {folder, re.split(r"[\W_]+", name.rstrip("_-. "))[-1]}


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


def pack_folder(folder: Path, kind: str) -> Iterator[bytes]:
    files = frame_files(folder, kind)[0]
    return pack(len(files), map(read_frame, files))


def list_header(count: int) -> bytes:
    """Return the header of a video's value, a msgpack list of so many JPEGs."""
    return struct.pack(">BI", 0xDD, count)


def pack_frame(jpeg: bytes) -> bytes:
    """Pack a JPEG as an element of that list."""
    return msgpack.packb(jpeg, use_bin_type=True)


def pack(count: int, jpegs: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the value of a video in pieces."""
    yield list_header(count)
    yield from map(pack_frame, jpegs)


def write_lmdb(path: Path, names: Iterable[str], load: Callable[[str], Pieces]) -> None:
    """Write an LMDB of the values that ``load`` yields of each video; memory holds one piece of a value at a time.

    The file grows as ``<path>.partial`` and takes its name when all of it is on the disk; on an error nothing is left.
    """
    order = sorted(names)
    random.Random(0).shuffle(order)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with naming(partial):
            _fill(partial, order, load)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, lmdb.Error):
            raise DataError(f"cannot write {partial} ({error}): is the disk full?") from error
        raise
    write_text(path.with_name(path.name + "-order"), "".join(f"{name}\n" for name in order))
    os.replace(partial, path)


def _fill(path: Path, order: list[str], load: Callable[[str], Pieces]) -> None:
    index = {name: i for i, name in enumerate(order)}
    keys, lengths = [], []
    # Through a writable map the library copies a value from one file to the other; otherwise it would hold all of it.
    with (lmdb.open(str(path), subdir=False, map_size=SPARE, lock=False, sync=False, meminit=False, writemap=True)
          as environment, TemporaryFile(dir=path.parent) as file):
        for name in track(sorted(order), len(order), f"write {path.stem}"):  # class by class
            keys.append(b"%09d" % index[name])
            file.seek(0)
            size = sum(file.write(piece) for piece in load(name))
            file.flush()
            if size > MAX_VALUE:
                raise DataError(f"{name} takes {size} bytes: {TOO_LONG}")
            with mmap(file.fileno(), size, access=ACCESS_READ) as value:
                lengths.append(frame_spans(memoryview(value), [])[0])
                _put(environment, path, keys[-1], value)
        for key, entry in (("keys", keys), ("len", len(keys)), ("order", order), ("vlen", lengths)):
            _put(environment, path, f"__{key}__".encode(), msgpack.packb(entry, use_bin_type=True))
        environment.sync(True)
        end = _end(environment)
    os.truncate(path, end)


def _put(environment: lmdb.Environment, path: Path, key: bytes, value: bytes | mmap) -> None:
    """Write a value, after the file has grown to hold it: in a map, a full disk would end the program by a signal."""
    needed = _end(environment) + len(value) + SPARE
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, needed)
    if needed > environment.info()["map_size"]:
        environment.set_mapsize(needed)
    with environment.begin(write=True) as transaction:
        transaction.put(key, value)


def _end(environment: lmdb.Environment) -> int:
    """Return where the last page ends, in bytes."""
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def frame_counts(path: Path) -> dict[str, int]:
    """Return the number of frames of each video of an LMDB, {"Class/video": frames}."""
    reader = LmdbReader(path)
    return {name: reader.num_frames(name) for name in reader.names}


def check_lmdbs(rgb: Path, flow: Path | None = None) -> dict[str, int]:
    """Check that each video has one flow frame less than RGB frames, and return the number of RGB frames."""
    lengths = frame_counts(rgb)
    flows = frame_counts(flow) if flow else {name: frames - 1 for name, frames in lengths.items()}
    for name in sorted(lengths.keys() | flows.keys()):
        if lengths.get(name, 0) != flows.get(name, 0) + 1:
            raise DataError(f"{name} has {lengths.get(name)} frames in {rgb} and {flows.get(name)} in {flow}, not one "
                            "less: prepare again with --overwrite")
    return lengths


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
    folders = find_folders(options.frames)
    passed_over: list[Path] = []
    for name, folder in list(folders.items()):
        frames, others = frame_files(folder, options.kind)  # reports a missing frame before hours of writing
        passed_over += others
        if sum(5 + path.stat().st_size for frame in frames for path in frame) > MAX_VALUE - 5:
            warn(f"left out {folder}: {TOO_LONG}")
            del folders[name]
    name_passed_over(passed_over)
    if not folders:
        raise DataError(f"none of the videos in {options.frames} can be used: {TOO_LONG}")
    write_lmdb(options.out, folders, lambda name: pack_folder(folders[name], options.kind))
    say(f"{len(folders)} videos in {options.out}")


if __name__ == "__main__":
    run(main)
