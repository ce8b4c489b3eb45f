"""The training loop without a real model: what a task is asked for, in which order; what is printed, written to
metrics.jsonl and TensorBoard, and removed again by a resumed run.
"""

import json
import re
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event

from dataset.loader import make_loader
from engine import logger
from engine.compatibility import TrainState, state_of
from engine.logger import FILE, MetricsLogger
from engine.optimizer import Optimizer
from engine.run_folder import CheckpointManager
from engine.trainer import Task, Trainer, evaluate
from utils.console import log_file
from utils.errors import CheckpointError

CPU = torch.device("cpu")


class Numbers(torch.utils.data.Dataset):
    def __init__(self, size=7):
        self.size = size

    def __len__(self):
        return self.size

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


def loader(batch_size=1, size=7):
    return make_loader(Numbers(size), batch_size=batch_size, workers=0, train=False, seed=0, rank=0, world_size=1,
                       device=CPU)


def test_the_trainer_calls_the_hooks_in_order(tmp_path):
    task, saved = Line(), []
    checkpoints = CheckpointManager(tmp_path)
    checkpoints.save = lambda content, epoch, steps, is_best: saved.append(
        (epoch, is_best, content["epoch"], content["iteration"], content["best_acc"], len(task.calls)))
    config = SimpleNamespace(epochs=4, save_freq=2, save_steps=0, print_freq=5)
    trainer = Trainer(loader(3, 6), task.optimizer, CPU, config, state=TrainState(), checkpoints=checkpoints,
                      logger=MetricsLogger(), info={})
    trainer.fit(task)
    assert task.calls == [call for e in range(4) for call in (
        f"begin {e}", (e, 2 * e, [0, 1, 2]), (e, 2 * e + 1, [3, 4, 5]), f"end {e}", f"saved {e}")]
    assert saved == [(0, False, 0, 2, 0.0, 4), (2, True, 2, 6, 2.0, 14), (3, True, 3, 8, 3.0, 19)]
    assert trainer.means["top1"] == 3
    # SGD with momentum 0.9 on a gradient of one, from the third step on
    velocity = [sum(0.9**k for k in range(n + 1)) for n in range(6)]
    assert task.weight.item() == pytest.approx(-0.5 * sum(velocity), rel=1e-6)


def test_means_iterations_and_lines(tmp_path, capsys):
    def step(batch):
        value = batch["value"].mean()
        return {"loss": value, "top1": value / 1000} | ({"late": torch.tensor(8.0)} if value > 202 else {})
    log = MetricsLogger(tmp_path)
    with log_file(tmp_path / "log"):
        means = evaluate(step, loader(), title="val", epoch=2, print_freq=3, device=CPU, logger=log, iteration=10)
    assert means == {"loss": 203.0, "top1": pytest.approx(0.203), "late": 8.0}
    text = capsys.readouterr().out
    assert text == (tmp_path / "log").read_text()
    lines = text.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"val epoch 2 \[4/7\]  loss 202  top-1 20 %  data \d+\.\d\d s  step \d+\.\d\d s", lines[1])
    assert lines[3] == "val epoch 2 mean: loss 203  top-1 20 %"
    assert set(shown(tmp_path)) == {("val_epoch/loss", 10), ("val_epoch/top1", 10), ("val_epoch/late", 10)}
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["values"]["loss"] for line in logged] == [200, 202, 205, 203]
    assert [line["values"].get("late") for line in logged] == [None, 8, 8, 8]
    assert all(line["done"] == 10 and line["epoch"] == 2 for line in logged)


@pytest.mark.parametrize(("batch_size", "mean"), [(3, 203.0), (100, 203.0)])
def test_means_weigh_samples_of_a_smaller_last_batch(batch_size, mean):
    means = evaluate(lambda batch: {"loss": batch["value"].mean()}, loader(batch_size), title="val", epoch=2,
                     print_freq=1, device=CPU)
    assert means["loss"] == mean  # of 200 ... 206; a mean of batches of three would be 204


def test_the_position_of_a_checkpoint():
    published = {"epoch": 4, "iteration": 35, "best_acc": torch.tensor(0.5)}
    assert state_of(published, loader()) == TrainState(5, 0, 35, 0.5)
    for foreign in ({"best_acc": 71.3}, {"best_acc": [0.1]}, {"best_acc": None}, {"progress": "done"},
                    {"progress": {"done": 3}}):
        best = 0.0 if "best_acc" in foreign else 0.5
        assert state_of(published | {"iteration": None} | foreign, loader()) == TrainState(5, 0, 0, best)
    progress = {"epoch": 5, "samples": 4}
    assert state_of(published | {"progress": progress}, loader(2)) == TrainState(5, 2, 35, 0.5, progress)
    with pytest.raises(CheckpointError, match="is 9 samples into an epoch of 7"):
        state_of(published | {"progress": {"epoch": 5, "samples": 9}}, loader())


SECONDS = {"data": 0.5, "step": 1.0}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def shown(folder: Path) -> dict[tuple[str, int], float]:
    """Return the values that TensorBoard shows by tag and step: each start hides its step and later ones before it."""
    points: list[tuple[tuple[str, int], float]] = []
    for path in sorted((folder / "img").glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:  # a record: its length in 8 bytes, a checksum in 4, the event, a checksum in 4
            length, = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12:12 + length])
            data = data[16 + length:]
            if event.HasField("session_log"):
                points = [point for point in points if point[0][1] < event.step]
            points += [((value.tag, event.step), value.simple_value) for value in event.summary.value]
    assert len(points) == len(dict(points)), "a point is there twice"
    return dict(points)


def test_metrics_are_written_twice(tmp_path):
    log = MetricsLogger(tmp_path)
    log.log("steps", 2, 20, {"loss": 1.5}, title="train", seconds=SECONDS)
    log.log("epoch", 2, 20, {"top1": 0.25}, title="val")
    log.log("mining", 2, 20, {"recall": 0.5})
    log.close()
    assert shown(tmp_path) == {("train/loss", 20): 1.5, ("train/step_seconds", 20): 1.0, ("mining/recall", 20): 0.5,
                               ("train/data_seconds", 20): 0.5, ("val_epoch/top1", 20): 0.25}
    assert lines(tmp_path) == [
        {"kind": "steps", "title": "train", "epoch": 2, "done": 20, "values": {"loss": 1.5}, "seconds": SECONDS},
        {"kind": "epoch", "title": "val", "epoch": 2, "done": 20, "values": {"top1": 0.25}},
        {"kind": "mining", "epoch": 2, "done": 20, "values": {"recall": 0.5}}]


def test_every_line_is_json_even_without_numbers(tmp_path):
    MetricsLogger(tmp_path).log("epoch", 0, 1, {"loss": float("nan"), "top1": float("inf"), "top5": 0.5}, title="train")
    assert "NaN" not in (tmp_path / FILE).read_text() and "Inf" not in (tmp_path / FILE).read_text()
    assert lines(tmp_path)[0]["values"] == {"loss": None, "top1": None, "top5": 0.5}


@pytest.mark.parametrize(("epoch", "iteration"), [(0, 0), (0, 1), (0, 3), (1, 4), (1, 6), (2, 8), (3, 12)])
def test_what_was_written_after_the_checkpoint_is_removed(epoch, iteration, tmp_path):
    """Epochs of four steps: lines of the steps after each of two, of the epoch, and of its validation."""
    log, expected = MetricsLogger(tmp_path), []
    for each in range(3):
        for done in (4 * each + 1, 4 * each + 3):
            log.log("steps", each, done, {"loss": 1.0}, title="train", seconds=SECONDS)
            expected.append(each < epoch or (each == epoch and done <= iteration))
        log.log("epoch", each, 4 * each + 4, {"loss": 1.0}, title="train")
        log.log("epoch", each, 4 * each + 4, {"top1": 1.0}, title="val")
        expected += [each < epoch] * 2
    before = lines(tmp_path)
    with open(tmp_path / FILE, "a") as file:
        file.write('{"kind": "steps", "title": "train", "epoch": 0, "do')  # killed while it wrote
    MetricsLogger(tmp_path, epoch, iteration).close()
    assert lines(tmp_path) == [line for line, wanted in zip(before, expected, strict=True) if wanted]


@pytest.mark.parametrize("iteration", [4, 6, 8])
def test_tensorboard_shows_every_point_once_after_a_resume(iteration, tmp_path, monkeypatch):
    """Of three epochs of four steps; the second start resumes after some of them."""
    monkeypatch.setattr(logger.os, "getpid", iter(range(100)).__next__)  # as of two processes

    def write(first: int) -> None:
        log = MetricsLogger(tmp_path, first // 4, first)
        for done in range(first + 1, 13):
            epoch = (done - 1) // 4
            log.log("steps", epoch, done, {"loss": 1.0}, title="train")
            if done % 4 == 0:
                log.log("epoch", epoch, done, {"loss": 1.0}, title="train")
                log.log("steps", epoch, done, {"top1": 1.0}, title="val")
                log.log("epoch", epoch, done, {"top1": 1.0}, title="val")
        log.close()
    write(0)
    once = shown(tmp_path)
    write(iteration)
    assert shown(tmp_path) == once and len(once) == 12 + 2 * 3
