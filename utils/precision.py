"""The arithmetic of a run: ``--precision``, its autocast type, its loss scaling, and the switches of TF32.

Only the encoders compute in the chosen precision. Weights, optimizer, embeddings, queue, logits, cascade and losses are
float32 always.
"""

import os
from dataclasses import dataclass

import torch
import torch.utils.deterministic

from utils.errors import OptionError

# Relative steps between numbers that convolutions round to: 23, 10, 10 and 7 bits after the leading one.
STEPS = {"fp32": 2.0**-23, "tf32": 2.0**-10, "fp16": 2.0**-10, "bf16": 2.0**-7}
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """A precision on a device; made by :func:`choose`."""

    name: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype | None:
        """The type that autocast uses in the encoders; None where they compute in float32 or TF32."""
        return AUTOCAST.get(self.name)

    def autocast(self) -> torch.autocast:
        """The context that encoders run in."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss under fp16, whose smallest number is 6e-8; does nothing otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def choose(name: str | None, device: torch.device) -> Precision:
    """The precision of that name, or the device's default: fp32 on a CPU, tf32 on a GPU; sets the switches of TF32.

    Raises:
        OptionError: the device does not have it.
    """
    on_gpu = device.type == "cuda"
    name = name or ("tf32" if on_gpu else "fp32")
    if name == "tf32" and not on_gpu:
        raise OptionError("--precision tf32 is an arithmetic of GPUs, and this run is on the CPU: take fp32")
    if name == "bf16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise OptionError("--precision bf16 is not in this GPU: take fp16")
    set_tf32(name == "tf32")
    return Precision(name, device)


def use_deterministic_kernels() -> None:
    """Have every operation give the same result each time (``--deterministic``); to be called before CUDA starts.

    On a CPU they do already. On a GPU it costs speed, and an operation that has no such kernel is an error.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic with a fixed workspace
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # made at run time
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def set_tf32(on: bool) -> None:
    """TF32 in the convolutions of GPUs, or not. Products of matrices (queue, logits) are float32 in either case."""
    torch.backends.cudnn.conv.fp32_precision = (  # type: ignore[attr-defined]  # torch makes it at run time
        "tf32" if on else "ieee")
    torch.backends.cuda.matmul.fp32_precision = "ieee"


def tf32_is_on() -> bool:
    """Whether convolutions of GPUs use TF32."""
    precision = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]  # torch makes it at run time
    return bool(precision == "tf32")
