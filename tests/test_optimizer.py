"""Learning rates by epoch; an optimizer with few groups inside that trains as one group per parameter in files does."""

import copy
import math

import pytest
import torch
from torch import nn

from engine.optimizer import LrSchedule, Optimizer, resumed_lr
from utils.errors import CheckpointError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].bias.requires_grad_(False)
    return model


def train(model: nn.Module, optimizer, steps: range) -> None:
    for i in steps:
        torch.manual_seed(i)
        optimizer.zero_grad()
        model(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()


def per_parameter(model: nn.Module, cls=torch.optim.Adam, **settings):
    return cls([{"params": [p]} for p in model.parameters()], lr=0.01, **settings)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_plain_adam_goes_on_from_our_state_and_ours_from_its():
    model = network()
    optimizer = Optimizer(model.named_parameters(), lr=0.01, wd=1e-3)
    train(model, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())  # as a file would; tensors are not shared
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1], [2], [3]]
    assert sorted(saved["state"]) == [0, 2, 3]
    other = copy.deepcopy(model)
    plain = per_parameter(other)
    plain.load_state_dict(saved)
    back = copy.deepcopy(model)
    ours = Optimizer(back.named_parameters(), lr=0.01, wd=1e-3)
    ours.load_state_dict(copy.deepcopy(plain.state_dict()))
    for trained, by in ((model, optimizer), (other, plain), (back, ours)):
        train(trained, by, range(3, 6))
    assert same(model, other) and same(model, back)


def test_steps_saved_as_whole_numbers_by_older_versions_load():
    model = network()
    optimizer = Optimizer(model.named_parameters(), lr=0.01, wd=0.0)
    train(model, optimizer, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    for values in saved["state"].values():
        values["step"] = int(values["step"])
    for group in saved["param_groups"]:
        for key in set(group) - {"lr", "betas", "eps", "weight_decay", "amsgrad", "params"}:
            del group[key]
    other = copy.deepcopy(model)
    old = Optimizer(other.named_parameters(), lr=0.01, wd=0.0)
    old.load_state_dict(saved)
    train(model, optimizer, range(2, 4))
    train(other, old, range(2, 4))
    assert same(model, other)


def test_scaled_groups_and_sgd():
    ours, theirs = network(), network()
    optimizer = Optimizer(ours.named_parameters(), name="sgd", lr=0.01, wd=0.0,
                          scale=lambda name: 0.1 if name.startswith("0.") else 1.0)
    assert [group["lr"] for group in optimizer.state_dict()["param_groups"]] == pytest.approx([1e-3, 1e-3, 0.01, 0.01])
    plain = torch.optim.SGD([{"params": theirs[0].parameters(), "lr": 1e-3}, {"params": theirs[2].parameters()}],
                            lr=0.01, momentum=0.9)
    train(ours, optimizer, range(4))
    train(theirs, plain, range(4))
    assert same(ours, theirs)
    optimizer.set_lr(0.5)
    rates = [group["lr"] for group in optimizer.state_dict()["param_groups"]]
    assert rates == pytest.approx([0.05, 0.05, 0.5, 0.5])
    assert optimizer.state_dict()["param_groups"][0]["initial_lr"] == pytest.approx(1e-3)


def test_a_state_of_another_model_is_refused():
    small = nn.Linear(4, 5)
    saved = per_parameter(small).state_dict()
    model = network()
    with pytest.raises(CheckpointError, match="of 2 parameters, does not fit this model's 4"):
        Optimizer(model.named_parameters(), lr=0.01, wd=0.0).load_state_dict(saved)
    wide = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    trained = Optimizer(wide.named_parameters(), lr=0.01, wd=0.0)
    train(wide, trained, range(1))
    with pytest.raises(CheckpointError, match="of 4 parameters, does not fit this model's 4"):
        Optimizer(model.named_parameters(), lr=0.01, wd=0.0).load_state_dict(trained.state_dict())


def test_the_starting_rate_of_a_saved_state():
    model = network()
    optimizer = Optimizer(model.named_parameters(), lr=0.01, wd=0.0)
    optimizer.set_lr(0.001)
    assert resumed_lr(optimizer.state_dict(), factor=0.1, default=7.0) == 0.01
    published = {"param_groups": [{"lr": 1e-4, "params": [0]}]}
    assert resumed_lr(published, factor=0.1, default=7.0) == pytest.approx(1e-3)
    assert resumed_lr(published, factor=0.0, default=7.0) == 7.0


@pytest.mark.parametrize(("epoch", "expected"), [
    (0, 1), (79, 1), (80, 0.1), (119, 0.1), (120, 0.01), (500, 0.001)])
def test_steps(epoch, expected):
    assert LrSchedule(1e-3, (80, 120, 160), False, 200).factor(epoch) == pytest.approx(expected, rel=1e-9)
    assert LrSchedule(1e-3, (), False, 200).factor(epoch) == 1


ROOT2 = math.sqrt(2)


@pytest.mark.parametrize(("epoch", "share"), [(0, 1), (25, (2 + ROOT2) / 4), (50, 0.5), (75, (2 - ROOT2) / 4),
                                              (100, 0)])
def test_cosine_by_known_angles(epoch, share):
    assert LrSchedule(0.4, (10,), True, 100).factor(epoch) == pytest.approx(share, abs=1e-12)
