"""Features of a split on disk: `{dataset}_{train,test}_{feature,label}.pth.tar` and `..._vname.json` in one folder.

Features are raw pooled backbone outputs, neither centred nor normalised. A note beside them, `..._made_from.json`,
says which checkpoint and options they were made with; it is written last, so a set without one is incomplete (or came
from elsewhere, which the linear probe and the two-stream fusion accept).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dataset.split_files import video_name
from eval.report import read_json, write_json
from utils import checkpoint
from utils.console import inline, one_line, say
from utils.errors import CheckpointError, OptionError


@dataclass(frozen=True)
class FeatureSet:
    """Features (N, F) float32, finite; labels (N,) int64; and the csv paths of N videos, in the same order."""

    features: Tensor
    labels: Tensor
    names: list[str]

    def rows(self, keep: list[int]) -> "FeatureSet":
        """The set's rows `keep`, in that order."""
        return FeatureSet(self.features[keep], self.labels[keep], [self.names[i] for i in keep])


def _file(folder: Path, dataset: str, split: str, kind: str) -> Path:
    return folder / f"{dataset}_{split}_{kind}"


def save(folder: Path, dataset: str, split: str, content: FeatureSet, made_from: dict) -> None:
    """Write a split's files ("train" or "test"), the note on their origin last."""
    folder.mkdir(parents=True, exist_ok=True)
    note = _file(folder, dataset, split, "made_from.json")
    note.unlink(missing_ok=True)
    checkpoint.save(_file(folder, dataset, split, "feature.pth.tar"), content.features)
    checkpoint.save(_file(folder, dataset, split, "label.pth.tar"), content.labels)
    write_json(_file(folder, dataset, split, "vname.json"), content.names)
    write_json(note, made_from)


def load(folder: Path, dataset: str, split: str) -> FeatureSet:
    """Read a split's files; OptionError where there are none, CheckpointError where they are damaged or disagree."""
    path = _file(folder, dataset, split, "feature.pth.tar")
    if not path.is_file():
        raise OptionError(f"no {path.name} in {folder}: make it with main_classifier.py --test CHECKPOINT --retrieval")
    features = _load_tensor(path).float()
    labels = _load_tensor(_file(folder, dataset, split, "label.pth.tar"))
    names = read_json(_file(folder, dataset, split, "vname.json"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{_file(folder, dataset, split, 'vname.json')} is no list of names: make it again with "
                              "--retrieval")
    if features.dim() != 2 or features.numel() == 0 or labels.dim() != 1 or not len(features) == len(labels) == len(
            names):
        raise CheckpointError(f"{path}: {tuple(features.shape)} features, {tuple(labels.shape)} labels and "
                              f"{len(names)} names do not belong together: make them again with --retrieval")
    if not features.square().sum(dim=1).isfinite().all():
        raise CheckpointError(f"{path} has features that are not finite, or too large to compare: make them again with "
                              "--retrieval and a checkpoint of a sound training")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise CheckpointError(f"{_file(folder, dataset, split, 'label.pth.tar')} has labels that are no whole numbers: "
                              "make it again with --retrieval")
    refuse_twice(names, _file(folder, dataset, split, "vname.json"))
    return FeatureSet(features, labels.long(), names)


def refuse_twice(names: Iterable[str], path: Path) -> None:
    """CheckpointError where a file has rows of one "Class/video" twice: either could be meant."""
    seen = set()
    for name in map(video_name, names):
        if name in seen:
            raise CheckpointError(f"{path} has the video {one_line(name)} twice: leave one of its rows, or make it "
                                  "again")
        seen.add(name)


def load_if_made_from(folder: Path, dataset: str, split: str, made_from: dict) -> FeatureSet | None:
    """The split's files if their note says exactly `made_from`; None where they must be made (again)."""
    note = _file(folder, dataset, split, "made_from.json")
    try:
        if note.is_file() and read_json(note) == made_from:
            return load(folder, dataset, split)
    except (CheckpointError, OptionError) as error:
        say(inline(f"features are made again: {error}"))
    return None


def _load_tensor(path: Path) -> Tensor:
    content = checkpoint.read(path)
    if not isinstance(content, Tensor | list):
        raise CheckpointError(f"{path} does not hold a tensor: make it again with --retrieval")
    try:
        found = torch.as_tensor(content)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path} holds a list that is none of numbers: make it again with --retrieval") from error
    if found.is_complex():
        raise CheckpointError(f"{path} holds complex numbers: make it again with --retrieval")
    return found
