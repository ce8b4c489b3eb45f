"""Features of a split on disk: `{dataset}_{train,test}_{feature,label}.pth.tar` and `..._vname.json` in one folder.

Features are pooled backbone outputs, neither centred nor normalised. A note beside them, `..._made_from.json`, says
which checkpoint and options they were made with. It is written last, so a set without one is incomplete, or comes from
elsewhere, which the linear probe and the two-stream fusion accept.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine import checkpoint
from utils.console import inline, say
from utils.errors import CheckpointError, OptionError
from utils.files import read_json, write_json


@dataclass(frozen=True)
class FeatureSet:
    """Features of N videos, whose names are their csv paths."""

    features: Tensor  # (N, F) float32, finite
    labels: Tensor  # (N,) int64
    names: list[str]

    def to(self, device: torch.device) -> "FeatureSet":
        """Move the tensors to a device."""
        return FeatureSet(self.features.to(device), self.labels.to(device), self.names)

    def rows(self, keep: list[int]) -> "FeatureSet":
        """Return some rows, in the order given."""
        return FeatureSet(self.features[keep], self.labels[keep], [self.names[i] for i in keep])


def save(folder: Path, dataset: str, split: str, content: FeatureSet, made_from: dict) -> None:
    """Write the files of a split ("train" or "test"), the note on their origin last."""
    folder.mkdir(parents=True, exist_ok=True)
    note = _file(folder, dataset, split, "made_from.json")
    note.unlink(missing_ok=True)
    checkpoint.save(_file(folder, dataset, split, "feature.pth.tar"), content.features)
    checkpoint.save(_file(folder, dataset, split, "label.pth.tar"), content.labels)
    write_json(_file(folder, dataset, split, "vname.json"), content.names)
    write_json(note, made_from)


def load(folder: Path, dataset: str, split: str) -> FeatureSet:
    """Read the files of a split ("train" or "test").

    Raises:
        OptionError: there are none.
        CheckpointError: a file is damaged, they do not belong together, or features are not finite.
    """
    path = _file(folder, dataset, split, "feature.pth.tar")
    if not path.is_file():
        raise OptionError(f"no {path.name} in {folder}: make it with main_classifier.py --test CHECKPOINT --retrieval, "
                          "or check the names of dataset and folder")
    features = _load_tensor(path).float()
    labels = _load_tensor(_file(folder, dataset, split, "label.pth.tar")).long()
    names = read_json(_file(folder, dataset, split, "vname.json"))
    if features.dim() != 2 or labels.dim() != 1 or not 0 < len(features) == len(labels) == len(names):
        raise CheckpointError(f"{path}: {tuple(features.shape)} features, {tuple(labels.shape)} labels and "
                              f"{len(names)} names do not belong together: make them again with --retrieval")
    if not features.square().sum(dim=1).isfinite().all():
        raise CheckpointError(f"{path} has features that are not finite, or too large to compare: make them again with "
                              "--retrieval and a checkpoint of a sound training")
    return FeatureSet(features, labels, names)


def load_if_made_from(folder: Path, dataset: str, split: str, made_from: dict) -> FeatureSet | None:
    """Read the files of a split if their note says exactly `made_from`; else return None."""
    note = _file(folder, dataset, split, "made_from.json")
    try:
        if note.is_file() and read_json(note) == made_from:
            return load(folder, dataset, split)
    except (CheckpointError, OptionError) as error:
        say(inline(f"features are made again: {error}"))
    return None


def _file(folder: Path, dataset: str, split: str, kind: str) -> Path:
    return folder / f"{dataset}_{split}_{kind}"


def _load_tensor(path: Path) -> Tensor:
    try:
        return torch.as_tensor(checkpoint.read(path))  # other tools write lists
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold a tensor: make it again with --retrieval") from error
