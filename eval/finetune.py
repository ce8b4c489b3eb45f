"""Train a classifier: linear probe on a frozen backbone, or finetuning (CoCLR, arXiv 2010.09709, section 4.3)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from dataset.transforms.presets import to_blocks
from engine import run_folder
from engine.compatibility import TrainState
from engine.optimizer import LrSchedule, Optimizer
from engine.trainer import Task, Trainer, evaluate
from eval.network import set_mode
from utils.console import paint_table, percent, say, table
from utils.files import write_json
from utils.metrics import Values, topk_accuracy

BACKBONE_SHARE = 0.1  # of the learning rate, under --train_what ft


def build_optimizer(net: nn.Module, train_what: str, *, name: str, lr: float, wd: float,
                    scaler: torch.amp.GradScaler | None = None) -> Optimizer:
    """Build the optimizer of a classifier; "last" freezes the backbone, "ft" gives it a tenth of the learning rate."""
    if train_what == "last":
        net.backbone.requires_grad_(False)
    trained = [(label, parameter) for label, parameter in net.named_parameters() if parameter.requires_grad]
    return Optimizer(trained, name=name, lr=lr, wd=wd, scaler=scaler, scale=lambda label: BACKBONE_SHARE
                     if train_what == "ft" and label.startswith("backbone.") else 1.0)


def classify_step(net: nn.Module, batch: Mapping[str, Any], device: torch.device, dtype: torch.dtype | None = None
                  ) -> Values:
    """Compute cross-entropy, top-1 and top-5 of a loader's batch, one clip per video."""
    clips = to_blocks(batch, device)[:, 0, 0]  # (B, 1, 1, 3, T, h, w) -> (B, 3, T, h, w)
    label = batch["label"].to(device, non_blocking=True)
    logits, _ = net(clips, dtype)
    top1, top5 = topk_accuracy(logits, label)
    return {"loss": F.cross_entropy(logits, label), "top1": top1, "top5": top5}


class Finetuning(Task):
    """Trains a classifier `net`, bare or in DataParallel; its top-1 on `val` selects the best checkpoint."""

    def __init__(self, net: nn.Module, optimizer: Optimizer, train_what: str, rates: LrSchedule, seed: int,
                 val: DataLoader, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.net, self.model = net, getattr(net, "module", net)
        self.optimizer, self.train_what, self.rates = optimizer, train_what, rates
        self.seed, self.val, self.device, self.dtype = seed, val, device, dtype

    def begin_epoch(self, epoch: int) -> None:
        self.optimizer.set_lr(self.optimizer.base_lr * self.rates.factor(epoch))
        set_mode(self.net, self.train_what, training=True)
        torch.manual_seed((self.seed << 20) + epoch)

    def step(self, batch: Any, epoch: int, iteration: int) -> Values:
        return classify_step(self.net, batch, self.device, self.dtype)

    @torch.no_grad()
    def score(self, trainer: Trainer) -> float:
        set_mode(self.net, self.train_what, training=False)
        state = trainer.state
        return evaluate(lambda batch: self.step(batch, state.epoch, state.iteration), self.val, title="val",
                        epoch=state.epoch, print_freq=trainer.print_freq, device=self.device, logger=trainer.logger,
                        iteration=state.iteration, poll=trainer.poll)["top1"]

    def generators(self) -> dict[str, torch.Generator]:
        gpus = torch.cuda.default_generators if self.device.type == "cuda" else ()
        return {"cpu": torch.default_generator} | {f"cuda:{i}": generator for i, generator in enumerate(gpus)}


def report_result(what: str, end: TrainState, epochs: int, folder: Path) -> Path:
    """Print the best validation top-1 of a run, write best.json, and return the best checkpoint, else the last."""
    best = next((path for path in run_folder.resumable(folder / "model") if run_folder.BEST.fullmatch(path.name)), None)
    write_json(folder / "best.json", {"validation_top1": round(100 * end.best_acc, 4), "epochs": epochs,
                                      "checkpoint": f"model/{best.name}" if best else None})
    say(table(["train", "epochs", "best validation top-1 %"], [[what, str(epochs), percent(end.best_acc)]]),
        paint=paint_table)
    say(f"best checkpoint: {best}" if best else f"no validation was above 0 %; checkpoints: {folder / 'model'}")
    return best or run_folder.last_checkpoint(folder, end.epoch)
