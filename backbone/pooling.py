"""Max pooling whose gradient repeats bit for bit on a GPU, too.

PyTorch's own adds up a GPU's gradients in whatever order its threads come, and so ends a run that asks for
deterministic algorithms (``--deterministic``) at the first backward pass.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaxPool3d(nn.MaxPool3d):
    """``nn.MaxPool3d``; where deterministic algorithms are asked for, with the same gradient in a fixed order."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, T', H', W')."""
        if needs_fixed_order(x):
            pooled: Tensor = _FixedOrder.apply(x, self.kernel_size, self.stride, self.padding)
            return pooled
        return super().forward(x)


def needs_fixed_order(x: Tensor) -> bool:
    """Whether PyTorch has no gradient that repeats here."""
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()


class _FixedOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel_size: Any, stride: Any, padding: Any) -> Tensor:
        pooled, places = F.max_pool3d(x, kernel_size, stride, padding, return_indices=True)
        ctx.save_for_backward(places)
        ctx.shape, ctx.channels_last = x.shape, x.is_contiguous(memory_format=torch.channels_last_3d)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        places, = ctx.saved_tensors  # of each maximum in its clip's channel
        rows = places.flatten(2).flatten(0, 1)  # (B C, T' H' W')
        size = ctx.shape[2:].numel()
        places = rows + size * torch.arange(len(rows), device=rows.device)[:, None]
        total = gradient.new_zeros(len(rows) * size, dtype=torch.promote_types(gradient.dtype, torch.float32))
        total.index_add_(0, places.flatten(), gradient.flatten().to(total.dtype))  # on a GPU in sorted order, then
        found = total.to(gradient.dtype).view(ctx.shape)
        if ctx.channels_last:
            found = found.contiguous(memory_format=torch.channels_last_3d)
        return found, None, None, None
