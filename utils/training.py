"""A training, from where it stands to its last epoch: the same course for every script, stopped and resumed exactly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from utils import distributed
from utils.console import one_line, say
from utils.engine import Step, run_epoch, text_of
from utils.errors import CheckpointError
from utils.journal import Journal
from utils.keeper import Keeper
from utils.metrics import Meters
from utils.pace import Pace
from utils.stop import StopRequested, Vote, signal_name
from utils.watch import FrameWatch, LossWatch, refuse_non_finite, video_names

Means = dict[str, float]
Measure = Callable[[DataLoader, Step, str], Means]
Record = Callable[..., None]  # see Training.record


@dataclass
class Place:
    """Where a training stands: batches done of an epoch, steps done in all, and the best top-1 so far (0-1)."""

    epoch: int = 0
    batch: int = 0
    iteration: int = 0
    best_acc: float = 0.0


@dataclass(frozen=True)
class Plan:
    """epochs: in all. save_freq: epochs between checkpoints. save_steps: steps between those inside of epochs, 0 for
    none. print_freq: steps between progress lines. warm_up: first steps of this start that tell nothing of the pace."""

    epochs: int
    save_freq: int = 1
    save_steps: int = 0
    print_freq: int = 5
    warm_up: int = 1


class Subject(Protocol):
    """What is trained."""

    def begin(self, epoch: int) -> Step:
        """Set rates, modes and seeds of an epoch, and make its step."""

    def score(self, means: Means, measure: Measure) -> float:
        """The top-1 (0-1) that decides which checkpoint is the best: of the epoch's means, or measured here."""

    def after_epoch(self, epoch: int, record: Record) -> None:
        """Look at what an epoch has come to, and record it; all processes are here."""

    def after_save(self, epoch: int, record: Record, poll: Callable[[], None]) -> None:
        """Look at what takes long or may fail, when the epoch is saved. poll: for all processes to call now and then,
        raises StopRequested."""

    def state(self) -> dict[str, Any]:
        """"state_dict" and "optimizer" of a checkpoint, and more, all but where the training stands."""

    def generators(self) -> dict[str, torch.Generator]:
        """What steps draw from."""


class Training:
    """The course of a training.

    Args:
        subject: what is trained. loader: its batches. keeper: of the checkpoints. journal: of the metrics.
        device: of the losses.
        about: what every checkpoint says of its making ("options", "code", ...).
    """

    def __init__(self, subject: Subject, loader: DataLoader, plan: Plan, keeper: Keeper, journal: Journal,
                 device: torch.device, about: Mapping[str, Any]) -> None:
        self.subject, self.loader, self.plan, self.keeper = subject, loader, plan, keeper
        self.journal, self.device, self.about = journal, device, about
        self.place = Place()
        self.means: Means = {}  # of the last epoch
        self._inside: Mapping[str, Any] | None = None  # of a checkpoint from inside of an epoch: meters, generators
        self._meters = Meters(device)
        self._losses = LossWatch(video_names(loader.dataset))
        self._frames = watch_frames(loader)
        self._vote = Vote()
        self._saved = 0  # iteration of the last checkpoint
        self._pace = Pace(0)

    def stand_at(self, place: Place, inside: Mapping[str, Any] | None = None) -> None:
        """Begin here. inside: a checkpoint's "progress", if it is from inside of an epoch; see :func:`place_of`."""
        self.place, self._inside, self._saved = place, inside, place.iteration
        left = (self.plan.epochs - place.epoch) * len(self.loader) - place.batch
        self._pace = Pace(left, self.plan.warm_up, place.iteration)

    def run(self) -> None:
        """Train to the last epoch.

        Raises:
            StopRequested: a signal came. What was done is saved.
            TrainingError: the losses, the weights or the data are broken.
            CheckpointError: a checkpoint could not be written.
        """
        try:
            for epoch in range(self.place.epoch, self.plan.epochs):
                self._epoch(epoch)
        except StopRequested:
            self._stop()
            raise

    def _epoch(self, epoch: int) -> None:
        step = self.subject.begin(epoch)
        self._meters = Meters(self.device)
        self._frames.new_epoch()
        self._go_inside()
        self._pace.pause()
        self.means, _ = run_epoch(
            self.loader, step, title="train", epoch=epoch, print_freq=self.plan.print_freq, device=self.device,
            journal=self.journal, iteration=self.place.iteration, start=self.place.batch, meters=self._meters,
            after_step=self._after_step)
        self._losses.check()
        self._frames.report(f"train epoch {epoch}")
        self.subject.after_epoch(epoch, self.record)
        saves = epoch % self.plan.save_freq == 0 or epoch == self.plan.epochs - 1
        best = saves and self._is_best(self.subject.score(self.means, self._measure))
        self.place = Place(epoch + 1, 0, self.place.iteration, self.place.best_acc)
        if saves:
            self._save(lambda content: self.keeper.save(content, epoch, best))
        self.subject.after_save(epoch, self.record, self._refuse_if_asked)

    def _refuse_if_asked(self) -> None:
        if self._vote.poll():
            raise StopRequested

    def record(self, kind: str, epoch: int, values: Means, *, told: bool = False, **more: Any) -> None:
        """Write values of an epoch into the journal, and say them unless it is done; epoch -1 is before the first."""
        if not told:
            say(f"{kind} epoch {epoch}: {text_of(values)}" if epoch >= 0 else f"{kind}: {text_of(values)}")
        if distributed.is_main():
            self.journal.note(kind, epoch, self.place.iteration, values, **more)

    def _is_best(self, score: float) -> bool:
        best = score > self.place.best_acc
        self.place.best_acc = max(self.place.best_acc, score)
        return best

    def _go_inside(self) -> None:
        """Take over what a checkpoint from inside of this epoch has of the steps before it."""
        if self._inside is not None:
            self._meters.load_state_dict(self._inside["meters"])
            states = self._inside["generators"]
            for name, generator in self.subject.generators().items():
                if name in states:
                    _set_state(generator, states[name], name)
        self._inside = None

    def _after_step(self, batch: Any, values: dict[str, Tensor], idle: bool) -> None:
        self.place.batch += 1
        self.place.iteration += 1
        self._losses.add(self.place.iteration - 1, batch, values["loss"])
        if idle:
            self._losses.check()
            self._pace.tell(self.place.iteration)
        self._frames.add(batch)
        if self.plan.save_steps and self.place.iteration % self.plan.save_steps == 0:
            self._save_inside()
        if self._vote.poll():
            raise StopRequested

    def _measure(self, loader: DataLoader, step: Step, title: str) -> Means:
        """Means of a step that does not train, over another loader."""
        frames = watch_frames(loader)

        def after_step(batch: Any, values: dict[str, Tensor], idle: bool) -> None:
            frames.add(batch)
            if self._vote.poll():
                raise StopRequested
        means, _ = run_epoch(loader, step, title=title, epoch=self.place.epoch, print_freq=self.plan.print_freq,
                             device=self.device, journal=self.journal, iteration=self.place.iteration,
                             after_step=after_step, trains=False)
        return means

    def _stop(self) -> None:
        if self.place.iteration == self._saved:
            say(f"stopping on {signal_name()}: there is nothing new to save")
            return
        self._save_inside()
        distributed.barrier()  # a launcher ends all processes when the first one leaves
        say(f"stopping on {signal_name()}: saved after {self.place.batch} of {len(self.loader)} steps of epoch "
            f"{self.place.epoch}; --resume auto goes on from there")

    def _save_inside(self) -> None:
        self._save(lambda content: self.keeper.save_inside(content, self.place.epoch, self.place.batch))

    def _save(self, write: Callable[[dict], None]) -> None:
        """Write a checkpoint of where the training stands, from the main process."""
        self._losses.check()
        content = {**self.about, **self.subject.state(), "epoch": self.place.epoch - 1,
                   "iteration": self.place.iteration, "best_acc": self.place.best_acc, "progress": self._progress()}
        refuse_non_finite(content["state_dict"], content["optimizer"])
        if distributed.is_main():
            write(content)
        self._saved = self.place.iteration

    def _progress(self) -> dict[str, Any]:
        samples = self.place.batch * samples_of_step(self.loader)
        inside = {"meters": self._meters.state_dict(),
                  "generators": {name: each.get_state() for name, each in self.subject.generators().items()}}
        return {"epoch": self.place.epoch, "samples": samples, **(inside if samples else dict.fromkeys(inside))}


def place_of(saved: Mapping[str, Any], loader: DataLoader) -> tuple[Place, Mapping[str, Any] | None]:
    """Where a checkpoint stands, for :meth:`Training.stand_at`. A published one stands at the end of its epoch.

    Raises:
        CheckpointError: it stands behind the end of an epoch.
    """
    progress = saved.get("progress") or {"epoch": saved["epoch"] + 1, "samples": 0}
    of_epoch = len(loader) * samples_of_step(loader)
    if progress["samples"] >= of_epoch + samples_of_step(loader):  # other batches may have left a rest
        raise CheckpointError(f"the checkpoint stands {int(progress['samples'])} samples into an epoch of {of_epoch}: "
                              "it is damaged, or of another dataset")
    place = Place(int(progress["epoch"]), int(progress["samples"]) // samples_of_step(loader),
                  int(saved.get("iteration", 0)), float(saved.get("best_acc", 0.0)))
    return place, progress if progress["samples"] else None


def _set_state(generator: torch.Generator, state: Tensor, name: str) -> None:
    try:
        generator.set_state(state)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint's random generator {one_line(name)!r} is damaged, or of another version "
                              "of PyTorch: go on from a checkpoint at the end of an epoch") from error


def samples_of_step(loader: DataLoader) -> int:
    """Clips that all processes take in one step."""
    assert loader.batch_size is not None
    return loader.batch_size * distributed.world_size()


def watch_frames(loader: DataLoader) -> FrameWatch:
    """The watch over the frames that this process takes in an epoch, of all clips and streams."""
    assert loader.batch_size is not None
    return FrameWatch(video_names(loader.dataset),
                      len(loader) * loader.batch_size * getattr(loader.dataset, "frames_per_sample", 1))
