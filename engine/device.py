"""Precision, TF32, deterministic kernels, memory layout, and the start-up check of clip sizes.

Only the encoders run in the chosen precision: weights, optimizer, embeddings, queue, logits and losses are float32.
"""

import ctypes
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from utils import distributed
from utils.console import say
from utils.errors import OptionError

# Relative rounding steps: the mantissas have 23, 10, 10 and 7 bits.
STEPS = {"fp32": 2.0**-23, "tf32": 2.0**-10, "fp16": 2.0**-10, "bf16": 2.0**-7}
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Precision:
    name: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype | None:
        """The autocast type of the encoders; None for float32 and TF32."""
        return AUTOCAST.get(self.name)

    def scaler(self) -> torch.amp.GradScaler:
        """Return a loss scaler, enabled only for fp16, whose smallest positive number is 6e-8."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def choose_precision(name: str | None, device: torch.device) -> Precision:
    """Return the named precision, by default fp32 on a CPU and tf32 on a GPU, and set TF32 accordingly."""
    on_gpu = device.type == "cuda"
    name = name or ("tf32" if on_gpu else "fp32")
    if name == "tf32" and not on_gpu:
        raise OptionError("--precision tf32 needs a GPU, and this run is on the CPU: take fp32")
    if name == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise OptionError("--precision bf16 is not supported by this GPU: take fp16")
    set_tf32(name == "tf32")
    return Precision(name, device)


def set_tf32(on: bool) -> None:
    """Turn TF32 on or off for convolutions on GPUs; matrix products (queue, logits) stay in float32."""
    torch.backends.cudnn.conv.fp32_precision = (  # type: ignore[attr-defined]  # torch makes it at run time
        "tf32" if on else "ieee")
    torch.backends.cuda.matmul.fp32_precision = "ieee"


def use_deterministic_kernels() -> None:
    """Prefer deterministic kernels (``--deterministic``); call before CUDA starts.

    A CPU is deterministic already. A GPU operation without such a kernel warns once, and runs as usual.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # makes cuBLAS deterministic
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # made at run time
    warnings.filterwarnings("once", message=".*does not have a deterministic implementation.*")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory instead of returning it to the system; does nothing without glibc.

    Otherwise each step gets new pages for its large tensors, zeroed one page fault at a time. With S3D at
    32 x 128 x 128 this saves 17 % of a step's time, for 20 % more memory.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def init_process(options: Mapping[str, Any]) -> distributed.DistInfo:
    """Join the process group by the options of a launch, and set up kernels and memory."""
    if options["deterministic"]:
        use_deterministic_kernels()
    names = ("local_rank", "gpu", "dist_backend", "dist_url", "world_size", "rank", "dist_timeout")
    dist = distributed.init(*(options[name] for name in names))
    if dist.device.type == "cpu":
        keep_freed_memory()
        if options["gpu"] is not None:
            say("no GPU found: running on the CPU")
    return dist


def move(model: nn.Module, device: torch.device) -> None:
    """Move a model to a device, with channels-last convolutions, the layout of the clips.

    1 x 1 x 1 kernels are the same in both layouts. They keep contiguous strides, like their gradients; otherwise
    DistributedDataParallel would copy each gradient to match.
    """
    model.to(device).to(memory_format=torch.channels_last_3d)
    for parameter in model.parameters():
        if parameter.dim() == 5 and parameter.shape[2:].numel() == 1:
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


def check_clips(network: nn.Module, net: str, batch_size: int, seq_len: int, img_dim: int) -> None:
    """Raise OptionError if a network on the meta device, in its current mode, cannot take a batch of the run's size.

    Pooling reduces too small a clip to nothing, and BatchNorm in training needs two values per channel.
    """
    try:
        with torch.no_grad():
            network(torch.empty(batch_size, 3, seq_len, img_dim, img_dim, device="meta"))
    except (RuntimeError, ValueError) as error:
        what = "are too small for" if "too small" in str(error) else "cannot be used with"
        raise OptionError(f"batches of --batch_size {batch_size} clips of --seq_len {seq_len} frames of --img_dim "
                          f"{img_dim} px {what} --net {net} ({' '.join(str(error).split())}): take larger ones"
                          ) from error


def describe_machine(devices: Sequence[torch.device], precision: Precision, workers: int, processes: int = 1) -> str:
    names = [f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
             for device in devices]
    return (f"{', '.join(names)} in {precision.name}; processes: {processes}, threads: {torch.get_num_threads()}, "
            f"loader workers: {workers}; PyTorch {torch.__version__}")
