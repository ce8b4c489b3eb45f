"""Transforms: draws against the shares and ranges of their definition, crops against torchvision's."""

import numpy as np
import pytest
import torch
from miniature import share, video
from PIL import Image
from torchvision.transforms import functional

from dataset.transforms import geometry, presets
from dataset.transforms.photometric import HUE
from dataset.transforms.presets import ClassifierTransform, CropsTransform, PretrainTransform, to_blocks

DRAWS = 4000


def plans() -> list[presets.Plan]:
    rng = np.random.default_rng(0)
    return [PretrainTransform(16).plan(rng) for _ in range(DRAWS)]


def test_shares_of_plans():
    found = plans()
    both = [plan for plan in found if plan.clips == (0, 1)]
    single = [plan for plan in found if len(plan.clips) == 1]
    assert len(both) + len(single) == DRAWS and share(len(both), DRAWS, 0.5)
    for view in (0, 1):
        assert all(plan.views[view][0] == view for plan in both)
        assert share(sum(plan.views[view][1] is presets.BASE for plan in both), len(both), 0.3)
    assert share(sum(all(recipe is presets.BASE for _, recipe in plan.views) for plan in both), len(both), 0.09)
    assert share(sum(plan.clips == (0,) for plan in single), len(single), 0.5)
    assert all({clip for clip, _ in plan.views} == set(plan.clips) for plan in single)
    assert all({id(recipe) for _, recipe in plan.views} == {id(presets.BASE), id(presets.NULL)} for plan in single)
    assert share(sum(plan.views[0][1] is presets.BASE for plan in single), len(single), 0.5)


@pytest.mark.parametrize(("recipe", "jitter", "strength", "channel", "blur"), [
    (presets.BASE, 0.8, (0.4, 0.1), 0.2, 0.5), (presets.NULL, 0, None, 0, 0),
    (presets.CLASSIFIER, 0.3, (0.4, 0.1), 0, 0)])
def test_photometric_draws(recipe, jitter, strength, channel, blur):
    rng = np.random.default_rng(0)
    drawn = [recipe.draw(rng, 2, 3) for _ in range(DRAWS)]
    jittered = [params for params in drawn if params["jitter"]]
    replaced = [params["channel"] for params in drawn if (params["channel"] >= 0).any()]
    blurred = np.array([params["sigma"] for params in drawn if params["sigma"] > 0])
    for hits, expected in ((jittered, jitter), (replaced, channel), (blurred, blur)):
        assert share(len(hits), DRAWS, expected) if expected else len(hits) == 0
    for params in drawn:
        if not params["jitter"]:
            assert params["factor"].tolist() == [1, 1, 1, 0]
    if strength:
        factors = np.stack([params["factor"] for params in jittered])
        expected = np.array([[1 - strength[0], 1 + strength[0]]] * 3 + [[-strength[1], strength[1]]])
        found = np.stack([factors.min(0), factors.max(0)], axis=1)
        assert np.abs(found - expected).max() < 0.01 and (found[:, 0] >= expected[:, 0] - 1e-6).all()
        first = np.bincount([params["order"][0] for params in jittered], minlength=4)
        assert all(share(count, len(jittered), 0.25) for count in first)
        assert all(sorted(params["order"]) == [0, 1, 2, 3] for params in jittered)
        assert factors.dtype == np.float32 and abs(factors[:, HUE].mean()) < 0.01
    if channel:
        counts = np.bincount(np.concatenate(replaced).ravel(), minlength=3)
        assert all(share(count, counts.sum(), 1 / 3) for count in counts)
        assert all((each >= 0).all() for each in replaced) and any(len(np.unique(each)) > 1 for each in replaced)
    if blur:
        assert 0.1 <= blurred.min() < 0.12 and 1.98 < blurred.max() <= 2
        assert abs(blurred.mean() - 1.05) < 0.05


def render(transform, clips, seed=0, plan=None):
    rng = np.random.default_rng(seed)
    plan = plan or transform.plan(rng)
    return transform.render(plan, clips, rng)


def coordinates(count: int, height: int = 240, width: int = 240) -> np.ndarray:
    """Frames that show where each pixel comes from: row in red, column in green."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)] * count)


def test_frames_and_streams_share_a_crop_and_views_do_not():
    plan = presets.Plan((0,), ((0, presets.NULL), (0, presets.NULL)))
    for seed in range(5):
        views = render(PretrainTransform(32), {0: [coordinates(3)] * 2}, seed, plan)["clips"]
        assert all(torch.equal(views[v, s, t], views[v, 0, 0]) for v in (0, 1) for s in (0, 1) for t in range(3))
        assert not torch.equal(views[0], views[1])


def test_a_window_that_does_not_fit_means_the_whole_frame_and_flips_are_even():
    plan = presets.Plan((0,), ((0, presets.NULL),))
    corners, flips = [], 0
    for seed in range(300):
        view = render(PretrainTransform(24), {0: [coordinates(1, 60, 240)]}, seed, plan)["clips"][0, 0, 0].int()
        flips += bool(view[12, 0, 1] > view[12, -1, 1])
        corners.append((int(view[0, 0, 0]), int(view[-1, 0, 0]), *sorted(view[12, (0, -1), 1].tolist())))
    assert share(flips, 300, 0.5)
    whole = sum(top <= 3 and bottom >= 56 and left <= 8 and right >= 231 for top, bottom, left, right in corners)
    rng = np.random.default_rng(1)
    expected = np.mean([geometry.draw_box(60, 240, rng) is None for _ in range(DRAWS)])
    assert share(whole, 300, expected)


def test_a_classifiers_window_that_never_fits_gives_the_middle():
    frames = coordinates(1, 20, 240)
    view = render(ClassifierTransform(224, train=False), {0: [frames]})["clips"][0, 0, 0].numpy()
    image = Image.fromarray(frames[0]).resize((224 * 240 // 20, 224), Image.Resampling.BICUBIC)
    expected = np.asarray(functional.center_crop(image, [224, 224])).astype(int)
    assert np.abs(view.astype(int) - expected).max() <= 2


def test_classifier_draws():
    train, val = ([render(ClassifierTransform(8, train), {0: [coordinates(1)]}, seed) for seed in range(150)]
                  for train in (True, False))
    assert share(sum(bool(sample["photometric"]["jitter"][0]) for sample in train), 150, 0.3)
    assert not any(bool(sample["photometric"]["jitter"][0]) for sample in val)
    rows = [[sample["clips"][0, 0, 0, 4, :, 1] for sample in each] for each in (train, val)]
    flipped = [[bool(row[0] > row[-1]) for row in each] for each in rows]
    assert share(sum(flipped[0]), 150, 0.5) and not any(flipped[1])


@pytest.mark.parametrize("size", [(240, 320), (224, 224), (30, 20)])
def test_crops_are_those_of_torchvision(size):
    frames = video(2, size)
    clips = render(CropsTransform(112, crops=10), {0: [frames]})["clips"].numpy().astype(int)
    assert clips.shape == (10, 1, 2, 112, 112, 3)
    for t in range(2):
        image = Image.fromarray(frames[t])
        if min(size) < 224:
            image = functional.resize(image, 224, Image.Resampling.BICUBIC)
        corners = functional.five_crop(image, [224, 224])
        crops = [corners[4], *corners[:4]]
        for c, crop in enumerate([*crops, *map(functional.hflip, crops)]):
            expected = np.asarray(crop.resize((112, 112), Image.Resampling.BICUBIC)).astype(int)
            assert np.abs(clips[c, 0, t] - expected).max() <= 2, (c, t)


def test_fewer_crops_are_the_first_of_more():
    ten = render(CropsTransform(32, crops=10, p=1.0), {0: [video()]})
    for crops in (1, 5):
        fewer = render(CropsTransform(32, crops=crops, p=1.0), {0: [video()]})
        assert torch.equal(fewer["clips"], ten["clips"][:crops])
        assert all(torch.equal(value, ten["photometric"][name][:crops]) for name, value in fewer["photometric"].items())
    assert len(np.unique(ten["photometric"]["factor"].numpy(), axis=0)) == 10


def test_blocks_are_each_sample_alone():
    clips = {c: [video(2), video(2, stream="flow")] for c in (0, 1)}
    samples = [render(PretrainTransform(16), clips, seed) for seed in range(6)]
    batch = torch.utils.data.default_collate(samples)
    blocks = to_blocks(batch, torch.device("cpu"))
    assert blocks.shape == (6, 2, 2, 3, 2, 16, 16) and blocks.dtype == torch.float32
    for i, sample in enumerate(samples):
        alone = presets.photometric(sample["clips"], sample["photometric"])
        torch.testing.assert_close(blocks[i], alone, rtol=0, atol=1e-4)
    for v in (0, 1):
        for s in (0, 1):
            assert blocks[:, v, s].is_contiguous(memory_format=torch.channels_last_3d)
