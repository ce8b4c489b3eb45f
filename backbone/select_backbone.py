"""Backbones by the names that ``--net`` takes."""

from torch import nn

from backbone import resnet_2d3d, s3dg


class UnknownNetworkError(ValueError):
    """The name is not one of :data:`NETWORKS`."""


NETWORKS = {
    "s3d": lambda: (s3dg.S3D(gating=False), {"feature_size": s3dg.FEATURE_SIZE}),
    "s3dg": lambda: (s3dg.S3D(gating=True), {"feature_size": s3dg.FEATURE_SIZE}),
    "r50": lambda: (resnet_2d3d.ResNet2d3d(), {"feature_size": resnet_2d3d.FEATURE_SIZE}),
}


def select_backbone(network: str) -> tuple[nn.Module, dict[str, int]]:
    """A new backbone and its ``{"feature_size": channels}``: clips (B, 3, T, H, W) to feature maps (B, F, t, h, w).

    S3D (Xie et al., ECCV 2018) or the 2D-3D ResNet-50 of CoCLR (arXiv 2010.09709, section 4), weights drawn anew.

    Args:
        network: one of :data:`NETWORKS`.

    Raises:
        UnknownNetworkError: ``network`` is none of the known names.
    """
    if network not in NETWORKS:
        raise UnknownNetworkError(f"unknown network '{network}': --net takes one of {', '.join(NETWORKS)}")
    return NETWORKS[network]()
