"""The retrieval gallery and the map of the features, from what retrieval left beside a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.video_index import video_name
from eval import protocols
from eval.retrieval import FeatureSet, load_both
from tools.pictures import evenly_spaced
from tools.report.strips import Source, Strips
from utils.errors import CheckpointError

NEAREST = 5
MOST_POINTS = 4000  # of the map


@dataclass(frozen=True)
class Retrieved:
    """Features of both parts, and the nearest training clips of each query."""

    folder: Path
    dataset: str  # in the names of the files
    made_from: dict[str, Any]  # the note that retrieval left beside the features
    query: FeatureSet  # test clips
    gallery: FeatureSet  # training clips
    sim: Tensor  # cosines of centred features, (Q, 5), best first
    index: Tensor  # rows of the gallery, (Q, 5)

    @property
    def hits(self) -> Tensor:
        """True where a neighbour is of the query's class, bool (Q, 5)."""
        return self.gallery.labels[self.index] == self.query.labels[:, None]

    @property
    def classes(self) -> dict[int, str]:
        """Class names by label, as in the videos' paths, in the order of labels."""
        named = {int(label): video_name(name).split("/")[0] for each in (self.gallery, self.query)
                 for label, name in zip(each.labels, each.names, strict=True)}
        return dict(sorted(named.items()))


def load(folder: Path, dataset: str) -> Retrieved:
    """Read features, and rank the training clips for each query.

    Raises:
        OptionError, CheckpointError: files are missing, damaged, or do not belong together.
    """
    query, gallery = load_both(folder, dataset)
    if query.features.shape[1] != gallery.features.shape[1]:
        raise CheckpointError(f"{folder}: training features {tuple(gallery.features.shape)} and test features "
                              f"{tuple(query.features.shape)} cannot be compared: make them again with --retrieval")
    sim = protocols.similarity(query.features, gallery.features)
    nearest = sim.topk(min(NEAREST, sim.shape[1]), dim=1)
    return Retrieved(folder, dataset, dict(query.made_from), query, gallery, *nearest)


def cards(found: Retrieved, most: int, frames: dict[str, Source], strips: Strips) -> list[dict[str, Any]]:
    """Return at most so many queries, evenly spaced in the list, with their nearest training clips.

    ``frames`` says where those of "test" and "train" clips come from, if they are there.

    Returns:
        {"row", "name", "class", "strip", "near": [{"name", "class", "strip", "sim", "right"}, ...]} of each query.
    """
    def clip(of: FeatureSet, row: int, part: str) -> dict[str, Any]:
        video = video_name(of.names[row])
        label, name = video.split("/")
        return {"name": name, "class": label, "strip": strips.want(frames.get(part), video)}
    return [{"row": row, **clip(found.query, row, "test"),
             "near": [{**clip(found.gallery, int(other), "train"), "sim": float(sim), "right": bool(hit)}
                      for sim, other, hit in zip(found.sim[row], found.index[row], found.hits[row], strict=True)]}
            for row in evenly_spaced(len(found.query.names), most).tolist()]


def feature_map(found: Retrieved) -> dict[str, Any]:
    """Place test clips along the two directions in which their features vary most (principal components).

    Features are centred and L2-normalised first, as retrieval compares them.

    Returns:
        "shares": of the variance along x and y. "classes". "points": {"x", "y", "class" (its number), "right", "row",
        "text" (lines to show)} of each clip.
    """
    places, shares = principal(protocols.centre_and_normalise(found.query.features))
    number = {label: place for place, label in enumerate(found.classes)}
    points = []
    for row in evenly_spaced(len(found.query.names), MOST_POINTS).tolist():
        near = video_name(found.gallery.names[int(found.index[row, 0])])
        points.append({"x": float(places[row, 0]), "y": float(places[row, 1]), "row": row,
                       "class": number[int(found.query.labels[row])], "right": bool(found.hits[row, 0]),
                       "text": [video_name(found.query.names[row]), f"nearest: {near}, {found.sim[row, 0]:.3f}"]})
    return {"shares": shares, "classes": list(found.classes.values()), "points": points}


def principal(rows: Tensor) -> tuple[np.ndarray, tuple[float, float]]:
    """Project rows on the two directions of most variance.

    Returns:
        Places (N, 2), and each direction's share of the variance.
    """
    u, s, _ = torch.linalg.svd((rows - rows.mean(dim=0)).double(), full_matrices=False)
    pad = torch.nn.functional.pad  # a single row has a single direction
    shares = pad(s.square() / s.square().sum().clamp(min=1e-12), (0, 1))
    return pad(u * s, (0, 1))[:, :2].numpy(), (float(shares[0]), float(shares[1]))
