import math

import pytest

from utils.schedule import lr_at, lr_factor


@pytest.mark.parametrize(("epoch", "expected"), [
    (0, 1e-3), (79, 1e-3), (80, 1e-4), (119, 1e-4), (120, 1e-5), (159, 1e-5), (160, 1e-6), (500, 1e-6)])
def test_steps(epoch, expected):
    assert lr_at(epoch, lr=1e-3, schedule=[80, 120, 160], cos=False, epochs=200) == pytest.approx(expected, rel=1e-9)


def test_no_milestones_keep_the_rate():
    assert lr_at(7, lr=0.02, schedule=[], cos=False, epochs=10) == 0.02


ROOT2 = math.sqrt(2)


@pytest.mark.parametrize(("epoch", "share"), [(0, 1), (25, (2 + ROOT2) / 4), (50, 0.5), (75, (2 - ROOT2) / 4),
                                              (100, 0)])
def test_cosine_by_known_angles(epoch, share):
    assert lr_at(epoch, lr=0.4, schedule=[10], cos=True, epochs=100) == pytest.approx(0.4 * share, abs=1e-12)


def test_a_step_decay_written_as_a_running_product():
    rate = 1.0
    for epoch in range(20):
        rate *= 0.1 if epoch in (3, 11) else 1.0
        assert lr_factor(epoch, schedule=[3, 11], cos=False, epochs=20) == pytest.approx(rate)
