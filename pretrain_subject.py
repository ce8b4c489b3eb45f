"""A contrastive model as what is trained: its part of a training's course, and the arithmetic of its steps."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.momentum import MomentumContrast
from pretrain_monitors import Monitors
from pretrain_steps import StepOfEpoch
from utils.console import say
from utils.conv_check import check_convolutions
from utils.engine import Step
from utils.mining import MiningMonitor
from utils.optimizer import RunOptimizer
from utils.precision import Precision, choose, set_tf32, tf32_is_on
from utils.schedule import lr_at
from utils.training import Measure, Record


@dataclass
class Run:
    """What training changes, and a checkpoint holds."""

    model: MomentumContrast
    optimizer: RunOptimizer
    precision: Precision
    monitor: MiningMonitor | None = None  # of CoCLR
    origin: list[str] = field(default_factory=list)  # files that its weights came from; none: random weights


@dataclass
class Pretraining:
    """A contrastive model as a :class:`utils.training.Subject`."""

    args: Namespace
    run: Run
    steps: StepOfEpoch
    monitors: Monitors

    def begin(self, epoch: int) -> Step:
        """The step of an epoch, after its learning rate and its order of clips for shuffled BatchNorm are set."""
        args, run = self.args, self.run
        run.optimizer.set_lr(lr_at(epoch, lr=run.optimizer.base_lr, schedule=args.schedule, cos=args.cos,
                                   epochs=args.epochs))
        run.model.train()
        run.model.shuffle.manual_seed((args.seed << 20) + epoch)
        self.monitors.begin_epoch()
        return self.steps(epoch)

    def score(self, means: dict[str, float], measure: Measure) -> float:
        """Training top-1; for CoCLR against all positives."""
        return means["top1"]

    def after_epoch(self, epoch: int, record: Record) -> None:
        """Let the monitors look."""
        self.monitors.after_epoch(epoch, record)

    def after_save(self, epoch: int, record: Record, poll: Callable[[], None]) -> None:
        """Let the monitor of features look."""
        self.monitors.after_save(epoch, record, poll)

    def state(self) -> dict[str, Any]:
        """The published keys, and the label ring and the loss's scale on top."""
        content = {"state_dict": self.run.model.state_dict(), "optimizer": self.run.optimizer.state_dict()}
        if self.run.monitor is not None:
            content["label_ring"] = self.run.monitor.state_dict()
        if self.run.optimizer.scaler.is_enabled():
            content["scaler"] = self.run.optimizer.scaler.state_dict()
        return content

    def generators(self) -> dict[str, torch.Generator]:
        """What steps draw from."""
        return {"shuffle": self.run.model.shuffle}


def check_arithmetic(args: Namespace, run: Run) -> None:
    """Check the convolutions in all precisions that the run will use, and say what was found."""
    clip = (args.seq_len, args.img_dim, args.img_dim)
    if args.fp32_steps and run.precision.name != "fp32":
        say(check_convolutions(run.model.encoders(), clip, choose("fp32", run.precision.device)))
        choose(run.precision.name, run.precision.device)  # sets the switches again
    say(check_convolutions(run.model.encoders(), clip, run.precision))


def exact_at_first(steps: StepOfEpoch, run: Run, count: int) -> StepOfEpoch:
    """The same steps, the run's first ``count`` in float32 and the others in its precision."""
    tf32 = tf32_is_on()

    def steps_of(epoch: int) -> Step:
        step = steps(epoch)

        def chosen(batch: dict, iteration: int) -> dict[str, Tensor]:
            exact = iteration < count
            run.model.dtype = None if exact else run.precision.dtype
            set_tf32(tf32 and not exact)
            return step(batch, iteration)
        return chosen
    return steps_of if count else steps
