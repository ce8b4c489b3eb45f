"""The training loop without a real model: what a task is asked for, in which order, and what is printed and logged."""

import json

import pytest
import torch

from dataset.loader import make_loader
from engine.logger import MetricsLogger
from engine.optimizer import Optimizer
from engine.retention import CheckpointManager
from engine.trainer import Task, Trainer, TrainState, evaluate, state_of
from utils.console import log_file
from utils.errors import CheckpointError

CPU = torch.device("cpu")


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, item):
        epoch, i = item
        return {"index": i, "value": torch.tensor(float(100 * epoch + i))}


class Line(Task):
    """Fits a number; the loss has no gradient in the first two steps of all. Writes down what it is asked for."""

    def __init__(self):
        self.weight, self.calls = torch.nn.Parameter(torch.zeros(())), []
        self.optimizer = Optimizer([("weight", self.weight)], name="sgd", lr=0.5, wd=0.0)

    def begin_epoch(self, epoch):
        self.calls.append(f"begin {epoch}")

    def step(self, batch, epoch, iteration):
        self.calls.append((epoch, iteration, batch["index"].tolist()))
        loss = self.weight if iteration >= 2 else self.weight.detach()
        return {"loss": loss * 1.0, "top1": torch.tensor(float(epoch))}

    def end_epoch(self, epoch, trainer):
        self.calls.append(f"end {epoch}")
        trainer.log("extra", epoch, {"steps": trainer.state.iteration})

    def after_save(self, epoch, trainer):
        self.calls.append(f"saved {epoch}")

    def state_dict(self):
        return {"state_dict": {"weight": self.weight.detach().clone()}, "optimizer": self.optimizer.state_dict()}


def loader(batch_size=1):
    return make_loader(Numbers(), batch_size=batch_size, workers=0, train=False, seed=0, rank=0, world_size=1,
                       device=CPU)


def test_a_training_asks_for_everything_in_order(tmp_path):
    task, saved = Line(), []
    checkpoints = CheckpointManager(tmp_path)
    checkpoints.save_epoch = lambda content, epoch, is_best: saved.append(
        (epoch, is_best, content["epoch"], content["iteration"], content["best_acc"], len(task.calls)))
    trainer = Trainer(loader(3), task.optimizer, CPU, epochs=4, state=TrainState(), checkpoints=checkpoints,
                      logger=MetricsLogger(), save_freq=2)
    trainer.fit(task)
    assert task.calls == [call for epoch in range(4) for call in (
        f"begin {epoch}", (epoch, 2 * epoch, [0, 1, 2]), (epoch, 2 * epoch + 1, [3, 4, 5]), f"end {epoch}",
        f"saved {epoch}")]
    assert saved == [(0, False, 0, 2, 0.0, 4), (2, True, 2, 6, 2.0, 14), (3, True, 3, 8, 3.0, 19)]
    assert trainer.means["top1"] == 3
    # SGD with momentum 0.9 on a gradient of one, from the third step on
    velocity = [sum(0.9**k for k in range(n + 1)) for n in range(6)]
    assert task.weight.item() == pytest.approx(-0.5 * sum(velocity), rel=1e-6)


def test_means_iterations_and_lines(tmp_path, capsys):
    def step(batch):
        value = batch["value"].mean()
        return {"loss": value} | ({"late": torch.tensor(8.0)} if value > 202 else {})
    log = MetricsLogger(tmp_path)
    with log_file(tmp_path / "log"):
        means = evaluate(step, loader(), title="val", epoch=2, print_freq=3, device=CPU, logger=log, iteration=10)
    assert means == {"loss": 203.0, "late": 8.0}
    text = capsys.readouterr().out
    assert text == (tmp_path / "log").read_text()
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("val epoch 2 [4/7]  loss 202  late 8  data ") and "step" in lines[1]
    assert lines[3] == "val epoch 2 mean: loss 203  late 8"
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["values"] for line in logged] == [{"loss": 200.0}, {"loss": 202.0, "late": 8.0},
                                                   {"loss": 205.0, "late": 8.0}, {"loss": 203.0, "late": 8.0}]
    assert all(line["done"] == 10 and line["epoch"] == 2 for line in logged)


def test_the_position_of_a_checkpoint():
    published = {"epoch": 4, "iteration": 35, "best_acc": torch.tensor(0.5)}
    assert state_of(published, loader()) == TrainState(5, 0, 35, 0.5)
    progress = {"epoch": 5, "samples": 4}
    assert state_of(published | {"progress": progress}, loader(2)) == TrainState(5, 2, 35, 0.5, progress)
    with pytest.raises(CheckpointError, match="stands 9 samples into an epoch of 7"):
        state_of(published | {"progress": {"epoch": 5, "samples": 9}}, loader())
