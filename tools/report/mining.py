"""The mining gallery: what survives each stage of the cascade for some training clips (CPR, section 3.2).

Queries are clips of the run's training set, drawn and augmented as in training, and embedded by the checkpoint's
networks. They mine in the queue that the checkpoint holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.transforms.presets import PretrainTransform, to_blocks
from dataset.video_dataset import VideoDataset
from engine import checkpoint
from engine.checkpoint import load_state
from engine.config import DataConfig, ModelConfig, take
from model.cascade import stage_views
from model.pretrain import CoCLR
from tools.report.strips import Strips, sources
from utils.errors import CheckpointError

SHOWN_QUERIES = 16
SHOWN_ENTRIES = 6  # of a stage's survivors; of the last stage's, twice as many


@dataclass(frozen=True)
class Query:
    """A query and the queue entries that it mined."""

    row: int  # of the dataset
    stages: list[Tensor]  # queue entries that survived each stage, by the similarity of its view, best first
    sims: dict[str, Tensor]  # cosines to the whole queue in the "own" and the "other" view, (K,) each
    right: Tensor  # entries of the query's class, but not of its own source, (K,) bool
    allowed: Tensor  # entries that are not of the query's own source, (K,) bool

    @property
    def hits(self) -> list[int]:
        """Survivors of each stage that are right."""
        return [int(self.right[kept].sum()) for kept in self.stages]

    @property
    def recall(self) -> float:
        """Share of the mined entries that are right (positive mining recall)."""
        return self.hits[-1] / max(1, int(self.allowed[self.stages[-1]].sum()))

    @property
    def chance(self) -> float:
        """Share of the whole queue that is right."""
        return float(self.right.sum() / self.allowed.sum().clamp(min=1))


@dataclass(frozen=True)
class Mined:
    """All queries of the gallery, and the queue that they mined in."""

    config: DataConfig
    dataset: VideoDataset
    rows: Tensor  # of the dataset, that the queue's entries are of, (K,)
    views: list[str]  # that each stage ranks by, "own" or "other"
    names: dict[str, str]  # of both views, such as {"own": "RGB", "other": "flow"}
    queries: list[Query]


def mine(options: Mapping[str, Any], path: Path, count: int) -> Mined:
    """Let training clips mine, as the run's next step would.

    Args:
        options: options of the run, with the folders of its data.
        path: the checkpoint.
        count: how many clips mine.

    Raises:
        CheckpointError, DataError, ModelError: options, checkpoint or data are missing or damaged, or do not fit.
    """
    config = take(DataConfig, options)
    model = take(ModelConfig, options).build()
    if not isinstance(model, CoCLR) or model.topk == 0:
        raise CheckpointError("the run mines nothing (--topk 0)")
    dataset = config.build("train", PretrainTransform(config.img_dim))
    saved = checkpoint.load(path, require=("state_dict", "epoch"))
    load_state(model, saved["state_dict"])
    rows = _rows_of_queue(model, saved.get("label_ring") or {}, dataset)
    epoch = (saved.get("progress") or {"epoch": saved["epoch"] + 1})["epoch"]  # the next one, or the one it is in
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(config.seed))[:count]
    views = stage_views(model.stage, model.first)
    queries = [query for part in chosen.split(options["batch_size"]) if len(part) > 1  # BatchNorm needs two clips
               for query in _mine_batch(model, views, dataset, part.tolist(), rows, epoch)]
    if not queries:
        raise CheckpointError(f"{config.dataset} has too few training videos to mine")
    own, other = (config.second_view, "RGB") if options["reverse"] else ("RGB", config.second_view)
    return Mined(config, dataset, rows, views, {"own": own, "other": other}, queries)


def _rows_of_queue(model: CoCLR, ring: Mapping[str, Any], dataset: VideoDataset) -> Tensor:
    """Return the row of the dataset that each queue entry is of, (K,)."""
    rows = ring.get("rows")
    if rows is None or not model.queue_is_full:
        raise CheckpointError("the checkpoint's queue is not full, or it does not say which videos the queue is of")
    sources = torch.as_tensor(dataset.index.sources)
    if int(rows.max()) >= len(sources) or not torch.equal(sources[rows], model.queue_vname):
        raise CheckpointError("the checkpoint's queue is of other videos than the training list: check --split_root "
                              "and --data_root")
    return rows


@torch.no_grad()
def _mine_batch(model: CoCLR, views: list[str], dataset: VideoDataset, batch_rows: list[int], rows: Tensor, epoch: int
                ) -> Iterator[Query]:
    labels = torch.as_tensor(dataset.index.labels)
    model.train()  # BatchNorm takes the statistics of the batch, as in the run; nothing of it is kept
    batch = torch.utils.data.default_collate([dataset[epoch, row] for row in batch_rows])
    blocks = to_blocks(batch, "cpu")  # (B, 2 clips, 2 streams, 3, T, H, W)
    _, _, mining = model(blocks[:, 0], blocks[:, 1], batch["source"], return_mining=True)
    own = mining.own * (model.T if model.anchor == "query" else 1.0)  # cosines
    for i, row in enumerate(batch_rows):
        sims = {"own": own[i], "other": mining.other[i]}
        stages = [kept[i][sims[view][kept[i]].argsort(descending=True)]
                  for view, kept in zip(views, mining.stages, strict=True)]
        allowed = ~mining.excluded[i]
        yield Query(row, stages, sims, allowed & (labels[rows] == labels[row]), allowed)


def cards(mined: Mined, strips: Strips) -> list[dict[str, Any]]:
    """Return some queries, from the best to the worst, and what survived each stage.

    Returns:
        {"name", "class", "strips" (of both streams), "recall", "chance", "stages": [{"title", "kept", "before",
        "hits", "entries": [{"name", "class", "strips", "own", "other", "right" (None: of the own source), "mined"},
        ...]}, ...]} of each query.
    """
    index, config = mined.dataset.index, mined.config
    streams = sources(config.dataset, config.second_view, config.data_root, "train")

    def clip(row: int) -> dict[str, Any]:
        label, name = index.names[row].split("/")
        return {"name": name, "class": label,
                "strips": [strips.want(streams.get(stream), index.names[row]) for stream in ("rgb", "flow")]}

    def entry(query: Query, i: int) -> dict[str, Any]:
        return {**clip(int(mined.rows[i])), **{view: float(sims[i]) for view, sims in query.sims.items()},
                "right": bool(query.right[i]) if query.allowed[i] else None, "mined": i in query.stages[-1]}

    found = []
    ranked = sorted(mined.queries, key=lambda query: (-query.recall, -sum(query.hits), query.row))
    for i in np.linspace(0, len(ranked) - 1, min(SHOWN_QUERIES, len(ranked))).round().astype(int):
        query, stages, before = ranked[i], [], len(mined.rows)
        for number, (view, kept, hits) in enumerate(zip(mined.views, query.stages, query.hits, strict=True), start=1):
            shown = kept[:SHOWN_ENTRIES * (2 if number == len(mined.views) else 1)]
            stages.append({"title": f"Stage {number}: {view} view ({mined.names[view]})", "kept": len(kept),
                           "before": before, "hits": hits, "entries": [entry(query, k) for k in shown.tolist()]})
            before = len(kept)
        found.append({**clip(query.row), "recall": query.recall, "chance": query.chance, "stages": stages})
    return found
