"""Photometric steps and normalisation, batched over clips on any device; nothing here waits for the device.

Each step gives what Pillow (ImageEnhance, HSV conversion) gives, its rounding included; the blur is a true Gaussian,
which Pillow's box filters come close to. Inside, values are 0-255 in float32 and channels are the last dimension.
Which clips a step is for is known on the host (see `utils.photo`): their numbers go to the device in one copy.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from utils.photo import BRIGHTNESS, CONTRAST, HUE, SATURATION

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma
BLUR_REACH = 3  # standard deviations on either side


def photometric(clips: Tensor, photo: Mapping[str, Tensor]) -> Tensor:
    """Jitter, channel replacement and blur where drawn, then normalisation.

    Args:
        clips: uint8 (N, S, T, h, w, 3), left as they are. photo: draws with leading dimension N, on the CPU.

    Returns:
        float32 (N, S, 3, T, h, w), on the device of `clips`, channels last in memory.
    """
    values = clips.to(torch.float32, copy=True)
    draws = {name: np.array(value.tolist()) for name, value in photo.items()}
    jobs = [*_jitter_jobs(draws), *_replace_jobs(draws), *_blur_jobs(draws, *clips.shape[3:5])]
    rows = _upload([job[1].astype(np.int64) for job in jobs], clips.device)
    parameters = [np.asarray(p, dtype=np.float32) for job in jobs for p in job[2]]
    scale, shift, *settings = _upload([1 / (255 * np.array(STD, dtype=np.float32)),
                                       -np.array(MEAN, dtype=np.float32) / np.array(STD, dtype=np.float32),
                                       *parameters], clips.device)
    for (step, _, own), numbers in zip(jobs, rows, strict=True):
        mine, settings = settings[:len(own)], settings[len(own):]
        values.index_copy_(0, numbers, step(values.index_select(0, numbers), *mine))
    return values.mul_(scale).add_(shift).permute(0, 1, 5, 2, 3, 4)


def _jitter_jobs(draws: Mapping[str, np.ndarray]) -> list[tuple]:
    """(step, clips, (factor of each,)) of every place in the order of the colour operations."""
    jobs = []
    for place in range(len(STEPS)):
        for operation, step in STEPS.items():
            rows = np.flatnonzero(draws["jitter"] & (draws["order"][:, place] == operation))
            if len(rows):
                jobs.append((step, rows, (draws["factor"][rows, operation].reshape(-1, 1, 1, 1, 1, 1),)))
    return jobs


def _replace_jobs(draws: Mapping[str, np.ndarray]) -> list[tuple]:
    rows = np.flatnonzero((draws["channel"] >= 0).all(axis=(1, 2)))
    return [(replace_channels, rows, (draws["channel"][rows],))] if len(rows) else []


def _blur_jobs(draws: Mapping[str, np.ndarray], height: int, width: int) -> list[tuple]:
    rows = np.flatnonzero(draws["sigma"] > 0)
    if not len(rows):
        return []
    sigma = draws["sigma"][rows]
    return [(blur, rows, (blur_matrices(sigma, height), blur_matrices(sigma, width)))]


def _upload(arrays: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays of one type as tensors on a device, by one copy that the host does not wait for."""
    if not arrays:
        return []
    flat = torch.tensor(np.concatenate([array.ravel() for array in arrays]))
    if device.type == "cuda" and torch.cuda.is_available():
        flat = flat.pin_memory()
    pieces = flat.to(device, non_blocking=True).split([array.size for array in arrays])
    return [piece.view(array.shape) for piece, array in zip(pieces, arrays, strict=True)]


def grey(values: Tensor) -> Tensor:
    """Luma of (..., 3), rounded, (..., 1)."""
    red, green, blue = values.split(1, dim=-1)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).add_(0.5).floor_()


def _blend(values: Tensor, pivot: Tensor | float, factor: Tensor) -> Tensor:
    """`factor` times as far from `pivot`, within 0-255, without fractions."""
    return ((values - pivot) * factor).add_(pivot).clamp_(0, 255).floor_()


def brightness(values: Tensor, factor: Tensor) -> Tensor:
    """Scale clips (R, S, T, h, w, 3); factor (R, 1, 1, 1, 1, 1), as below."""
    return _blend(values, 0.0, factor)


def contrast(values: Tensor, factor: Tensor) -> Tensor:
    """Blend with each frame's own mean grey."""
    mean = grey(values).mean(dim=(3, 4), keepdim=True).add_(0.5).floor_()
    return _blend(values, mean, factor)


def saturation(values: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return _blend(values, grey(values), factor)


def hue(values: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor` of a circle; hue, saturation and the turn are whole numbers of 0-255, as in Pillow."""
    value, darkest = values.amax(dim=-1), values.amin(dim=-1)
    spread = value - darkest
    red, green, blue = ((value[..., None] - values) / spread.clamp(min=1)[..., None]).unbind(dim=-1)
    angle = torch.where(values[..., 0] == value, blue - green,
                        torch.where(values[..., 1] == value, 2 + red - blue, 4 + green - red))
    angle = ((angle / 6 + 1).remainder_(1) * 255).floor_().mul_(spread > 0)
    strength = (spread / value.clamp(min=1) * 255).floor_() / 255
    angle = (angle + (factor[..., 0] * 255).trunc()).remainder_(256) * (6 / 255)
    channels = []
    for offset in (5, 3, 1):  # red, green, blue
        turned = (angle + offset).remainder_(6)
        part = torch.minimum(turned, 4 - turned).clamp_(0, 1)
        channels.append((value - value * strength * part).add_(0.5).floor_())
    return torch.stack(channels, dim=-1)


def replace_channels(values: Tensor, channel: Tensor) -> Tensor:
    """Each frame of (R, S, T, h, w, 3) becomes the grey image of one of its channels; channel (R, S, T), 0-2."""
    index = channel.long()[..., None, None, None].expand(*values.shape[:-1], 1)
    return values.gather(-1, index).expand_as(values)


def blur_matrices(sigma: np.ndarray, size: int) -> np.ndarray:
    """Gaussian blur of `size` pixels in a row as a matrix, float32 (R, size, size); the border repeats its pixel."""
    reach = np.ceil(BLUR_REACH * sigma[:, None].astype(np.float64))  # (R, 1)
    taps = np.arange(-int(reach.max()), int(reach.max()) + 1)
    weights = np.exp(-0.5 * (taps / sigma[:, None].astype(np.float64)) ** 2) * (np.abs(taps) <= reach)  # (R, taps)
    weights /= weights.sum(axis=1, keepdims=True)
    matrices = np.zeros((len(sigma), size, size))
    pixels = np.arange(size)
    for tap, weight in zip(taps, weights.T, strict=True):
        matrices[:, pixels, np.clip(pixels + tap, 0, size - 1)] += weight[:, None]
    return matrices.astype(np.float32)


def blur(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Blur clips (R, S, T, h, w, 3) by the matrices of `blur_matrices`: rows (R, h, h), columns (R, w, w).

    A product with a banded matrix: no kernel per clip, and as fast as the device multiplies.
    """
    r, s, t, h, w, c = values.shape
    down = rows.unsqueeze(1) @ values.view(r, s * t, h, w * c)
    eye = torch.eye(c, device=values.device)
    across = (columns.mT[:, :, None, :, None] * eye[:, None, :]).reshape(r, w * c, w * c)
    return (down.view(r, s * t * h, w * c) @ across).view(values.shape)


STEPS = {BRIGHTNESS: brightness, CONTRAST: contrast, SATURATION: saturation, HUE: hue}
