"""Losses against plain loops over rows and columns."""

import math

import torch

from model.loss import coclr_loss, drop_self, infonce_loss, ubernce_loss

LOGITS = torch.tensor([[2.0, 1.0, -1.0, 0.5], [0.0, 3.0, 0.1, -2.0], [1.0, 1.0, 1.0, 1.0]])
MASK = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 1], [1, 0, 0, 0]], dtype=torch.float32)


def softmax_by_loop(row):
    exps = [math.exp(float(v)) for v in row]
    return [e / sum(exps) for e in exps]


def test_infonce():
    expected = sum(-math.log(softmax_by_loop(row)[0]) for row in LOGITS) / 3
    assert math.isclose(float(infonce_loss(LOGITS)), expected, rel_tol=1e-6)


def test_ubernce():
    expected = 0.0
    for row, positives in zip(LOGITS, MASK, strict=True):
        logs = [math.log(p) for p, positive in zip(softmax_by_loop(row), positives, strict=True) if positive]
        expected += -sum(logs) / len(logs) / 3
    assert math.isclose(float(ubernce_loss(LOGITS, MASK)), expected, rel_tol=1e-6)
    assert math.isclose(float(ubernce_loss(LOGITS, MASK.bool())), expected, rel_tol=1e-6)


def test_coclr():
    expected = 0.0
    for row, positives in zip(LOGITS, MASK, strict=True):
        mass = sum(p for p, positive in zip(softmax_by_loop(row), positives, strict=True) if positive)
        expected += -math.log(mass) / 3
    assert math.isclose(float(coclr_loss(LOGITS, MASK)), expected, rel_tol=1e-6)


def test_coclr_gradient_is_finite_where_the_positives_have_no_mass_left():
    logits = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    coclr_loss(logits, torch.tensor([[1.0, 0.0, 0.0]])).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 1.0, 0.0]]))


def test_drop_self_keeps_column_0_only_where_it_is_the_last_positive():
    dropped = drop_self(MASK)
    assert dropped.tolist() == [[0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0]]
    assert MASK[0, 0] == 1  # a new tensor
    assert drop_self(MASK.bool()).dtype == torch.bool
