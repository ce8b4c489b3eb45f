"""The pretraining scripts on clips of noise and with a small network: ``python tests/noise.py main_coclr OPTIONS``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

if __name__ != "noise":  # started as a script, or by one
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbone.select_backbone import select_backbone
from dataset import catalog
from model import classifier, momentum
from model.pretrain import InfoNCE
from utils import launch

SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2", "--moco-k", "8", "--moco-dim", "8", "-j", "0"]
PLAIN = {"order": torch.arange(4).expand(2, 4), "factor": torch.tensor([1.0, 1, 1, 0]).expand(2, 4),
         "jitter": torch.zeros(2, dtype=torch.bool), "sigma": torch.zeros(2)}


class Noise(Dataset):
    """Samples of the form that the datasets give: 8 videos of 4 sources and 2 classes, drawn from epoch and index."""

    def __init__(self, streams: int) -> None:
        self.streams = streams
        rows = np.arange(8)
        self.index = SimpleNamespace(labels=rows % 2, sources=rows // 2, classes=["A", "B"],
                                     names=[f"Class/v_{row}" for row in rows], report="", has_labels=True)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, item: tuple[int, int]) -> dict:
        rng = np.random.default_rng(item)
        clips = rng.integers(0, 256, (2, self.streams, 8, 32, 32, 3), dtype=np.uint8)
        params = PLAIN | {"channel": torch.full((2, self.streams, 8), -1)}
        return {"clips": torch.from_numpy(clips), "photometric": params, "label": item[1] % 2, "source": item[1] // 2,
                "index": item[1]}


def small_backbone(network: str) -> tuple[nn.Module, dict]:
    """Build a network that learns as S3D does, in a moment; other names as they are."""
    if network != "s3d":
        return select_backbone(network)
    return nn.Sequential(nn.Conv3d(3, 6, 3, stride=4), nn.BatchNorm3d(6), nn.ReLU()), {"feature_size": 6}


def build(name: str, mode: str, **settings: object) -> Noise:
    """Stand in for dataset.catalog.build."""
    return Noise(2 if "2stream" in name else 1)


def install_network(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Put the network in place of S3D."""
    for module in (momentum, classifier):
        replace(module, "select_backbone", small_backbone)


def install(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Put the network and the datasets in place of the real ones."""
    install_network(replace)
    replace(catalog, "build", build)


def pretrained_state() -> dict[str, torch.Tensor]:
    """Return the state of an InfoNCE model whose features tell clips apart; new BatchNorm statistics do not."""
    torch.manual_seed(1)
    model = InfoNCE("s3d", dim=8, K=8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 1.0
    with torch.no_grad():
        model.encoder_q(torch.randn(4, 3, 8, 32, 32) + 2 * torch.randn(4, 3, 1, 1, 1))
    return model.state_dict()


def run(script: ModuleType, options: str) -> int:
    """Run a pretraining script in this process, four steps an epoch, and return its exit code."""
    dataset = {"main_nce": "noise-2clip", "main_coclr": "noise-2stream-2clip"}[script.__name__]
    argv = [*SMALL, "--dataset", dataset, *options.split()]
    return launch.exit_code(lambda: script.work(script.parse(argv)))


def run_folder(name_prefix: str = "", prefix: str = "pretrain") -> Path:
    """Return the one run folder of that name."""
    [path] = Path(f"ckpt/log-{prefix}").glob(f"{name_prefix}*")
    return path


if __name__ in ("__main__", "__mp_main__"):  # also in processes that the script starts
    install()
if __name__ == "__main__":
    name = next(word for word in sys.argv if word in ("main_nce", "main_coclr"))  # the launcher puts its option first
    sys.argv.remove(name)
    launch.run(importlib.import_module(name).main)
