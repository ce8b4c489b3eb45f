"""Galleries of a run's page, with their film strips: nearest neighbours, a map of the features, and mined positives."""

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import torch
from torch import Tensor

from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from dataset.residual import ResidualReader
from dataset.transforms.presets import PretrainTransform, to_blocks
from dataset.video_dataset import VideoDataset
from dataset.video_index import video_name
from engine import checkpoint
from engine.config import DataConfig, ModelConfig, take
from eval import protocols
from eval.retrieval import FeatureSet, load_both
from model.pretrain import CoCLR, Mining
from process_data.src.video_io import find_videos
from tools.pictures import data_uri, evenly_spaced, flow_legend, strip_uri
from utils.console import one_line
from utils.errors import CheckpointError, DataError

NEAREST = 5
MAX_POINTS = 4000  # on the map
FRAMES, HEIGHT, QUALITY = 4, 64, 60  # of a film strip: frames, pixels, JPEG quality
SHOWN = 6  # survivors shown per stage; twice as many for the last
VIEWS = {"own": "own view", "other": "other view", "both": "both views"}  # that a stage ranks by
Source = tuple[str, LmdbReader | ResidualReader]  # "rgb", "flow" or "residual", and where its frames are
FROZEN = "frozen_own_view"  # of a checkpoint, see main_coclr.py


def sources(dataset: str, second_view: str, data_root: str, part: str) -> dict[str, Source]:
    """Return the streams ("rgb", "flow") of a part ("train" or "test") whose LMDBs exist."""
    spec = catalog.parse(dataset, second_view)
    readers = zip(spec.streams, spec.readers(Path(data_root), train=part == "train"), strict=True)
    return {stream: (second_view if stream == "flow" else "rgb", reader)
            for stream, reader in readers if Path(reader.path).exists()}


@dataclass
class Strips:
    """A page's film strips, each stored once however often it is shown, and the videos behind them."""

    files: Mapping[str, str] = field(default_factory=dict)  # relative URLs of videos, by "Class/video"
    images: dict[str, str] = field(default_factory=dict)  # data URIs by id
    links: dict[str, str] = field(default_factory=dict)  # of the videos, by id
    failed: Counter[str] = field(default_factory=Counter)  # how many could not be read, by reason
    _ids: dict[tuple[str, str, str], str] = field(default_factory=dict)  # by view, LMDB and video

    def add(self, source: Source | None, video: str) -> str:
        """Draw a strip of "Class/video", unless it is there, and return its id; "" without a source."""
        if source is None:
            return ""
        kind, reader = source
        key = kind, str(reader.path), video
        if key in self._ids:
            return self._ids[key]
        identity = self._ids[key] = f"s{len(self._ids)}"
        if video in self.files:
            self.links[identity] = self.files[video]
        try:
            frames = reader.frames(video, evenly_spaced(reader.num_frames(video), FRAMES))
        except (DataError, OSError) as error:
            self.failed[one_line(str(error).replace(video, "..."))] += 1
            return identity
        if kind == "flow" and "wheel" not in self.images:
            self.images["wheel"] = data_uri(flow_legend())
        self.images[identity] = strip_uri(kind, frames, HEIGHT, QUALITY)
        return identity

    def clip(self, path: str, *streams: Source | None) -> dict[str, Any]:
        """Return names and film strips of a clip for the page, from its path in a csv."""
        video = video_name(path)
        label, name = video.split("/")
        file = PurePosixPath(unquote(self.files[video])).name if video in self.files else name
        return {"name": name, "class": label, "file": file, "strips": [self.add(source, video) for source in streams]}


def video_links(folder: str | None, page: Path) -> dict[str, str]:
    """Return the URLs, relative to a page, of the videos of a folder by "Class/video"; none if it is not there.

    Those in folders have two names, as prepare.py names them with labels and without.
    """
    found = dict[str, Path]()
    for labels in ("none", "folders"):
        with suppress(DataError):
            found |= find_videos(Path(folder), labels, quiet=True) if folder else {}
    return {name: quote(os.fsencode(os.path.relpath(path, page.resolve().parent))) for name, path in found.items()}


@dataclass(frozen=True)
class Retrieved:
    """Features of the test and training clips, and the nearest training clips of each query."""

    folder: Path
    dataset: str  # in the names of the files
    query: FeatureSet  # test clips
    gallery: FeatureSet  # training clips
    sim: Tensor  # cosines of centred features, (Q, 5), best first
    index: Tensor  # rows of the gallery, (Q, 5)

    @property
    def hits(self) -> Tensor:
        """True where a neighbour has the query's class, bool (Q, 5)."""
        return self.gallery.labels[self.index] == self.query.labels[:, None]

    @property
    def has_labels(self) -> bool:
        return len(torch.cat([self.query.labels, self.gallery.labels]).unique()) > 1


def load(folder: Path, dataset: str) -> Retrieved:
    query, gallery = load_both(folder, dataset)
    sim = protocols.similarity(query.features, gallery.features)
    return Retrieved(folder, dataset, query, gallery, *sim.topk(min(NEAREST, sim.shape[1]), dim=1))


def retrieval_cards(found: Retrieved, most: int, frames: dict[str, Source], strips: Strips) -> list[dict[str, Any]]:
    """Return at most ``most`` queries with their nearest clips; ``frames``: the sources of "test" and "train" clips."""
    cards = []
    for row in evenly_spaced(len(found.query.names), most).tolist():
        near = [{**strips.clip(found.gallery.names[other], frames.get("train")), "sim": sim, "right": right}
                for sim, other, right in zip(*(each[row].tolist() for each in (found.sim, found.index, found.hits)),
                                             strict=True)]
        cards.append({"row": row, **strips.clip(found.query.names[row], frames.get("test")), "near": near})
    return cards


def feature_map(found: Retrieved, links: Mapping[str, str]) -> dict[str, Any]:
    """Project all clips on the two principal components of their features, centred and L2-normalised as in retrieval.

    Test clips come first, and have the "row" of their card; the groups are classes, or without labels the two parts.
    """
    places, shares = principal(torch.cat([protocols.centre_and_normalise(part.features)
                                          for part in (found.query, found.gallery)]))
    names = [video_name(name) for part in (found.query, found.gallery) for name in part.names]
    tests, points = len(found.query.names), []
    for row in evenly_spaced(len(names), MAX_POINTS).tolist():
        point: dict[str, Any] = {"x": float(places[row, 0]), "y": float(places[row, 1]), "row": None, "right": True,
                                 "group": "training clips", "text": [names[row]], "link": links.get(names[row], "")}
        if row < tests:
            nearest = f"nearest: {names[tests + int(found.index[row, 0])]}, {found.sim[row, 0]:.3f}"
            point |= {"row": row, "group": "test clips", "text": [names[row], nearest]}
        if found.has_labels:
            point |= {"group": names[row].split("/")[0], "right": row >= tests or bool(found.hits[row, 0])}
        points.append(point)
    groups = sorted({point["group"] for point in points})
    return {"shares": shares, "groups": groups, "labels": found.has_labels, "points": points}


def principal(rows: Tensor) -> tuple[np.ndarray, list[float]]:
    """Project rows onto their two principal components: coordinates (N, 2), and each one's share of variance."""
    u, s, _ = torch.linalg.svd((rows - rows.mean(dim=0)).double(), full_matrices=False)
    shares = s.square() / s.square().sum().clamp(min=1e-12)
    return (u * s)[:, :2].numpy(), shares[:2].tolist()


def mining_gallery(options: Mapping[str, Any], path: Path, count: int, strips: Strips) -> dict[str, Any]:
    """Mine positives for ``count`` training clips in a checkpoint's queue, as the next step would (CPR, section 3.2).

    Returns "size" of the queue, "names" of the views, whether there are "labels", and "cards" of queries, best first.
    """
    config = take(DataConfig, options)
    dataset = config.build("train", PretrainTransform(config.img_dim))
    model, rows, epoch = load_miner(take(ModelConfig, options), path, dataset)
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(config.seed))[:count]
    streams = sources(config.dataset, config.second_view, config.data_root, "train")
    own, other = (config.second_view, "RGB") if options["reverse"] else ("RGB", config.second_view)
    names = {"own": own, "other": other, "both": f"{own} + {other}"}
    labels = torch.as_tensor(dataset.index.labels)

    def clip(row: int) -> dict[str, Any]:
        return strips.clip(dataset.index.names[row], streams.get("rgb"), streams.get("flow"))

    def card(row: int, mining: Mining, i: int) -> dict[str, Any]:
        """Return the card of query ``i`` of a batch, a training clip, with the survivors of each stage, best first."""
        sims = {"own": mining.own[i] * model.own_temperature, "other": mining.other[i]}  # cosines, (K,)
        allowed = ~mining.excluded[i]  # entries that are not of the query's own source, (K,)
        right = allowed & (labels[rows] == labels[row])
        mined, stages, before = mining.stages[-1][i], [], len(rows)
        for number, (view, survivors) in enumerate(zip(model.views, mining.stages, strict=True), start=1):
            kept, most = survivors[i], SHOWN * (2 if number == len(model.views) else 1)
            if view in sims:  # what both views rank is sorted
                kept = kept[sims[view][kept].argsort(descending=True)]
            entries = [{**clip(int(rows[k])), **{name: float(cosines[k]) for name, cosines in sims.items()},
                        "right": bool(right[k]) if allowed[k] else None, "mined": k in mined}
                       for k in kept[:most].tolist()]
            stages.append({"title": f"Stage {number}: {VIEWS[view]} ({names[view]})", "kept": len(kept),
                           "before": before, "hits": int(right[kept].sum()), "entries": entries})
            before = len(kept)
        return {**clip(row), "recall": float(right[mined].sum() / allowed[mined].sum().clamp(min=1)),
                "chance": float(right.sum() / allowed.sum().clamp(min=1)), "stages": stages}

    cards = []
    for part in chosen.split(options["batch_size"]):
        if len(part) > 1:  # BatchNorm needs two clips
            batch = torch.utils.data.default_collate([dataset[epoch, row] for row in part.tolist()])
            blocks = to_blocks(batch, "cpu")  # (B, 2 clips, 2 streams, 3, T, H, W)
            with torch.no_grad():
                _, _, mining = model(blocks[:, 0], blocks[:, 1], batch["source"], return_mining=True)
            cards += [card(row, mining, i) for i, row in enumerate(part.tolist())]
    if not cards:
        raise CheckpointError(f"{config.dataset} has too few training videos to mine")
    return {"size": len(rows), "names": names, "labels": dataset.index.has_labels,
            "cards": sorted(cards, key=lambda card: -card["recall"])}


def load_miner(config: ModelConfig, path: Path, dataset: VideoDataset) -> tuple[CoCLR, Tensor, int]:
    """Load a checkpoint that mines in a full queue; return model, dataset row of each entry (K,), and next epoch."""
    model = config.build()
    if not isinstance(model, CoCLR) or model.topk == 0:
        raise CheckpointError("the run mines nothing (--topk 0)")
    saved = checkpoint.load(path, require=("state_dict", "epoch", *[FROZEN] * model.own_view_is_frozen))
    checkpoint.load_state(model, saved["state_dict"])
    if model.own_view_is_frozen:
        model.freeze_own_view(saved[FROZEN])
    rows = (saved.get("label_ring") or {}).get("rows")
    if rows is None or not model.queue_is_full:
        raise CheckpointError("the checkpoint's queue is not full, or does not record its videos")
    videos = torch.as_tensor(dataset.index.sources)
    if int(rows.max()) >= len(videos) or not torch.equal(videos[rows], model.queue_vname):
        raise CheckpointError("the checkpoint's queue holds videos that do not match the training list: check "
                              "--split_root and --data_root")
    model.train()  # BatchNorm uses batch statistics, as in the run; the model is discarded afterwards
    return model, rows, (saved.get("progress") or {"epoch": saved["epoch"] + 1})["epoch"]
