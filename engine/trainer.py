"""The training loop of every script: it can stop after any step, and resumes exactly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from dataset.loader import batches
from engine.guards import DamageCounter, LossCheck, check_finite, frames_per_epoch
from engine.logger import EpochLog, Means, MetricsLogger, text_of
from engine.optimizer import Optimizer
from engine.resume import progress_of
from engine.retention import CheckpointManager
from utils import distributed
from utils.console import one_line, say, warn
from utils.errors import CheckpointError
from utils.metrics import Meters, Values
from utils.stop import StopFlag, StopRequested, signal_name


@dataclass
class TrainState:
    """Position within a training run."""

    epoch: int = 0  # the current one, 0-based
    batch: int = 0  # steps done in this epoch
    iteration: int = 0  # steps done in total
    best_acc: float = 0.0  # top-1, 0-1
    progress: Mapping[str, Any] | None = None  # meters and random generators, if resuming mid-epoch


class Task:
    """A model being trained. The trainer calls these hooks in this order; subclasses override what they need."""

    def begin_epoch(self, epoch: int) -> None:
        """Set learning rate, train mode and seeds."""

    def step(self, batch: Any, epoch: int, iteration: int) -> Values:
        """Return "loss" and metrics of a batch as 0-d tensors; if the loss needs no gradient, nothing is updated."""
        raise NotImplementedError

    def end_epoch(self, epoch: int, trainer: "Trainer") -> None:
        """Measure and log, on all processes."""

    def score(self, trainer: "Trainer") -> float:
        """Return the top-1 (0-1) by which the best checkpoints are chosen; by default the training top-1."""
        return trainer.means["top1"]

    def after_save(self, epoch: int, trainer: "Trainer") -> None:
        """Run slow measurements once the epoch is saved; call ``trainer.poll`` now and then."""

    def state_dict(self) -> dict[str, Any]:
        """Return the checkpoint's "state_dict" and "optimizer", and whatever else the task needs to resume."""
        raise NotImplementedError

    def generators(self) -> dict[str, torch.Generator]:
        """Return the random generators that steps draw from."""
        return {}


class Trainer:
    """Trains a :class:`Task`.

    Args:
        loader: training batches, see :func:`dataset.loader.make_loader`.
        device: where losses and meters are kept.
        epochs: number of epochs in total.
        state: where to start.
        save_freq: epochs between checkpoints.
        save_steps: steps between mid-epoch checkpoints, 0 for none.
        print_freq: steps between progress lines.
        info: entries that describe the run ("options", "made_with", "code"), saved in each checkpoint.
    """

    def __init__(self, loader: DataLoader, optimizer: Optimizer, device: torch.device, *, epochs: int,
                 state: TrainState, checkpoints: CheckpointManager, logger: MetricsLogger, save_freq: int = 1,
                 save_steps: int = 0, print_freq: int = 5, info: Mapping[str, Any] | None = None) -> None:
        self.loader, self.optimizer, self.device, self.epochs, self.state = loader, optimizer, device, epochs, state
        self.checkpoints, self.logger, self.info = checkpoints, logger, dict(info or {})
        self.save_freq, self.save_steps, self.print_freq = save_freq, save_steps, print_freq
        self.means: Means = {}  # of the last epoch
        self._meters = Meters(device)
        self._losses = LossCheck(loader.dataset)
        self._stop_flag = StopFlag()
        self._saved = state.iteration  # iteration of the last checkpoint

    def fit(self, task: Task) -> None:
        """Train to the last epoch.

        Raises:
            StopRequested: a signal arrived; everything done so far is saved.
            TrainingError: a loss or weight is not finite, or too much of the data is damaged.
            CheckpointError: a checkpoint could not be written.
        """
        state, optimizer = self.state, self.optimizer
        damage = DamageCounter(self.loader.dataset, frames_per_epoch(self.loader))
        try:
            for epoch in range(state.epoch, self.epochs):
                task.begin_epoch(epoch)
                self._restore_meters(task)
                damage.reset()
                log = EpochLog(self.loader, "train", epoch, self._meters, self.print_freq, self.logger)
                for batch in log.timed(batches(self.loader, epoch, state.batch), start=state.batch):
                    optimizer.zero_grad()
                    values = task.step(batch, epoch, state.iteration)
                    if values["loss"].requires_grad:
                        optimizer.backward(values["loss"])
                        optimizer.step()
                    state.batch += 1
                    state.iteration += 1
                    printed = log.add(values | {"lr": torch.tensor(optimizer.lr)}, state.iteration, self._steps_left())
                    self._losses.add(state.iteration - 1, batch["index"], values["loss"], now=printed)
                    damage.add(batch)
                    if self.save_steps and state.iteration % self.save_steps == 0:
                        self._save_step(task)
                    self.poll()
                self.means = log.close(state.iteration)
                self._losses.check()
                damage.report(f"train epoch {epoch}")
                task.end_epoch(epoch, self)
                self._save_epoch(task, epoch)
        except StopRequested:
            self._save_on_stop(task)
            raise

    def evaluate(self, step: Callable[[Any], Values], loader: DataLoader, title: str) -> Means:
        """Evaluate a step over another loader, see the function :func:`evaluate`."""
        return evaluate(step, loader, title=title, epoch=self.state.epoch, print_freq=self.print_freq,
                        device=self.device, logger=self.logger, iteration=self.state.iteration, poll=self.poll)

    def log(self, kind: str, epoch: int, values: Means, *, quiet: bool = False, **more: Any) -> None:
        """Log and print values measured after an epoch; -1 means before the first."""
        if not quiet:
            say(f"{kind} epoch {epoch}: {text_of(values)}" if epoch >= 0 else f"{kind}: {text_of(values)}")
        self.logger.log(kind, epoch, self.state.iteration, values, **more)

    def poll(self) -> None:
        """Raise StopRequested if any process was asked to stop; collective, so all processes must call it alike."""
        if self._stop_flag.poll():
            raise StopRequested

    def _steps_left(self) -> int:
        return (self.epochs - self.state.epoch) * len(self.loader) - self.state.batch

    def _restore_meters(self, task: Task) -> None:
        """Start new meters, or restore meters and generators when resuming mid-epoch."""
        self._meters = Meters(self.device)
        progress, self.state.progress = self.state.progress, None
        if progress is None:
            return
        self._meters.load_state_dict(progress["meters"])
        for name, generator in task.generators().items():
            if name not in progress["generators"]:
                continue
            try:
                generator.set_state(progress["generators"][name])
            except RuntimeError as error:
                raise CheckpointError(f"the checkpoint's random generator {one_line(name)!r} is damaged, or from "
                                      "another version of PyTorch: resume from an end-of-epoch checkpoint") from error

    def _save_epoch(self, task: Task, epoch: int) -> None:
        due = epoch % self.save_freq == 0 or epoch == self.epochs - 1
        score = task.score(self) if due else 0.0
        is_best = score > self.state.best_acc
        self.state.best_acc = max(self.state.best_acc, score)
        self.state.epoch, self.state.batch = epoch + 1, 0
        if due:
            self._save(task, lambda content: self.checkpoints.save_epoch(content, epoch, is_best))
        task.after_save(epoch, self)

    def _save_step(self, task: Task) -> None:
        self._save(task, lambda content: self.checkpoints.save_step(content, self.state.epoch, self.state.batch))

    def _save_on_stop(self, task: Task) -> None:
        if self.state.iteration == self._saved:
            say(f"stopping on {signal_name()}: there is nothing new to save")
            return
        self._save_step(task)
        distributed.barrier()  # launchers kill the other processes when the first one exits
        say(f"stopping on {signal_name()}: saved after {self.state.batch} of {len(self.loader)} steps of epoch "
            f"{self.state.epoch}; --resume auto continues from there")

    def _save(self, task: Task, write: Callable[[dict], None]) -> None:
        """Collect a checkpoint from all processes, and write it on the main one."""
        self._losses.check()
        state = self.state
        content = {**self.info, **task.state_dict(), "epoch": state.epoch - 1, "iteration": state.iteration,
                   "best_acc": state.best_acc, "progress": self._progress(task)}
        check_finite(content["state_dict"], content["optimizer"])
        if distributed.is_main():
            write(content)
        self._saved = state.iteration

    def _progress(self, task: Task) -> dict[str, Any]:
        mid_epoch = self.state.batch > 0
        meters = self._meters.state_dict()  # collective
        generators = {name: each.get_state() for name, each in task.generators().items()}
        return {"epoch": self.state.epoch, "samples": self.state.batch * samples_per_step(self.loader),
                "meters": meters if mid_epoch else None, "generators": generators if mid_epoch else None}


def evaluate(step: Callable[[Any], Values], loader: DataLoader, *, title: str, epoch: int, print_freq: int,
             device: torch.device, logger: MetricsLogger | None = None, iteration: int = 0,
             poll: Callable[[], None] = lambda: None) -> Means:
    """Average the metrics of an evaluation step over the samples of a loader and all processes.

    Args:
        step: computes the metrics of a batch as 0-d tensors.
        title: name on the console and in the log ("val").
        epoch: 0-based; also sets the epoch of the loader's sampler.
        iteration: training steps done so far, for the log.
        poll: called after every step; may raise.
    """
    damage = DamageCounter(loader.dataset, frames_per_epoch(loader))
    log = EpochLog(loader, title, epoch, Meters(device), print_freq, logger or MetricsLogger())
    for batch in log.timed(batches(loader, epoch)):
        log.add(step(batch), iteration, weight=len(batch["index"]))  # the last batch may be smaller
        damage.add(batch)
        poll()
    return log.close(iteration)


def state_of(saved: Mapping[str, Any], loader: DataLoader) -> TrainState:
    """Return the position of a checkpoint; a published one is at the end of its epoch.

    Raises:
        CheckpointError: the position lies beyond the end of an epoch.
    """
    progress = progress_of(saved)
    per_epoch, samples = len(loader) * samples_per_step(loader), int(progress["samples"])
    if samples >= per_epoch + samples_per_step(loader):  # another batch size may leave a remainder
        raise CheckpointError(f"the checkpoint is {samples} samples into an epoch of {per_epoch}: it is damaged, "
                              "or from another dataset")
    return TrainState(int(progress["epoch"]), samples // samples_per_step(loader), int(saved.get("iteration") or 0),
                      _best_of(saved), progress if samples else None)


def _best_of(saved: Mapping[str, Any]) -> float:
    """Return the best top-1 so far, 0-1; 0 if a file of other software has something else."""
    found = saved.get("best_acc") or 0.0
    if isinstance(found, int | float | torch.Tensor) and 0 <= float(found) <= 1:
        return float(found)
    warn(f"the checkpoint's best_acc is {one_line(repr(found), 40)}, which is no share: the next epoch is the best yet")
    return 0.0


def samples_per_step(loader: DataLoader) -> int:
    """Return the number of clips per step, over all processes."""
    assert loader.batch_size is not None
    return loader.batch_size * distributed.world_size()
