"""A dataset composed of readers, an index of videos, a clip sampler and a transform."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast
from zlib import crc32

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dataset.clip_sampler import Sampler
from dataset.residual import Reader
from dataset.transforms.presets import Transform
from dataset.video_index import VideoIndex

# The windows of a video are decoded together up to these limits, beyond them in several parts.
MOST_FRAMES, MOST_BYTES = 4096, 1 << 30  # the longest video of UCF101 has 1,776 frames, 0.4 GB


class VideoDataset(Dataset):
    """One sample per video of an index; it depends on seed, video and, with `by_epoch`, epoch alone."""

    def __init__(self, readers: Sequence[Reader], index: VideoIndex, sampler: Sampler, transform: Transform, *,
                 seed: int = 0, by_epoch: bool = True) -> None:
        self.readers, self.index, self.sampler, self.transform = list(readers), index, sampler, transform
        self.seed, self.by_epoch = seed, by_epoch

    def __len__(self) -> int:
        return len(self.index)

    @property
    def frames_per_sample(self) -> int:
        """Frames in a sample at most, over clips and streams; 0 if that depends on the video."""
        return len(self.readers) * self.sampler.clips * self.sampler.seq_len

    @property
    def fingerprint(self) -> str:
        """A checksum of what determines the samples of a seed: videos, their order, lengths, labels and sources."""
        index = self.index
        digest = hashlib.sha256("\n".join([*index.classes, "", *index.names]).encode("utf-8", "surrogateescape"))
        for column in (index.labels, index.sources, index.num_frames.astype(np.int64)):
            digest.update(np.ascontiguousarray(column).tobytes())
        return f"{len(index)} videos {digest.hexdigest()[:16]}"

    def rng(self, epoch: int, row: int) -> np.random.Generator:
        name = self.index.names[row].encode()
        return np.random.default_rng([self.seed, epoch if self.by_epoch else 0, crc32(name)])

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        """Make the sample of a row, or of (epoch, row); of a long video's windows only the first part.

        With a windowed sampler the distinct frames of all windows are decoded once and rendered as clip 0.

        Returns:
            What the transform renders; "label", "source" and "index", ints; "damaged", int64 (2,): how many frames of
            all streams could not be read and were replaced by others, and the number of the first; and with a windowed
            sampler "windows", int64 (W, seq_len): positions of each window's frames; "parts", where there are several.
        """
        epoch, row = item if isinstance(item, tuple) else (0, item)
        return self.sample(epoch, row)

    def sample(self, epoch: int, row: int, part: int = 0) -> dict[str, Any]:
        """Make a sample, or a part of it; see :meth:`__getitem__`."""
        rng = self.rng(epoch, row)
        clips = self.sampler(int(self.index.num_frames[row]), rng)  # (clips, seq_len)
        sample: dict[str, Any] = {}
        if self.sampler.windowed:
            parts = self._parts(row, clips)
            clips = parts[part]
            sample |= {"parts": len(parts)} if len(parts) > 1 else {}
            distinct, places = np.unique(clips, return_inverse=True)
            sample["windows"] = torch.from_numpy(places.reshape(clips.shape))
            clips = distinct[None]
        plan = self.transform.plan(rng)
        damaged: list[int] = []
        streams = [reader.clips(self.index.names[row], clips[list(plan.clips)], damaged) for reader in self.readers]
        frames = dict(zip(plan.clips, map(list, zip(*streams, strict=True)), strict=True))  # clip -> its streams
        sample |= self.transform.render(plan, frames, rng)
        return sample | {"label": int(self.index.labels[row]), "source": int(self.index.sources[row]), "index": row,
                         "damaged": torch.tensor([len(damaged), damaged[0] if damaged else 0])}

    def _parts(self, row: int, windows: np.ndarray) -> list[np.ndarray]:
        """Cut the windows (W, T) of a video into parts, each of consecutive ones that are decoded together."""
        if len(windows) == 1:
            return [windows]
        most = min(MOST_FRAMES, MOST_BYTES // sum(reader.frame_bytes(self.index.names[row]) for reader in self.readers))
        cuts = [0]
        for number, window in enumerate(windows):
            if window[-1] - windows[cuts[-1]][0] >= most and number > cuts[-1]:
                cuts.append(number)
        return np.split(windows, cuts[1:])


def videos_of(loader: DataLoader) -> VideoDataset:
    return cast(VideoDataset, loader.dataset)
