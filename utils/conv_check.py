"""Start-up check of a run's convolutions: 3-D kernels are wrong in some releases of torch, oneDNN and cuDNN.

Every distinct convolution of the run, with its kernel, stride, channels and depth, computes two random clips forward
and backward in the chosen precision, and the same in float64. A layer that is off by more than rounding explains is
computed as a 2-D convolution from then on, or in float32.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.conv_forms import Conv3dAs2d, Conv3dInFloat32, fits_2d, use_form
from utils.precision import STEPS, Precision, set_tf32

# Errors that rounding explains, in steps of the precision. Measured on a CPU over all layers of S3D and ResNet-50:
# bf16 up to 0.23, fp16 up to 0.98, fp32 up to 12. A GPU is shown larger clips, whose sums have larger errors.
ALLOWED_STEPS = {"fp32": 200.0, "tf32": 4.0, "fp16": 4.0, "bf16": 4.0}
# Rows and columns of the test clips, at most: the kernels of one layer differ by depth, and float64 is slow on a CPU.
LARGEST_SIDE = {"cpu": 8, "cuda": 32}
BATCH = 2
PARTS = ("output", "input gradient", "weight gradient")


@dataclass(frozen=True)
class ConvKind:
    """What makes two convolutions the same. shape: of the test input, (C, T, H, W)."""

    shape: tuple[int, ...]
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    bias: bool

    def layer(self, device: torch.device, form: type[nn.Conv3d] = nn.Conv3d) -> nn.Conv3d:
        """A new layer of this kind."""
        conv = nn.utils.skip_init(  # draws nothing, so the run's random numbers stay what they are
            nn.Conv3d, self.shape[0], self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation,
            self.groups, self.bias, device=device)
        use_form(conv, form)
        return conv.to(memory_format=torch.channels_last_3d)


def conv_kinds(encoder: nn.Module, clip: tuple[int, int, int], side: int) -> dict[ConvKind, list[str]]:
    """The distinct convolutions of an encoder and the names of their layers; nothing is computed.

    Args:
        clip: frames, height and width of the clips that come in, 3 channels. side: test inputs are cut to this size.
    """
    shadow = copy.deepcopy(encoder).to("meta")
    kinds: dict[ConvKind, list[str]] = {}

    def note(name: str, conv: nn.Conv3d, x: Tensor) -> None:
        channels, depth, height, width = x.shape[1:]
        kind = ConvKind((channels, depth, min(height, side), min(width, side)), conv.out_channels, conv.kernel_size,
                        conv.stride, conv.padding, conv.dilation, conv.groups, conv.bias is not None)
        kinds.setdefault(kind, []).append(name)

    for name, module in shadow.named_modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(lambda conv, inputs, name=name: note(name, conv, inputs[0]))
    shadow.train()(torch.empty(BATCH, 3, *clip, device="meta"))  # in training, since inference may join layers
    return kinds


@torch.inference_mode(False)
@torch.enable_grad()
def conv_errors(kind: ConvKind, form: type[nn.Conv3d], precision: Precision) -> dict[str, float]:
    """Errors of a layer's output and gradients against float64, as shares of their norms; inf where not finite."""
    random = torch.Generator(precision.device).manual_seed(0)

    def draw(*size: int) -> Tensor:
        values = torch.randn(*size, generator=random, device=precision.device)
        values = values if precision.dtype is None else values.to(precision.dtype).float()
        return values.contiguous(memory_format=torch.channels_last_3d)

    tested, exact = kind.layer(precision.device, form), kind.layer(precision.device).double()
    x, weight = draw(BATCH, *kind.shape), draw(*tested.weight.shape)
    for layer in (tested, exact):
        layer.weight.data.copy_(weight)
        if layer.bias is not None:
            layer.bias.data.zero_()
    with precision.autocast():
        y = tested(x.requires_grad_(True))
    right = exact(x64 := x.detach().double().requires_grad_(True))
    g = draw(*y.shape)
    y.backward(g.to(y.dtype))
    right.backward(g.double())
    pairs = ((y, right), (x.grad, x64.grad), (tested.weight.grad, exact.weight.grad))
    return {part: relative_error(a.detach(), b.detach()) for part, (a, b) in zip(PARTS, pairs, strict=True)}


def relative_error(got: Tensor, right: Tensor) -> float:
    """Norm of the difference by the norm of what is right, in float64; inf where it is not a number."""
    error = float((got.double() - right.double()).norm() / right.double().norm())
    return error if error < float("inf") else float("inf")


def is_right(errors: dict[str, float], precision: Precision) -> bool:
    """Whether rounding explains the errors."""
    return max(errors.values()) <= ALLOWED_STEPS[precision.name] * STEPS[precision.name]


def may_crash(kind: ConvKind, device: torch.device) -> bool:
    """Whether a layer must not even be tried as a 3-D convolution.

    oneDNN 3.12 (torch 2.14.1): the weight gradient of a float32 (7, 1, 1) convolution with stride 2 and padding 3, as
    S3D begins with, is garbage on inputs of depth 6 and 7 and ends the program at depth 5; other depths are right.
    """
    return device.type == "cpu" and kind.kernel_size[0] > 3 and 4 < kind.shape[1] <= kind.kernel_size[0]


def check_convolutions(encoders: Sequence[nn.Module], clip: tuple[int, int, int], precision: Precision) -> str:
    """Check the convolutions of encoders of one kind, replace what is wrong, and say so in one line.

    Args:
        encoders: all that the run uses, equal but for their weights. clip: frames, height, width.
    """
    kinds = conv_kinds(encoders[0], clip, LARGEST_SIDE[precision.device.type])
    layers = [{name: module for name, module in encoder.named_modules() if isinstance(module, nn.Conv3d)}
              for encoder in encoders]
    remedies = []
    for kind, names in kinds.items():
        conv = layers[0][names[0]]
        untried = type(conv) is nn.Conv3d and fits_2d(conv) and may_crash(kind, precision.device)
        errors = {"3-D kernel": float("inf")} if untried else conv_errors(kind, type(conv), precision)
        if is_right(errors, precision):
            continue
        form, words = _right_form(conv, kind, precision)
        for own in layers:
            for name in names:
                use_form(own[name], form)
        part = max(errors, key=errors.__getitem__)
        remedies.append(f"{', '.join(names)} ({part} off by {errors[part]:.2g} of its norm: {words})")
    head = f"precision {precision.name}: {len(kinds)} distinct convolutions checked against float64, "
    return head + (f"{len(remedies)} wrong here: {'; '.join(remedies)}" if remedies else "all right")


def _right_form(conv: nn.Conv3d, kind: ConvKind, precision: Precision) -> tuple[type[nn.Conv3d], str]:
    """The form to compute a layer in, and how to call it."""
    if fits_2d(conv) and is_right(conv_errors(kind, Conv3dAs2d, precision), precision):
        return Conv3dAs2d, "computed as a 2-D convolution"
    if precision.dtype is not None:
        return Conv3dInFloat32, "computed in float32"
    set_tf32(False)
    return type(conv), "no TF32 in this run" if precision.name == "tf32" else "and no other form helps"
