"""A dataset is readers + index + clip sampler + a transform that is handed in."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast
from zlib import crc32

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset.clip_sampler import Sampler
from dataset.errors import DataError
from dataset.video_index import Reader, VideoIndex


class ClipReader(Reader, Protocol):
    """One stream of the videos."""

    def clips(self, name: str, indices: np.ndarray, replaced: list[int] | None = None) -> list[np.ndarray]:
        """Clips of a video, uint8 RGB (T, H, W, 3) each.

        Args:
            name, indices, replaced: see `lmdb_reader.LmdbReader.clips`.
        """


class Plan(Protocol):
    """What a transform decides before anything is decoded: at least, which of the sampled clips it needs."""

    @property
    def clips(self) -> tuple[int, ...]:
        """Their numbers."""


class Transform(Protocol):
    """Augmentation of one sample, in two steps so that no frame is decoded that is not needed."""

    def plan(self, rng: np.random.Generator) -> Plan:
        """Decide which clips are needed, and for what.

        Args:
            rng: of all draws of the sample.
        """

    def render(self, plan: Any, frames: Mapping[int, list[np.ndarray]], rng: np.random.Generator) -> dict[str, Any]:
        """Tensors of a sample.

        Args:
            plan: of :meth:`plan`. frames: by clip number, of each stream, uint8 (T, H, W, 3).
            rng: the same generator, after the plan's draws.
        """


class VideoDataset(Dataset):
    """One sample per video of an index.

    A sample depends on the seed, the epoch and the video alone, never on the worker that makes it or on the order.

    Args:
        readers: one per stream. index: the videos. sampler: frames of clips or windows. transform: see `Transform`.
        seed: of all draws. by_epoch: draw anew in every epoch; evaluation draws the same in all.
    """

    def __init__(self, readers: Sequence[ClipReader], index: VideoIndex, sampler: Sampler, transform: Transform, *,
                 seed: int = 0, by_epoch: bool = True) -> None:
        self.readers, self.index, self.sampler, self.transform = list(readers), index, sampler, transform
        self.seed, self.by_epoch = seed, by_epoch

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The samples one by one, those of epoch 0."""
        return (self[row] for row in range(len(self)))

    @property
    def frames_per_sample(self) -> int:
        """Frames that a sample is made of at most, over its clips and streams; 0 where that depends on the video."""
        return len(self.readers) * getattr(self.sampler, "clips", 0) * self.sampler.seq_len

    @property
    def fingerprint(self) -> str:
        """A checksum of what makes the samples of a given seed: the videos, their order, lengths, labels, sources."""
        index = self.index
        digest = hashlib.sha256("\n".join([*index.classes, "", *index.names]).encode("utf-8", "surrogateescape"))
        for column in (index.labels, index.sources, index.num_frames.astype(np.int64)):
            digest.update(np.ascontiguousarray(column).tobytes())
        return f"{len(index)} videos {digest.hexdigest()[:16]}"

    def rng(self, epoch: int, row: int) -> np.random.Generator:
        """The generator of all draws of a sample.

        Args:
            epoch: counts where draws differ between epochs. row: of the index.
        """
        name = self.index.names[row].encode()
        return np.random.default_rng([self.seed, epoch if self.by_epoch else 0, crc32(name)])

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        """The sample of a row, or of (epoch, row): what the transform renders, and "label", "source", "index".

        "damaged", int64 (S, 2), says for each stream for how many frames that cannot be read others stand in, and the
        number of the first.

        With a windowed sampler the distinct frames of all windows are decoded once and rendered as clip 0, and
        "windows", int64 (W, seq_len), says where the windows lie in them.

        Raises:
            DataError: a video cannot be read.
            IndexError: there is no such row.
        """
        epoch, row = item if isinstance(item, tuple) else (0, item)
        if not -len(self) <= row < len(self):
            raise IndexError(f"there is no row {row} in a dataset of {len(self)} videos")
        row %= len(self)
        rng = self.rng(epoch, row)
        try:
            clips = self.sampler(int(self.index.num_frames[row]), rng)  # (clips, seq_len)
        except DataError as error:
            raise DataError(f"{self.index.names[row]}: {error}") from error
        sample: dict[str, Any] = {}
        if self.sampler.windowed:
            distinct, places = np.unique(clips, return_inverse=True)
            sample["windows"] = torch.from_numpy(places.reshape(clips.shape))
            clips = distinct[None]
        plan = self.transform.plan(rng)
        damaged = torch.zeros(len(self.readers), 2, dtype=torch.int64)
        streams = [self._clips(reader, row, clips[list(plan.clips)], tally)
                   for reader, tally in zip(self.readers, damaged, strict=True)]
        frames = dict(zip(plan.clips, map(list, zip(*streams, strict=True)), strict=True))  # clip -> its streams
        sample |= self.transform.render(plan, frames, rng)
        return sample | {"label": int(self.index.labels[row]), "source": int(self.index.sources[row]), "index": row,
                         "damaged": damaged}

    def _clips(self, reader: ClipReader, row: int, indices: np.ndarray, tally: torch.Tensor) -> list[np.ndarray]:
        """Clips of one stream; what is damaged goes into the tally (2,)."""
        replaced: list[int] = []
        clips = reader.clips(self.index.names[row], indices, replaced)
        if replaced:
            tally[0], tally[1] = len(replaced), replaced[0]
        return clips


def videos_of(loader: DataLoader) -> VideoDataset:
    """The videos of a loader, whose own type does not tell what its dataset is.

    Args:
        loader: of a dataset of `catalog.build`.
    """
    return cast(VideoDataset, loader.dataset)
