"""Galleries, map, confusion matrix, film strips and charts of python -m report, against plain loops and formulas."""

import base64
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from made_run import fixture_made, small_network  # noqa: F401

from eval import retrieval
from report import (
    charts,
    confusion,
    feature_map,
    retrieval_gallery,
    strips,
)
from utils.errors import CheckpointError


def test_the_nearest_training_clips_by_loops():
    query, gallery = torch.randn(7, 5) + 2, torch.randn(9, 5) - 1
    sim, index = retrieval_gallery.nearest(query, gallery)
    a, b = query.numpy() - query.numpy().mean(axis=0), gallery.numpy() - gallery.numpy().mean(axis=0)
    for i in range(7):
        cosines = [float(a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j])) for j in range(9)]
        best = sorted(range(9), key=lambda j: -cosines[j])[:5]
        assert index[i].tolist() == best and sim[i].tolist() == pytest.approx([cosines[j] for j in best], abs=1e-5)
    assert retrieval_gallery.nearest(query, gallery[:3])[1].shape == (7, 3)


def test_cards_name_the_clips_their_classes_and_what_is_a_hit(made):
    found = retrieval_gallery.load(made.features, "mine", 1000)
    cards = retrieval_gallery.cards(found, {"test": None, "train": None}, strips.Strips())
    assert len(cards["queries"]) == len(made.data.test)
    for query, video in zip(cards["queries"], made.data.test, strict=True):
        name, label, strip = query["clip"]
        assert f"{cards['classes'][label]}/{name}" == video and strip == ""
        for clip, similarity, hit in query["near"]:
            other, its, _ = cards["clips"][clip]
            assert f"{cards['classes'][its]}/{other}" in made.data.train
            assert bool(hit) == (its == label) and -1 <= similarity <= 1
        similarities = [each[1] for each in query["near"]]
        assert similarities == sorted(similarities, reverse=True)
    assert len({tuple(clip) for clip in cards["clips"]}) == len(cards["clips"])  # each once
    few = retrieval_gallery.load(made.features, "mine", 3)
    assert few.rows[0] == 0 and few.rows[-1] == len(made.data.test) - 1 and len(few.rows) == 3
    assert torch.equal(few.sim, found.sim)  # centred by all queries, shown or not


def test_similarities_are_those_that_retrieval_writes(made):
    found = retrieval_gallery.load(made.features, "mine", 10)
    sim, recall = retrieval.retrieve(found.query, found.gallery, torch.device("cpu"))
    assert torch.equal(found.sim, sim.topk(5, dim=1).values)
    assert float(found.hits[:, 0].float().mean()) == pytest.approx(recall[1])


def test_a_map_has_the_two_directions_of_most_variance():
    rows = torch.randn(40, 6) * torch.tensor([1, 5, 1, 3, 1, 1.0])
    places, shares = feature_map.principal(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.double().numpy().T))
    centred = rows.double().numpy() - rows.double().numpy().mean(axis=0)
    for axis in range(2):
        expected = centred @ vectors[:, -1 - axis]
        assert np.allclose(np.abs(places[:, axis]), np.abs(expected), atol=1e-4)
        assert shares[axis] == pytest.approx(values[-1 - axis] / values.sum(), abs=1e-5)
        assert places[np.abs(places[:, axis]).argmax(), axis] > 0
    assert np.isfinite(feature_map.principal(torch.ones(1, 4))[0]).all()  # one clip alone


def test_confusions_by_loops(made, tmp_path):
    classes, rng = made.data.classes, np.random.default_rng(0)
    rows = {f"x/{video}/": rng.dirichlet([1, 1, 1]).tolist() for video in made.data.test}
    found = confusion.of_probabilities(rows, classes, "made up")
    expected: dict = {}
    for video, row in zip(made.data.test, rows.values(), strict=True):
        pair = classes.index(video.split("/")[0]), row.index(max(row))
        expected[pair] = expected.get(pair, 0) + 1
    assert dict(found.counts) == expected and found.total == len(rows)
    assert found.accuracy == sum(n for (a, b), n in expected.items() if a == b) / len(rows)
    wrong = {pair: n for pair, n in expected.items() if pair[0] != pair[1]}
    assert {(a, b): n for a, b, n, _ in found.worst} == wrong
    assert [n for _, _, n, _ in found.worst] == sorted(wrong.values(), reverse=True)
    with pytest.raises(CheckpointError, match="3 classes"):
        confusion.of_probabilities(rows, [*classes, "More"], "made up")
    near = confusion.of_neighbours(retrieval_gallery.load(made.features, "mine", 5))
    assert near.total == len(made.data.test) and "no classifier" in near.title


def test_a_strip_shows_frames_of_the_whole_video_once():
    assert strips.spread(100, 4).tolist() == [12, 37, 62, 87]
    assert strips.spread(2, 4).tolist() == [0, 1]
    frames = np.stack([np.full((20, 40, 3), 60 * i, np.uint8) for i in range(3)])
    joined = strips.joined(frames, 10)
    width = round(10 * 16 / 9)  # 40 x 20 is wider
    assert joined.shape == (10, 3 * width + 2 * strips.GAP, 3)
    assert [int(joined[5, width // 2 + i * (width + strips.GAP), 0]) for i in range(3)] == [0, 60, 120]
    black = np.zeros((9, 8, 8, 3), np.uint8)
    reader = SimpleNamespace(num_frames=lambda name: 9, frames=lambda name, rows: black[rows])
    store, source = strips.Strips(), strips.Source("test rgb", reader, "rgb")
    assert store.want(source, "A/a") == store.want(source, "A/a", large=True) != store.want(source, "A/b")
    assert store.want(None, "A/a") == ""
    store.make()
    assert set(store.images) == {"s0", "s1"}
    assert cv2.imdecode(np.frombuffer(base64.b64decode(store.images["s0"]), np.uint8), 1).shape[0] == 80


def test_flow_has_the_colour_of_its_direction():
    flow = np.full((1, 10, 10, 3), 128, np.uint8)
    assert (strips.coloured(flow) == 255).all()  # nothing moves: white
    for x, y, colour in ((60, 0, (255, 0, 0)), (-60, 0, (0, 255, 255))):  # hue 0 and the opposite one
        flow[..., 2], flow[..., 1] = 128 + x, 128 + y
        assert np.abs(strips.coloured(flow)[0, 0, 0].astype(int) - colour).max() < 8
    halves = flow.copy()
    halves[:, :5, :, 2] = 128 - 30
    saturation = [strips.coloured(halves)[0, row, 0].min() for row in (0, 9)]
    assert 110 < saturation[0] < 145 and saturation[1] == 0  # half as fast, half as strong


def test_strips_that_cannot_be_read_are_told_and_the_others_made(made):
    source = strips.sources("mine", "flow", made.data.data_root, train=True)["rgb"]
    store = strips.Strips()
    store.want(source, made.data.train[0])
    store.want(source, "No/video")
    store.make()
    assert list(store.images) == ["s0"] and list(store.failed.values()) == [1]


@pytest.mark.parametrize("low, high", [(0, 1), (2.8, 3.07), (-0.004, 0.02), (1e-6, 1e-4), (0, 12345), (5, 5), (0, 0),
                                       (-3, -3), (0.1, 0.3)])
def test_ticks_are_round_and_enclose_the_range(low, high):
    ticks = charts.ticks(low, high)
    steps = np.diff(ticks)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 8
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert any(math.isclose(mantissa, round_number, rel_tol=1e-6) for round_number in (1, 2, 2.5, 5, 10))


def test_a_chart_puts_points_where_its_axes_say():
    chart = charts.Chart("t", "x", "y", [charts.Series("a", [(0, 0.0), (50, 0.5), (100, 1.0)], 0)])
    (x0, y0), (x1, y1), (x2, y2) = (chart.at(*point) for point in chart.series[0].points)
    assert (x0, x2) == (charts.LEFT, charts.WIDTH - charts.RIGHT) and x1 == pytest.approx((x0 + x2) / 2)
    assert (y0, y2) == (charts.HEIGHT - charts.BOTTOM, charts.TOP) and y1 == pytest.approx((y0 + y2) / 2)
    assert charts.thinned([(i, 2.0 * i) for i in range(1000)], 10)[0] == (49.5, 99.0)
