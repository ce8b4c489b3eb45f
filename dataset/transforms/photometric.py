"""Photometric augmentation: its draws, and its steps and normalisation on the training device.

Each step gives what Pillow (ImageEnhance, HSV conversion) gives, its rounding included; the blur is a true Gaussian,
which Pillow's box filters approximate. The draws, made in the loader's processes, stay on the host.
A GPU takes all clips at once, in float32; those that a step changes lie plane by plane, (R, S, 3, T, h, w), as steps
mix channels. Only the numbers a step needs go there, in one copy, and nothing waits for it. A CPU takes a few frames at
a time, which stay in its caches, as uint8 images with OpenCV.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
SIGMA = (0.1, 2.0)  # of the blur, in pixels
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
GREY = (0.299, 0.587, 0.114)  # ITU-R 601 luma
BLUR_REACH = 3  # standard deviations on either side
CHUNK = 1 << 15  # pixels that a CPU works on at once
EPSILON = 1e-4  # added before rounding down, so that whole numbers stay in spite of rounding errors
DOWN = EPSILON - 0.5  # added where OpenCV rounds to the nearest number: then it rounds down
# What `cv2.transform` multiplies (red, green, blue, 1) with to normalise, or (hue, saturation, value, 1).
NORMALISE = np.column_stack([np.diag(1 / (255 * np.array(STD))), -np.array(MEAN) / STD]).astype(np.float32)
TO_LEVELS = np.column_stack([np.diag([255 / 360, 255, 1]), np.full(3, EPSILON)]).astype(np.float32)
TO_HSV = np.diag([360 / 255, 1 / 255, 1]).astype(np.float32)

# Draws of one view or crop: "jitter" bool, whether colours are jittered; "order" int64 (4,), the colour operations in
# their order; "factor" float32 (4,), by operation; "channel" int64 (S, T), the channel that replaces a frame's three,
# -1 for none; "sigma" float32, of the blur in pixels, 0 for none.
PhotometricParams = dict[str, np.ndarray]


@dataclass(frozen=True)
class PhotometricRecipe:
    """Probabilities and strengths of the photometric steps."""

    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    p_jitter: float = 0.0
    p_channel: float = 0.0  # that each frame is replaced by one of its channels
    p_blur: float = 0.0

    def draw(self, rng: np.random.Generator, streams: int, num_frames: int) -> PhotometricParams:
        params = {"jitter": np.array(rng.random() < self.p_jitter), "order": np.arange(4),
                  "factor": np.array([1, 1, 1, 0], dtype=np.float32),
                  "channel": np.full((streams, num_frames), -1), "sigma": np.array(0, dtype=np.float32)}
        if params["jitter"]:
            params["order"] = rng.permutation(4)
            middle, strength = np.array([1.0, 1.0, 1.0, 0.0]), np.array(self.jitter)
            low = np.maximum(middle - strength, [0, 0, 0, -np.inf])
            params["factor"] = rng.uniform(low, middle + strength).astype(np.float32)
        if rng.random() < self.p_channel:
            params["channel"] = rng.integers(3, size=(streams, num_frames))
        if rng.random() < self.p_blur:
            params["sigma"] = np.array(rng.uniform(*SIGMA), dtype=np.float32)
        return params


def stack_params(params: Sequence[PhotometricParams]) -> dict[str, Tensor]:
    """Stack the draws of several views as tensors with a leading dimension."""
    return {name: torch.from_numpy(np.stack([each[name] for each in params])) for name in params[0]}


def photometric(clips: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """Apply jitter, channel replacement and blur where drawn, then normalise.

    Takes uint8 (..., S, T, h, w, 3) and their draws, see :func:`stack_params`; returns float32 (..., S, 3, T, h, w) on
    the same device, channels last in memory.
    """
    if clips.device.type != "cpu":
        return batched(clips, params)
    draws = {name: value.numpy() for name, value in params.items()}
    values = torch.empty(clips.shape)
    for place in np.ndindex(clips.shape[:-4]):
        own = {name: value[place if name == "channel" else place[:-1]] for name, value in draws.items()}
        _augment_clip(clips[place].numpy(), values[place].numpy(), own)
    return values.movedim(-1, -4)


def batched(clips: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """Do the work of :func:`photometric` for all clips at once, the GPU's way, on any device."""
    lead = clips.shape[:-5]
    values = clips.flatten(0, -6).to(torch.float32, copy=True)  # (N, S, T, h, w, 3)
    width = values.shape[4]
    jobs = _jobs({name: np.array(value.tolist()).reshape(-1, *value.shape[len(lead):])
                  for name, value in params.items()}, values.shape[3], width)
    changed = np.unique(np.concatenate([np.zeros(0, np.int64), *(rows for _, rows, _ in jobs)]))
    changed_rows, *rows = _upload([changed, *(np.searchsorted(changed, own) for _, own, _ in jobs)], values.device)
    std, mean = np.array(STD, dtype=np.float32), np.array(MEAN, dtype=np.float32)
    scale, shift, *settings = _upload([np.tile(1 / (255 * std), width), np.tile(-mean / std, width),
                                       *(np.asarray(each, np.float32) for _, _, own in jobs for each in own)],
                                      values.device)
    if jobs:
        planes = values.index_select(0, changed_rows).permute(0, 1, 5, 2, 3, 4).contiguous()
        for (step, _, own), numbers in zip(jobs, rows, strict=True):
            mine, settings = settings[:len(own)], settings[len(own):]
            planes.index_copy_(0, numbers, step(planes.index_select(0, numbers), *mine))
        values.index_copy_(0, changed_rows, planes.permute(0, 1, 3, 4, 5, 2))
    values.flatten(4).mul_(scale).add_(shift)  # whole lines: long vectors are faster than three numbers at a time
    return values.unflatten(0, lead).movedim(-1, -4)


def _jobs(draws: Mapping[str, np.ndarray], height: int, width: int) -> list[tuple]:
    """Return (step, clips, parameters of each) in their order: colours, channel replacement, blur."""
    jobs: list[tuple] = []
    for place in range(len(STEPS)):
        for operation, step in STEPS.items():
            rows = np.flatnonzero(draws["jitter"] & (draws["order"][:, place] == operation))
            jobs.append((step, rows, (draws["factor"][rows, operation].reshape(-1, 1, 1, 1, 1, 1),)))
    rows = np.flatnonzero((draws["channel"] >= 0).all(axis=(1, 2)))
    jobs.append((replace_channels, rows, (draws["channel"][rows],)))
    if len(rows := np.flatnonzero(draws["sigma"] > 0)):
        jobs.append((blur, rows, [blur_matrices(draws["sigma"][rows], size) for size in (height, width)]))
    return [job for job in jobs if len(job[1])]


def _upload(arrays: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copy arrays of one type to a device, in one piece and without waiting."""
    flat = torch.tensor(np.concatenate([array.ravel() for array in arrays]))
    flat = flat.pin_memory() if device.type == "cuda" else flat
    pieces = flat.to(device, non_blocking=True).split([array.size for array in arrays])
    return [piece.view(array.shape) for piece, array in zip(pieces, arrays, strict=True)]


def grey(values: Tensor) -> Tensor:
    """Return the rounded luma (ITU-R 601), (R, S, 1, T, h, w), of values 0-255, (R, S, 3, T, h, w)."""
    red, green, blue = values.split(1, dim=2)
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).add_(0.5).floor_()


def _blend(values: Tensor, pivot: Tensor | float, factor: Tensor) -> Tensor:
    """Scale the distance from `pivot` by `factor`, within 0-255, without fractions."""
    return (values - pivot).mul_(factor).add_(pivot).clamp_(0, 255).floor_()


def hue(values: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue of clips by a share of the circle each; hue, saturation and the turn are of 0-255, as in Pillow."""
    red, green, blue = values.unbind(dim=2)  # (R, S, T, h, w)
    value, darkest = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = value - darkest
    whole = chroma.clamp(min=1)
    from_red, from_green, from_blue = ((value - colour).div_(whole) for colour in (red, green, blue))
    angle = torch.where(red == value, from_blue - from_green,
                        torch.where(green == value, (from_red + 2).sub_(from_blue), (from_green + 4).sub_(from_red)))
    # Divide by a tensor: a GPU multiplies with the inverse of a plain number, which rounds some hues to others.
    angle = angle.div_(angle.new_full((), 6)).add_(1)
    angle = angle.sub_(angle.floor()).mul_(255).floor_().mul_(chroma > 0)
    strength = (chroma / value.clamp(min=1)).mul_(255).floor_().div_(255).mul_(value)
    angle = _remainder(angle.add_((factor[:, :, 0] * 255).trunc()), 256).mul_(6 / 255)
    turned = torch.empty_like(values)
    for channel, offset in enumerate((5, 3, 1)):  # red, green, blue
        part = _remainder(angle + offset, 6)
        part = torch.minimum(part, 4 - part).clamp_(0, 1)
        torch.sub(value, part.mul_(strength), out=turned[:, :, channel]).add_(0.5).floor_()
    return turned


def _remainder(values: Tensor, size: int) -> Tensor:
    """Take values modulo a size, in place. On a CPU ``torch.remainder`` takes several times as long."""
    return values.sub_((values / size).floor_().mul_(size))


def replace_channels(values: Tensor, channel: Tensor) -> Tensor:
    """Replace the three channels of each frame of (R, S, 3, T, h, w) by one of them, 0-2, (R, S, T)."""
    index = channel.long()[:, :, None, :, None, None].expand(*values.shape[:2], 1, *values.shape[3:])
    return values.gather(2, index).expand_as(values)


def blur_matrices(sigma: np.ndarray, size: int) -> np.ndarray:
    """Return blurs of a row of pixels, ends repeated, float32 (R, size, size), by deviations (R,) in pixels."""
    deviation = sigma[:, None].astype(np.float64)
    reach = np.ceil(BLUR_REACH * deviation)  # (R, 1)
    taps = np.arange(-int(reach.max()), int(reach.max()) + 1)
    weights = np.exp(-0.5 * (taps / deviation) ** 2) * (np.abs(taps) <= reach)  # (R, taps)
    weights /= weights.sum(axis=1, keepdims=True)
    matrices = np.zeros((len(sigma), size, size))
    pixels = np.arange(size)
    for tap, weight in zip(taps, weights.T, strict=True):
        matrices[:, pixels, np.clip(pixels + tap, 0, size - 1)] += weight[:, None]
    return matrices.astype(np.float32)


def blur(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Blur clips (R, S, 3, T, h, w) by the banded matrices of `blur_matrices`, (R, h, h) and (R, w, w)."""
    r, (h, w) = len(values), values.shape[4:]
    across = values.reshape(r, -1, w) @ columns.mT
    return (rows.unsqueeze(1) @ across.view(r, -1, h, w)).view(values.shape)


# Of clips, values 0-255, (R, S, 3, T, h, w), by a factor each, (R, 1, 1, 1, 1, 1): scale the distance from black, from
# each frame's own mean grey, and from its grey image, and turn the hue.
STEPS: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    BRIGHTNESS: lambda values, factor: _blend(values, 0.0, factor),
    CONTRAST: lambda values, factor: _blend(values, grey(values).mean((4, 5), keepdim=True).add_(0.5).floor_(), factor),
    SATURATION: lambda values, factor: _blend(values, grey(values), factor),
    HUE: hue}


def _augment_clip(clip: np.ndarray, out: np.ndarray, draws: Mapping[str, np.ndarray]) -> None:
    """Augment and normalise a uint8 clip (T, h, w, 3) into ``out``, float32, on a CPU; "channel" is (T,)."""
    count = max(1, CHUNK // (clip.shape[1] * clip.shape[2]))
    sigma = float(draws["sigma"])
    for first in range(0, len(clip), count):
        part = slice(first, first + count)
        frames = clip[part]
        for operation in draws["order"] if draws["jitter"] else ():
            frames = jitter_frames(frames, operation, float(draws["factor"][operation]))
        if draws["channel"][0] >= 0:
            frames = np.stack([cv2.merge([cv2.extractChannel(*each)] * 3)
                               for each in zip(frames, draws["channel"][part], strict=True)])
        if sigma > 0:
            kernel = cv2.getGaussianKernel(2 * int(np.ceil(BLUR_REACH * sigma)) + 1, sigma)
            frames = np.stack([cv2.sepFilter2D(frame, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
                               for frame in frames])
        image, normalised = (each.reshape(-1, *clip.shape[2:]) for each in (frames, out[part]))  # stacked as one image
        cv2.transform(image.astype(np.float32, copy=False), NORMALISE, dst=normalised)


def jitter_frames(frames: np.ndarray, operation: int, factor: float) -> np.ndarray:
    """Apply a colour step to uint8 frames (T, h, w, 3) on a CPU."""
    image = frames.reshape(-1, *frames.shape[2:])  # frames stacked into one image
    if operation == BRIGHTNESS:
        image = cv2.convertScaleAbs(image, alpha=factor, beta=DOWN)
    elif operation == CONTRAST:
        image = np.empty_like(image)
        for frame, out in zip(frames, image.reshape(frames.shape), strict=True):
            mean = int(cv2.mean(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))[0] + 0.5)
            table = mean + factor * (np.arange(256, dtype=np.float32) - mean)
            cv2.LUT(frame, table.clip(0, 255).astype(np.uint8), dst=out)
    elif operation == SATURATION:
        grey_image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = cv2.addWeighted(image, factor, grey_image, 1 - factor, DOWN)
    else:
        hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)  # 0-360, 0-1, 0-255
        levels = cv2.transform(hsv, TO_LEVELS, dst=hsv).astype(np.uint8)
        levels[..., 0] += np.uint8(int(factor * 255) % 256)
        hsv = cv2.transform(levels.astype(np.float32), TO_HSV, dst=hsv)
        image = cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    return image.reshape(frames.shape)
