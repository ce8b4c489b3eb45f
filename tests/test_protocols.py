"""Evaluation protocols against plain loops, and the packing of windows."""

import math

import numpy as np
import pytest
import torch

from eval import protocols

LABELS = 4


def loop_mean(rows):
    """Mean of the rows of a list of lists."""
    return [sum(row[j] for row in rows) / len(rows) for j in range(len(rows[0]))]


def loop_unit(row):
    """A row divided by its length."""
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def loop_recall(query, gallery, query_label, gallery_label, k):
    """Share of hits by sorting the gallery of each query; features centred by the mean of their own set."""
    centred = []
    for rows in (query, gallery):
        mean = loop_mean(rows)
        centred.append([loop_unit([x - m for x, m in zip(row, mean, strict=True)]) for row in rows])
    hits = 0
    for q, label in zip(centred[0], query_label, strict=True):
        order = sorted(range(len(gallery)), key=lambda g: -sum(a * b for a, b in zip(q, centred[1][g], strict=True)))
        hits += any(gallery_label[g] == label for g in order[:k])
    return hits / len(query)


def test_window_mean_and_that_of_normalised_rows_which_ignores_their_length():
    rows = torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(protocols.window_mean(rows), torch.tensor(loop_mean(rows.tolist()), dtype=torch.float64))
    expected = torch.tensor(loop_mean([loop_unit(row) for row in rows.tolist()]), dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, 0.5, 9.0, 3.0], dtype=torch.float64)[:, None]
    torch.testing.assert_close(protocols.window_mean(rows * scale, normalise=True), expected)


@pytest.mark.parametrize("crops", [1, 5, 10])
def test_crop_mean_takes_the_first_crops(crops):
    rows = torch.rand(10, 3, dtype=torch.float64)
    expected = torch.tensor(loop_mean(rows[:crops].tolist()), dtype=torch.float64)
    torch.testing.assert_close(protocols.crop_mean(rows, crops), expected)


@pytest.mark.parametrize("gallery_size", [3, 60])
def test_recall_against_sorting(gallery_size, monkeypatch):
    monkeypatch.setattr(protocols, "ROWS_AT_ONCE", 4)  # several blocks of rows
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(11, 6)) + 3, rng.normal(size=(gallery_size, 6)) - 1
    query_label, gallery_label = rng.integers(0, LABELS, 11), rng.integers(0, LABELS, gallery_size)
    sim = protocols.similarity(torch.tensor(query), torch.tensor(gallery))
    found = protocols.recall_at_k(sim, torch.tensor(query_label), torch.tensor(gallery_label))
    assert list(found) == [1, 5, 10, 20, 50]
    for k, share in found.items():
        expected = loop_recall(query.tolist(), gallery.tolist(), query_label.tolist(), gallery_label.tolist(), k)
        assert share == pytest.approx(expected), k


@pytest.mark.parametrize("classes", [3, 9])
def test_topk_accuracy_against_sorting(classes):
    score, label = torch.rand(20, classes), torch.randint(classes, (20,))
    for k, share in protocols.topk_accuracy(score, label).items():
        hits = sum(int(y) in sorted(range(classes), key=lambda c: -row[c])[:k]
                   for row, y in zip(score.tolist(), label, strict=True))
        assert share == pytest.approx(hits / 20)


def loop_votes(row, gallery_label, k, T):
    """Votes of the k most similar gallery entries by class: {class: sum of exp(sim / T)}."""
    votes = {}
    for g in sorted(range(len(row)), key=lambda g: -row[g])[:k]:
        votes[gallery_label[g]] = votes.get(gallery_label[g], 0.0) + math.exp(row[g] / T)
    return votes


@pytest.mark.parametrize("k", [1, 3, 8, 1000])
@pytest.mark.parametrize("classes", [3, 9])
def test_weighted_knn_against_loops(k, classes):
    rng = np.random.default_rng(1)
    sim = rng.uniform(-1, 1, (11, 20))
    query_label, gallery_label = rng.integers(0, classes, 11), rng.integers(0, classes, 20)
    found = protocols.weighted_knn(torch.tensor(sim), torch.tensor(query_label), torch.tensor(gallery_label), classes,
                                   k, 0.5)
    votes = [loop_votes(row, gallery_label.tolist(), k, 0.5) for row in sim.tolist()]
    for rank, share in found.items():
        hits = sum(label in sorted(own, key=lambda c: -own[c])[:rank]
                   for own, label in zip(votes, query_label, strict=True))
        assert share == pytest.approx(hits / 11), rank
    assert list(found) == [1, 5]


@pytest.mark.parametrize(("k", "T"), [(1, 0.07), (200, 1e-4)])
def test_weighted_knn_of_the_nearest_alone_is_recall_at_1(k, T):
    """With one neighbour, or with a temperature at which only the nearest one's vote counts (exp(1 / T) overflows)."""
    sim, query_label, gallery_label = torch.rand(40, 30), torch.randint(6, (40,)), torch.randint(6, (30,))
    found = protocols.weighted_knn(sim, query_label, gallery_label, 6, k, T)
    recall = protocols.recall_at_k(sim, query_label, gallery_label)[1]
    assert 0 < recall < 1 and found[1] == recall
    assert k > 1 or found[5] == recall  # classes without a vote are no hits
