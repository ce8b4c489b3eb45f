"""A co-training's run folder as a real run leaves it, on miniature data and with a small network, and evaluations of it
made of features that are drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import miniature
import noise
import pytest
import torch

import main_coclr
from eval.retrieval import FeatureSet, save_features
from model import momentum
from utils.files import write_json

OPTIONS = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "--moco-k", "8", "--moco-dim", "8", "-j", "0",
           "--topk", "2", "--health_clips", "4", "--epochs", "2"]
CASCADE = ("--cascade", "--stage", "3", "--ratio", "0.7")


@dataclass(frozen=True)
class MadeRun:
    """folder: of the run. features: below it. data: what it trained on."""

    folder: Path
    features: Path
    data: miniature.Miniature


def make(root: Path, mining: Sequence[str] = CASCADE) -> MadeRun:
    """Train for two epochs in ``root``, and leave features beside the checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(momentum, "select_backbone", noise.small_backbone)
        data = miniature.make(root, "mine", classes=3, frames=8, size=(32, 40))
        roots = ["--data_root", "data", "--split_root", "splits"]
        main_coclr.work(main_coclr.parse([*OPTIONS, "--dataset", "mine-2stream-2clip", *roots, *mining]))
    [folder] = root.glob("ckpt/log-pretrain/*")
    add_features(folder / "model/feature", "mine", data.test, data.train)
    return MadeRun(folder, folder / "model/feature", data)


def add_features(folder: Path, dataset: str, test: list[str], train: list[str], seed: int = 0, width: int = 6) -> None:
    """Features of two lists of csv paths, those of a class around a place of their own, and their recall."""
    generator = torch.Generator().manual_seed(seed)
    classes = sorted({path.rstrip("/").split("/")[-2] for path in [*test, *train]})
    centres = torch.randn(len(classes), width, generator=generator)
    for split, paths in (("test", test), ("train", train)):
        labels = torch.tensor([classes.index(path.rstrip("/").split("/")[-2]) for path in paths])
        features = centres[labels] + torch.randn(len(paths), width, generator=generator)
        save_features(folder, dataset, split, FeatureSet(features, labels, paths), {"net": "s3d"})
    write_json(folder / f"{dataset}_recall.json", {"1": 50.0, "5": 75.0})


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory) -> MadeRun:
    """A run for the tests of a module."""
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def small_network(monkeypatch) -> None:
    """The network that the run was made with, in place of the real one."""
    monkeypatch.setattr(momentum, "select_backbone", noise.small_backbone)
