"""The retrieval gallery: test clips and their nearest training clips, from the features that retrieval left."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.errors import DataError
from dataset.split_files import video_name
from eval import feature_files
from eval.feature_files import FeatureSet
from eval.protocols import centre_and_normalise
from eval.report import read_json
from report import strips
from report.run_files import FEATURE, RunFiles
from utils.errors import CheckpointError, OptionError

NEAREST = 5
AT_ONCE = 1024  # queries whose similarities to the whole gallery are held


@dataclass(frozen=True)
class Retrieved:
    """Features of both sets, and the nearest training clips of every query.

    folder, dataset: of the files. made_from: their note. sim, index: (Q, 5) cosines of centred features and rows of
    the gallery, best first. rows: the queries that the page shows.
    """

    folder: Path
    dataset: str
    made_from: dict[str, Any]
    query: FeatureSet
    gallery: FeatureSet
    sim: Tensor
    index: Tensor
    rows: list[int]

    @property
    def hits(self) -> Tensor:
        """Whether each of the nearest is of the query's class, bool (Q, 5)."""
        return self.gallery.labels[self.index] == self.query.labels[:, None]


def find(run: RunFiles, dataset: str | None) -> list[tuple[Path, str]]:
    """Folders and dataset names of the features below the folder that was asked for, the newest first."""
    found = [(path.parent, path.name.removesuffix(FEATURE)) for path in run.files(f"*{FEATURE}")]
    chosen = [each for each in found if dataset in (None, each[1])]
    if found and not chosen:
        raise OptionError(f"there are features of {', '.join(sorted({name for _, name in found}))} in {run.asked}, but "
                          f"none of {dataset}: check --dataset")
    return chosen


def load(folder: Path, dataset: str, most: int) -> Retrieved:
    """Read features and rank. most: queries to show, which are taken at equal distances in the list.

    Raises:
        OptionError, CheckpointError: files are missing, damaged, or do not belong together.
    """
    query, gallery = (feature_files.load(folder, dataset, split) for split in ("test", "train"))
    if query.features.shape[1] != gallery.features.shape[1]:
        raise CheckpointError(f"{folder}: training features {tuple(gallery.features.shape)} and test features "
                              f"{tuple(query.features.shape)} cannot be compared: make them again with --retrieval")
    note = folder / f"{dataset}_test_made_from.json"
    made_from = read_json(note) if note.is_file() else {}
    rows = sorted(set(np.linspace(0, len(query.names) - 1, min(most, len(query.names))).round().astype(int).tolist()))
    return Retrieved(folder, dataset, made_from if isinstance(made_from, dict) else {}, query, gallery,
                     *nearest(query.features, gallery.features), rows)


def nearest(query: Tensor, gallery: Tensor, count: int = NEAREST) -> tuple[Tensor, Tensor]:
    """Similarities and rows of the nearest gallery entries, best first: (Q, min(count, G)) each.

    The similarity is that of retrieval, see :func:`eval.protocols.similarity`.
    """
    query, gallery = centre_and_normalise(query), centre_and_normalise(gallery)
    blocks = [(rows @ gallery.T).topk(min(count, len(gallery)), dim=1) for rows in query.split(AT_ONCE)]
    return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])


def frames(found: Retrieved, data_root: Path, notes: list[str]) -> dict[str, strips.Source | None]:
    """Where the frames of the "test" and the "train" clips come from, of the stream that the features are of; None
    where there are none, which is told in ``notes``."""
    second_view = found.made_from.get("second_view", "flow") if found.dataset.endswith("-f") else "flow"
    result: dict[str, strips.Source | None] = {}
    for part in ("test", "train"):
        try:
            streams = strips.sources(found.dataset, str(second_view), data_root, train=part == "train")
            result[part] = next(iter(streams.values()))
        except DataError as error:
            result[part] = None
            if str(error) not in notes:
                notes.append(str(error))
    return result


def cards(found: Retrieved, source: dict[str, strips.Source | None], store: strips.Strips) -> dict[str, Any]:
    """What the page's script shows: classes, training clips that are a neighbour of some query, and queries.

    clips: [name, class, strip]. queries: {"clip": [name, class, strip], "near": [[clip, similarity, hit], ...]}.
    """
    names = class_names(found.query, found.gallery)
    number = {label: place for place, label in enumerate(names)}

    def clip(of: FeatureSet, row: int, part: str) -> list:
        name = video_name(of.names[row])
        return [name.split("/")[-1], number[int(of.labels[row])], store.want(source[part], name, large=part == "test")]
    queries = [{"clip": clip(found.query, row, "test")} for row in found.rows]  # their strips come first
    place: dict[int, int] = {}
    for query, row in zip(queries, found.rows, strict=True):
        query["near"] = [[place.setdefault(int(other), len(place)), round(float(sim), 3), int(hit)]
                         for sim, other, hit in zip(found.sim[row], found.index[row], found.hits[row], strict=True)]
    clips = [clip(found.gallery, row, "train") for row in place]
    return {"classes": list(names.values()), "clips": clips, "queries": queries}


def class_names(*sets: FeatureSet) -> dict[int, str]:
    """Class names by label, as the videos' paths have them, in the order of labels."""
    named = {int(label): video_name(name).split("/")[0] for each in sets
             for label, name in zip(each.labels, each.names, strict=True)}
    return dict(sorted(named.items()))
