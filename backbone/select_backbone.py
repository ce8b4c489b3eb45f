"""Backbones by the names that ``--net`` takes, and folding of their BatchNorms for inference."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backbone.resnet_2d3d import ResNet2d3d
from backbone.s3dg import S3D

# Each builds an nn.Module with an int attribute `feature_size`, its number of output channels.
NETWORKS: dict[str, Callable[[], Any]] = {
    "s3d": S3D,
    "s3d_small": partial(S3D, scale=0.25),  # 0.5 M parameters, for CPUs
    "s3dg": partial(S3D, gating=True),
    "r50": ResNet2d3d,
}
# Names of a convolution and its BatchNorm inside a module of S3D or ResNet, or a Sequential.
CONV_BN = (("conv", "bn"), ("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"))


def select_backbone(network: str) -> tuple[nn.Module, dict[str, int]]:
    """Build a backbone with random weights, which maps clips (B, 3, T, H, W) to (B, F, t, h, w); also returns its F."""
    backbone = NETWORKS[network]()
    return backbone, {"feature_size": backbone.feature_size}


@torch.no_grad()
def fold_batchnorm(net: nn.Module) -> None:
    """Fold each BatchNorm into the weights of the convolution before it; ``net`` must be in evaluation mode.

    The state dict loses its BatchNorms: load weights before, and save nothing after.
    """
    for module in net.modules():  # visits each once, though S3D registers layers under two names
        for conv_name, bn_name in CONV_BN:
            conv, bn = getattr(module, conv_name, None), getattr(module, bn_name, None)
            if isinstance(conv, nn.Conv3d) and isinstance(bn, nn.BatchNorm3d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, bn))
                setattr(module, bn_name, nn.Identity())
