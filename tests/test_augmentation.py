"""Photometric steps against Pillow's on the same draws, and on tensors of another device."""

import numpy as np
import pytest
import torch
from miniature import frame
from PIL import Image, ImageEnhance, ImageFilter
from torchvision.transforms import functional

from dataset.transforms import photometric as augmentation
from dataset.transforms.photometric import BRIGHTNESS, CONTRAST, HUE, MEAN, SATURATION, STD

N, S, T, H, W = 3, 2, 2, 40, 48
PILLOW = {
    BRIGHTNESS: lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    CONTRAST: lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    SATURATION: lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    HUE: functional.adjust_hue}


def some_clips(seed: int = 0) -> torch.Tensor:
    """Frames with edges, flat parts, greys, and noise, (N, S, T, H, W, 3)."""
    rng = np.random.default_rng(seed)
    clips = np.stack([frame(f"{seed}", i, (H, W)) for i in range(N * S * T)]).reshape(N, S, T, H, W, 3)
    clips[..., :10, :20, :] = rng.integers(0, 256, (N, S, T, 10, 20, 3))
    clips[..., 10:15, :, :] = rng.integers(0, 256, (N, S, T, 5, W, 1))
    clips[..., 15:20, :10, :], clips[..., 15:20, 10:20, :] = 0, 255
    return torch.from_numpy(clips)


def no_draws(n: int = N) -> dict[str, torch.Tensor]:
    return {"jitter": torch.zeros(n, dtype=torch.bool), "order": torch.arange(4).repeat(n, 1), "sigma": torch.zeros(n),
            "factor": torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(n, 1), "channel": torch.full((n, S, T), -1)}


def all_draws() -> dict[str, torch.Tensor]:
    """Every step at least once, and combinations of them."""
    params = no_draws()
    params["jitter"] = torch.tensor([True, False, True])
    params["order"][0], params["order"][2] = torch.tensor([3, 1, 0, 2]), torch.tensor([1, 0, 2, 3])
    params["factor"][0] = torch.tensor([1.3, 0.7, 1.35, 0.08])
    params["factor"][2] = torch.tensor([0.65, 1.4, 0.6, -0.1])
    params["channel"][1] = torch.tensor([[0, 1], [2, 1]])
    params["channel"][2] = torch.tensor([[2, 2], [0, 0]])
    params["sigma"] = torch.tensor([0.0, 1.1, 2.0])
    return params


def by_pillow(image: np.ndarray, params: dict[str, torch.Tensor], n: int, s: int, t: int) -> np.ndarray:
    """One frame, one step after the other."""
    picture = Image.fromarray(image)
    if params["jitter"][n]:
        for operation in params["order"][n].tolist():
            picture = PILLOW[operation](picture, params["factor"][n, operation].item())
    if params["channel"][n, s, t] >= 0:
        channel = picture.getchannel(int(params["channel"][n, s, t]))
        picture = Image.merge("RGB", [channel] * 3)
    if params["sigma"][n] > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(params["sigma"][n].item()))
    return np.asarray(picture).astype(np.float32)


def levels(output: torch.Tensor) -> np.ndarray:
    """Normalised (N, S, 3, T, h, w) as grey levels (N, S, T, h, w, 3)."""
    values = output.permute(0, 1, 3, 4, 5, 2)
    return ((values * torch.tensor(STD) + torch.tensor(MEAN)) * 255).numpy()


def planes(clips: torch.Tensor) -> torch.Tensor:
    """Clips (N, S, T, h, w, 3) as the steps take them: float32 (N, S, 3, T, h, w)."""
    return clips.float().permute(0, 1, 5, 2, 3, 4).contiguous()


def interleaved(values: torch.Tensor) -> torch.Tensor:
    """The reverse of `planes`."""
    return values.permute(0, 1, 3, 4, 5, 2)


def differences(clips: torch.Tensor, params: dict[str, torch.Tensor]) -> np.ndarray:
    """Mean absolute difference to Pillow, in grey levels, of each frame."""
    ours = levels(augmentation.photometric(clips, params))
    return np.array([[[np.abs(ours[n, s, t] - by_pillow(clips[n, s, t].numpy(), params, n, s, t)).mean()
                       for t in range(T)] for s in range(S)] for n in range(N)])


@pytest.mark.parametrize("operation", PILLOW)
@pytest.mark.parametrize("strength", [-1.0, -0.33, 0.0, 0.41, 0.9])
def test_each_colour_step_is_pillows(operation, strength):
    """In 99.5 % of the values, so the rounding is the same too; a hue on the edge of a step may fall either way."""
    factor = strength * 0.1 if operation == HUE else 1 + strength * 0.4
    part = np.float32(factor).reshape(1, 1, 1, 1, 1, 1)
    clips = some_clips()
    batched = interleaved(augmentation.STEPS[operation](planes(clips), torch.from_numpy(part))).numpy()
    for place in np.ndindex(N, S):
        frames = augmentation.jitter_frames(clips[place].numpy(), operation, part.item())
        for t in range(T):
            expected = np.asarray(PILLOW[operation](Image.fromarray(clips[place][t].numpy()), factor)).astype(int)
            for ours in (batched[place][t], frames[t]):
                assert (ours == expected).mean() > 0.995
                assert np.abs(ours - expected).max() <= (6 if operation == HUE else 1)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian(sigma):
    """Against torchvision's convolution with as many taps, on frames whose border is repeated as ours."""
    reach = int(np.ceil(3 * sigma))
    clips = some_clips().float()
    matrices = [torch.from_numpy(augmentation.blur_matrices(np.full(N, sigma), size)) for size in (H, W)]
    ours = interleaved(augmentation.blur(planes(clips), *matrices))
    padded = torch.nn.functional.pad(clips.flatten(0, 2).permute(0, 3, 1, 2), [reach] * 4, mode="replicate")
    theirs = functional.gaussian_blur(padded, 2 * reach + 1, sigma)[..., reach:-reach, reach:-reach]
    torch.testing.assert_close(ours.flatten(0, 2).permute(0, 3, 1, 2), theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("chunk", [1, augmentation.CHUNK])
def test_all_steps_in_their_order(chunk, monkeypatch):
    monkeypatch.setattr(augmentation, "CHUNK", chunk)
    assert differences(some_clips(), all_draws()).max() < 1


def test_a_cpu_gives_what_the_batched_steps_give():
    clips, params = some_clips(), all_draws()
    params["factor"] += torch.rand(params["factor"].shape, generator=torch.Generator().manual_seed(0)) / 100
    apart = np.abs(levels(augmentation.photometric(clips, params)) - levels(augmentation.batched(clips, params)))
    assert (apart < 0.5).mean() > 0.99 and apart.mean() < 0.02


def test_nothing_drawn_is_normalisation_alone():
    clips = some_clips()
    output = augmentation.photometric(clips, no_draws())
    expected = torch.stack([functional.normalize(functional.to_tensor(image.numpy()), MEAN, STD)
                            for image in clips.flatten(0, 2)])
    torch.testing.assert_close(output.permute(0, 1, 3, 2, 4, 5).flatten(0, 2), expected)


def test_clips_do_not_influence_each_other_and_inputs_do_not_change():
    clips, params = some_clips(), all_draws()
    copies = clips.clone(), {name: value.clone() for name, value in params.items()}
    whole = augmentation.photometric(clips, params)
    assert whole.dtype == torch.float32 and whole.flatten(0, 1).is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(clips, copies[0]) and all(torch.equal(params[name], copies[1][name]) for name in params)
    for n in range(N):
        alone = augmentation.photometric(clips[n:n + 1], {name: value[n:n + 1] for name, value in params.items()})
        torch.testing.assert_close(alone[0], whole[n], rtol=0, atol=1e-4)
