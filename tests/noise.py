"""The pretraining scripts on clips of noise and with a small network: ``python tests/noise.py main_coclr OPTIONS``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

if __name__ != "noise":  # started as a script, or by one
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import launch
import pretrain_script
from backbone.select_backbone import select_backbone
from model import momentum

PLAIN = {"order": torch.arange(4).expand(2, 4), "factor": torch.tensor([1.0, 1, 1, 0]).expand(2, 4),
         "jitter": torch.zeros(2, dtype=torch.bool), "sigma": torch.zeros(2)}


class Noise(Dataset):
    """Samples of the form that the datasets give: 8 videos of 4 sources and 2 classes, drawn from epoch and index."""

    def __init__(self, streams: int) -> None:
        self.streams = streams
        rows = np.arange(8)
        self.index = SimpleNamespace(labels=rows % 2, sources=rows // 2, classes=["A", "B"],
                                     names=[str(row) for row in rows])

    def __len__(self) -> int:
        return 8

    def __getitem__(self, item: tuple[int, int]) -> dict:
        rng = np.random.default_rng(item)
        clips = rng.integers(0, 256, (2, self.streams, 8, 32, 32, 3), dtype=np.uint8)
        photo = PLAIN | {"channel": torch.full((2, self.streams, 8), -1)}
        return {"clips": torch.from_numpy(clips), "photo": photo, "label": item[1] % 2, "source": item[1] // 2,
                "index": item[1]}


def small_backbone(network: str) -> tuple[nn.Module, dict]:
    """A network that learns as S3D does, in a moment; other names as they are."""
    if network != "s3d":
        return select_backbone(network)
    return nn.Sequential(nn.Conv3d(3, 6, 3, stride=4), nn.BatchNorm3d(6), nn.ReLU()), {"feature_size": 6}


def build(name: str, mode: str, **settings: object) -> Noise:
    """In place of dataset.catalog.build."""
    return Noise(2 if "2stream" in name else 1)


def install(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Put the network and the datasets in place of the real ones."""
    replace(momentum, "select_backbone", small_backbone)
    replace(pretrain_script.catalog, "build", build)


if __name__ in ("__main__", "__mp_main__"):  # also in processes that the script starts
    install()
if __name__ == "__main__":
    name = next(word for word in sys.argv if word in ("main_nce", "main_coclr"))  # the launcher puts its option first
    sys.argv.remove(name)
    launch.run(importlib.import_module(name).main)
