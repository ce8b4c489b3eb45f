"""The training loop shared by all scripts. A run can stop after any step, and resumes exactly there."""

from collections.abc import Callable, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset.loader import batches
from engine.compatibility import TrainState, samples_per_step
from engine.config import TrainConfig
from engine.logger import EpochLog, Means, MetricsLogger
from engine.optimizer import Optimizer
from engine.run_folder import CheckpointManager
from utils import distributed
from utils.console import is_main, say, warn
from utils.errors import TrainingError
from utils.metrics import Meters, Values
from utils.stop import StopFlag, StopRequested, signal_name

MAX_DAMAGED = 0.01  # largest share of an epoch's frames that may be unreadable


class Task:
    """A model being trained. The trainer calls these hooks in this order; subclasses override what they need."""

    model: Any
    optimizer: Optimizer

    def begin_epoch(self, epoch: int) -> None:
        """Set learning rate, train mode and seeds."""

    def step(self, batch: Any, epoch: int, iteration: int) -> Values:
        """Run a batch forward; return "loss" and metrics, 0-d tensors. A loss without gradient is not trained on."""
        raise NotImplementedError

    def health(self, iteration: int) -> str:
        """Return the state of the queue for the progress lines: "filling", "ok" or "collapsed"; "" without one."""
        return ""

    def end_epoch(self, epoch: int, trainer: "Trainer") -> None:
        """Measure and log after the last step of an epoch; all processes call this."""

    def score(self, trainer: "Trainer") -> float:
        """Return the top-1 accuracy (0-1) that selects the best checkpoints; by default that of training."""
        return trainer.means["top1"]

    def after_save(self, epoch: int, trainer: "Trainer") -> None:
        """Run slow measurements after the epoch is saved; call ``trainer.poll`` often, so that the run can stop."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of the task: "state_dict", "optimizer", under fp16 "scaler", and its own."""
        content = {"state_dict": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.optimizer.scaler.is_enabled():
            content["scaler"] = self.optimizer.scaler.state_dict()
        return content

    def generators(self) -> dict[str, torch.Generator]:
        """Return the random generators that steps draw from."""
        return {}


class Trainer:
    """Trains a :class:`Task`, logs its metrics and saves its checkpoints.

    Args:
        state: position to start or resume from; kept up to date.
        info: facts that each checkpoint records: "options", "made_with", "code", "classes".
    """

    def __init__(self, loader: DataLoader, optimizer: Optimizer, device: torch.device, config: TrainConfig, *,
                 state: TrainState, checkpoints: CheckpointManager, logger: MetricsLogger, info: Mapping[str, Any]
                 ) -> None:
        self.loader, self.optimizer, self.device, self.state = loader, optimizer, device, state
        self.epochs, self.save_freq, self.save_steps = config.epochs, config.save_freq, config.save_steps
        self.checkpoints, self.logger, self.info, self.print_freq = checkpoints, logger, info, config.print_freq
        self.means: Means = {}  # of the last epoch
        self._meters = Meters(device)
        self._losses = LossCheck(loader.dataset)
        self._stop_flag = StopFlag()
        self._saved = state.iteration  # iteration of the last checkpoint

    def fit(self, task: Task) -> None:
        """Train to the last epoch. When a signal asks the run to stop, save its progress and raise StopRequested."""
        state, optimizer = self.state, self.optimizer
        damage = DamageCounter(self.loader.dataset, frames_per_epoch(self.loader))
        try:
            for epoch in range(state.epoch, self.epochs):
                task.begin_epoch(epoch)
                self._restore_meters(task)
                damage.reset()
                log = EpochLog(self.loader, "train", epoch, self._meters, self.print_freq, self.logger, task.health)
                for batch in log.timed(batches(self.loader, epoch, state.batch), start=state.batch):
                    optimizer.zero_grad()
                    values = task.step(batch, epoch, state.iteration)
                    if values["loss"].requires_grad:
                        optimizer.backward(values["loss"])
                        optimizer.step()
                    state.batch += 1
                    state.iteration += 1
                    left = (self.epochs - epoch) * len(self.loader) - state.batch
                    printed = log.add(values | {"lr": torch.tensor(optimizer.lr)}, state.iteration, left)
                    self._losses.add(state.iteration - 1, batch["index"], values["loss"], now=printed)
                    damage.add(batch)
                    if self.save_steps and state.iteration % self.save_steps == 0:
                        self._save(task, epoch, state.batch)
                    self.poll()
                self.means = log.close(state.iteration)
                self._losses.check()
                damage.report(f"train epoch {epoch}")
                task.end_epoch(epoch, self)
                self._save_epoch(task, epoch)
        except StopRequested:
            self._save_on_stop(task)
            raise

    def log(self, kind: str, epoch: int, values: Means) -> None:
        """Log values measured after an epoch; -1 means before the first."""
        self.logger.log(kind, epoch, self.state.iteration, values)

    def poll(self) -> None:
        """Raise StopRequested if any process was asked to stop; collective, so all processes must call it alike."""
        if self._stop_flag.poll():
            raise StopRequested

    def _restore_meters(self, task: Task) -> None:
        self._meters = Meters(self.device)
        progress, self.state.progress = self.state.progress, None
        if progress is None:
            return
        self._meters.load_state_dict(progress["meters"])
        for name, generator in task.generators().items():
            generator.set_state(progress["generators"][name])

    def _save_epoch(self, task: Task, epoch: int) -> None:
        due = epoch % self.save_freq == 0 or epoch == self.epochs - 1
        score = task.score(self) if due else 0.0
        is_best = score > self.state.best_acc
        self.state.best_acc = max(self.state.best_acc, score)
        self.state.epoch, self.state.batch = epoch + 1, 0
        if due:
            self._save(task, epoch, is_best=is_best)
        task.after_save(epoch, self)

    def _save_on_stop(self, task: Task) -> None:
        if self.state.iteration == self._saved:
            say(f"stopping on {signal_name()}: there is nothing new to save")
            return
        self._save(task, self.state.epoch, self.state.batch)
        distributed.barrier()  # launchers kill the other processes when the first one exits
        say(f"stopping on {signal_name()}: saved after {self.state.batch} of {len(self.loader)} steps of epoch "
            f"{self.state.epoch}; --resume auto continues from there")

    def _save(self, task: Task, epoch: int, steps: int = 0, is_best: bool = False) -> None:
        """Collect a checkpoint from all processes, and write it on the main one."""
        self._losses.check()
        state, mid_epoch = self.state, self.state.batch > 0
        meters = self._meters.state_dict()  # collective
        generators = {name: each.get_state() for name, each in task.generators().items()}
        progress = {"epoch": state.epoch, "samples": state.batch * samples_per_step(self.loader),
                    "meters": meters if mid_epoch else None, "generators": generators if mid_epoch else None}
        content = {**self.info, **task.state_dict(), "epoch": state.epoch - 1, "iteration": state.iteration,
                   "best_acc": state.best_acc, "progress": progress}
        check_finite(content["state_dict"], content["optimizer"])
        if is_main():
            self.checkpoints.save(content, epoch, steps, is_best)
        self._saved = state.iteration


def evaluate(step: Callable[[Any], Values], loader: DataLoader, *, title: str, epoch: int, print_freq: int,
             device: torch.device, logger: MetricsLogger | None = None, iteration: int = 0,
             poll: Callable[[], None] = lambda: None) -> Means:
    """Return the means of an evaluation's metrics over the samples of a loader and all processes.

    Args:
        step: computes the metrics of a batch, 0-d tensors by name.
        poll: called after every step; may raise StopRequested.
    """
    damage = DamageCounter(loader.dataset, frames_per_epoch(loader))
    log = EpochLog(loader, title, epoch, Meters(device), print_freq, logger or MetricsLogger())
    for batch in log.timed(batches(loader, epoch)):
        log.add(step(batch), iteration, weight=len(batch["index"]))  # the last batch may be smaller
        damage.add(batch)
        poll()
    return log.close(iteration)


class LossCheck:
    """Checks that losses are finite; on a GPU only when a progress line synchronises the device anyway."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._pending: list[tuple[int, Tensor, Tensor]] = []  # iteration, rows of the dataset, loss

    def add(self, iteration: int, rows: Tensor, loss: Tensor, now: bool) -> None:
        """Record a step's loss (0-d) and its dataset rows (B,); check at once on a CPU, or if ``now``."""
        self._pending.append((iteration, rows, loss.detach()))
        if now or loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise TrainingError, naming step and videos, if a recorded loss is NaN or infinite."""
        if not self._pending:
            return
        finite = torch.stack([loss for _, _, loss in self._pending]).isfinite().tolist()
        if not all(finite):
            iteration, rows, loss = self._pending[finite.index(False)]
            names = ", ".join(self._dataset.index.names[row] for row in rows.tolist())
            raise TrainingError(f"the loss of iteration {iteration} is {float(loss)}; its videos: {names}. Check them, "
                                "or use a smaller --lr or a higher --precision; the checkpoints predate this step")
        self._pending.clear()


def check_finite(state_dict: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
    """Raise TrainingError unless weights and optimizer moments are finite; infinite moments freeze weights forever."""
    moments = {f"optimizer's {key} of {number}": value for number, each in optimizer["state"].items()
               for key, value in each.items() if isinstance(value, Tensor) and key != "step"}
    named = {key: value for key, value in {**state_dict, **moments}.items() if value.is_floating_point()}
    largest = torch._foreach_norm(list(named.values()), torch.inf)
    if not torch.stack([norm.float().cpu() for norm in largest]).isfinite().all():
        lost = [key for key, norm in zip(named, largest, strict=True) if not norm.isfinite()]
        raise TrainingError(f"{len(lost)} tensors of the model are no longer finite ({lost[0]}, ...), and are not "
                            "saved: use a smaller --lr or a higher --precision; the saved checkpoints are finite")


class DamageCounter:
    """Counts an epoch's unreadable frames, warns once per video, and stops the run if there are too many."""

    def __init__(self, dataset: Any, frames: int) -> None:
        self._dataset, self._frames = dataset, frames
        self._named: set[int] = set()  # rows
        self.count = 0

    def reset(self) -> None:
        """Start a new epoch; videos already named are not named again."""
        self.count = 0

    def report(self, title: str) -> None:
        if self.count:
            say(f"{title}: {self.count} of {self._frames} frames could not be read and were replaced")

    def add(self, batch: Mapping[str, Any]) -> None:
        """Count a batch's unreadable frames: "damaged" (B, 2) int64 is their number, and the first one's index."""
        damaged = batch.get("damaged")
        if damaged is None or not damaged[..., 0].any():
            return
        self.count += int(damaged[..., 0].sum())
        for row, (count, first) in zip(batch["index"].tolist(), damaged.tolist(), strict=True):
            if count and row not in self._named:
                self._named.add(row)
                warn(f"video {self._dataset.index.names[row]}: frame {first} cannot be read; the nearest "
                     "readable one replaces it, and likewise for others of this video (not reported again)")
        if self.count > MAX_DAMAGED * self._frames:
            raise TrainingError(f"{self.count} of {self._frames} frames could not be read, more than "
                                f"{MAX_DAMAGED:.0%}: the LMDB is damaged, rebuild it")


def frames_per_epoch(loader: DataLoader) -> int:
    assert loader.batch_size is not None and isinstance(loader.sampler, Sized)
    samples = min(len(loader) * loader.batch_size, len(loader.sampler))  # training drops an incomplete batch
    return samples * getattr(loader.dataset, "frames_per_sample", 1)
