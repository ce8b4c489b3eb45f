"""Windows and sizes of frames: the resize against Pillow's, windows against their definition."""

import numpy as np
import PIL
import pytest
from miniature import frame, share, video
from PIL import Image

from dataset.transforms import geometry

DRAWS = 4000
SHAPES = [((240, 320), (128, 128)), ((100, 80), (128, 128)), ((224, 224), (112, 112)), ((30, 40), (224, 298)),
          ((37, 53), (32, 32)), ((300, 70), (64, 64)), ((70, 300), (64, 64)), ((200, 150), (128, 128)),
          ((48, 64), (48, 20)), ((48, 64), (20, 64)), ((1, 1), (8, 8)), ((3, 5), (16, 16))]


@pytest.mark.parametrize("kind", ["noise", "smooth", "checks"])
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_resize_is_pillows(old, new, kind):
    """Within one grey level (one value in ten thousand may be two off), in nearly all values exactly."""
    rng = np.random.default_rng(0)
    image = {"noise": rng.integers(0, 256, (*old, 3)), "smooth": frame("A/a", 0, old),
             "checks": 255 * rng.integers(0, 2, (*old, 3))}[kind].astype(np.uint8)
    if int(PIL.__version__.split(".")[0]) < 13 and old[0] > new[0] and 2 * (old[1] - new[1]) < old[0] - new[0]:
        pytest.skip("before release 13, Pillow never did the vertical pass first")
    frames = np.stack([image, image[::-1]])
    ours = geometry.resize(frames, *new).astype(int)
    for got, each in zip(ours, frames, strict=True):
        theirs = np.asarray(Image.fromarray(each).resize(new[::-1], Image.Resampling.BICUBIC)).astype(int)
        apart = np.abs(got - theirs)
        assert (apart > 1).mean() < 1e-4 and apart.max() <= 2
        assert (apart > 0).mean() < 0.02


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (50, 50)])
def test_boxes(size):
    rng = np.random.default_rng(0)
    boxes = [box for box in (geometry.draw_box(*size, rng) for _ in range(DRAWS)) if box]
    shape = np.array([(box.height, box.width) for box in boxes])
    assert all(0 <= b.top <= size[0] - b.height and 0 <= b.left <= size[1] - b.width for b in boxes)
    area, aspect = shape.prod(1) / np.prod(size), shape[:, 1] / shape[:, 0]
    assert 0.18 < area.min() < 0.23 and 0.9 < area.max() <= 1
    assert 0.7 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.4
    small = [b for b in boxes if 20 <= b.height <= 28 and 20 <= b.width <= 28]
    places = np.array([(b.top / (size[0] - b.height), b.left / (size[1] - b.width)) for b in small])
    assert np.abs(places.mean(0) - 0.5).max() < 0.08 and places.min() == 0 and places.max() == 1


def test_share_of_windows_that_do_not_fit():
    """By numerical integration of the definition: area uniform, aspect uniform, swapped half the time."""
    area, aspect = np.meshgrid(np.linspace(0.2, 1, 801), np.linspace(3 / 4, 4 / 3, 601))
    sides = np.sqrt(area * 240 * 320 * aspect), np.sqrt(area * 240 * 320 / aspect)
    expected = np.mean([(w > 320.5) | (h > 240.5) for w, h in (sides, sides[::-1])])
    rng = np.random.default_rng(0)
    assert share(sum(geometry.draw_box(240, 320, rng) is None for _ in range(DRAWS)), DRAWS, expected)
    assert expected == pytest.approx(0.3, abs=0.05)


def test_the_same_window_in_streams_of_other_sizes():
    box = geometry.Box(12, 8, 24, 40)
    assert geometry.scaled_box(box, (48, 64), (48, 64)) == box
    assert geometry.scaled_box(geometry.Box(0, 0, 48, 64), (48, 64), (17, 23)) == (0, 0, 17, 23)
    assert geometry.scaled_box(box, (48, 64), (96, 128)) == (24, 16, 48, 80)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        scaled = geometry.scaled_box(geometry.draw_box(48, 64, rng) or box, (48, 64), (17, 23))
        assert min(scaled) >= 0 and scaled.top + scaled.height <= 17 and scaled.left + scaled.width <= 23


@pytest.mark.parametrize("size", [(48, 64), (5, 1), (1, 7)])
def test_flip(size):
    frames = video(3, (50, 70))
    for each in (np.ascontiguousarray(frames[:, :size[0], :size[1]]), frames[:, :size[0], :size[1]]):
        assert (geometry.flip(each) == each[:, :, ::-1]).all()
