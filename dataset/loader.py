"""Loaders: assign samples to processes and epochs, and batch them."""

import re
import resource
import signal
from collections.abc import Iterator, Sized
from contextlib import suppress
from itertools import islice
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from utils.console import warn
from utils.errors import OptionError, TrainingError
from utils.stop import outlive_signals

RESTARTS = 3  # of lost workers in an epoch, at most
# PyTorch's messages; with pinned memory, a lost worker can take down the thread that receives from it. An error raised
# inside a worker starts with "Caught" instead.
LOST_WORKER = re.compile(r"DataLoader worker \(pid|Pin memory thread exited")
SHORTAGE = re.compile("Too many open files|file descriptor|ancillary data|No space left on device|torch_[0-9]")
REMEDY = ("make /dev/shm larger (docker run --shm-size 8g), allow more file handles (ulimit -n 65536), or use fewer "
          "--workers")


class LostWorkerError(TrainingError):
    """A loader worker ended, for example because memory ran out."""


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, index), so that persistent workers know which epoch a sample is for."""

    skip = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.epoch, self.skip = epoch, skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, index) for index in islice(super().__iter__(), self.skip, None))


def make_loader(dataset: Dataset, *, batch_size: int, workers: int, train: bool, seed: int, rank: int,
                world_size: int, device: torch.device) -> DataLoader:
    """Make a loader of a training set, shuffled and without its last incomplete batch, or of all of a validation set.

    `batch_size` is of a process; OptionError if a training set has not even one batch for each process.
    """
    assert isinstance(dataset, Sized)
    if train and len(dataset) < batch_size * world_size:
        processes = f" on {world_size} processes" if world_size > 1 else ""
        raise OptionError(f"the training set has only {len(dataset)} clips, fewer than one batch of "
                          f"{batch_size}{processes}: use a smaller --batch_size or more videos")
    sampler = EpochSampler(dataset, shuffle=train, seed=seed, rank=rank, num_replicas=world_size)
    # Its own generator, so that a pass does not advance the one that dropout uses.
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=workers, drop_last=train,
                      pin_memory=device.type == "cuda", persistent_workers=workers > 0, worker_init_fn=init_worker,
                      generator=torch.Generator(), prefetch_factor=2 if workers > 0 else None)


def batches(loader: DataLoader, epoch: int, start: int = 0) -> Iterator[Any]:
    """Yield the batches of an epoch from number ``start`` on; lost workers are replaced, without losing a batch."""
    sampler, lost, number = loader.sampler, 0, start
    assert isinstance(sampler, EpochSampler) and loader.batch_size is not None
    while True:
        sampler.set_epoch(epoch, skip=number * loader.batch_size)
        try:
            for batch in items(loader):
                yield batch
                number += 1
            return
        except LostWorkerError as error:
            lost += 1
            reason = str(error.__cause__).partition("\n")[0] or "it ended while it was sending"
            if lost > RESTARTS:
                raise TrainingError(f"loader workers were lost {lost} times in epoch {epoch} ({reason}): if memory ran "
                                    f"out, use fewer --workers; else {REMEDY}") from error
            warn(f"{reason}: new workers carry on from batch {number} of epoch {epoch}")
            loader._iterator = None  # else PyTorch would use the lost workers' iterator again


def items(loader: DataLoader) -> Iterator[Any]:
    """Yield what any loader yields; LostWorkerError, or TrainingError if shared memory or file handles ran out."""
    if loader.num_workers:  # pipes, and tensors on their way: as many open files as the system allows
        with suppress(ValueError, OSError):
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        yield from _start(loader)
    except (RuntimeError, OSError, EOFError) as error:
        text = str(error).strip() or type(error).__name__
        unanswered = isinstance(error, ConnectionError | EOFError) and not text.startswith("Caught")
        if LOST_WORKER.match(text) or (loader.num_workers and unanswered):
            raise LostWorkerError(f"a loader worker was lost ({text.splitlines()[0]}): if memory ran out, use fewer "
                                  f"--workers; else {REMEDY}") from error
        if loader.num_workers and SHORTAGE.search(text):
            raise TrainingError(f"loader workers cannot send their clips ({text.splitlines()[-1]}): {REMEDY}"
                                ) from error
        raise


def _start(loader: DataLoader) -> Iterator[Any]:
    """Start iterating without PyTorch's SIGCHLD handler, which could raise in the middle of a training step."""
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    with suppress(ValueError):  # in another thread than the main one, where PyTorch sets none
        signal.signal(signal.SIGCHLD, before)
    return iterator


def init_worker(worker: int) -> None:
    """Set up a loader worker to outlive signals, and to report samples that it cannot send."""
    outlive_signals()
    Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _send_error(queue: Queue, error: Exception, unsent: tuple[int, Any]) -> None:
    if not isinstance(unsent[1], ExceptionWrapper):
        queue.put((unsent[0], ExceptionWrapper((type(error), error, error.__traceback__), "in a loader worker")))
