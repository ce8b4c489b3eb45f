"""Join the process group of a launcher, and exchange tensors. A process without a group is rank 0 of 1."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor

from utils.console import is_main, one_line, say, say_error, set_rank
from utils.errors import OptionError, TrainingError

T = TypeVar("T")
TIMEOUT = 600.0  # seconds to wait for the other processes
GRACE = 5.0  # more seconds, then this process ends a rendezvous that PyTorch does not


@dataclass(frozen=True)
class DistInfo:
    """Place of this process: ``rank`` of ``world_size`` over all nodes, ``local_rank`` on its own."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device


_host: dist.ProcessGroup | None = None  # gloo group of all processes, for exchanges that wait for no GPU


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


@torch.no_grad()
def all_gather(tensor: Tensor) -> Tensor:
    """Concatenate the tensors (B, ...) of all processes in rank order: (W*B, ...), without gradient."""
    if world_size() == 1:
        return tensor
    tensor = tensor.contiguous()
    gathered = tensor.new_empty((world_size() * len(tensor), *tensor.shape[1:]))
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # its name in older releases
    gather(gathered, tensor)
    return gathered


@torch.no_grad()
def all_to_all(tensor: Tensor, send: list[int], receive: list[int]) -> Tensor:
    """Send ``send[r]`` of the contiguous rows to each process r, and return the ``receive[r]`` rows from each."""
    received = tensor.new_empty((sum(receive), *tensor.shape[1:]))
    dist.all_to_all_single(received, tensor, receive, send)
    return received


@torch.no_grad()
def broadcast(tensor: Tensor) -> None:
    """Copy the main process's tensor to all processes, in place."""
    if world_size() > 1:
        dist.broadcast(tensor, 0)


def start_sum(count: int) -> tuple[Tensor, dist.Work]:
    """Start summing a number over all processes, on the host; the tensor holds the sum after ``work.wait()``."""
    total = torch.tensor(count)
    work = dist.all_reduce(total, group=_host, async_op=True)
    assert work is not None
    return total, work


def from_main(make: Callable[[], T]) -> T:
    """Call ``make`` on the main process, and return its result (not None) on all; OptionError if it failed."""
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
    """Return the ranks of the processes that failed. Collective; each process passes its own status."""
    answers = [here] * world_size()
    if world_size() > 1:
        dist.all_gather_object(answers, here, group=_host)
    return [rank for rank, answer in enumerate(answers) if answer]


def init(local_rank: int | None = None, gpu: int | None = None, backend: str = "nccl", dist_url: str = "env://",
         world_size: int = -1, rank: int = -1, timeout: float = TIMEOUT) -> DistInfo:
    """Choose the device, and if there are several processes, join their group.

    The launch is read from the environment of ``torchrun`` or ``torch.distributed.launch``, else that of SLURM's
    ``srun``, else ``world_size`` and ``rank``. Without any of these the process is alone, on ``gpu``.
    TrainingError if the process group could not be formed in ``timeout`` seconds.
    """
    launched = _launched()
    if launched is not None:
        rank, world_size, env_local_rank = launched
        local_rank = env_local_rank if env_local_rank is not None else (local_rank or 0)
    elif world_size > 1:
        if not 0 <= rank < world_size:
            raise OptionError(f"--world-size {world_size} needs --rank 0 ... {world_size - 1}, but --rank is {rank}")
        local_rank = rank if local_rank is None else local_rank
    else:
        return DistInfo(0, 0, 1, _device(gpu or 0))
    device = _device(local_rank)
    if world_size == 1:
        return DistInfo(0, local_rank, 1, device)
    set_rank(rank)
    if backend == "nccl" and device.type == "cpu":
        say("no GPU found: the process group uses gloo instead of nccl")
        backend = "gloo"
    if dist_url.startswith("file://") and not Path(urlsplit(dist_url).path).parent.is_dir():
        raise OptionError(f"--dist-url {dist_url}: there is no such folder")  # PyTorch would wait for it forever
    missed = f"could not form the process group within {timeout:.0f} s ({{}}): see the output of the other " \
             f"processes, and check {'MASTER_ADDR and MASTER_PORT' if dist_url.startswith('env://') else '--dist-url'}"

    def give_up() -> None:
        say_error(missed.format("PyTorch still waits"))
        os._exit(2)

    watch = threading.Timer(timeout + GRACE, give_up)  # each part of a rendezvous has a timeout of its own, or none
    watch.daemon = True
    watch.start()
    try:
        _join(backend, dist_url, rank, world_size, timedelta(seconds=timeout))
    except (RuntimeError, ValueError, OSError) as error:
        destroy()
        raise TrainingError(missed.format(one_line(str(error)))) from error
    finally:
        watch.cancel()
    return DistInfo(rank, local_rank, world_size, device)


def _join(backend: str, url: str, rank: int, world_size: int, timeout: timedelta) -> None:
    global _host
    store, _, _ = next(dist.rendezvous(url, rank, world_size, timeout=timeout))
    store.set_timeout(timeout)
    # torchrun keeps its store over restarts, with the addresses of dead processes: each restart gets its own prefix.
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    dist.init_process_group(backend, store=store, world_size=world_size, rank=rank, timeout=timeout)
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert not isinstance(group, int)  # it would be for a process outside the group
    _host = group


def destroy() -> None:
    global _host
    if dist.is_initialized():
        dist.destroy_process_group()
    _host = None


def _launched() -> tuple[int, int, int | None] | None:
    """Return rank, number of processes and local rank as torchrun or srun set them; None without either."""
    if {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        local_rank = os.environ.get("LOCAL_RANK")
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(local_rank) if local_rank else None
    # Only srun sets SLURM_STEP_NUM_TASKS: a plain python in an allocation is a single process.
    if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"} <= os.environ.keys():
        rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"])
        if size > 1 and "MASTER_ADDR" not in os.environ:
            raise OptionError("SLURM started several tasks, but MASTER_ADDR is not set: export it in the batch script, "
                              "MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)")
        # A port that all tasks of a step derive alike, and other jobs on the node do not.
        job, step = (int(text) if (text := os.environ.get(name, "")).isdecimal() else 0
                     for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        os.environ.setdefault("MASTER_PORT", str(15000 + (31 * job + step) % 16384))
        return rank, size, int(os.environ.get("SLURM_LOCALID", 0))
    return None


def _device(index: int) -> torch.device:
    """Select a GPU; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        raise OptionError(f"GPU {index} was requested, but only {torch.cuda.device_count()} are visible: "
                          "start fewer processes per node, or set CUDA_VISIBLE_DEVICES")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
