"""Sizes of the benchmarks; `NAME=VALUE[,VALUE]` on the command line changes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch

from utils.errors import OptionError


@dataclass(frozen=True)
class Sizes:
    """Defaults are those of the published runs, as far as two CPU cores allow.

    queues, batches: of the cascade. scaling: queue lengths of the cascade's growth. stage, ratio, topk: its settings.
    height, width: of stored frames. frames: of a clip. img_dim: side of a view. samples: a call of the loader rows;
    sample_length: frames of their videos (UCF101's mean is 186); lengths: the same, for the loader's growth.
    batch: clips of a training step. queue: its queue. steps: whose losses are compared. precision: of our step where it
    is measured a second time (default: fp16 on a GPU; not on a CPU). videos, video_frames: of the
    evaluation rows; eval_batch: windows a pass. classes: of the classifier. flow_videos, flow_frames: of the flow rows.
    index: videos of the start-up row.
    """

    queues: tuple[int, ...] = (2048, 16384)
    batches: tuple[int, ...] = (16, 32)
    scaling: tuple[int, ...] = (1024, 4096, 16384, 65536, 262144)
    stage: int = 7
    ratio: float = 0.5
    topk: int = 5
    height: int = 240
    width: int = 320
    frames: int = 32
    img_dim: int = 128
    samples: int = 8
    sample_length: int = 180
    lengths: tuple[int, ...] = (64, 256, 1024, 4096)
    batch: int = 2
    queue: int = 2048
    steps: int = 20
    precision: str = ""
    videos: int = 3
    video_frames: int = 120
    eval_batch: int = 8
    classes: int = 101
    flow_videos: int = 4
    flow_frames: int = 12
    index: int = 240_000
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


TINY = ("queues=64", "batches=2", "scaling=64,128", "stage=3", "topk=2", "height=24", "width=32", "frames=8",
        "img_dim=32", "samples=2", "sample_length=18", "lengths=18,36", "batch=2", "queue=16", "steps=2", "videos=2",
        "video_frames=18", "eval_batch=2", "classes=3", "flow_videos=2", "flow_frames=3", "index=200")


def parse(settings: Sequence[str], device: torch.device) -> Sizes:
    """Sizes from `NAME=VALUE` settings; the word `tiny` stands for sizes at which every row takes a moment.

    Raises:
        OptionError: there is no such size, or its value is no number.
    """
    kinds = {each.name: each for each in fields(Sizes) if each.name != "device"}
    changed: dict = {}
    for setting in [each for word in settings for each in (TINY if word == "tiny" else [word])]:
        name, _, value = setting.partition("=")
        if name not in kinds:
            raise OptionError(f"no size {name!r}: give tiny, or NAME=VALUE with NAME one of {', '.join(kinds)}")
        try:
            default = getattr(Sizes(), name)
            changed[name] = (tuple(map(int, value.split(","))) if isinstance(default, tuple) else type(default)(value))
        except ValueError:
            raise OptionError(f"{setting}: {value!r} is not a number") from None
    return replace(Sizes(device=device), **changed)
