"""Other ways to compute an ``nn.Conv3d`` with its own weights, for layers whose kernel is wrong in some precision.

A 1 x k x k convolution is a 2-D one over (B*T, C, H, W), and a k x 1 x 1 one over (B, C, T, H*W): where clips lie
channels-last in memory both are free views, and the work is the same.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fits_2d(conv: nn.Conv3d) -> bool:
    """Whether the kernel reaches over space or over time alone, and the 2-D form therefore exists."""
    if isinstance(conv.padding, str):
        return False
    (kt, *space), (st, *space_stride), (pt, *space_padding) = conv.kernel_size, conv.stride, conv.padding
    over_space = (kt, st, pt) == (1, 1, 0)
    over_time = (*space, *space_stride, *space_padding) == (1, 1, 1, 1, 0, 0)
    return (over_space or over_time) and conv.padding_mode == "zeros" and conv.dilation == (1, 1, 1)


class Conv3dAs2d(nn.Conv3d):
    """An ``nn.Conv3d`` for which :func:`fits_2d` holds, computed as a 2-D convolution."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert not isinstance(self.padding, str)  # see fits_2d
        (kt, *_), (st, *space_stride), (pt, *space_padding) = self.kernel_size, self.stride, self.padding
        if (kt, st, pt) == (1, 1, 0):
            frames = x.transpose(1, 2)  # (B, T, C, H, W)
            y = F.conv2d(frames.flatten(0, 1), weight[:, :, 0], bias, space_stride, space_padding, 1, self.groups)
            return y.unflatten(0, frames.shape[:2]).transpose(1, 2)
        y = F.conv2d(x.flatten(3), weight[..., 0], bias, (st, 1), (pt, 0), 1, self.groups)  # (B, C, T, H*W)
        return y.unflatten(3, x.shape[3:])


class Conv3dInFloat32(nn.Conv3d):
    """An ``nn.Conv3d`` that computes in float32 inside of autocast as well."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super()._conv_forward(x.float(), weight.float(), None if bias is None else bias.float())


def use_form(conv: nn.Conv3d, form: type[nn.Conv3d]) -> None:
    """Compute this layer in another form from now on; its parameters, state-dict keys and hooks stay.

    Raises:
        ValueError: the 2-D form is asked for and does not exist for this kernel.
    """
    if form is Conv3dAs2d and not fits_2d(conv):
        raise ValueError(f"no 2-D form for a kernel of {conv.kernel_size} with stride {conv.stride}")
    conv.__class__ = form


def use_2d_where_faster(encoders: Iterable[nn.Module], device: torch.device) -> None:
    """Take the 2-D form where a process computes float32 on a CPU with one thread, as those of torchrun do by default.

    PyTorch then leaves oneDNN aside for 3-D convolutions over time alone and for 1 x 1 x 1 ones: a CoCLR step with S3D
    on 2 clips of 32 x 128 x 128 took 4.7 s, and 2.9 s in the 2-D form. With more threads there is nothing to gain.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        for conv in (module for encoder in encoders for module in encoder.modules()):
            if type(conv) is nn.Conv3d and fits_2d(conv):
                use_form(conv, Conv3dAs2d)
