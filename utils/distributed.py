"""Processes: how they were launched, and what they exchange. Without a process group there is one, rank 0 of 1."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils import rendezvous
from utils.errors import OptionError

T = TypeVar("T")
TIMEOUT = 600.0  # seconds that a process waits for the others


@dataclass(frozen=True)
class Launch:
    """Where a process stands: ``rank`` of ``world_size`` over all nodes, ``local_rank`` on this node."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    backend: str | None  # None: one process, no process group


_host: dist.ProcessGroup | None = None  # of the same processes, for what is said outside of the devices


def is_initialized() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Global rank of this process; 0 without a process group."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes checkpoints and logs."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


@torch.no_grad()
def all_gather(tensor: Tensor) -> Tensor:
    """All processes' tensors (B, ...) in rank order, (W*B, ...); without gradient."""
    if world_size() == 1:
        return tensor
    tensor = tensor.contiguous()
    gathered = tensor.new_empty((world_size() * len(tensor), *tensor.shape[1:]))
    dist.all_gather_single(gathered, tensor)
    return gathered


@torch.no_grad()
def all_to_all(tensor: Tensor, send: list[int], receive: list[int]) -> Tensor:
    """Send ``send[r]`` rows of ``tensor`` to each process r and return the received rows, in rank order.

    Args:
        tensor: rows by destination, (sum(send), ...), contiguous. receive: rows that come from each process.
    """
    if world_size() == 1:
        return tensor
    received = tensor.new_empty((sum(receive), *tensor.shape[1:]))
    dist.all_to_all_single(received, tensor, receive, send)
    return received


@torch.no_grad()
def broadcast(tensor: Tensor, src: int = 0) -> Tensor:
    """The tensor of process ``src``, on every process, in place."""
    if world_size() > 1:
        dist.broadcast(tensor, src)
    return tensor


@torch.no_grad()
def reduce_mean(tensor: Tensor) -> Tensor:
    """The mean of all processes' tensors, as a new tensor."""
    if world_size() == 1:
        return tensor.clone()
    total = tensor.clone()
    dist.all_reduce(total)
    return total / world_size()


def host_group() -> dist.ProcessGroup | None:
    """A gloo group of all processes, whose exchanges wait for no device; None for the default group."""
    return _host


def from_main(make: Callable[[], T]) -> T:
    """What the main process makes, on every process; not None.

    Raises:
        OptionError: on the other processes, where the main one has raised an error of its own.
    """
    if world_size() == 1:
        return make()
    answer: list[T | None] = [None]
    try:
        if is_main():
            answer = [make()]
    finally:
        dist.broadcast_object_list(answer, group=_host)
    if answer[0] is None:
        raise OptionError("the main process could not start")
    return answer[0]


def failed(here: bool) -> list[int]:
    """Ranks of the processes that failed, in order; every process has to call this, with whether it did itself."""
    if world_size() == 1:
        return [0] if here else []
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
    return all_gather(torch.tensor([here], dtype=torch.uint8, device=device)).nonzero().flatten().tolist()


def start(local_rank: int | None = None, gpu: int | None = None, backend: str = "nccl", dist_url: str = "env://",
          world_size: int = -1, rank: int = -1, timeout: float = TIMEOUT) -> Launch:
    """Find out how this process was launched, join the process group if there are several, and choose the device.

    In order: ``torchrun`` or ``torch.distributed.launch`` (RANK and WORLD_SIZE in the environment), SLURM's ``srun``,
    the arguments ``world_size`` and ``rank``, and else a single process.

    Args:
        local_rank: this process's number on its node, if an option gave it. gpu: device of a single process.
        backend: "nccl" becomes "gloo" where there is no GPU, with one line saying so.
        dist_url: where the processes meet, for launches that do not set MASTER_ADDR.
        world_size, rank: number of processes and this one's, for launches by hand; -1 means unknown.
        timeout: seconds after which a process that waits for another one gives up.

    Raises:
        OptionError: the launch contradicts itself, or names a GPU that is not there.
        TrainingError: not all processes came in time.
    """
    launched = _torchrun() or _slurm()
    if launched is None and world_size > 1:
        if not 0 <= rank < world_size:
            raise OptionError(f"--world-size {world_size} needs --rank 0 ... {world_size - 1}, but --rank is {rank}")
        launched = (rank, world_size, local_rank if local_rank is not None else rank)
    if launched is None:
        return Launch(0, 0, 1, _device(gpu if gpu is not None else 0), None)
    rank, world_size, env_local_rank = launched
    local_rank = env_local_rank if env_local_rank is not None else (local_rank or 0)
    device = _device(local_rank)
    if world_size == 1:
        return Launch(0, local_rank, 1, device, None)
    if backend == "nccl" and device.type == "cpu":
        if rank == 0:
            print("no GPU found: the process group uses gloo instead of nccl", file=sys.stderr)
        backend = "gloo"
    patience = timedelta(seconds=timeout)
    store = rendezvous.fresh_store(dist_url, rank, world_size, patience) if rendezvous.is_shared() else None
    dist.init_process_group(backend, init_method=dist_url if store is None else None, store=store,
                            world_size=world_size, rank=rank, timeout=patience)
    global _host
    group = dist.new_group(backend="gloo", timeout=patience)
    assert not isinstance(group, int)  # a number where this process is not of the group, which all are
    _host = group
    return Launch(rank, local_rank, world_size, device, backend)


def stop() -> None:
    """Leave the process group, if there is one."""
    global _host
    if is_initialized():
        dist.destroy_process_group()
    _host = None


def _torchrun() -> tuple[int, int, int | None] | None:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if rank >= size:
        raise OptionError(f"the environment has RANK={rank}, but WORLD_SIZE={size}: ranks are 0 ... WORLD_SIZE - 1")
    return rank, size, _number("LOCAL_RANK") if os.environ.get("LOCAL_RANK") else None


def _slurm() -> tuple[int, int, int | None] | None:
    # SLURM_STEP_NUM_TASKS is set inside srun only; a plain python in an allocation is a single process.
    if "SLURM_PROCID" not in os.environ or "SLURM_STEP_NUM_TASKS" not in os.environ:
        return None
    rank, size = _number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS")
    if size > 1 and "MASTER_ADDR" not in os.environ:
        raise OptionError("SLURM started several tasks, but MASTER_ADDR is not set: export it in the batch script, "
                          "MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)")
    os.environ.setdefault("MASTER_PORT", "29500")
    return rank, size, _number("SLURM_LOCALID") if "SLURM_LOCALID" in os.environ else 0


def _number(name: str) -> int:
    """A variable of the environment as a number from 0 on."""
    text = os.environ[name]
    if not text.isdecimal():
        raise OptionError(f"the environment has {name}={text!r}, which is not a whole number: let torchrun or srun set "
                          "it, or unset it")
    return int(text)


def _device(index: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        raise OptionError(f"GPU {index} was asked for, but only {torch.cuda.device_count()} are visible: "
                          "start fewer processes per node, or set CUDA_VISIBLE_DEVICES")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
