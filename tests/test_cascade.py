"""The cascade against a loop per sample, stage and candidate, written from the formula of CPR, section 3.2."""

import itertools

import pytest
import torch

from model.cascade import cascade_topk, fused_topk, stage_sizes
from utils.errors import ModelError


def cascade_by_loops(other, own, excluded, topk, ratio, stage, first="other"):
    """Lists of survivors, best first: repeated selection of the best remaining candidate."""
    other, own, excluded = other.tolist(), own.tolist(), excluded.tolist()
    K, results = len(other[0]), []
    for b in range(len(other)):
        survivors = list(range(K))
        for i in range(1, stage + 1):
            row = other if i == stage or (i % 2 == 1) == (first == "other") else own
            keep = topk if i == stage else int(K * ratio**i)
            chosen = []
            for _ in range(keep):
                best = max(survivors, key=lambda j: (not excluded[b][j], row[b][j]))
                survivors.remove(best)
                chosen.append(best)
            survivors = chosen
        results.append(survivors)
    return torch.tensor(results)


@pytest.mark.parametrize("stage, ratio", itertools.product(range(1, 8), (0.5, 0.8)))
def test_equals_the_loops(stage, ratio):
    g = torch.Generator().manual_seed(stage)
    K = 128 if ratio == 0.8 else 224
    topk = 3
    other, own = torch.randn(3, K, generator=g), torch.randn(3, K, generator=g)
    excluded = torch.rand(3, K, generator=g) < 0.1
    got = cascade_topk(other, own, excluded, topk, ratio, stage)
    assert got.dtype == torch.int64
    assert torch.equal(got, cascade_by_loops(other, own, excluded, topk, ratio, stage))


def test_the_own_view_decides_between_entries_that_the_other_view_ranks_low():
    K = 8
    other = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]])
    own = torch.tensor([[0.0, 0, 9, 9, 0, 0, 9, 9]])
    excluded = torch.zeros(1, K, dtype=torch.bool)
    # stage 1 keeps 0-3, stage 2 keeps 2 and 3 of these, stage 3 ranks them by the other view
    assert cascade_topk(other, own, excluded, 1, 0.5, 3).tolist() == [[2]]
    assert cascade_topk(other, own, excluded, 1, 0.5, 1).tolist() == [[0]]


def test_excluded_entries_return_only_when_nothing_else_is_left():
    K = 32
    other, own = torch.randn(2, K), torch.randn(2, K)
    excluded = torch.ones(2, K, dtype=torch.bool)
    excluded[0, :6] = False  # fewer than stage 1 keeps: excluded ones pass it, and must lose later
    excluded[1, :2] = False
    own[:, 6:] = 100.0
    got = cascade_topk(other, own, excluded, 4, 0.5, 3)
    assert set(got[0].tolist()) <= set(range(6))
    assert got[1, :2].sort().values.tolist() == [0, 1]  # the two allowed ones lead


def test_stage_sizes_of_the_paper():
    assert stage_sizes(2048, 5, 0.5, 7) == [1024, 512, 256, 128, 64, 32, 5]
    assert stage_sizes(64, 5, 0.5, 1) == [5]


@pytest.mark.parametrize("K, topk, ratio, stage", [(64, 5, 0.5, 6), (8, 5, 0.1, 2), (4, 5, 0.5, 1), (64, 5, 1.0, 3),
                                                   (64, 5, 0.5, 0), (64, 0, 0.5, 2)])
def test_settings_that_cannot_work_are_refused(K, topk, ratio, stage):
    with pytest.raises(ModelError):
        stage_sizes(K, topk, ratio, stage)


def test_a_view_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="must be other or own, not flow"):
        cascade_topk(torch.rand(1, 8), torch.rand(1, 8), torch.zeros(1, 8, dtype=torch.bool), 1, 0.5, 2, first="flow")


def test_the_refusal_gives_the_numbers():
    with pytest.raises(ModelError, match=r"queue 64, ratio 0\.5 and 6 stages keep 32, 16, 8, 4, 2, 5 entries"):
        stage_sizes(64, 5, 0.5, 6)


def test_fused_ranks_by_loops():
    """The rank of an entry is the number of entries that lie nearer; an excluded one comes after all others."""
    other, own = torch.randn(3, 40), torch.randn(3, 40)
    excluded = torch.rand(3, 40) < 0.1
    for b, got in enumerate(fused_topk(other, own, excluded, 6).tolist()):
        cost = {}
        for j in range(40):
            ranks = [sum((bool(excluded[b, i]), -float(row[b, i])) < (bool(excluded[b, j]), -float(row[b, j]))
                         for i in range(40)) for row in (other, own)]
            cost[j] = bool(excluded[b, j]), sum(ranks), ranks[0]
        assert got == sorted(cost, key=cost.__getitem__)[:6] and not excluded[b, got].any()
