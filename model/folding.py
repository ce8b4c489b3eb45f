"""Fold BatchNorm into the preceding convolution, for networks that only run inference."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Names of a convolution and its BatchNorm inside a module of S3D or ResNet, or a Sequential.
CONV_BN = (("conv", "bn"), ("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"))


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
