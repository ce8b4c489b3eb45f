"""Rows of the loader: a two-stream, two-clip training sample, its growth with the video's length, and its bytes."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import default_collate

from benchmarks import data, plain_images
from benchmarks.measure import Case, Disagreement, clocked
from benchmarks.pages import touched
from benchmarks.sizes import Sizes
from dataset.jpeg import DECODE_FLAGS
from dataset.lmdb_reader import LmdbReader
from dataset.video_dataset import VideoDataset
from utils.augmentation import STD
from utils.presets import PretrainTransform, to_blocks

GREY_LEVEL = 1 / (255 * min(STD))  # of a normalised value
CPU = torch.device("cpu")


class Samples:
    """The same samples in both ways."""

    def __init__(self, folder: Path, sizes: Sizes, lengths: list[int]) -> None:
        data.make_set(folder, sizes, lengths)
        self.dataset: VideoDataset = data.build(folder, "-2stream-2clip", "train", PretrainTransform(sizes.img_dim),
                                                sizes)
        self.items = [(epoch, row) for epoch in range(sizes.samples // len(lengths)) for row in range(len(lengths))]
        self.readers = [plain_images.PlainReader(reader.path) for reader in self.dataset.readers]

    def ours(self) -> list[dict]:
        """What a worker sends."""
        return [self.dataset[item] for item in self.items]

    def ours_on_device(self) -> Tensor:
        """Also with photometric steps and normalisation, which run on the training device."""
        return to_blocks(default_collate(self.ours()), CPU)

    def plain(self) -> list[Tensor]:
        """Float views."""
        return [plain_images.pretraining_sample(self.dataset, self.readers, *item) for item in self.items]

    def used(self) -> list[tuple[str, np.ndarray]]:
        """For each sample, the video and the distinct frames that it uses of either stream."""
        found = []
        for epoch, row in self.items:
            rng = self.dataset.rng(epoch, row)
            clips = self.dataset.sampler(int(self.dataset.index.num_frames[row]), rng)
            plan = self.dataset.transform.plan(rng)
            found.append((self.dataset.index.names[row], np.unique(clips[list(plan.clips)])))
        return found


def agree(plain: list[Tensor], ours: Tensor) -> str:
    """The mean of every view and channel within one grey level, and nearly all pixels."""
    theirs = torch.stack(plain)
    apart = float((theirs.mean(dim=(-2, -1)) - ours.mean(dim=(-2, -1))).abs().max()) / GREY_LEVEL
    far = float(((theirs - ours).abs() > 4 * GREY_LEVEL).float().mean())
    if apart > 1 or far > 0.01:
        raise Disagreement(f"a frame's mean is {apart:.2f} grey levels apart, {far:.2%} of the pixels more than 4")
    return f"frame means within 1 grey level ({apart:.2f}); {1 - far:.2%} of the pixels within 4"


def sample(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """A training sample of a worker, with one core; and with the photometric steps that follow on the device."""
    samples = Samples(folder / "sample", sizes, [sizes.sample_length])
    yield from _sample_cases(samples, "loader", f"{sizes.width}x{sizes.height}, {sizes.frames} frames, "
                             f"{samples.dataset.index.num_frames[0]} in the video",
                             {"ratio": ">= 5", "bound": "<= 1.5"})


def lengths(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """The same from longer and longer videos."""
    for length in sizes.lengths:
        samples = Samples(folder / str(length), sizes, [length])
        yield next(_sample_cases(samples, "loader over length", f"{length} frames in the video", {}))


def _sample_cases(samples: Samples, row: str, size: str, goals: dict[str, str]) -> Iterator[Case]:
    jpegs, count = _used_jpegs(samples), len(samples.items)
    case = partial(Case, size=size, plain=samples.plain, clock="cpu", units=count, bound=partial(_decode, jpegs),
                   bound_of="bare decoding of the frames used (simplejpeg, faster than OpenCV)")

    def check(plain: list[Tensor], ours: list[dict]) -> str:
        return agree(plain, to_blocks(default_collate(ours), CPU))

    opencv = median(clocked(partial(_decode_by_opencv, jpegs), "cpu", CPU) for _ in range(5)) / count
    notes = {"frames decoded a sample": len(jpegs) / count, "bare decoding by OpenCV, s": opencv,
             "mean bytes of a frame": float(np.mean([len(jpeg) for jpeg in jpegs]))}
    yield case(row, ours=samples.ours, agree=check, goals=goals, notes=notes)
    yield case(f"{row}, with photometric steps on the CPU", ours=samples.ours_on_device, agree=agree)


def _used_jpegs(samples: Samples) -> list[np.ndarray]:
    return [np.frombuffer(reader.value(name)[i], np.uint8)
            for name, frames in samples.used() for reader in samples.readers for i in frames]


def _decode(jpegs: list[np.ndarray]) -> None:
    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg)


def _decode_by_opencv(jpegs: list[np.ndarray]) -> None:
    for jpeg in jpegs:
        cv2.imdecode(jpeg, DECODE_FLAGS)


def tensor_bytes(value: object) -> int:
    """Bytes of all tensors of a nested sample."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(tensor_bytes, value.values())) if isinstance(value, dict) else 0


def message(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """What goes from a worker to the trainer: the copy of it, which its bytes set."""
    samples = Samples(folder / "message", sizes, [2 * sizes.frames + 2])
    ours, plain = samples.ours()[0], samples.plain()[0]
    count, plain_count = tensor_bytes(ours), tensor_bytes(plain)
    yield Case("bytes of a sample", f"{count} bytes for {plain_count}", plain=plain.clone,
               ours=ours["clips"].clone, agree=lambda a, b: f"{count / plain_count:.4f} of the bytes",
               goals={"bytes": "<= 1/4"}, notes={"ours, bytes": count, "plain, bytes": plain_count,
                                                 "share of the bytes": count / plain_count})


def pages(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Bytes of an LMDB's file that a sample reads, by the pages that are in memory afterwards."""
    length = max(sizes.lengths[0], 4 * sizes.frames)
    data.make_set(folder / "pages", sizes, [length])
    dataset = data.build(folder / "pages", "", "train", PretrainTransform(sizes.img_dim), sizes)
    reader, name = dataset.readers[0], dataset.index.names[0]
    assert isinstance(reader, LmdbReader)
    frames = np.arange(length // 2, length // 2 + sizes.frames)
    plain = plain_images.PlainReader(reader.path)
    reader.frames(name, [0])  # opens the file, which is not this sample's work
    walking = LmdbReader(shutil.copy(reader.path, folder / "published.lmdb"))  # without a file of ends
    walking.frames(name, [0])
    notes = {"plain, bytes touched": touched(plain.path, lambda: plain.value(name)),
             "ours, bytes touched": touched(Path(reader.path), lambda: reader.frames(name, frames)),
             "without a file of ends, bytes touched": touched(Path(walking.path),
                                                              lambda: walking.frames(name, frames)),
             "video's bytes": sum(map(len, plain.value(name))),
             "frames' own bytes": sum(len(plain.value(name)[i]) for i in frames)}
    yield Case("LMDB sample read", f"{sizes.frames} of {length} frames", ours=lambda: reader.frames(name, frames),
               plain=lambda: np.stack([np.asarray(image) for image in plain.frames(name, frames)]),
               agree=_same_frames, notes=notes, goals={"bytes": "the frames' own"})


def _same_frames(plain: np.ndarray, ours: np.ndarray) -> str:
    apart = int(np.abs(plain.astype(int) - ours.astype(int)).max())
    if apart > 1:
        raise Disagreement(f"decoded frames are {apart} grey levels apart")
    return f"frames within {apart} grey levels"
