"""Flow in colours: against Middlebury's wheel pixel by pixel, and against the writer of the JPEGs."""

import math
from itertools import pairwise

import cv2
import numpy as np
import pytest

from inspection import flow_colours
from process_data.src.flow import flow_image, jpeg


def wheel() -> list[tuple[float, float, float]]:
    """Middlebury's colour wheel, from its description: six stretches from a colour to the next."""
    colours = [(255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255), (255, 0, 0)]
    steps = []
    for length, (first, last) in zip((15, 6, 4, 11, 13, 6), pairwise(colours), strict=True):
        for i in range(length):
            steps.append(tuple(f + math.trunc(255 * i / length) * ((z > f) - (z < f))
                               for f, z in zip(first, last, strict=True)))
    return steps


def colour_of(x: float, y: float, scale: float) -> list[int]:
    """The colour of a motion, for one pixel."""
    colours = wheel()
    speed = min(1.0, math.hypot(x, y) / scale)
    place = (math.atan2(-y, -x) / math.pi + 1) / 2 * (len(colours) - 1)
    low = int(place)
    high, share = (low + 1) % len(colours), place - low
    mixed = [(1 - share) * a / 255 + share * b / 255 for a, b in zip(colours[low], colours[high], strict=True)]
    return [math.floor(255 * (1 - speed * (1 - c))) for c in mixed]


@pytest.mark.parametrize("scale", [1.0, 7.3, 20.0])
def test_colours_of_flow_are_middleburys(scale):
    motion = np.random.default_rng(0).uniform(-20, 20, (3, 5, 7, 2)).astype(np.float32)
    motion[0, 0, 0] = 0
    found = flow_colours.coloured(motion, scale)
    assert found.shape == (3, 5, 7, 3) and found.dtype == np.uint8 and found[0, 0, 0].tolist() == [255] * 3
    for place in np.ndindex(3, 5, 7):
        expected = colour_of(*map(float, motion[place]), scale)
        assert np.abs(found[place].astype(int) - expected).max() <= 1, (place, motion[place])


def test_flow_is_decoded_to_the_pixels_that_were_stored():
    blocks = np.random.default_rng(1).uniform(-25, 25, (4, 5, 2)).astype(np.float32)
    blocks[0, 0] = 0
    flow = blocks.repeat(16, 0).repeat(16, 1)  # a JPEG mixes the colours of neighbours: only middles are compared
    stored = cv2.imdecode(np.frombuffer(jpeg(flow_image(flow)), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    found = flow_colours.decoded(stored[None])[0][8::16, 8::16]
    assert np.abs(found - np.clip(blocks, -20, 20)).max() < 3 * 40 / 255
    assert (found[0, 0] == 0).all() and found.dtype == np.float32


def test_the_scale_is_the_99th_percentile_and_no_noise():
    assert flow_colours.scale_of([np.zeros((1, 4, 4, 2))]) == 1.0
    motion = np.zeros((1, 10, 100, 2))
    motion[..., 0] = np.arange(1000).reshape(10, 100) / 100
    assert flow_colours.scale_of([motion[:, :5], motion[:, 5:]]) == 9.9


def test_the_legend_has_the_colour_of_each_direction():
    legend = np.asarray(flow_colours.legend(5.0)).astype(int)
    rows, columns = np.nonzero(legend.max(2) - legend.min(2) > 60)  # the wheel is all that has colours
    top, left, radius = rows.min(), columns.min(), (columns.max() - columns.min()) / 2
    assert abs(radius - flow_colours.RADIUS) <= 1
    for x, y in [(0.8, 0.1), (-0.8, 0), (0, 0.8), (0, -0.8), (0.5, -0.5)]:
        pixel = legend[round(top + radius + y * radius), round(left + radius + x * radius)]
        assert np.abs(pixel - colour_of(5 * x, 5 * y, 5.0)).max() < 25
