"""Loaders: which clips each process gets in which epoch, and in batches of what size."""

from collections.abc import Iterator, Sized

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.errors import OptionError


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that a worker that outlives an epoch still knows which one a sample is for.

    Every process gets the same number of samples: the order, the same everywhere, is filled up from its beginning to
    a multiple of the processes, and process r takes every ``world_size``-th from the r-th on.

    Args:
        size: samples in all. shuffle: a new order each epoch, by seed and epoch.
    """

    def __init__(self, size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.shuffle, self.seed, self.rank, self.world_size = size, shuffle, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = list(range(self.size))
        total = len(self) * self.world_size
        for place in range(self.rank, total, self.world_size):
            yield self.epoch, order[place % self.size]


def make_loader(dataset: Dataset, *, batch_size: int, workers: int, train: bool, seed: int, rank: int,
                world_size: int, device: torch.device) -> DataLoader:
    """Batches of a training or validation set; the last incomplete batch is dropped.

    Args:
        batch_size: clips per process. workers: loader processes; 0 loads in this one. train: shuffle.

    Raises:
        OptionError: the set has not even one batch for each process.
    """
    assert isinstance(dataset, Sized)
    if len(dataset) < batch_size * world_size:
        processes = f" on {world_size} processes" if world_size > 1 else ""
        raise OptionError(f"the {'training' if train else 'validation'} set has only {len(dataset)} clips, fewer than "
                          f"one batch of {batch_size}{processes}: take a smaller --batch_size or more videos")
    sampler = EpochSampler(len(dataset), shuffle=train, seed=seed, rank=rank, world_size=world_size)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=workers, drop_last=True,
                      pin_memory=device.type == "cuda", persistent_workers=workers > 0,
                      prefetch_factor=2 if workers > 0 else None)
