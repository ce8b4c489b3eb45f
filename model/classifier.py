"""A backbone with a linear classifier: linear probe and finetuning (CoCLR, section 4.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.select_backbone import select_backbone


class LinearClassifier(nn.Module):
    """Backbone, global average pool, optional L2 norm and BatchNorm, optional dropout, and a linear layer.

    Args:
        num_class: classes. network: backbone's name. dropout: probability. use_dropout: whether there is one.
        use_l2_norm: normalise the pooled feature. use_final_bn: BatchNorm before the final layer.
        num_fc: fully connected layers; all but the last keep the feature's width and end in a ReLU.

    Raises:
        UnknownNetworkError: there is no such backbone.
    """

    def __init__(self, num_class: int, network: str = "s3d", dropout: float = 0.5, use_dropout: bool = True,
                 use_l2_norm: bool = False, use_final_bn: bool = False, num_fc: int = 1) -> None:
        super().__init__()
        self.backbone, info = select_backbone(network)
        width = info["feature_size"]
        self.dtype: torch.dtype | None = None  # of the backbone's autocast; all else is float32
        self.use_l2_norm = use_l2_norm
        self.final_bn = nn.BatchNorm1d(width) if use_final_bn else None
        hidden = [layer for _ in range(num_fc - 1) for layer in (nn.Linear(width, width), nn.ReLU(inplace=True))]
        dropout_layer = [nn.Dropout(dropout)] if use_dropout else []
        self.final_fc = nn.Sequential(*dropout_layer, *hidden, nn.Linear(width, num_class))
        for layer in self.final_fc:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def features(self, clips: Tensor) -> Tensor:
        """Pooled backbone features (B, F), neither normalised nor whitened.

        Args:
            clips: normalised, (B, 3, T, H, W).
        """
        with torch.autocast(clips.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            maps = self.backbone(clips)  # (B, F, t, h, w)
        return maps.mean(dim=(2, 3, 4), dtype=None if self.dtype is None else torch.float32)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, num_class) and pooled features (B, F).

        Args:
            clips: normalised, (B, 3, T, H, W).
        """
        feature = self.features(clips)
        x = F.normalize(feature, dim=1) if self.use_l2_norm else feature
        if self.final_bn is not None:
            x = self.final_bn(x)
        return self.final_fc(x), feature
