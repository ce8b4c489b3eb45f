"""Metrics against plain loops; meters that read the device once; the ring against the queue's own order."""

import pytest
import torch
from test_pretrain import TinyBackbone

from model import momentum
from utils.metrics import LabelRing, Meters, mask_accuracy, topk_accuracy


def ranked(row: torch.Tensor) -> list[int]:
    values = row.tolist()
    return sorted(range(len(values)), key=lambda i: -values[i])


@pytest.mark.parametrize("width", [3, 17])
def test_accuracies_by_loops(width):
    logits = torch.randn(12, width)
    target = torch.randint(width, (12,))
    mask = torch.rand(12, width) < 0.2
    for k, accuracy, masked, floating in zip((1, 5), topk_accuracy(logits, target), mask_accuracy(logits, mask),
                                             mask_accuracy(logits, mask.float()), strict=True):
        hits = sum(target[i].item() in ranked(logits[i])[:k] for i in range(12))
        assert accuracy.item() == pytest.approx(hits / 12)
        hits = sum(any(mask[i, j] for j in ranked(logits[i])[:k]) for i in range(12))
        assert masked.item() == pytest.approx(hits / 12)
        assert floating.item() == masked.item()


def test_the_ring_keeps_pace_with_the_queue(monkeypatch):
    monkeypatch.setattr(momentum, "select_backbone", lambda _: (TinyBackbone(), {"feature_size": 8}))
    K, ring = 8, LabelRing(8)
    queue = momentum.MomentumContrast("tiny", 4, K, m=0.9, T=0.1)
    queue.register_buffer("queue_vname", torch.full((K,), -1))
    for step in range(5):
        source = torch.arange(2) + 2 * step
        queue.enqueue({"queue_vname": source})
        assert ring.full == (step >= 4)
        ring.update(source + 10, source, source + 20)
        assert torch.equal(ring.sources, queue.queue_vname)
    assert torch.equal(ring.labels, ring.sources + 10) and torch.equal(ring.rows, ring.sources + 20)


def test_the_ring_survives_a_checkpoint_and_aligns_without_one():
    ring = LabelRing(4)
    ring.update(torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]), torch.tensor([7, 8, 9]))
    copy = LabelRing(4)
    copy.load_state_dict(ring.state_dict())
    for each in (ring, copy):
        each.update(torch.tensor([7, 8]), torch.tensor([9, 9]), torch.tensor([3, 4]))
    assert copy.labels.tolist() == ring.labels.tolist() == [8, 2, 3, 7] and copy.full
    assert copy.rows.tolist() == ring.rows.tolist() == [4, 8, 9, 3]
    copy.align(2)
    assert not copy.full and copy.labels.tolist() == [-1] * 4
    copy.update(torch.tensor([5]), torch.tensor([6]), torch.tensor([0]))
    assert copy.labels.tolist() == [-1, -1, 5, -1]


def test_meters_average_what_was_there():
    meters = Meters("cpu")
    assert meters.window() == meters.means() == {}
    for step in range(5):
        values = {"loss": torch.tensor(float(step), requires_grad=True)}
        if step % 2:
            values["recall"] = torch.tensor(10.0 * step)
        meters.add(values)
        if step == 1:
            assert meters.window() == {"loss": 0.5, "recall": 10}
    assert meters.window() == {"loss": 3.0, "recall": 30}
    assert meters.window() == {}
    assert meters.means() == {"loss": 2.0, "recall": 20}
    assert not meters._sums["loss"].requires_grad  # it would hold the graph of every step
