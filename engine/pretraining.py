"""Pretraining as main_nce.py and main_coclr.py share it: a task without its step, set-up, resuming, reporting."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from inspect import signature
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from dataset import catalog
from dataset.loader import make_loader
from dataset.transforms.presets import PretrainTransform
from dataset.video_dataset import VideoDataset, videos_of
from dataset.video_index import require_labels
from engine import checkpoint, compatibility, device, run_folder
from engine.compatibility import TrainState, samples_per_step
from engine.config import DataConfig, ModelConfig, TrainConfig, check_sizes, configs_of
from engine.convolutions import check_convolutions, use_2d_where_faster
from engine.health import HealthProbe
from engine.monitors import MiningMonitor, Monitors
from engine.optimizer import Optimizer
from engine.trainer import Task, Trainer, evaluate
from model.momentum import fitting_queue
from model.pretrain import CoCLR
from utils import distributed, launch
from utils.console import is_main, log_file, say, say_block, warn
from utils.distributed import DistInfo
from utils.errors import OptionError
from utils.provenance import code_version
from utils.stop import catch_signals


class PretrainTask(Task):
    """A contrastive model with optimizer and monitors; subclasses add the step."""

    def __init__(self, config: ModelConfig, data: DataConfig, train: TrainConfig, dist: DistInfo) -> None:
        self.config, self.data, self.train, self.dist, self.device = config, data, train, dist, dist.device
        self.precision = device.choose_precision(train.precision, self.device)
        torch.manual_seed(train.seed)
        self.model = config.build()
        device.move(self.model, self.device)
        if self.precision.name == "fp32" or train.fp32_steps:
            use_2d_where_faster(self.model.encoders(), self.device)
        if train.compile:
            for encoder in self.model.encoders():
                encoder.compile()
        self.network: nn.Module = self.model  # or its DistributedDataParallel wrapper
        self.optimizer = Optimizer(self.model.named_parameters(), lr=train.lr, wd=train.wd,
                                   scaler=self.precision.scaler())
        self.generator = torch.Generator()  # shuffles clips for BatchNorm, the same in all processes
        self.origin: list[str] = []  # files that the weights were loaded from

    def load_pretrained(self, *paths: str) -> None:
        raise NotImplementedError

    def make_loader(self, mode: str) -> DataLoader:
        dataset, train = self.data.build(mode, PretrainTransform(self.data.img_dim)), self.train
        return make_loader(dataset, batch_size=train.batch_size, workers=train.workers, train=mode == "train",
                           seed=train.seed, rank=self.dist.rank, world_size=self.dist.world_size, device=self.device)

    def check(self, saved: Mapping[str, Any], path: str, *, reverse: bool = False) -> None:
        """Raise CheckpointError for another stream (``reverse``: than the miner's), or if labelled, other classes."""
        options = asdict(self.data) | asdict(self.config) | {"reverse": self.config.reverse != reverse}
        labels = compatibility.trained_on_labels(options) and compatibility.trained_on_labels(saved.get("options"))
        classes = catalog.class_names(self.data.dataset, self.data.split_root) if labels else None
        compatibility.check_facts(saved, path, compatibility.facts_of(options, classes), self.train.accept_changes)

    def set_monitors(self, videos: VideoDataset, knn: Callable[..., dict[str, float]] | None = None, *,
                     training: bool = True) -> None:
        """Set up the monitors of a run; those of an evaluation (not ``training``) only measure single steps."""
        train, index = self.train, videos.index
        self.monitors = Monitors(self.model, self.precision.dtype, train, knn=knn)
        if not isinstance(self.model, CoCLR):
            return
        labels, sources = (index.labels, index.sources) if training else ((), ())
        self.monitors.mining = MiningMonitor(self.model.K, labels, sources, self.device, index.has_labels)
        if training and train.health_clips:
            self.monitors.health = HealthProbe(
                videos, train.health_clips, img_dim=self.data.img_dim, batch_size=train.batch_size,
                workers=train.workers, seed=train.seed, network=self.config.net, dim=self.model.dim,
                device=self.device, dtype=self.precision.dtype)

    def use_precision(self, iteration: int) -> torch.dtype | None:
        """Switch to a step's precision, float32 in the first ``fp32_steps``; return the encoders' autocast type."""
        if not self.train.fp32_steps:
            return self.precision.dtype
        first = iteration < self.train.fp32_steps
        device.set_tf32(self.precision.name == "tf32" and not first)
        return None if first else self.precision.dtype

    def check_kernels(self) -> None:
        for name in dict.fromkeys((*(["fp32"] if self.train.fp32_steps else []), self.precision.name)):
            device.set_tf32(name == "tf32")
            say(check_convolutions(self.model.encoders(), self.data.clip, device.Precision(name, self.device)))

    def check_steps(self, loader: DataLoader, state: TrainState) -> None:
        """Raise UserError if the run would end before CoCLR's queue is full, or UberNCE has a single class."""
        index, step = videos_of(loader).index, samples_per_step(loader)
        if self.config.model == "ubernce":
            require_labels(index.classes, "--model ubernce")
        if isinstance(self.model, CoCLR):
            missing = math.ceil(int((self.model.queue_label == -1).sum()) / step)
            left = (self.train.epochs - state.epoch) * len(loader) - state.batch
            if 0 < left <= missing:
                raise OptionError(
                    "this run would train nothing: CoCLR mines and trains once its queue is full, which takes "
                    f"{missing} more steps of {step} clips (--moco-k {self.model.K}), but {left} are left "
                    f"({len(loader)} per epoch): take more --epochs, or a --moco-k such as "
                    f"{fitting_queue(len(index.names), step)} in a new run")

    def warn_of_settings(self, loader: DataLoader) -> None:
        """Warn of a queue that is longer than the training set, and of a cascade without effect."""
        model, videos = self.model, len(videos_of(loader))
        if videos < model.K and is_main():
            warn(f"the queue of {model.K} clips (--moco-k) is longer than the training set of {videos} videos: it "
                 f"holds several clips of each, most of them old; {fitting_queue(videos, samples_per_step(loader))} "
                 "fits")
        if isinstance(model, CoCLR) and model.stage > 1 and "own" not in model.views:
            say(f"note: a cascade of {model.stage} stages ranks by the other view each time, which is plain top-k: "
                "take --stage 3 or more, or --cascade_first own")

    def start(self, trainer: Trainer) -> None:
        """Check the convolutions, wrap the model in DDP if there are several processes, and measure the initial state.

        Buffers are not synchronised: each process has its own BatchNorm statistics, and the queues are equal anyway.
        """
        self.check_kernels()
        if self.dist.world_size > 1:
            devices = [self.device.index] if self.device.type == "cuda" else None
            names = signature(DistributedDataParallel).parameters  # the former since PyTorch 2.9
            buffers = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
            own: dict[str, Any] = {buffers: False}
            self.network = DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True, **own)
        if trainer.state.iteration == 0 and self.monitors.health is not None:
            trainer.log("health", -1, self.monitors.health.before(self.monitors.model))

    def begin_epoch(self, epoch: int) -> None:
        self.optimizer.set_lr(self.optimizer.base_lr * self.train.rates.factor(epoch))
        self.model.train()
        self.generator.manual_seed((self.train.seed << 20) + epoch)

    def health(self, iteration: int) -> str:
        """Return "filling" until the queue is full, then "collapsed" or "ok" as last measured."""
        written = iteration * self.train.batch_size * self.dist.world_size >= self.model.K or self.origin
        full = self.model.queue_is_full if isinstance(self.model, CoCLR) else written
        return "filling" if not full else "collapsed" if self.monitors.collapsed else "ok"

    def end_epoch(self, epoch: int, trainer: Trainer) -> None:
        self.monitors.end_epoch(epoch, trainer)

    def score(self, trainer: Trainer) -> float:
        """Return the training top-1; 0 until an epoch began with a full queue, as random entries are easy negatives."""
        filled = self.model.K / samples_per_step(trainer.loader)
        return super().score(trainer) if trainer.state.iteration - len(trainer.loader) >= filled else 0.0

    def after_save(self, epoch: int, trainer: Trainer) -> None:
        self.monitors.after_save(epoch, trainer)

    def state_dict(self) -> dict[str, Any]:
        ring = {"label_ring": self.monitors.mining.state_dict()} if self.monitors.mining is not None else {}
        return super().state_dict() | ring

    def generators(self) -> dict[str, torch.Generator]:
        return {"shuffle": self.generator}

    def load(self, saved: Mapping[str, Any], path: str) -> None:
        self.origin = [f"{path}: {checkpoint.load_state(self.model, saved['state_dict'])}"]
        mining = self.monitors.mining
        if mining is not None and isinstance(saved.get("label_ring"), Mapping):
            mining.load_state_dict(saved["label_ring"])
        elif mining is not None:  # published checkpoints lack the labels: no recall until the queue is rewritten
            mining.ring.align(int(self.model.queue_ptr))


def run(make: type[PretrainTask], options: Mapping[str, Any], folder: Path, pretrain: Sequence[str], dist: DistInfo,
        knn: Callable[[PretrainTask], Any]) -> None:
    """Pretrain in a run folder, or evaluate the checkpoint of ``--test``.

    Args:
        folder: run folder that the options name; ``--resume`` may choose another.
        pretrain: checkpoints of ``--pretrain``, for ``load_pretrained`` of the task that ``make`` builds.
        knn: builds the monitor of ``--knn_freq``.
    """
    model, data, train = configs_of(options)
    check_sizes(model, data, train.batch_size, dist.world_size, train=not options["test"])
    if options["test"]:
        test(make(model, data, train, dist), options["test"])
        return
    folder, resumed = distributed.from_main(lambda: run_folder.choose(options["resume"], folder,
                                                                      run_folder.FOLDER_OPTIONS))
    task = make(model, data, train, dist)
    if not resumed:
        task.load_pretrained(*pretrain)
    measure = knn(task).measure if train.knn_freq else None
    with catch_signals():
        # Only the main process reads: other machines may lack the file. All processes must get this far.
        saved = distributed.from_main(lambda: checkpoint.load(resumed, checkpoint.RESUME)) if resumed else None
        options = compatibility.with_schedule(options, saved)
        train = task.train = replace(train, schedule=options["schedule"])
        loader = task.make_loader("train")
        task.set_monitors(videos_of(loader), measure)
        made_with = {"processes": distributed.world_size(), "precision": task.precision.name,
                     "training set": getattr(loader.dataset, "fingerprint", "unknown")}
        state = TrainState(epoch=train.start_epoch)
        if saved is not None:
            if not train.accept_changes:
                compatibility.refuse_changes(saved, options, made_with, resumed)
            task.load(saved, resumed)
            compatibility.restore_optimizer(task.optimizer, saved, train.rates, train.reset_lr)
            state = compatibility.state_of(saved, loader)
            del saved  # hundreds of megabytes
        task.check_steps(loader, state)
        checkpoints = run_folder.CheckpointManager(folder / "model", "k400" in task.data.dataset, resumed)
        with run_folder.open_run(folder, resumed, state, options, made_with) as logger:
            launch.started()
            announce(task, loader, folder, state, resumed)
            task.warn_of_settings(loader)
            trainer = Trainer(loader, task.optimizer, task.device, train, state=state, checkpoints=checkpoints,
                              logger=logger,
                              info={"options": dict(options), "made_with": made_with, "code": code_version(),
                                    "classes": list(videos_of(loader).index.classes)})
            task.start(trainer)
            trainer.fit(task)
            last = run_folder.last_checkpoint(folder, state.epoch)
            say(f"last checkpoint: {last} (the one to use: model_best files have the best top-1, not the best "
                "features)")
            say(f"next: python eval/main_classifier.py --dataset {task.data.single_stream(task.config.reverse)} --test "
                f"{last} --retrieval")
            distributed.barrier()  # the main process may still be writing


def test(task: PretrainTask, path: str) -> None:
    """Evaluate a checkpoint's pretext metrics on the validation split; log beside it if its folder is writable."""
    saved = checkpoint.load(path)
    task.check(saved, path)
    loader = task.make_loader("val")
    task.set_monitors(videos_of(loader), training=False)
    task.load(saved, path)
    task.model.eval()
    log = Path(path).with_name(Path(path).name.removesuffix(".pth.tar") + "-test.log")
    with torch.no_grad(), log_file(log) if os.access(log.parent, os.W_OK) else nullcontext():
        launch.started()
        announce(task, loader, log.parent, None, path)
        task.check_kernels()
        iteration, epoch = count(), saved["epoch"] if isinstance(saved.get("epoch"), int) else 0
        evaluate(lambda batch: task.step(batch, epoch, next(iteration)), loader, title="test", epoch=epoch,
                 print_freq=task.train.print_freq, device=task.device)


def announce(task: PretrainTask, loader: DataLoader, folder: Path, state: TrainState | None, path: str) -> None:
    """Print what runs, on which data and hardware; ``state`` is None for a test, ``path`` the checkpoint, if any."""
    train, data, videos = task.train, task.data, videos_of(loader)
    start = task.origin or [f"random weights, seed {train.seed}"]
    schedule = ""
    if state is not None:
        start = [f"resumed after {state.iteration} steps", *start] if path else start
        inside = f" (after its first {state.batch} steps)" if state.batch else ""
        first = f", the first {train.fp32_steps} steps in fp32" if train.fp32_steps else ""
        schedule = (f"epochs {state.epoch}{inside} to {train.epochs - 1}, lr {task.optimizer.base_lr:g} "
                    f"({train.rates}), weight decay {train.wd:g}{first}" if state.epoch < train.epochs else
                    f"nothing is left to train: the checkpoint finished epoch {state.epoch - 1} of --epochs "
                    f"{train.epochs}")
    method = task.config.describe(data)
    say_block({
        "run": method if state is not None else f"test of {path}: {method}",
        "data": [f"{data.name}: {len(videos)} videos, {data.describe()}; {len(loader)} steps per epoch of "
                 f"{task.dist.world_size} x {loader.batch_size}", videos.index.report],
        "start": start, "training": schedule,
        "on": device.describe_machine([task.device], task.precision, train.workers, task.dist.world_size),
        "into": str(folder)})
