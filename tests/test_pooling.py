"""Max pooling in a fixed order against PyTorch's own, on clips with ties, where the first place takes all."""

import pytest
import torch
from torch import nn

from backbone import pooling
from backbone.select_backbone import select_backbone

KERNELS = {"space": ((1, 3, 3), (1, 2, 2), (0, 1, 1)), "branch": (3, 1, 1), "both": (3, 2, 1), "halving": (2, 2, 0)}


@pytest.fixture
def fixed_order(monkeypatch):
    monkeypatch.setattr(pooling, "needs_fixed_order", lambda x: True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=["plain", "channels_last"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_values_and_gradients_are_those_of_pytorch(kernel, kind, layout, fixed_order):
    """Whole numbers, whose sums no order rounds; a third of them the zeros of a ReLU."""
    values = torch.randint(-2, 4, (2, 3, 5, 7, 6)).clamp(min=0).to(kind).contiguous(memory_format=layout)
    one, two = (values.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    size, stride, padding = kernel
    expected, found = nn.MaxPool3d(size, stride, padding)(one), pooling.MaxPool3d(size, stride, padding)(two)
    assert torch.equal(found, expected)
    gradient = torch.randint(-3, 4, expected.shape).to(kind)
    expected.backward(gradient)
    found.backward(gradient)
    assert torch.equal(two.grad, one.grad) and two.grad.stride() == values.stride()


def test_a_gradient_of_half_precision_is_summed_in_float32(fixed_order):
    """256 + 26 ones: in bfloat16 each single one would be lost."""
    values = torch.zeros(1, 1, 3, 3, 3, dtype=torch.bfloat16)
    values[0, 0, 1, 1, 1] = 1
    values.requires_grad_()
    gradient = torch.ones(1, 1, 3, 3, 3, dtype=torch.bfloat16)
    gradient[0, 0, 0, 0, 0] = 256
    pooling.MaxPool3d(3, 1, 1)(values).backward(gradient)
    assert values.grad[0, 0, 1, 1, 1] == torch.tensor(256 + 26.0).to(torch.bfloat16) and values.grad.sum() > 256


def test_a_cpu_keeps_pytorchs_own():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert not pooling.needs_fixed_order(torch.zeros(1))
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("network", ["s3d", "r50"])
def test_every_pool_of_a_backbone_is_such_a_one(network):
    pools = [module for module in select_backbone(network)[0].modules() if isinstance(module, nn.MaxPool3d)]
    assert pools and all(type(module) is pooling.MaxPool3d for module in pools)
