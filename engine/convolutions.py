"""Check a run's convolutions at start-up: some releases of torch, oneDNN and cuDNN have wrong 3-D kernels.

Each distinct convolution is applied to two random clips, forward and backward, in the chosen precision and in float64.
Where rounding cannot explain the difference, the layer becomes a 2-D convolution: 1 x k x k is one over (B*T, C, H, W),
and k x 1 x 1 one over (B, C, T, H*W). With channels-last clips both are free views, and the work is the same.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.device import STEPS, Precision
from utils.console import track
from utils.errors import OptionError

# Largest errors that rounding explains, in rounding steps. Measured on a CPU over all layers of S3D and ResNet-50: up
# to 0.23 in bf16, 0.98 in fp16, 12 in fp32. A GPU checks larger clips, whose sums have larger errors.
ALLOWED_STEPS = {"fp32": 200.0, "tf32": 4.0, "fp16": 4.0, "bf16": 4.0}
# Largest side of the test clips: float64 is slow on a CPU, and kernels depend on depth rather than on size.
LARGEST_SIDE = {"cpu": 8, "cuda": 32}
BATCH = 2


class Conv3dAs2d(nn.Conv3d):
    """An ``nn.Conv3d`` that :func:`fits_2d`, computed as a 2-D convolution; it can become the class of a layer."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert not isinstance(self.padding, str)
        (kt, *_), (st, *space_stride), (pt, *space_padding) = self.kernel_size, self.stride, self.padding
        if (kt, st, pt) == (1, 1, 0):
            frames = x.transpose(1, 2)  # (B, T, C, H, W)
            y = F.conv2d(frames.flatten(0, 1), weight[:, :, 0], bias, space_stride, space_padding)
            return y.unflatten(0, frames.shape[:2]).transpose(1, 2)
        y = F.conv2d(x.flatten(3), weight[..., 0], bias, (st, 1), (pt, 0))  # (B, C, T, H*W)
        return y.unflatten(3, x.shape[3:])


def fits_2d(conv: nn.Conv3d) -> bool:
    """Return whether the kernel spans space or time alone, without groups and dilation."""
    by_axis = list(zip(conv.kernel_size, conv.stride, conv.padding, strict=True))
    flat = by_axis[0] == (1, 1, 0) or by_axis[1:] == [(1, 1, 0)] * 2
    return flat and conv.groups == max(conv.dilation) == 1


def use_2d_where_faster(encoders: Iterable[nn.Module], device: torch.device) -> None:
    """Use the 2-D form in float32 on a CPU with one thread, torchrun's default.

    PyTorch then does not use oneDNN for k x 1 x 1 and 1 x 1 x 1 convolutions: a CoCLR step with S3D on 2 clips of
    32 x 128 x 128 took 4.7 s, and in the 2-D form 2.9 s. With more threads there is no gain.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        for conv in (module for encoder in encoders for module in encoder.modules()):
            if type(conv) is nn.Conv3d and fits_2d(conv):
                conv.__class__ = Conv3dAs2d


def check_convolutions(encoders: Sequence[nn.Module], clip: tuple[int, int, int], precision: Precision) -> str:
    """Check the convolutions of like encoders, replace wrong ones, and report; OptionError if one has no right form."""
    kinds: dict[tuple[str, tuple[int, ...]], list[str]] = {}  # by layer settings and input shape: names
    for name, shape in input_shapes(encoders[0], clip, LARGEST_SIDE[precision.device.type]).items():
        kinds.setdefault((repr(encoders[0].get_submodule(name)), shape), []).append(name)
    allowed = ALLOWED_STEPS[precision.name] * STEPS[precision.name]
    replaced = []
    for (_, shape), names in track(kinds.items(), len(kinds), "check convolutions", "layer"):
        conv: Any = encoders[0].get_submodule(names[0])
        # On inputs of depth 6 and 7, oneDNN 3.12 (torch 2.14.1) computes a wrong weight gradient of S3D's first
        # (7, 1, 1) convolution; at depth 5 it crashes the process.
        crashes = precision.device.type == "cpu" and conv.kernel_size[0] > 3 and 4 < shape[1] <= conv.kernel_size[0]
        error = math.inf if crashes and type(conv) is nn.Conv3d else conv_error(conv, shape, precision)
        if error <= allowed:
            continue
        if type(conv) is nn.Conv3d and fits_2d(conv):
            for layer in (encoder.get_submodule(name) for encoder in encoders for name in names):
                layer.__class__ = Conv3dAs2d
        if type(conv) is nn.Conv3d or conv_error(conv, shape, precision) > allowed:
            raise OptionError(f"this PyTorch computes {names[0]}, {conv}, wrongly in --precision {precision.name} "
                              f"(off by {error:.2g} of its norm): take another precision, clip size or PyTorch release")
        replaced.append(f"{', '.join(names)} (off by {error:.2g} of its norm)")
    return (f"precision {precision.name}: {len(kinds)} distinct convolutions checked against float64, "
            + (f"{len(replaced)} wrong here, computed as 2-D ones: {'; '.join(replaced)}" if replaced else "all right"))


def input_shapes(encoder: nn.Module, clip: tuple[int, int, int], side: int) -> dict[str, tuple[int, ...]]:
    """Return the input shapes (C, T, H, W) of an encoder's convolutions by name, H and W at most ``side``."""
    shapes: dict[str, tuple[int, ...]] = {}
    shadow = copy.deepcopy(encoder).to("meta")  # computes nothing
    for name, module in shadow.named_modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: shapes.__setitem__(
                name, (*inputs[0].shape[1:3], *(min(size, side) for size in inputs[0].shape[3:]))))
    shadow.train()(torch.empty(BATCH, 3, *clip, device="meta"))
    return shapes


@torch.inference_mode(False)
@torch.enable_grad()
def conv_error(conv: nn.Conv3d, shape: tuple[int, ...], precision: Precision) -> float:
    """Return the largest relative error of output and gradients against float64, for random weights and clips."""
    device, dtype = precision.device, precision.dtype
    random = torch.Generator(device).manual_seed(0)  # leaves the run's random numbers alone

    def draw(*size: int) -> Tensor:
        values = torch.randn(*size, generator=random, device=device).to(dtype or torch.float32)
        return values.float().contiguous(memory_format=torch.channels_last_3d)

    x, weight = draw(BATCH, *shape), draw(*conv.weight.shape)
    results = []
    g = None
    for kind, form in ((torch.float32, type(conv)), (torch.float64, nn.Conv3d)):
        layer = copy.deepcopy(conv).to(device, kind).requires_grad_(True)
        layer.__class__ = form
        layer.weight.data.copy_(weight)
        clips = x.detach().to(kind).requires_grad_(True)
        with torch.autocast(device.type, dtype, enabled=dtype is not None and kind is torch.float32):
            y = layer(clips)
        g = draw(*y.shape) if g is None else g
        results.append((y, *torch.autograd.grad(y, (clips, layer.weight), g.to(y.dtype))))
    return max(map(relative_error, *results))


@torch.no_grad()
def relative_error(got: Tensor, right: Tensor) -> float:
    error = float((got.double() - right.double()).norm() / right.double().norm())
    return error if math.isfinite(error) else math.inf
