"""The retrieval gallery, the map of the features, and film strips of the clips that a page shows."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from dataset.residual import ResidualReader
from dataset.video_index import video_name
from eval import protocols
from eval.retrieval import FeatureSet, load_features
from tools import pictures
from utils.console import one_line
from utils.errors import DataError
from utils.files import read_json

NEAREST = 5
MOST_POINTS = 4000  # of the map
FRAMES, HIGHEST, LOWEST, QUALITY = 4, 96, 36, 60  # of a film strip: frames, height in pixels, JPEG quality
STRIP_PIXELS = 2.7e7  # of all strips of a page: about 8 MB of base64


@dataclass(frozen=True)
class Source:
    """A stream of a part of a dataset."""

    name: str  # "train rgb" or the like
    kind: str  # "rgb", "flow" or "residual"
    reader: LmdbReader | ResidualReader


def sources(dataset: str, second_view: str, data_root: str, part: str) -> dict[str, Source]:
    """Return the streams of a part, "train" or "test", by name, "rgb" and "flow", as far as their LMDBs are there."""
    spec = replace(catalog.parse(dataset), second_view=second_view)
    readers = zip(spec.streams, spec.readers(Path(data_root), train=part == "train"), strict=True)
    return {stream: Source(f"{part} {stream}", second_view if stream == "flow" else "rgb", reader)
            for stream, reader in readers if Path(reader.path).exists()}


@dataclass
class Strips:
    """Film strips of a page, each stored once however often it is shown."""

    images: dict[str, str] = field(default_factory=dict)  # as data URIs by id, once made
    failed: Counter[str] = field(default_factory=Counter)  # how many could not be read, by reason
    _wanted: dict[tuple[str, str], tuple[str, Source]] = field(default_factory=dict)

    def want(self, source: Source | None, video: str) -> str:
        """Return the id of the strip of "Class/video", "" without a source."""
        if source is None:
            return ""
        return self._wanted.setdefault((source.name, video), (f"s{len(self._wanted)}", source))[0]

    def make(self) -> None:
        """Make all strips, the smaller the more there are."""
        pixels = STRIP_PIXELS / FRAMES / max(1, len(self._wanted))  # of a frame, 4:3
        height = round(min(HIGHEST, max(LOWEST, math.sqrt(pixels * 3 / 4))))
        for (_, video), (identity, source) in self._wanted.items():
            try:
                count = source.reader.num_frames(video)
                frames = source.reader.frames(video, pictures.evenly_spaced(count, FRAMES))
            except (DataError, OSError) as error:
                self.failed[one_line(str(error).replace(video, "..."))] += 1
                continue
            if source.kind == "flow":
                frames = pictures.flow_to_colour(pictures.flow_from_frames(frames))
            strip = pictures.film_strip(frames, min(height, frames.shape[1]))
            self.images[identity] = pictures.data_uri(strip, QUALITY)


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
    query, gallery = (load_features(folder, dataset, split) for split in ("test", "train"))
    note = folder / f"{dataset}_test_made_from.json"
    sim = protocols.similarity(query.features, gallery.features)
    nearest = sim.topk(min(NEAREST, sim.shape[1]), dim=1)
    return Retrieved(folder, dataset, read_json(note) if note.is_file() else {}, query, gallery, *nearest)


def retrieval_cards(found: Retrieved, most: int, frames: dict[str, Source], strips: Strips) -> list[dict[str, Any]]:
    """Return at most so many queries, evenly spaced in the list, with their nearest training clips.

    Args:
        found: what was retrieved.
        most: number of queries.
        frames: sources of "test" and "train" clips, if they are there.
        strips: of the page.

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
            for row in pictures.evenly_spaced(len(found.query.names), most).tolist()]


def feature_map(found: Retrieved) -> dict[str, Any]:
    """Place test clips along the two principal components of their features, centred and L2-normalised as compared.

    Returns:
        "shares": of the variance along x and y. "classes". "points": {"x", "y", "class" (its number), "right", "row",
        "text" (lines to show)} of each clip.
    """
    places, shares = principal(protocols.centre_and_normalise(found.query.features))
    number = {label: place for place, label in enumerate(found.classes)}
    points = []
    for row in pictures.evenly_spaced(len(found.query.names), MOST_POINTS).tolist():
        near = video_name(found.gallery.names[int(found.index[row, 0])])
        points.append({"x": float(places[row, 0]), "y": float(places[row, 1]), "row": row,
                       "class": number[int(found.query.labels[row])], "right": bool(found.hits[row, 0]),
                       "text": [video_name(found.query.names[row]), f"nearest: {near}, {found.sim[row, 0]:.3f}"]})
    return {"shares": shares, "classes": list(found.classes.values()), "points": points}


def principal(rows: Tensor) -> tuple[np.ndarray, list[float]]:
    """Project rows on their two principal components: places (N, 2), and each component's share of the variance."""
    u, s, _ = torch.linalg.svd((rows - rows.mean(dim=0)).double(), full_matrices=False)
    pad = torch.nn.functional.pad  # a single row has a single direction
    shares = pad(s.square() / s.square().sum().clamp(min=1e-12), (0, 1))
    return pad(u * s, (0, 1))[:, :2].numpy(), shares[:2].tolist()
