"""Small datasets on disk: LMDBs, splits, class list and sources, in the formats of the published files.

Frames are smooth noise of a few pixels, the same for the same name and number, so that a test can tell them apart.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import cv2
import lmdb
import msgpack
import numpy as np

SIZE = (48, 64)  # height, width


def frame(name: str, number: int, size: tuple[int, int] = SIZE, stream: str = "rgb") -> np.ndarray:
    """One frame, uint8 RGB (H, W, 3)."""
    rng = np.random.default_rng(crc32(f"{name}/{stream}/{number}".encode()))
    height, width = size
    coarse = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    if stream == "flow":
        image[..., 0] = 128
    return image


def video(count: int = 2, size: tuple[int, int] = SIZE, stream: str = "rgb") -> np.ndarray:
    """Frames of a video, uint8 (count, H, W, 3)."""
    return np.stack([frame("A/a", i, size, stream) for i in range(count)])


def share(hits: int, of: int, expected: float) -> bool:
    """Whether `hits` of `of` are within four standard deviations of the expected share."""
    return abs(hits - of * expected) < 4 * np.sqrt(of * expected * (1 - expected))


def jpeg(image: np.ndarray) -> bytes:
    """A JPEG of an RGB image."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def write_lmdb(path: Path, videos: Mapping[str, Sequence[bytes]], *, raw: bool = False, folder: bool = False) -> Path:
    """Write videos ("Class/video" -> JPEGs) as the published files are written.

    raw: with the string type of msgpack 0.6, else bin. folder: a folder with data.mdb, else a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
    order = sorted(videos)
    random.Random(0).shuffle(order)
    keys = {name: b"%09d" % number for number, name in enumerate(order)}
    size = sum(len(image) for images in videos.values() for image in images)
    env = lmdb.open(str(path), subdir=folder, map_size=4 * size + (1 << 22), lock=False)

    def pack(value: object) -> bytes:
        return msgpack.packb(value, use_bin_type=not raw)

    with env.begin(write=True) as transaction:
        for name in sorted(videos):
            transaction.put(keys[name], pack(list(videos[name])))
        transaction.put(b"__keys__", pack([keys[name] for name in sorted(videos)]))
        transaction.put(b"__len__", pack(len(videos)))
        transaction.put(b"__order__", pack(order))
        transaction.put(b"__vlen__", pack([len(videos[name]) for name in sorted(videos)]))
    env.close()
    return path


@dataclass(frozen=True)
class Miniature:
    """A dataset on disk. name: to be used as --dataset. lengths: RGB frames of every video by "Class/video"."""

    name: str
    data_root: Path
    split_root: Path
    classes: list[str]
    train: list[str]
    test: list[str]
    lengths: dict[str, int]

    @property
    def roots(self) -> dict[str, Path]:
        """The keyword arguments of `catalog.build`."""
        return {"data_root": self.data_root, "split_root": self.split_root}

    @property
    def options(self) -> list[str]:
        """The command-line options that lead here."""
        return ["--data_root", str(self.data_root), "--split_root", str(self.split_root)]


def make(root: Path, name: str = "ucf101", *, classes: int = 2, groups: int | Sequence[int] = 4, clips: int = 2,
         frames: int = 20, **settings) -> Miniature:
    """A dataset like UCF101 (or HMDB51, or of the user's own `name`), or like K400 where that is the name.

    Of each class's `groups` (how many, or their numbers) of `clips` videos a quarter, at least one group, is tested;
    `frames` RGB frames and one less of flow in each video. Splits 2 and 3 are the same as 1.

    settings: raw, folder (see `write_lmdb`), size (height, width), seed of lengths (videos get up to 5 frames more),
    class_names, instead of some of its own.
    """
    class_names = settings.pop("class_names", None) or _class_names(name, classes)
    numbers = range(1, groups + 1) if isinstance(groups, int) else groups
    tested = numbers[:max(1, len(numbers) // 4)]
    sides: dict[str, list[str]] = {"train": [], "test": []}
    for class_name in class_names:
        title = "HandStandPushups" if class_name == "HandstandPushups" else class_name.replace(" ", "_")
        for group in numbers:
            side = "test" if group in tested else "train"
            sides[side] += [f"{class_name}/v_{title}_g{group:02d}_c{clip:02d}" for clip in range(1, clips + 1)]
    rng = random.Random(settings.pop("seed", 0)) if "seed" in settings else None
    lengths = {video: frames + (rng.randrange(6) if rng else 0) for side in sides.values() for video in side}
    made = Miniature(name, root / "data", root / "splits", class_names, sides["train"], sides["test"], lengths)
    _write_splits(made)
    _write_lmdbs(made, **settings)
    return made


def _class_names(name: str, classes: int) -> list[str]:
    if name == "k400":
        return [f"class number {chr(97 + i)}" for i in range(classes)]
    return ["ApplyEyeMakeup", "HandstandPushups", *(f"Class{chr(65 + i)}" for i in range(classes))][:classes]


def _write_splits(made: Miniature) -> None:
    folder = made.split_root / made.name
    folder.mkdir(parents=True)
    lines = made.classes if made.name == "k400" else [f"{i} {name}" for i, name in enumerate(made.classes, start=1)]
    (folder / "ClassInd.txt").write_text("\n".join(lines) + "\n")
    for side, videos in (("train", made.train), ("test", made.test)):
        rows = "".join(f"/somewhere/frame/{video}/,{made.lengths[video]}\n" for video in videos)
        files = [f"{'val' if side == 'test' else side}_split.csv"] if made.name == "k400" else [
            f"{side}_split{split:02d}.csv" for split in (1, 2, 3)]
        for file in files:
            (folder / file).write_text(rows)
    sources = sorted({source(made.name, video) for video in made.train + made.test})
    (folder / "video_source.json").write_text(json.dumps({name: number for number, name in enumerate(sources)}))


def source(dataset: str, video: str) -> str:
    """The name of a video's source in video_source.json."""
    return video if dataset == "k400" else re.sub(r"_c\d+$", "", video.split("/")[-1])


def _write_lmdbs(made: Miniature, *, size: tuple[int, int] = SIZE, raw: bool = False, folder: bool = False) -> None:
    for stream in ("rgb", "flow"):
        for path, videos in _files(made, stream).items():
            images = {video: [jpeg(frame(video, number, size, stream))
                              for number in range(made.lengths[video] - (stream == "flow"))] for video in videos}
            write_lmdb(made.data_root / path, images, raw=raw, folder=folder)


def _files(made: Miniature, stream: str) -> dict[str, list[str]]:
    """LMDBs of a stream: path below the data root -> videos."""
    if made.name == "k400":
        kind = {"rgb": "frame", "flow": "flow"}[stream]
        return {f"K400/k400_{kind}_train.lmdb": made.train, f"K400/k400_{kind}_val.lmdb": made.test}
    base = made.name.upper() if made.name in ("ucf101", "hmdb51") else made.name
    return {f"{base}/{made.name}_{'tvl1_' if stream == 'flow' else ''}frame.lmdb": made.train + made.test}
