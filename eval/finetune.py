"""Training of a classifier: linear probe on a frozen backbone, or finetuning (CoCLR, arXiv 2010.09709, section 4.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tensorboardX import SummaryWriter
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eval.network import load_classifier
from eval.report import percent, table
from utils.console import say
from utils.engine import run_epoch
from utils.keeper import BEST, Keeper, numbered
from utils.metrics import topk_accuracy
from utils.optimizer import RunOptimizer, resumed_lr
from utils.presets import to_blocks
from utils.schedule import lr_at, lr_factor

BACKBONE_SHARE = 0.1  # of the learning rate, under --train_what ft


@dataclass(frozen=True)
class Plan:
    """Epochs, learning rate and validation of a training; epochs count from 0, `epochs` is their number in all.

    dataset: its name; runs on k400 keep every checkpoint. seed: of the dropout, with the epoch.
    """

    dataset: str
    train_what: str
    lr: float
    schedule: list[int]
    cos: bool
    epochs: int
    eval_freq: int
    print_freq: int
    seed: int


@dataclass
class Progress:
    """Where a training stands: the first epoch to do, training iterations done, the best validation top-1 (0-1)."""

    epoch: int = 0
    iteration: int = 0
    best_acc: float = 0.0


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
        getattr(net, "module", net).backbone.eval()


def make_step(net: nn.Module, device: torch.device, optimizer: RunOptimizer | None = None) -> Callable:
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


def resume(net: nn.Module, optimizer: RunOptimizer, path: str, plan: Plan, reset_lr: bool) -> Progress:
    """Take everything over from a checkpoint of this training; the next epoch is the one after the file's.

    The starting learning rate is the checkpoint's too, unless `reset_lr`. Raises CheckpointError as loading does.
    """
    saved = load_classifier(net, path, require=("state_dict", "optimizer", "epoch"))
    optimizer.load_state_dict(saved["optimizer"])
    optimizer.load_scaler(saved.get("scaler"))
    epoch = int(saved["epoch"])
    if not reset_lr:
        factor = lr_factor(epoch, schedule=plan.schedule, cos=plan.cos, epochs=plan.epochs)
        optimizer.base_lr = resumed_lr(saved["optimizer"], factor, plan.lr)
    return Progress(epoch + 1, int(saved.get("iteration", 0)), float(saved.get("best_acc", 0.0)))


def fit(net: nn.Module, loaders: Sequence[DataLoader], optimizer: RunOptimizer, plan: Plan, progress: Progress,
        folder: Path, resumed: str = "") -> None:
    """Train to the last epoch; validate and write a checkpoint every `eval_freq` epochs and after the last.

    net: the classifier, bare or in a DataParallel wrapper. loaders: training, validation. folder: the run folder.
    resumed: the checkpoint that the training goes on from. A validation top-1 strictly above the best so far makes a
    new best.
    """
    keeper = Keeper(folder / "model", keep_all="k400" in plan.dataset, resumed=resumed)
    device = next(net.parameters()).device
    with SummaryWriter(str(folder / "img")) as writer:
        for epoch in range(progress.epoch, plan.epochs):
            common = {"epoch": epoch, "print_freq": plan.print_freq, "device": device, "writer": writer}
            optimizer.set_lr(lr_at(epoch, lr=optimizer.base_lr, schedule=plan.schedule, cos=plan.cos,
                                   epochs=plan.epochs))
            set_mode(net, plan.train_what, training=True)
            torch.manual_seed((plan.seed << 20) + epoch)  # dropout after a resume is as it would have been
            _, progress.iteration = run_epoch(loaders[0], make_step(net, device, optimizer), title="train",
                                              iteration=progress.iteration, **common)
            if epoch % plan.eval_freq and epoch != plan.epochs - 1:
                continue
            set_mode(net, plan.train_what, training=False)
            means, _ = run_epoch(loaders[1], make_step(net, device), title="val", iteration=progress.iteration,
                                 **common)
            is_best = means["top1"] > progress.best_acc
            progress.best_acc = max(progress.best_acc, means["top1"])
            keeper.save(_content(net, optimizer, epoch, progress), epoch, is_best)
    _say_result(plan, progress, folder)


def _content(net: nn.Module, optimizer: RunOptimizer, epoch: int, progress: Progress) -> dict:
    content = {"epoch": epoch, "state_dict": getattr(net, "module", net).state_dict(), "best_acc": progress.best_acc,
               "optimizer": optimizer.state_dict(), "iteration": progress.iteration}
    if optimizer.scaler.is_enabled():
        content["scaler"] = optimizer.scaler.state_dict()
    return content


def _say_result(plan: Plan, progress: Progress, folder: Path) -> None:
    if progress.epoch >= plan.epochs:
        say(f"nothing is left to train: epoch {progress.epoch - 1} of --epochs {plan.epochs} is done")
    best = list(numbered(folder / "model", BEST).values())
    say(table(["train", "epochs", "best validation top-1 %"],
              [[f"{plan.train_what} on {plan.dataset}", str(plan.epochs), percent(progress.best_acc)]]))
    say(f"best checkpoint: {best[-1]}" if best else
        f"no validation was above 0 %; checkpoints: {folder / 'model'}")
