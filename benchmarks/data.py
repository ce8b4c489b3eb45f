"""Videos that look and weigh like those of UCF101's LMDBs: some 12 kB a frame, 8 kB a flow frame at 320x240."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.sizes import Sizes
from dataset import catalog
from dataset.video_dataset import Transform, VideoDataset
from process_data.src.lmdb_file import pack, write_lmdb

NAME = "bench"
CYCLE = 48  # different frames of a video; longer ones repeat them
QUALITY = {"rgb": 75, "flow": 85}
GRAIN = {"rgb": 3.0, "flow": 0.5}  # grey levels of noise, which sets the JPEGs' sizes
SPEED = 3  # pixels a frame


def jpegs(stream: str, height: int, width: int, seed: int) -> list[bytes]:
    """The distinct frames of a video: a texture that moves, with noise; flow is smooth and has 128 in channel 0."""
    rng = np.random.default_rng(seed)
    cells = {"rgb": 12, "flow": 40}[stream]  # pixels between the texture's random values
    wide = width + SPEED * CYCLE
    coarse = rng.integers(0, 256, (height // cells + 2, wide // cells + 2, 3)).astype(np.uint8)
    texture = cv2.resize(coarse, (wide, height), interpolation=cv2.INTER_CUBIC)
    images = []
    for start in range(0, SPEED * CYCLE, SPEED):
        image = texture[:, start:start + width] + rng.normal(0, GRAIN[stream], (height, width, 1))
        image = np.clip(image, 0, 255).astype(np.uint8)
        if stream == "flow":
            image[..., 2] = 128
        images.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY[stream]])[1].tobytes())
    return images


def make_set(folder: Path, sizes: Sizes, lengths: Sequence[int]) -> None:
    """A dataset `bench` below `folder`: two streams, splits of the same videos for training and test."""
    names = {f"class/v_class_g{number:02d}_c01": length for number, length in enumerate(lengths)}
    for stream, file in (("rgb", f"{NAME}_frame.lmdb"), ("flow", f"{NAME}_tvl1_frame.lmdb")):
        def load(name: str, stream: str = stream) -> bytes:
            images = jpegs(stream, sizes.height, sizes.width, seed=list(names).index(name))
            return pack(images[i % CYCLE] for i in range(names[name]))
        write_lmdb(folder / "data" / NAME / file, names, load)
    splits = folder / "splits" / NAME
    splits.mkdir(parents=True)
    (splits / "ClassInd.txt").write_text("".join(f"{name}\n" for name in class_list(sizes.classes)))
    write_split(splits, names.items())


def class_list(count: int) -> list[str]:
    """Names of so many classes; the first one has all videos."""
    return ["class", *(f"empty{number}" for number in range(1, count))]


def write_split(splits: Path, rows: Iterable[tuple[str, int]]) -> None:
    """The same videos ("Class/video", frames) as training and as test list."""
    text = "".join(f"{name},{length}\n" for name, length in rows)
    for part in ("train", "test"):
        (splits / f"{part}_split01.csv").write_text(text)


def build(folder: Path, suffix: str, mode: str, transform: Transform, sizes: Sizes) -> VideoDataset:
    """The dataset of `make_set` by the suffix of its name ("", "-2stream-2clip") and the mode of `catalog.build`."""
    return catalog.build(NAME + suffix, mode, transform=transform, data_root=folder / "data",
                         split_root=folder / "splits", seq_len=sizes.frames, ds=1)
