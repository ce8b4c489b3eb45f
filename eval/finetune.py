"""Training of a classifier: linear probe on a frozen backbone, or finetuning (CoCLR, arXiv 2010.09709, section 4.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eval.network import load_classifier
from eval.report import percent, table, write_json
from utils import run_folder
from utils.console import say
from utils.engine import Step
from utils.keeper import BEST, numbered
from utils.metrics import topk_accuracy
from utils.optimizer import RunOptimizer, resumed_lr
from utils.presets import to_blocks
from utils.schedule import lr_at, lr_factor
from utils.terminal import paint_table
from utils.training import Measure, Place, Record

BACKBONE_SHARE = 0.1  # of the learning rate, under --train_what ft


@dataclass(frozen=True)
class Rates:
    """Learning rate and seed of a training. lr: at its start. seed: of the dropout, with the epoch."""

    train_what: str
    lr: float
    schedule: list[int]
    cos: bool
    epochs: int
    seed: int


def build_optimizer(net: nn.Module, train_what: str, *, name: str, lr: float, wd: float,
                    scaler: torch.amp.GradScaler | None = None) -> RunOptimizer:
    """Optimizer of the trained parameters, one saved group each; under "ft" the backbone gets a tenth of `lr`.

    Under "last" the backbone is frozen here and left out. net: the bare classifier. scaler: of the loss.
    """
    if train_what == "last":
        net.backbone.requires_grad_(False)
    trained = [(label, parameter) for label, parameter in net.named_parameters() if parameter.requires_grad]
    return RunOptimizer(trained, name=name, lr=lr, wd=wd, scaler=scaler, scale=lambda label: BACKBONE_SHARE
                        if train_what == "ft" and label.startswith("backbone.") else 1.0)


def set_mode(net: nn.Module, train_what: str, training: bool) -> None:
    """Train or evaluation mode; the frozen backbone of a linear probe stays in evaluation mode, BatchNorm included."""
    net.train(training)
    if train_what == "last":
        bare = net.module if isinstance(net, nn.DataParallel) else net
        bare.get_submodule("backbone").eval()


def make_step(net: nn.Module, device: torch.device, optimizer: RunOptimizer | None = None) -> Step:
    """The step of `run_epoch`: cross-entropy and top-1/5 of a batch; with an optimizer it also updates the network."""

    def step(batch: dict[str, Tensor], iteration: int) -> dict[str, Tensor]:
        with torch.set_grad_enabled(optimizer is not None):
            logits, _ = net(to_blocks(batch, device)[:, 0, 0])  # (B, 1, 1, 3, T, h, w) -> (B, 3, T, h, w)
            label = batch["label"].to(device, non_blocking=True)
            loss = F.cross_entropy(logits, label)
        if optimizer is not None:
            optimizer.zero_grad()
            optimizer.backward(loss)
            optimizer.step()
        top1, top5 = topk_accuracy(logits, label)
        return {"loss": loss.detach(), "top1": top1, "top5": top5}

    return step


@dataclass
class Classifying:
    """A classifier as a :class:`utils.training.Subject`.

    net: bare or in a DataParallel wrapper. val: batches of the validation videos.
    """

    net: nn.Module
    optimizer: RunOptimizer
    rates: Rates
    val: DataLoader
    device: torch.device

    def begin(self, epoch: int) -> Step:
        """The step of an epoch, after its learning rate, the mode and the seed of its dropout are set."""
        rates = self.rates
        self.optimizer.set_lr(lr_at(epoch, lr=self.optimizer.base_lr, schedule=rates.schedule, cos=rates.cos,
                                    epochs=rates.epochs))
        set_mode(self.net, rates.train_what, training=True)
        torch.manual_seed((rates.seed << 20) + epoch)
        return make_step(self.net, self.device, self.optimizer)

    def score(self, means: dict[str, float], measure: Measure) -> float:
        """Validation top-1."""
        set_mode(self.net, self.rates.train_what, training=False)
        return measure(self.val, make_step(self.net, self.device), "val")["top1"]

    def after_epoch(self, epoch: int, record: Record) -> None:
        """The means of an epoch say all."""

    def after_save(self, epoch: int, record: Record, poll: Callable[[], None]) -> None:
        """Nothing else is looked at."""

    def state(self) -> dict[str, Any]:
        """The published keys, and the loss's scale on top."""
        content = {"state_dict": getattr(self.net, "module", self.net).state_dict(),
                   "optimizer": self.optimizer.state_dict()}
        if self.optimizer.scaler.is_enabled():
            content["scaler"] = self.optimizer.scaler.state_dict()
        return content

    def generators(self) -> dict[str, torch.Generator]:
        """What dropout draws from."""
        gpus = torch.cuda.default_generators if self.device.type == "cuda" else ()
        return {"cpu": torch.default_generator} | {f"cuda:{i}": generator for i, generator in enumerate(gpus)}


def resume(net: nn.Module, optimizer: RunOptimizer, path: str, rates: Rates, reset_lr: bool) -> dict:
    """Take everything over from a checkpoint of this training, and return its content.

    The starting learning rate is the checkpoint's too, unless `reset_lr`. Raises CheckpointError as loading does.
    """
    saved, _ = load_classifier(net, path, require=("state_dict", "optimizer", "epoch"))
    optimizer.load_state_dict(saved["optimizer"])
    optimizer.load_scaler(saved.get("scaler"))
    if not reset_lr:
        factor = lr_factor(int(saved["epoch"]), schedule=rates.schedule, cos=rates.cos, epochs=rates.epochs)
        optimizer.base_lr = resumed_lr(saved["optimizer"], factor, rates.lr)
    return saved


def report_result(what: str, start: Place, end: Place, epochs: int, folder: Path) -> Path:
    """Say the best validation top-1 of a training and where its checkpoint lies, and write both into best.json.

    what: what was trained. Returns the best checkpoint, or where no validation was above 0 % the last one.
    """
    if start.epoch >= epochs:
        say(f"nothing is left to train: epoch {start.epoch - 1} of --epochs {epochs} is done")
    best = list(numbered(folder / "model", BEST).values())
    write_json(folder / "best.json", {"validation_top1": round(100 * end.best_acc, 4), "epochs": epochs,
                                      "checkpoint": f"model/{best[-1].name}" if best else None})
    say(table(["train", "epochs", "best validation top-1 %"], [[what, str(epochs), percent(end.best_acc)]]),
        paint=paint_table)
    say(f"best checkpoint: {best[-1]}" if best else
        f"no validation was above 0 %; checkpoints: {folder / 'model'}")
    return best[-1] if best else run_folder.last_checkpoint(folder, end.epoch)
