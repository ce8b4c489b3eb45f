"""Draws of the photometric steps of a view; `utils.augmentation` carries them out, batched, on the training device.

A draw is a dict of small arrays, as tensors with a leading dimension of views V (or crops C):
"jitter" (V,) bool, whether colours are jittered; "order" (V, 4) int64, a permutation of the operations; "factor" (V, 4)
float32, by operation; "channel" (V, S, T) int64, the channel that replaces a frame's three, -1 for none; "sigma" (V,)
float32, of the blur in pixels, 0 for none.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
SIGMA = (0.1, 2.0)
Photo = dict[str, np.ndarray]


@dataclass(frozen=True)
class PhotoRecipe:
    """Probabilities and strengths. jitter: of brightness, contrast and saturation (around 1) and hue (around 0)."""

    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    p_jitter: float = 0.0
    p_channel: float = 0.0
    p_blur: float = 0.0

    def draw(self, rng: np.random.Generator, streams: int, num_frames: int) -> Photo:
        """The draw of one view or crop, without the leading dimension."""
        photo = {"jitter": np.array(rng.random() < self.p_jitter), "order": np.arange(4),
                 "factor": np.array([1, 1, 1, 0], dtype=np.float32),
                 "channel": np.full((streams, num_frames), -1), "sigma": np.array(0, dtype=np.float32)}
        if photo["jitter"]:
            photo["order"] = rng.permutation(4)
            photo["factor"] = self._factors(rng)
        if rng.random() < self.p_channel:
            photo["channel"] = rng.integers(3, size=(streams, num_frames))
        if rng.random() < self.p_blur:
            photo["sigma"] = np.array(rng.uniform(*SIGMA), dtype=np.float32)
        return photo

    def _factors(self, rng: np.random.Generator) -> np.ndarray:
        strength = np.array(self.jitter)
        middle = np.array([1.0, 1.0, 1.0, 0.0])
        low = np.append(np.maximum(middle[:HUE] - strength[:HUE], 0), -strength[HUE])
        return rng.uniform(low, middle + strength).astype(np.float32)


def stack(photos: list[Photo]) -> dict[str, Tensor]:
    """Draws of several views as tensors with a leading dimension."""
    return {name: torch.from_numpy(np.stack([photo[name] for photo in photos])) for name in photos[0]}
