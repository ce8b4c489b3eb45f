"""Backbone with a linear classifier, for linear probes and finetuning (CoCLR, arXiv 2010.09709, section 4.3)."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.select_backbone import select_backbone


class LinearClassifier(nn.Module):
    """Backbone, global average pool, optional L2 norm, BatchNorm and dropout, and linear layers.

    Args:
        num_class: number of classes.
        network: name of the backbone.
        dropout: probability, used with `use_dropout`.
        use_dropout, use_l2_norm, use_final_bn: add these layers.
        num_fc: number of linear layers; all but the last keep the feature size and end in a ReLU.
    """

    def __init__(self, num_class: int, network: str = "s3d", dropout: float = 0.5, use_dropout: bool = True,
                 use_l2_norm: bool = False, use_final_bn: bool = False, num_fc: int = 1) -> None:
        super().__init__()
        self.backbone, info = select_backbone(network)
        width = info["feature_size"]
        self.use_l2_norm = use_l2_norm
        self.final_bn = nn.BatchNorm1d(width) if use_final_bn else None
        hidden = [layer for _ in range(num_fc - 1) for layer in (nn.Linear(width, width), nn.ReLU(inplace=True))]
        dropout_layer = [nn.Dropout(dropout)] if use_dropout else []
        self.final_fc = nn.Sequential(*dropout_layer, *hidden, nn.Linear(width, num_class))
        for layer in self.final_fc:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, clips: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Classify clips.

        Args:
            clips: normalised clips, (B, 3, T, H, W).
            dtype: autocast type of the backbone, None for float32; all else is float32.

        Returns:
            Logits (B, num_class), and the pooled features (B, F) before normalisation.
        """
        feature = pooled_features(self.backbone, clips, dtype)
        x = F.normalize(feature, dim=1) if self.use_l2_norm else feature
        if self.final_bn is not None:
            x = self.final_bn(x)
        return self.final_fc(x), feature


def pooled_features(backbone: nn.Module, clips: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Average a backbone's features of clips (B, 3, T, H, W) over time and space: (B, F), not normalised."""
    with nullcontext() if dtype is None else torch.autocast(clips.device.type, dtype):
        maps = backbone(clips)  # (B, F, t, h, w)
    return maps.mean(dim=(2, 3, 4), dtype=None if dtype is None else torch.float32)
