"""The nearest rows by faiss, against all products in NumPy; graphs, and what updates do to them."""

import faiss
import numpy as np
import pytest
import torch
from searching import normalised

from eval import protocols
from eval.search.made_up import features
from eval.search.nearest import Nearest, centre_of, unit
from eval.search.rows import Rows, Searched, joined

FLAT, GRAPH = 10**9, 1


def made(n: int = 400, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 1, (n, width)).astype(np.float32)


def test_exact_search_is_that_of_numpy():
    rows, queries = made(), made(7, seed=1)
    sims, found = Nearest.build(rows, 1, FLAT).search(queries, 9)
    centre = rows.astype(np.float64).mean(axis=0)
    right = normalised(queries, centre) @ normalised(rows, centre).T
    np.testing.assert_array_equal(found, np.argsort(-right, axis=1)[:, :9])
    np.testing.assert_allclose(sims, -np.sort(-right, axis=1)[:, :9], atol=1e-5)


def test_similarities_are_those_of_retrieval_and_its_fusion_of_two_streams():
    """With the whole index as queries both sets have one mean, as `protocols.similarity` centres each by its own."""
    rows = made(50)
    nearest = Nearest.build(rows, 2, FLAT)
    sims, found = nearest.search(rows, 50)
    one, two = torch.from_numpy(rows).chunk(2, dim=1)
    parts = [protocols.similarity(stream, stream).numpy() for stream in (one, two)]
    both = np.take_along_axis(parts[0] + parts[1], found, axis=1)
    np.testing.assert_allclose(sims, both, atol=1e-5)
    np.testing.assert_allclose(nearest.by_stream(rows[3], np.array([8, 1])), [[p[3, r] for p in parts] for r in (8, 1)],
                               atol=1e-5)


def test_a_single_row_keeps_a_direction():
    assert Nearest.build(made(1), 1, FLAT).search(made(1), 1)[0][0, 0] == pytest.approx(1)
    assert not unit(made(1), made(1)[0], 1).any()  # a row that is the centre
    assert not centre_of(made(1)).any()


@pytest.mark.parametrize("kind", [FLAT, GRAPH])
def test_rows_that_are_not_allowed_are_not_found(kind):
    rows = made()
    allowed = np.random.default_rng(2).random(len(rows)) < 0.5
    _, found = Nearest.build(rows, 1, kind).search(rows[:20], 20, allowed)
    assert allowed[found].all()
    _, few = Nearest.build(rows, 1, kind).search(rows[:2], 20, np.arange(len(rows)) < 3)
    assert sorted(few[0][few[0] >= 0]) == [0, 1, 2] and (few[0] == -1).sum() == 17


def test_recall_is_the_share_of_true_neighbours(monkeypatch):
    rows = features(3000, 64, 16)
    nearest = Nearest.build(rows, 1, GRAPH)
    assert nearest.is_graph and not Nearest.build(rows, 1, len(rows) + 1).is_graph
    exactness = nearest.exactness()
    assert exactness.recall > 0.98 and exactness.k == 10 and exactness.queries == 200
    # a graph that was hardly built misses some, by as many as counting says
    monkeypatch.setattr("eval.search.nearest.LINKS", 2)
    monkeypatch.setattr("eval.search.nearest.BUILD_DEPTH", 2)
    monkeypatch.setattr("eval.search.nearest.SEARCH_DEPTH", 12)
    nearest = Nearest.build(rows, 1, GRAPH)
    exactness = nearest.exactness()
    chosen = np.sort(np.random.default_rng(0).choice(3000, 200, replace=False))
    sphere = normalised(rows, rows.mean(axis=0))
    hits = 0
    how = faiss.SearchParametersHNSW(efSearch=12)
    _, found = nearest.index.search(sphere[chosen].astype(np.float32), 11, params=how)
    for own, mine in zip(chosen, found, strict=True):
        order = np.argsort(-(sphere @ sphere[own]))
        hits += len(set(order[order != own][:10]) & set(mine[mine != own][:10]))
    assert exactness.recall == pytest.approx(hits / 2000, abs=0.003) and exactness.recall < 0.9
    assert Nearest.build(rows, 1, FLAT).exactness() is None


def rows_of(features: np.ndarray, first_file: int = 0) -> Rows:
    """Each row a file's only clip."""
    count = len(features)
    return Rows(np.arange(first_file, first_file + count, dtype=np.int32), np.zeros((count, 2)), features)


def updated(old: Searched, dropped: set[int], new: np.ndarray, hnsw_from: int) -> Searched:
    """After an update that drops some files and adds others."""
    files = [file for file in range(int(old.rows.file_of.max()) + 1) if file not in dropped]
    kept = old.rows.renumbered({file: number for number, file in enumerate(files)})
    return joined(old, kept, rows_of(new, len(files)), 1, hnsw_from)


def test_a_graph_is_appended_to_until_a_tenth_has_changed():
    first = joined(None, rows_of(made(0)), rows_of(made(200)), 1, 150)
    same = updated(first, set(), made(0), 150)
    assert same.nearest is first.nearest and same.rows.clips == 200
    second = updated(first, set(range(5)), made(10, seed=1), 150)
    assert second.nearest is first.nearest and len(second.rows) == 210 and second.rows.clips == 205
    assert second.built == 200 and len(second.nearest) == 210
    _, found = second.nearest.search(made(10, seed=1), 205, second.rows.alive)
    assert (found[:, 0] == np.arange(200, 210)).all() and not set(range(5)) & set(found.ravel())
    third = updated(second, set(), made(6, seed=2), 150)  # 5 + 10 + 6 of 200
    assert third.nearest is not first.nearest and len(third.rows) == third.rows.clips == third.built == 211
    np.testing.assert_array_equal(third.rows.features[:195], made(200)[5:])
    assert not updated(third, set(range(100)), made(0), 150).nearest.is_graph


def test_an_exact_index_after_updates_is_as_made_at_once():
    first = joined(None, rows_of(made(0)), rows_of(made(30)), 1, FLAT)
    second = updated(first, {0, 7}, made(4, seed=1), FLAT)
    expected = np.concatenate([np.delete(made(30), [0, 7], axis=0), made(4, seed=1)])
    np.testing.assert_array_equal(second.rows.features, expected)
    np.testing.assert_allclose(second.nearest.centre, expected.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(second.rows.file_of, np.arange(32))
