"""Other forms of convolutions against nn.Conv3d; the start-up check finds wrong kernels and mends them."""

import copy

import pytest
import torch
from torch import nn

from engine import convolutions
from engine.convolutions import (
    Conv3dAs2d,
    Conv3dInFloat32,
    ConvKind,
    check_convolutions,
    conv_errors,
    conv_kinds,
    fits_2d,
    is_right,
    relative_error,
    use_2d_where_faster,
    use_form,
)
from engine.device import Precision
from model.momentum import make_encoder

CPU = torch.device("cpu")
BF16, FP32 = Precision("bf16", CPU), Precision("fp32", CPU)
CL = torch.channels_last_3d
# Every kernel, stride and padding of S3D and 2D-3D ResNet-50, but for the latter's stem, which has no 2-D form.
IN_USE = [((1, 7, 7), (1, 2, 2), (0, 3, 3)), ((7, 1, 1), (2, 1, 1), (3, 0, 0)), ((1, 3, 3), (1, 1, 1), (0, 1, 1)),
          ((3, 1, 1), (1, 1, 1), (1, 0, 0)), ((1, 1, 1), (1, 1, 1), (0, 0, 0)), ((1, 1, 1), (1, 2, 2), (0, 0, 0)),
          ((1, 3, 3), (1, 2, 2), (0, 1, 1))]
R50_STEM = ((5, 7, 7), (2, 2, 2), (2, 3, 3))
DEPTH = 8  # oneDNN's own (7, 1, 1) is wrong at depths 5 to 7
DEPTH_2 = ConvKind((64, 2, 8, 8), 64, (3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1), 1, False)


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
    use_form(flat, Conv3dAs2d)
    results = []
    for conv in (plain, flat):
        torch.manual_seed(1)
        x = torch.randn(2, 5, DEPTH, 9, 8, dtype=dtype).to(memory_format=memory_format).requires_grad_()
        y = conv(x)
        y.backward(torch.randn(y.shape, dtype=dtype))
        results.append((y, x.grad, conv.weight.grad, conv.bias.grad))
    for one, two in zip(*results, strict=True):
        assert one.shape == two.shape
        assert relative_error(two.detach(), one.detach()) < (1e-14 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("settings", IN_USE)
def test_2d_form_copies_no_clip_in_channels_last_memory(settings):
    flat = nn.Conv3d(4, 6, *settings, bias=False).to(memory_format=CL)
    use_form(flat, Conv3dAs2d)
    copies = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            copies.append(str(function)) if "clone" in str(function) or "copy" in str(function) else None
            return function(*args, **(kwargs or {}))
    x = torch.randn(2, 4, 6, 8, 8).contiguous(memory_format=CL)
    with torch.no_grad(), Watch():
        y = flat(x)
    assert copies == []
    assert y.is_contiguous(memory_format=CL)


def test_kernels_without_a_2d_form_are_refused():
    for conv in (nn.Conv3d(3, 4, *R50_STEM), nn.Conv3d(3, 4, 3), nn.Conv3d(3, 4, 1, stride=2),
                 nn.Conv3d(3, 4, (3, 1, 1), padding=1), nn.Conv3d(3, 4, (1, 3, 3), dilation=2)):
        assert not fits_2d(conv)
        with pytest.raises(ValueError, match="no 2-D form"):
            use_form(conv, Conv3dAs2d)


def test_a_form_leaves_keys_parameters_and_copies_as_they_are():
    encoder = make_encoder("s3d", 8)
    before = {key: value.data_ptr() for key, value in encoder.state_dict().items()}
    for conv in encoder.modules():
        if isinstance(conv, nn.Conv3d):
            use_form(conv, Conv3dAs2d)
    assert {key: value.data_ptr() for key, value in encoder.state_dict().items()} == before
    assert isinstance(copy.deepcopy(encoder)[0].Conv_1a.conv1, Conv3dAs2d)


def test_float32_form_computes_in_float32_inside_autocast():
    conv = nn.Conv3d(16, 8, 3)
    x = torch.randn(2, 16, 4, 6, 6)
    exact = conv(x)
    use_form(conv, Conv3dInFloat32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv(x), exact)


@pytest.mark.parametrize(("threads", "device", "swapped"), [(1, CPU, True), (2, CPU, False),
                                                            (1, torch.device("cuda"), False)])
def test_2d_form_where_one_thread_computes_on_a_cpu(monkeypatch, threads, device, swapped):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    encoder = nn.Sequential(nn.Conv3d(3, 4, (1, 3, 3)), nn.Conv3d(4, 4, 3), nn.Conv3d(4, 4, 1))
    use_2d_where_faster([encoder], device)
    flat = Conv3dAs2d if swapped else nn.Conv3d
    assert [type(conv) for conv in encoder] == [flat, nn.Conv3d, flat]
    assert "all right" in check_convolutions([encoder], (8, 8, 8), FP32)


def test_conv_kinds_are_those_that_a_forward_meets():
    encoder = make_encoder("s3d", 8)
    met, state = {}, {key: value.clone() for key, value in encoder.state_dict().items()}
    kinds = conv_kinds(encoder, (8, 32, 32), side=99)
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: met.update({name: inputs[0].shape[1:]}))
    encoder(torch.randn(2, 3, 8, 32, 32))
    assert {name: tuple(kind.shape) for kind, names in kinds.items() for name in names} == \
        {name: tuple(shape) for name, shape in met.items()}
    for kind, names in kinds.items():
        for conv in map(encoder.get_submodule, names):
            assert kind.layer(CPU).weight.shape == conv.weight.shape and kind.stride == conv.stride
    assert max(kind.shape[2] for kind in conv_kinds(encoder, (8, 32, 32), side=4)) == 4


def test_bf16_weight_gradient_at_depth_2_is_found_wrong_and_mended():
    """oneDNN, as torch 2.14.1 ships it: the weight gradient of a bf16 (3, 1, 1) convolution at depth 2 is garbage."""
    conv = DEPTH_2.layer(CPU)
    x = torch.randn(2, *DEPTH_2.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    g = torch.randn(y.shape)
    y.backward(g.bfloat16())
    # The gradient of tap t by hand: the frames that it multiplied with the output's gradients, summed.
    padded = nn.functional.pad(x, (0, 0, 0, 0, 1, 1)).double()
    taps = [torch.einsum("bothw,bcthw->oc", g.double(), padded[:, :, t:t + 2]) for t in range(3)]
    error = relative_error(conv.weight.grad[..., 0, 0], torch.stack(taps, dim=-1))
    assert is_right(conv_errors(DEPTH_2, nn.Conv3d, BF16), BF16) == (error < 0.02)  # depends on the CPU
    errors = conv_errors(DEPTH_2, Conv3dAs2d, BF16)
    assert is_right(errors, BF16) and errors["weight gradient"] < 0.01


def test_wrong_layers_of_s3d_are_named_and_swapped_in_all_encoders(monkeypatch):
    def errors(kind, form, precision):
        wrong = form is nn.Conv3d and kind.kernel_size == (3, 1, 1) and kind.shape[1] == 2
        return {"output": 0.0, "weight gradient": 7.0 if wrong else 0.0}
    monkeypatch.setattr(convolutions, "conv_errors", errors)
    encoders = [make_encoder("s3d", 8) for _ in range(2)]
    report = check_convolutions(encoders, (8, 32, 32), BF16)
    assert "\n" not in report and "wrong here" in report and "(weight gradient off by 7 of its norm" in report
    for encoder in encoders:
        swapped = {name for name, conv in encoder.named_modules() if isinstance(conv, Conv3dAs2d)}
        assert swapped and all(name in report and name.endswith("conv2") for name in swapped)
        assert all(encoder.get_submodule(name).kernel_size == (3, 1, 1) for name in swapped)
    assert "all right" in check_convolutions(encoders, (8, 32, 32), BF16)


@pytest.mark.parametrize("depth", [5, 6, 7])
def test_float32_s3d_on_clips_of_5_to_7_frames(depth):
    """Where oneDNN's (7, 1, 1) is garbage or ends the program: the 2-D form against a sum over taps, in float64."""
    encoder = make_encoder("s3d", 8)
    report = check_convolutions([encoder], (depth, 32, 32), FP32)
    conv = encoder[0].Conv_1a.conv2
    assert "0.Conv_1a.conv2 (3-D kernel" in report and type(conv) is Conv3dAs2d
    x = torch.randn(2, 64, depth, 4, 4).contiguous(memory_format=CL)
    y = conv(x)
    g = torch.randn(y.shape)
    y.backward(g)
    padded = nn.functional.pad(x, (0, 0, 0, 0, 3, 3)).double()
    windows = padded.unfold(2, 7, 2)  # (B, C, out depth, H, W, tap)
    right = torch.einsum("bothw,bcthwk->ock", g.double(), windows)
    assert relative_error(conv.weight.grad[..., 0, 0], right) < 1e-5
    torch.testing.assert_close(y, torch.einsum("bcthwk,ock->bothw", windows.float(), conv.weight[..., 0, 0]))


def test_the_check_draws_no_random_numbers_of_the_run():
    encoder = nn.Sequential(nn.Conv3d(3, 4, (1, 3, 3)))
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    check_convolutions([encoder], (2, 4, 4), FP32)
    assert torch.equal(torch.randn(3), expected)


def test_float32_passes_and_a_lost_bit_does_not():
    encoder = make_encoder("s3d", 8)
    assert check_convolutions([encoder], (8, 32, 32), FP32).endswith("all right")
    assert not is_right(dict.fromkeys(convolutions.PARTS, 2.0**-11), FP32)  # what TF32's products would give
    assert not is_right(dict.fromkeys(convolutions.PARTS, float("inf")), BF16)


@pytest.mark.parametrize(("kernel", "flat_is_right", "form"), [
    ((1, 3, 3), True, Conv3dAs2d), ((1, 3, 3), False, Conv3dInFloat32), ((3, 3, 3), True, Conv3dInFloat32)])
def test_the_fallback_is_the_2d_form_where_there_is_one_and_else_float32(monkeypatch, kernel, flat_is_right, form):
    def errors(kind, form, precision):
        return {"output": 0.0 if form is Conv3dAs2d and flat_is_right else float("inf")}
    monkeypatch.setattr(convolutions, "conv_errors", errors)
    encoder = nn.Sequential(nn.Conv3d(3, 4, kernel))
    report = check_convolutions([encoder], (8, 16, 16), BF16)
    assert type(encoder[0]) is form
    assert ("1 distinct" in report) and "1 wrong here: 0 (output off by inf" in report


def test_a_run_without_tf32_where_it_is_wrong(monkeypatch):
    switched = []
    monkeypatch.setattr(convolutions, "conv_errors", lambda *_: {"output": 1.0})
    monkeypatch.setattr(convolutions, "set_tf32", switched.append)
    encoder = nn.Sequential(nn.Conv3d(3, 4, 1))
    report = check_convolutions([encoder], (2, 4, 4), Precision("tf32", CPU))
    assert switched == [False] and "no TF32 in this run" in report and type(encoder[0]) is nn.Conv3d
