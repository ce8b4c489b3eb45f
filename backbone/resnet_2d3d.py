"""2D-3D ResNet-50: 2-D bottlenecks in layers 1-2, bottlenecks with a temporal 3x1x1 convolution in layers 3-4.

The "r50" of CoCLR (arXiv 2010.09709), after Hara et al. (CVPR 2018) and Wang et al., "Non-local Neural Networks".
"""

from torch import Tensor, nn

# (width, blocks, spatial stride, temporal kernel size) of the four layers.
LAYERS = ((64, 3, 1, 1), (128, 4, 2, 1), (256, 6, 2, 3), (512, 3, 2, 3))
EXPANSION = 4


def _conv(in_planes: int, planes: int, kernel: tuple, stride: tuple = (1, 1, 1)) -> nn.Conv3d:
    padding = tuple(k // 2 for k in kernel)
    return nn.Conv3d(in_planes, planes, kernel, stride=stride, padding=padding, bias=False)


class Bottleneck(nn.Module):
    """Bottleneck of temporal x 1 x 1, 1 x 3 x 3 (strided in space) and 1 x 1 x 1 convolutions with a shortcut."""

    def __init__(self, in_planes: int, width: int, stride: int, temporal: int) -> None:
        super().__init__()
        out = width * EXPANSION
        space = (1, stride, stride)
        self.conv1 = _conv(in_planes, width, (temporal, 1, 1))
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = _conv(width, width, (1, 3, 3), space)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = _conv(width, out, (1, 1, 1))
        self.bn3 = nn.BatchNorm3d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_planes != out:
            self.downsample = nn.Sequential(_conv(in_planes, out, (1, 1, 1), space), nn.BatchNorm3d(out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + shortcut)


class ResNet2d3d(nn.Module):
    """2D-3D ResNet-50."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, (5, 7, 7), (2, 2, 2))
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        in_planes = 64
        for number, (width, blocks, stride, temporal) in enumerate(LAYERS, start=1):
            layer = [Bottleneck(in_planes if i == 0 else width * EXPANSION, width, stride if i == 0 else 1, temporal)
                     for i in range(blocks)]
            self.add_module(f"layer{number}", nn.Sequential(*layer))
            in_planes = width * EXPANSION
        self.feature_size = in_planes
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (B, 3, T, H, W) to features (B, 2048, T/2, H/32, W/32)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, 1 + len(LAYERS)):
            x = getattr(self, f"layer{number}")(x)
        return x
