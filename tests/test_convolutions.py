"""2-D forms of convolutions against nn.Conv3d; the start-up check finds wrong kernels and mends them."""

import copy

import pytest
import torch
from torch import nn

from engine import convolutions
from engine.convolutions import (
    Conv3dAs2d,
    check_convolutions,
    fits_2d,
    input_shapes,
    relative_error,
    use_2d_where_faster,
)
from engine.device import Precision
from model.momentum import make_encoder
from utils.errors import OptionError

CPU = torch.device("cpu")
BF16, FP32 = Precision("bf16", CPU), Precision("fp32", CPU)
CL = torch.channels_last_3d
# Every kernel, stride and padding of S3D and 2D-3D ResNet-50, but for the latter's stem, which has no 2-D form.
IN_USE = [((1, 7, 7), (1, 2, 2), (0, 3, 3)), ((7, 1, 1), (2, 1, 1), (3, 0, 0)), ((1, 3, 3), (1, 1, 1), (0, 1, 1)),
          ((3, 1, 1), (1, 1, 1), (1, 0, 0)), ((1, 1, 1), (1, 1, 1), (0, 0, 0)), ((1, 1, 1), (1, 2, 2), (0, 0, 0)),
          ((1, 3, 3), (1, 2, 2), (0, 1, 1))]
R50_STEM = ((5, 7, 7), (2, 2, 2), (2, 3, 3))
DEPTH = 8  # oneDNN's own (7, 1, 1) is wrong at depths 5 to 7


def test_the_list_above_is_what_the_networks_use():
    used = {(conv.kernel_size, conv.stride, conv.padding) for network in ("s3d", "s3dg", "r50")
            for conv in make_encoder(network, 8).modules() if isinstance(conv, nn.Conv3d)}
    assert used == {*IN_USE, R50_STEM}


@pytest.mark.parametrize("memory_format", [CL, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("settings", IN_USE)
def test_2d_form_equals_conv3d_forward_and_backward(settings, dtype, memory_format):
    plain = nn.Conv3d(5, 7, *settings, bias=True).to(dtype).to(memory_format=memory_format)
    flat = copy.deepcopy(plain)
    flat.__class__ = Conv3dAs2d
    results = []
    for conv in (plain, flat):
        torch.manual_seed(1)
        x = torch.randn(2, 5, DEPTH, 9, 8, dtype=dtype).to(memory_format=memory_format).requires_grad_()
        y = conv(x)
        y.backward(torch.randn(y.shape, dtype=dtype))
        results.append((y, x.grad, conv.weight.grad, conv.bias.grad))
    assert memory_format is torch.contiguous_format or results[1][0].is_contiguous(memory_format=CL)
    for one, two in zip(*results, strict=True):
        assert one.shape == two.shape
        assert relative_error(two.detach(), one.detach()) < (1e-14 if dtype == torch.float64 else 1e-5)


def test_kernels_without_a_2d_form():
    for conv in (nn.Conv3d(3, 4, *R50_STEM), nn.Conv3d(3, 4, 3), nn.Conv3d(3, 4, 1, stride=2),
                 nn.Conv3d(3, 4, (3, 1, 1), padding=1), nn.Conv3d(4, 4, (1, 3, 3), groups=4),
                 nn.Conv3d(3, 4, (3, 1, 1), dilation=2)):
        assert not fits_2d(conv)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_2d_form_on_one_thread_keeps_keys_parameters_and_copies(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    encoder = make_encoder("s3d", 8)
    before = {key: value.data_ptr() for key, value in encoder.state_dict().items()}
    use_2d_where_faster([encoder], CPU)
    assert {type(conv) for conv in copy.deepcopy(encoder).modules() if isinstance(conv, nn.Conv3d)} == {
        Conv3dAs2d if threads == 1 else nn.Conv3d}
    assert {key: value.data_ptr() for key, value in encoder.state_dict().items()} == before


@pytest.mark.parametrize("network", ["s3d", "r50"])
def test_the_check_sees_the_inputs_of_every_convolution(network):
    encoder, met = make_encoder(network, 8), {}
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(lambda _, x, name=name: met.update({name: tuple(x[0].shape[1:])}))
    with torch.no_grad():
        encoder(torch.randn(2, 3, 8, 32, 32))
    assert input_shapes(encoder, (8, 32, 32), side=64) == met
    assert max(shape[2] for shape in input_shapes(encoder, (8, 32, 32), side=4).values()) == 4


@pytest.mark.parametrize("depth", [5, 6, 7])
def test_float32_s3d_on_clips_of_5_to_7_frames(depth):
    """Where oneDNN's (7, 1, 1) is garbage or ends the program: the 2-D form against a sum over taps, in float64."""
    encoder = make_encoder("s3d", 8)
    report = check_convolutions([encoder], (depth, 32, 32), FP32)
    conv = encoder[0].Conv_1a.conv2
    assert "0.Conv_1a.conv2 (off by inf" in report and type(conv) is Conv3dAs2d
    x = torch.randn(2, 64, depth, 4, 4).contiguous(memory_format=CL)
    y = conv(x)
    g = torch.randn(y.shape)
    y.backward(g)
    padded = nn.functional.pad(x, (0, 0, 0, 0, 3, 3)).double()
    windows = padded.unfold(2, 7, 2)  # (B, C, out depth, H, W, tap)
    right = torch.einsum("bothw,bcthwk->ock", g.double(), windows)
    assert relative_error(conv.weight.grad[..., 0, 0], right) < 1e-5
    torch.testing.assert_close(y, torch.einsum("bcthwk,ock->bothw", windows.float(), conv.weight[..., 0, 0]))


def wrong_3d(monkeypatch, flat: float = 0.0) -> None:
    """Make the check find (3, 1, 1) kernels wrong as 3-D convolutions, and ``flat`` the error of their 2-D form."""
    monkeypatch.setattr(convolutions, "conv_error", lambda conv, shape, precision: 0.0 if (
        conv.kernel_size != (3, 1, 1)) else flat if isinstance(conv, Conv3dAs2d) else 7.0)


def test_wrong_layers_of_s3d_are_named_and_mended_in_all_encoders(monkeypatch):
    wrong_3d(monkeypatch)
    encoders = [make_encoder("s3d", 8) for _ in range(2)]
    report = check_convolutions(encoders, (8, 32, 32), BF16)
    assert "\n" not in report and "wrong here" in report and "(off by 7 of its norm)" in report
    for encoder in encoders:
        mended = {name for name, conv in encoder.named_modules() if isinstance(conv, Conv3dAs2d)}
        assert mended and all(name in report and name.endswith("conv2") for name in mended)
    assert "all right" in check_convolutions(encoders, (8, 32, 32), BF16)


@pytest.mark.parametrize(("flat", "kernel"), [(7.0, (3, 1, 1)), (0.0, (3, 3, 3))])
def test_a_wrong_layer_without_a_right_form_is_refused(monkeypatch, flat, kernel):
    wrong_3d(monkeypatch, flat)
    if kernel == (3, 3, 3):
        monkeypatch.setattr(convolutions, "conv_error", lambda *_: float("inf"))
    with pytest.raises(OptionError, match="wrongly in --precision bf16") as caught:
        check_convolutions([nn.Sequential(nn.Conv3d(3, 4, kernel))], (8, 16, 16), BF16)
    assert "\n" not in str(caught.value)


def test_float32_passes_a_lost_bit_does_not_and_no_random_numbers_are_drawn(monkeypatch):
    encoder = make_encoder("s3d", 8)
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    assert check_convolutions([encoder], (8, 32, 32), FP32).endswith("all right")
    assert torch.equal(torch.randn(3), expected)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    monkeypatch.setattr(convolutions, "conv_error", lambda *_: 2.0**-11)  # what TF32's products would give
    with pytest.raises(OptionError):
        check_convolutions([encoder], (8, 32, 32), FP32)
