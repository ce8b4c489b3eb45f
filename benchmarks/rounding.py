"""Low precisions of GPUs emulated in float32 on any device: convolutions that round what they read, and write, exactly.

Range is not emulated: fp16's is kept by loss scaling.
"""

from typing import Any

import torch
from torch import Tensor

from utils.conv_forms import Conv3dAs2d

FLOAT32_BITS = 23  # after the leading one


def rounded(values: Tensor, bits: int) -> Tensor:
    """float32 values with so many bits after the leading one, to the nearest, halves to even."""
    drop = FLOAT32_BITS - bits
    whole = values.view(torch.int32)
    even = (whole >> drop) & 1
    return ((whole + ((1 << (drop - 1)) - 1 + even)) & -(1 << drop)).view(torch.float32)


class _Round(torch.autograd.Function):
    """Rounds on the way forward, on the way back, or both."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, bits: int, forward: bool, backward: bool) -> Tensor:
        """`values`, rounded or as they are."""
        ctx.bits = bits if backward else None
        return rounded(values, bits) if forward else values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        """The gradient, rounded or as it is."""
        return gradient if ctx.bits is None else rounded(gradient, ctx.bits), None, None, None


class Tf32Conv(Conv3dAs2d):
    """Reads inputs, weights and gradients with 10 bits, sums and writes float32, as GPUs do with TF32."""

    bits = 10
    rounds_output = False

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = (_Round.apply(read, self.bits, True, self.rounds_output) for read in (x, weight))
        return _Round.apply(super()._conv_forward(x, weight, bias), self.bits, self.rounds_output, True)


class Fp16Conv(Tf32Conv):
    """Writes outputs and gradients with 10 bits as well, as autocast to fp16 does."""

    rounds_output = True


EMULATED = {"tf32-emulated": Tf32Conv, "fp16-emulated": Fp16Conv}
