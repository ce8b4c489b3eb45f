"""Folders of frame files, one folder a video, as this project and other tools write them.

Numbers of any width, from 0 or 1, after any prefix: image_00001.jpg, img_00000.png, frame000001.JPG, 1.jpeg. Flow is
flow_00001.jpg (both directions in its channels), or a pair of grey images: flow_x_ and flow_y_, x_ and y_, or in the
folders u/ and v/.
"""

import re
from pathlib import Path

import cv2
import numpy as np

from process_data.src.flow import jpeg
from process_data.src.video_io import require_name, walk
from utils.errors import DataError

Frame = tuple[Path, ...]  # its file, or those of its horizontal and vertical flow
Sequences = dict[str, dict[int, Path]]  # by prefix, the path in the folder up to the number: files by number

SUFFIXES = {".jpg", ".jpeg", ".png"}
SIGNATURES = (b"\xff\xd8", b"\x89PNG")  # first bytes of a JPEG and a PNG; datasets read both
USUAL = ("image_", "img_", "frame_", "frame", "")  # prefixes of RGB frames; where several occur, the first counts
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
    if kind == "flow":
        used = _flow_sequences(folder, {prefix: files for prefix, files in sequences.items() if _is_flow(prefix)})
    else:
        images = {prefix: files for prefix, files in sequences.items() if not _is_flow(prefix)}
        usual = [prefix for prefix in USUAL if prefix in images][:1] or list(images)
        if len(usual) > 1:
            raise DataError(f"{folder} holds several sequences of frames, {_examples(images)}: leave one")
        used = [images.pop(prefix) for prefix in usual]
        others += [path for files in images.values() for path in files.values()]
    if not used:
        raise DataError(f"{folder} holds no frames such as {kind}_00001.jpg: extract this video again")
    numbers = sorted(set().union(*used))
    for files in used:
        for number in range(min(1, numbers[0]), numbers[-1] + 1):
            if number not in files:
                raise DataError(f"{_missing(files, number)}: extract this video again")
    return [tuple(files[number] for files in used) for number in numbers], others


def read_frame(frame: Frame) -> bytes:
    """Return a frame as an LMDB holds it: its file as it is, or a JPEG of the two directions of its flow."""
    coded = [path.read_bytes() for path in frame]
    for path, data in zip(frame, coded, strict=True):
        if not data.startswith(SIGNATURES):
            raise DataError(f"{path} is not a JPEG: extract this video again")
    if len(coded) == 1:
        return coded[0]
    x, y = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) for data in coded)
    if x is None or y is None or x.shape != y.shape:
        raise DataError(f"{frame[0]} and {frame[1]} do not decode, or differ in size: extract this video again")
    return jpeg(np.dstack([x, y, np.full_like(x, 128)]))


def _sequences(folder: Path) -> tuple[Sequences, list[Path]]:
    """Return the numbered images below a folder, and all other files, copies such as "image_00001 (1).jpg" included."""
    sequences: Sequences = {}
    others = []
    for path in walk(folder):
        place = path.relative_to(folder)
        found = re.fullmatch(r"(.*?)([0-9]+)", place.with_suffix("").as_posix(), re.DOTALL)
        copied = found is not None and re.search("[0-9] $", found[1])  # "image_00001 2.jpg"
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


def _is_flow(prefix: str) -> bool:
    return bool(_words(prefix) & {"flow", *AXES[0], *AXES[1]})


def _flow_sequences(folder: Path, flow: Sequences) -> list[dict[int, Path]]:
    """Choose the sequence of flow, or those of its two directions, [] if there is none."""
    axes = [[files for prefix, files in flow.items() if _words(prefix) & axis] for axis in AXES]
    both = [files for prefix, files in flow.items() if not _words(prefix) & (AXES[0] | AXES[1])]
    if len(both) == 1:
        return both
    if [*map(len, axes)] == [1, 1]:
        return [files for [files] in axes]
    if flow:
        raise DataError(f"{folder} holds {_examples(flow)}, which is neither one sequence of flow nor a pair of its "
                        "two directions: extract this video again")
    return []


def _examples(sequences: Sequences) -> str:
    return " and ".join(files[min(files)].name for files in sequences.values())


def _missing(files: dict[int, Path], number: int) -> str:
    """Name the file of a number that a sequence lacks, as its other files are named."""
    like = next(iter(files.values()))
    prefix = like.stem.rstrip("0123456789")
    return f"{like.parent} lacks {prefix}{number:0{len(like.stem) - len(prefix)}d}{like.suffix}"
