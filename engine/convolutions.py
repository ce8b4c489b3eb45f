"""Check a run's convolutions at start-up, and replace those that are wrong.

Some releases of torch, oneDNN and cuDNN have wrong 3-D convolution kernels. Each distinct convolution of the run is
applied to two random clips, forward and backward, in the chosen precision and in float64. If rounding cannot explain
the difference, the layer becomes a 2-D convolution, or runs in float32.

A 1 x k x k convolution is a 2-D one over (B*T, C, H, W), and a k x 1 x 1 one over (B, C, T, H*W). With channels-last
clips both are free views, and the work is the same.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.device import STEPS, Precision, choose_precision, set_tf32
from utils.console import say

# Errors that rounding explains, in rounding steps. Measured on a CPU over all layers of S3D and ResNet-50: up to 0.23
# in bf16, 0.98 in fp16, 12 in fp32. A GPU checks larger clips, whose sums have larger errors.
ALLOWED_STEPS = {"fp32": 200.0, "tf32": 4.0, "fp16": 4.0, "bf16": 4.0}
# Largest side of the test clips: float64 is slow on a CPU, and kernels depend on depth rather than on size.
LARGEST_SIDE = {"cpu": 8, "cuda": 32}
BATCH = 2
PARTS = ("output", "input gradient", "weight gradient")


def fits_2d(conv: nn.Conv3d) -> bool:
    """Return whether the kernel spans space or time alone, so that it has a 2-D form."""
    if isinstance(conv.padding, str):
        return False
    (kt, *space), (st, *space_stride), (pt, *space_padding) = conv.kernel_size, conv.stride, conv.padding
    over_space = (kt, st, pt) == (1, 1, 0)
    over_time = (*space, *space_stride, *space_padding) == (1, 1, 1, 1, 0, 0)
    return (over_space or over_time) and conv.padding_mode == "zeros" and conv.dilation == (1, 1, 1)


class Conv3dAs2d(nn.Conv3d):
    """An ``nn.Conv3d`` that fits :func:`fits_2d`, computed as a 2-D convolution."""

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
    """An ``nn.Conv3d`` that stays in float32 under autocast."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super()._conv_forward(x.float(), weight.float(), None if bias is None else bias.float())


def use_form(conv: nn.Conv3d, form: type[nn.Conv3d]) -> None:
    """Change how a layer is computed; its parameters, state-dict keys and hooks stay.

    Raises:
        ValueError: the kernel has no 2-D form.
    """
    if form is Conv3dAs2d and not fits_2d(conv):
        raise ValueError(f"no 2-D form for a kernel of {conv.kernel_size} with stride {conv.stride}")
    conv.__class__ = form


def use_2d_where_faster(encoders: Iterable[nn.Module], device: torch.device) -> None:
    """Use the 2-D form in float32 on a CPU with one thread, torchrun's default.

    PyTorch then does not use oneDNN for k x 1 x 1 and 1 x 1 x 1 convolutions: a CoCLR step with S3D on 2 clips of
    32 x 128 x 128 took 4.7 s, and in the 2-D form 2.9 s. With more threads nothing is gained.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        for conv in (module for encoder in encoders for module in encoder.modules()):
            if type(conv) is nn.Conv3d and fits_2d(conv):
                use_form(conv, Conv3dAs2d)


@dataclass(frozen=True)
class ConvKind:
    """All that tells two convolutions apart; ``shape`` is that of the test input, (C, T, H, W)."""

    shape: tuple[int, ...]
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    bias: bool

    def layer(self, device: torch.device, form: type[nn.Conv3d] = nn.Conv3d) -> nn.Conv3d:
        """Build such a layer, its weights not initialised."""
        conv = nn.utils.skip_init(  # leaves the run's random numbers alone
            nn.Conv3d, self.shape[0], self.out_channels, self.kernel_size, self.stride, self.padding, self.dilation,
            self.groups, self.bias, device=device)
        use_form(conv, form)
        return conv.to(memory_format=torch.channels_last_3d)


def conv_kinds(encoder: nn.Module, clip: tuple[int, int, int], side: int) -> dict[ConvKind, list[str]]:
    """Return the distinct convolutions of an encoder and the names of their layers; computes nothing."""
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
    shadow.train()(torch.empty(BATCH, 3, *clip, device="meta"))
    return kinds


@torch.inference_mode(False)
@torch.enable_grad()
def conv_errors(kind: ConvKind, form: type[nn.Conv3d], precision: Precision) -> dict[str, float]:
    """Return the relative errors of output and gradients against float64."""
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
    """Return |got - right| / |right|, in float64; inf if not finite."""
    error = float((got.double() - right.double()).norm() / right.double().norm())
    return error if error < float("inf") else float("inf")


def is_right(errors: dict[str, float], precision: Precision) -> bool:
    """Return whether rounding explains the errors."""
    return max(errors.values()) <= ALLOWED_STEPS[precision.name] * STEPS[precision.name]


def may_crash(kind: ConvKind, device: torch.device) -> bool:
    """Return whether a layer could crash as a 3-D convolution, and so must not be tried.

    In oneDNN 3.12 (torch 2.14.1), the weight gradient of a float32 (7, 1, 1) convolution with stride 2 and padding 3,
    S3D's first over time, is garbage on inputs of depth 6 and 7, and kills the program at depth 5.
    """
    return device.type == "cpu" and kind.kernel_size[0] > 3 and 4 < kind.shape[1] <= kind.kernel_size[0]


def check_convolutions(encoders: Sequence[nn.Module], clip: tuple[int, int, int], precision: Precision) -> str:
    """Check the convolutions of encoders that share an architecture, replace wrong ones, and report in one line."""
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
        form, remedy = _right_form(conv, kind, precision)
        for own in layers:
            for name in names:
                use_form(own[name], form)
        part = max(errors, key=errors.__getitem__)
        remedies.append(f"{', '.join(names)} ({part} off by {errors[part]:.2g} of its norm: {remedy})")
    head = f"precision {precision.name}: {len(kinds)} distinct convolutions checked against float64, "
    return head + (f"{len(remedies)} wrong here: {'; '.join(remedies)}" if remedies else "all right")


def _right_form(conv: nn.Conv3d, kind: ConvKind, precision: Precision) -> tuple[type[nn.Conv3d], str]:
    """Return a form of the layer that is right, and its description."""
    if fits_2d(conv) and is_right(conv_errors(kind, Conv3dAs2d, precision), precision):
        return Conv3dAs2d, "computed as a 2-D convolution"
    if precision.dtype is not None:
        return Conv3dInFloat32, "computed in float32"
    set_tf32(False)
    return type(conv), "no TF32 in this run" if precision.name == "tf32" else "and no other form helps"


def check_all(encoders: Sequence[nn.Module], clip: tuple[int, int, int], precision: Precision, fp32_steps: int = 0
              ) -> None:
    """Check the convolutions in each precision that the run uses, and print the findings."""
    if fp32_steps and precision.name != "fp32":
        say(check_convolutions(encoders, clip, choose_precision("fp32", precision.device)))
        choose_precision(precision.name, precision.device)  # restores TF32
    say(check_convolutions(encoders, clip, precision))
