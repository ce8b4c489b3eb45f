"""Backbones by the names that ``--net`` takes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from backbone.resnet_2d3d import ResNet2d3d
from backbone.s3dg import S3D

# Each builds an nn.Module with an int attribute `feature_size`, its number of output channels.
NETWORKS: dict[str, Callable[[], Any]] = {
    "s3d": S3D,
    "s3dg": partial(S3D, gating=True),
    "r50": ResNet2d3d,
}


def select_backbone(network: str) -> tuple[nn.Module, dict[str, int]]:
    """Build a backbone with random weights.

    Args:
        network: a key of :data:`NETWORKS`.

    Returns:
        The backbone, which maps clips (B, 3, T, H, W) to features (B, F, t, h, w), and {"feature_size": F}.

    Raises:
        ValueError: there is no such network.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown network '{network}': choose from {', '.join(NETWORKS)}")
    backbone = NETWORKS[network]()
    return backbone, {"feature_size": backbone.feature_size}
