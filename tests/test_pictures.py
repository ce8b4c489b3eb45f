"""Film strips and the colours of flow, against torchvision and the writer of the flow frames."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

from process_data.src.video_io import flow_image, jpeg
from tools import pictures


@pytest.mark.parametrize("scale", [1.0, 7.3, 20.0])
def test_flow_has_the_colours_of_middleburys_wheel(scale):
    """Those of torchvision, which gives full colour to the fastest pixel: here to one of that speed."""
    motion = np.random.default_rng(0).uniform(-20, 20, (5, 7, 2)).astype(np.float32)
    motion[0, :2] = (0, 0), (0, scale)
    limited = motion * np.minimum(1, scale / np.hypot(*motion.T).T.clip(1e-9))[..., None]
    expected = flow_to_image(torch.from_numpy(limited).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    found = pictures.flow_to_colour(np.stack([motion, motion / 2]), scale)
    assert found.shape == (2, 5, 7, 3) and found.dtype == np.uint8 and found[0, 0, 0].tolist() == [255] * 3
    assert np.abs(found[0].astype(int) - expected).max() <= 1 and np.ptp(expected[0, 1]) == 255


def test_stored_flow_is_decoded_to_the_motion_it_was_made_of():
    blocks = np.random.default_rng(1).uniform(-25, 25, (4, 5, 2)).astype(np.float32)
    blocks[0, 0] = 0
    flow = blocks.repeat(16, 0).repeat(16, 1)  # a JPEG mixes the colours of neighbours: compare only the middles
    stored = cv2.imdecode(np.frombuffer(jpeg(flow_image(flow)), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    found = pictures.flow_from_frames(stored[None])[0][8::16, 8::16]
    assert np.abs(found - np.clip(blocks, -20, 20)).max() < 3 * 40 / 255
    assert (found[0, 0] == 0).all() and found.dtype == np.float32


def test_the_scale_of_flow_is_the_99th_percentile_and_never_that_of_noise():
    motion = np.zeros((1, 10, 101, 2))
    motion[..., 0] = np.arange(101) / 10
    for moves, scale in ((motion, 9.9), (motion / 100, 1.0)):
        assert np.array_equal(pictures.flow_to_colour(moves), pictures.flow_to_colour(moves, scale))


def test_the_legend_has_the_colour_of_each_direction():
    legend = pictures.flow_legend().astype(int)
    rows, columns = np.nonzero(legend.max(2) - legend.min(2) > 60)  # only the wheel has colours
    top, left, radius = rows.min(), columns.min(), (columns.max() - columns.min()) / 2
    assert abs(radius - pictures.WHEEL_RADIUS) <= 1
    for x, y in [(0.8, 0.1), (-0.8, 0), (0, 0.8), (0, -0.8), (0.5, -0.5)]:
        pixel = legend[round(top + radius + y * radius), round(left + radius + x * radius)]
        expected = pictures.flow_to_colour(np.array([[[x, y]]]), 1.0)[0, 0]
        assert np.abs(pixel - expected).max() < 25


def test_a_film_strip_has_evenly_spaced_frames_side_by_side():
    assert pictures.evenly_spaced(100, 4).tolist() == [12, 37, 62, 87]
    assert pictures.evenly_spaced(2, 4).tolist() == [0, 1] and pictures.evenly_spaced(0, 4).tolist() == []
    frames = np.stack([np.full((20, 40, 3), 60 * i, np.uint8) for i in range(3)])
    strip = pictures.film_strip(frames, 10)
    assert strip.shape == (10, 3 * 20 + 2 * 2, 3)
    assert [int(strip[5, 10 + 22 * i, 0]) for i in range(3)] == [0, 60, 120]
    assert strip[0, 20:22].tolist() == [[128, 128, 128]] * 2
    noise = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3)).astype(np.uint8)
    assert np.array_equal(pictures.film_strip(noise, 12), noise[0].repeat(3, 0).repeat(3, 1))
