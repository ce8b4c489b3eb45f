"""Options grouped into three dataclasses: data, model, training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from dataset import catalog
from dataset.transforms.presets import Transform
from dataset.video_dataset import VideoDataset
from engine.device import check_clips
from engine.optimizer import LrSchedule
from model.momentum import MomentumContrast, check_queue, make_encoder
from model.pretrain import MINING, CoCLR, InfoNCE, UberNCE, mining_rule
from utils.errors import CheckpointError, OptionError

T = TypeVar("T")


def take(kind: type[T], options: Mapping[str, Any]) -> T:
    """Build one of the dataclasses below from options of the same names; missing ones keep their defaults."""
    names = [field.name for field in fields(kind) if field.name in options]  # type: ignore[arg-type]
    return kind(**{name: options[name] for name in names})


@dataclass(frozen=True)
class DataConfig:
    """The dataset, its folders, and its clips; see :mod:`engine.options`."""

    dataset: str
    data_root: str
    split_root: str
    second_view: str = "flow"
    seq_len: int = 32
    ds: int = 1
    img_dim: int = 128
    which_split: int = 1
    seed: int = 0

    @property
    def name(self) -> str:
        """The dataset's name in run folders and logs: with the second view, unless that is flow."""
        return self.dataset if self.second_view == "flow" else f"{self.dataset}_{self.second_view}"

    def single_stream(self, reverse: bool = False) -> str:
        """Return the one-clip dataset of the stream that a pretraining trains: "ucf101-2stream-2clip" -> "ucf101"."""
        spec = catalog.parse(self.dataset)
        return f"{spec.base}-f" if spec.streams[-1] == "flow" and (len(spec.streams) == 1 or reverse) else spec.base

    @property
    def clip(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip."""
        return self.seq_len, self.img_dim, self.img_dim

    def describe(self) -> str:
        every = f", stride {self.ds}" if self.ds > 1 else ""
        return f"clips of {self.seq_len} frames{every}, {self.img_dim} px"

    def build(self, mode: str, transform: Transform) -> VideoDataset:
        return catalog.build(self.dataset, mode, transform=transform, data_root=self.data_root,
                             split_root=self.split_root, seq_len=self.seq_len, ds=self.ds,
                             which_split=self.which_split, seed=self.seed, second_view=self.second_view)


@dataclass(frozen=True)
class ModelConfig:
    """The network and the method, see :mod:`engine.options`; only CoCLR uses the mining options."""

    model: str = "coclr"
    net: str = "s3d"
    moco_dim: int = 128
    moco_k: int = 2048
    moco_m: float = 0.999
    moco_t: float = 0.07
    topk: int = 5
    ratio: float = 0.5
    stage: int = 7
    reverse: bool = False
    cascade: bool = False
    cascade_anchor: str = "query"
    cascade_first: str = "other"
    mining: str | None = None
    own_view: str = "current"

    @property
    def rule(self) -> str:
        """How positives are mined: "topk", "cascade" or "fused"; ModelError if the options contradict each other."""
        return mining_rule(self.mining, self.cascade)

    def build(self) -> MomentumContrast:
        moco = self.net, self.moco_dim, self.moco_k, self.moco_m, self.moco_t
        if self.model == "coclr":
            return CoCLR(*moco, self.topk, self.ratio, self.stage, self.reverse, self.cascade, mining=self.mining,
                         anchor=self.cascade_anchor, first=self.cascade_first, own_view=self.own_view)
        return {"infonce": InfoNCE, "ubernce": UberNCE}[self.model](*moco)

    def describe(self, data: DataConfig) -> str:
        moco = f"D {self.moco_dim}, queue of {self.moco_k}, momentum {self.moco_m:g}, temperature {self.moco_t:g}"
        if self.model != "coclr":
            view = data.second_view if data.single_stream().endswith("-f") else "RGB"
            return f"{self.model} with {self.net} on two clips of {view}; {moco}"
        own, other = (data.second_view, "RGB") if self.reverse else ("RGB", data.second_view)
        how = (f" by a cascade of {self.stage} stages of ratio {self.ratio:g}" if self.rule == "cascade" else
               "" if self.rule == "topk" else f", by {MINING[self.rule]}")
        how += f", {own} ranked as it was at the start" if self.own_view == "frozen" else ""
        return f"coclr with {self.net}: {own} learns from the top {self.topk} positives mined in {other}{how}; {moco}"


@dataclass(frozen=True)
class TrainConfig:
    batch_size: int
    lr: float
    schedule: list[int] | None  # None: see engine.compatibility.with_schedule
    cos: bool
    wd: float
    epochs: int
    start_epoch: int
    seed: int
    save_steps: int
    print_freq: int
    workers: int
    precision: str | None
    compile: bool
    reset_lr: bool
    accept_changes: bool
    save_freq: int = 1
    fp32_steps: int = 0
    self_mask: float = 0.9
    health_clips: int = 0
    health_freq: int = 10
    knn_freq: int = 0

    @property
    def rates(self) -> LrSchedule:
        return LrSchedule(self.lr, tuple(self.schedule or ()), self.cos, self.epochs)


def configs_of(options: Mapping[str, Any]) -> tuple[ModelConfig, DataConfig, TrainConfig]:
    return take(ModelConfig, options), take(DataConfig, options), take(TrainConfig, options)


def check_inputs(options: Mapping[str, Any], clips: int, streams: int, files: Iterable[str]) -> None:
    """Raise OptionError if options contradict each other or the script, CheckpointError for a missing file."""
    dataset, start, epochs = (options[name] for name in ("dataset", "start_epoch", "epochs"))
    spec = catalog.parse(dataset, options["second_view"])
    if (spec.clips, len(spec.streams)) != (clips, streams):
        end = "-2clip" if clips == 2 else ""
        raise OptionError(f"--dataset {dataset} does not fit this script: it takes "
                          + (f"NAME{end} or NAME-f{end}" if streams == 1 else f"NAME-2stream{end}"))
    if options["num_seq"] != clips:
        raise OptionError(f"--num_seq is {options['num_seq']}, but this script always uses {clips} clip(s) per sample")
    if options["resume"] and options["test"]:
        raise OptionError("--resume and --test exclude each other: one continues training, the other evaluates")
    if not (options["resume"] or options["test"]) and start >= epochs:
        raise OptionError(f"--start_epoch {start} leaves nothing to train before --epochs {epochs}")
    for path in files:
        if path not in ("", "random") and not Path(path).is_file():
            raise CheckpointError(f"there is no checkpoint {path}: check the path ('random' stands for no checkpoint)")


def check_sizes(model: ModelConfig, data: DataConfig, batch_size: int, processes: int, train: bool = True) -> None:
    """Raise ModelError if batches do not fit the queue, OptionError if they do not fit the network; takes no memory."""
    check_queue(model.moco_k, batch_size, processes)
    with torch.device("meta"):
        encoder = make_encoder(model.net, model.moco_dim)
    check_clips(encoder.train(train), model.net, batch_size, data.seq_len, data.img_dim)
