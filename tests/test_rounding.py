"""Emulated precisions: rounding against numpy's and PyTorch's own types, convolutions against float64 ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.rounding import EMULATED, rounded
from utils.conv_forms import use_form

DRAW = torch.Generator().manual_seed(0)


def numbers(count: int) -> torch.Tensor:
    """Values in fp16's normal range, of all sizes and signs, with many halves between two neighbours."""
    values = torch.randn(count, generator=DRAW) * 2.0 ** torch.randint(-8, 8, (count,), generator=DRAW)
    halves = (torch.randint(2**10, 2**11, (count,), generator=DRAW) + 0.5) * 2.0**-8
    found = torch.cat([values, halves, -halves])
    return torch.cat([found[found.abs() > 2.0**-14], torch.zeros(1)])


def test_ten_bits_are_those_of_float16():
    values = numbers(100_000)
    assert (rounded(values, 10).numpy() == values.numpy().astype(np.float16)).all()


def test_seven_bits_are_those_of_bfloat16():
    values = numbers(100_000)
    assert torch.equal(rounded(values, 7), values.bfloat16().float())


def test_rounding_keeps_shape_and_memory():
    values = torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    assert rounded(values, 10).stride() == values.stride()


def to_ten_bits(values: torch.Tensor) -> torch.Tensor:
    return values.detach().half().double()


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 1, 1)])
@pytest.mark.parametrize("name", EMULATED)
def test_convolution_and_gradients_are_those_of_rounded_numbers(name, kernel):
    conv = nn.Conv3d(4, 5, kernel, padding=tuple(k // 2 for k in kernel), bias=False)
    use_form(conv, EMULATED[name])
    x = torch.randn(2, 4, 4, 6, 6, generator=DRAW, requires_grad=True)
    gradient = torch.randn(2, 5, 4, 6, 6, generator=DRAW)
    y = conv(x)
    y.backward(gradient)

    exact_x, exact_weight = (to_ten_bits(t).requires_grad_() for t in (x, conv.weight))
    expected = F.conv3d(exact_x, exact_weight, padding=conv.padding)
    expected.backward(to_ten_bits(gradient))
    writes = to_ten_bits if name == "fp16-emulated" else lambda values: values
    step = 2.0**-10 if name == "fp16-emulated" else 1e-5  # a sum in float32 may fall on the other side of a half
    for ours, theirs in ((y, expected), (x.grad, exact_x.grad), (conv.weight.grad, exact_weight.grad)):
        torch.testing.assert_close(ours.double(), writes(theirs), rtol=step, atol=1e-5)
    assert not torch.allclose(y.double(), F.conv3d(x.double(), conv.weight.double(), padding=conv.padding), rtol=1e-5)
