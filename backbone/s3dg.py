"""S3D and S3D-G, the separable 3-D Inception of Xie et al., "Rethinking Spatiotemporal Feature Learning" (ECCV 2018).

Each layer is registered under two names: its row of the Inception table (``Mixed_3b``) and its place in a block
(``block3.1``). Published checkpoints hold both, and other code must be able to load ours with strict key matching.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

STEM_WIDTHS = {"Conv_1a": 64, "Conv_2b": 64, "Conv_2c": 192}
# Widths of an Inception block: 1x1 branch; reduction and 3x3x3 of the two separable branches; 1x1 after the pool.
INCEPTION_WIDTHS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def _conv(in_planes: int, out_planes: int, kernel: tuple, stride: tuple, padding: tuple) -> nn.Conv3d:
    conv = nn.Conv3d(in_planes, out_planes, kernel, stride=stride, padding=padding, bias=False)
    nn.init.normal_(conv.weight, mean=0.0, std=0.01)
    return conv


def _space_pool() -> nn.MaxPool3d:
    return nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))


class BasicConv3d(nn.Sequential):
    """1x1x1 convolution, BatchNorm, ReLU."""

    def __init__(self, in_planes: int, out_planes: int) -> None:
        super().__init__(OrderedDict(conv=_conv(in_planes, out_planes, (1, 1, 1), (1, 1, 1), (0, 0, 0)),
                                     bn=nn.BatchNorm3d(out_planes), relu=nn.ReLU(inplace=True)))


class STConv3d(nn.Module):
    """k x k x k convolution split into space (1 x k x k) and time (k x 1 x 1), each with BatchNorm and ReLU."""

    def __init__(self, in_planes: int, out_planes: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        k, s, p = kernel, stride, padding
        self.conv1 = _conv(in_planes, out_planes, (1, k, k), (1, s, s), (0, p, p))
        self.conv2 = _conv(out_planes, out_planes, (k, 1, 1), (s, 1, 1), (p, 0, 0))
        self.bn1 = nn.BatchNorm3d(out_planes)
        self.bn2 = nn.BatchNorm3d(out_planes)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


class SelfGating(nn.Module):
    """Feature gating of S3D-G: scale each channel by a sigmoid of a linear map of all channels' means."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(planes, planes)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.fc(x.mean(dim=(2, 3, 4))))  # (B, C)
        return x * weight[:, :, None, None, None]


class InceptionBlock3d(nn.Module):
    """Four parallel branches, each gated in S3D-G, concatenated along the channels."""

    def __init__(self, in_planes: int, widths: tuple[int, ...], gating: bool) -> None:
        super().__init__()
        w0, reduce1, w1, reduce2, w2, w3 = widths
        self.out_planes = w0 + w1 + w2 + w3
        self.branch0 = nn.Sequential(BasicConv3d(in_planes, w0))
        self.branch1 = nn.Sequential(BasicConv3d(in_planes, reduce1), STConv3d(reduce1, w1, 3, 1, 1))
        self.branch2 = nn.Sequential(BasicConv3d(in_planes, reduce2), STConv3d(reduce2, w2, 3, 1, 1))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), BasicConv3d(in_planes, w3))
        self.gating = gating
        if gating:
            for i, width in enumerate((w0, w1, w2, w3)):
                setattr(self, f"gating_b{i}", SelfGating(width))

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)]
        if self.gating:
            branches = [getattr(self, f"gating_b{i}")(branch) for i, branch in enumerate(branches)]
        return torch.cat(branches, dim=1)


class S3D(nn.Module):
    """S3D up to its last Inception block, with feature gating (S3D-G) or not, and all widths times `scale`."""

    def __init__(self, gating: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        stem = {name: round(scale * width) for name, width in STEM_WIDTHS.items()}
        self.feature_size = stem["Conv_2c"]  # grows with each Inception block

        def mixed(name: str) -> InceptionBlock3d:
            widths = tuple(round(scale * width) for width in INCEPTION_WIDTHS[name])
            block = InceptionBlock3d(self.feature_size, widths, gating)
            self.feature_size = block.out_planes
            return block

        self._register_block(1, Conv_1a=STConv3d(3, stem["Conv_1a"], 7, 2, 3))
        self._register_block(2, MaxPool_2a=_space_pool(), Conv_2b=BasicConv3d(stem["Conv_1a"], stem["Conv_2b"]),
                             Conv_2c=STConv3d(stem["Conv_2b"], stem["Conv_2c"], 3, 1, 1))
        self._register_block(3, MaxPool_3a=_space_pool(), **{f"Mixed_3{c}": mixed(f"Mixed_3{c}") for c in "bc"})
        self._register_block(4, MaxPool_4a=nn.MaxPool3d(3, stride=2, padding=1),
                             **{f"Mixed_4{c}": mixed(f"Mixed_4{c}") for c in "bcdef"})
        self._register_block(5, MaxPool_5a=nn.MaxPool3d(2, stride=2),
                             **{f"Mixed_5{c}": mixed(f"Mixed_5{c}") for c in "bc"})

    def _register_block(self, number: int, **layers: nn.Module) -> None:
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.add_module(f"block{number}", nn.Sequential(*layers.values()))

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (B, 3, T, H, W) to features (B, feature_size, T/8, H/32, W/32)."""
        for number in range(1, 6):
            x = getattr(self, f"block{number}")(x)
        return x
