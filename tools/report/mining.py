"""The mining gallery: what survives each stage of the cascade for some training clips (CPR, section 3.2).

Queries are clips of the run's training set, drawn and augmented as in training, and embedded by the checkpoint's
networks. They mine in the queue that the checkpoint holds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dataset.transforms.presets import PretrainTransform, to_blocks
from dataset.video_dataset import VideoDataset
from engine import checkpoint
from engine.config import DataConfig, ModelConfig, take
from model.cascade import stage_views
from model.pretrain import CoCLR
from tools.report.galleries import Strips, sources
from utils.errors import CheckpointError

SHOWN = 6  # of a stage's survivors; of the last stage's, twice as many


@dataclass(frozen=True)
class Query:
    """A query and the queue entries that it mined."""

    row: int  # of the dataset
    stages: list[Tensor]  # queue entries that survived each stage, by the similarity of its view, best first
    sims: dict[str, Tensor]  # cosines to the whole queue in the "own" and the "other" view, (K,) each
    right: Tensor  # entries of the query's class, but not of its own source, (K,) bool
    allowed: Tensor  # entries that are not of the query's own source, (K,) bool


def gallery(options: Mapping[str, Any], path: Path, count: int, strips: Strips) -> dict[str, Any]:
    """Let training clips mine, as the run's next step would.

    Args:
        options: options of the run, with the folders of its data.
        path: the checkpoint.
        count: how many clips mine.
        strips: of the page.

    Returns:
        "size": of the queue. "names": of the "own" and the "other" view. "recall", "chance": means over the queries.
        "cards": a dict of each query, from the best to the worst, see :func:`_card`.

    Raises:
        CheckpointError, DataError, ModelError: options, checkpoint or data are missing or damaged, or do not fit.
    """
    config, model = take(DataConfig, options), take(ModelConfig, options).build()
    if not isinstance(model, CoCLR) or model.topk == 0:
        raise CheckpointError("the run mines nothing (--topk 0)")
    dataset = config.build("train", PretrainTransform(config.img_dim))
    saved = checkpoint.load(path, require=("state_dict", "epoch"))
    checkpoint.load_state(model, saved["state_dict"])
    rows = (saved.get("label_ring") or {}).get("rows")  # of the dataset, that the queue's entries are of, (K,)
    if rows is None or not model.queue_is_full:
        raise CheckpointError("the checkpoint's queue is not full, or it does not say which videos the queue is of")
    videos = torch.as_tensor(dataset.index.sources)
    if int(rows.max()) >= len(videos) or not torch.equal(videos[rows], model.queue_vname):
        raise CheckpointError("the checkpoint's queue is of other videos than the training list: check --split_root "
                              "and --data_root")
    epoch = (saved.get("progress") or {"epoch": saved["epoch"] + 1})["epoch"]  # the next one, or the one it is in
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(config.seed))[:count]
    streams = sources(config.dataset, config.second_view, config.data_root, "train")

    def clip(row: int) -> dict[str, Any]:
        label, name = dataset.index.names[row].split("/")
        return {"name": name, "class": label, "strips": [strips.want(streams.get(stream), dataset.index.names[row])
                                                         for stream in ("rgb", "flow")]}

    own, other = (config.second_view, "RGB") if options["reverse"] else ("RGB", config.second_view)
    names = {"own": own, "other": other}
    cards = [_card(query, stage_views(model.stage, model.first), names, rows, clip)
             for part in chosen.split(options["batch_size"]) if len(part) > 1  # BatchNorm needs two clips
             for query in mine(model, dataset, part.tolist(), rows, epoch)]
    if not cards:
        raise CheckpointError(f"{config.dataset} has too few training videos to mine")
    means = {name: fmean(card[name] for card in cards) for name in ("recall", "chance")}
    return {"size": len(rows), "names": names, **means, "cards": sorted(cards, key=lambda card: -card["recall"])}


@torch.no_grad()
def mine(model: CoCLR, dataset: VideoDataset, batch_rows: list[int], rows: Tensor, epoch: int) -> Iterator[Query]:
    """Let a batch of training clips mine in the model's queue.

    Args:
        model: the run's, with the checkpoint's weights.
        dataset: its training set.
        batch_rows: rows of the dataset that mine.
        rows: those that the queue's entries are of, (K,).
        epoch: whose clips and augmentations are drawn.
    """
    labels, views = torch.as_tensor(dataset.index.labels), stage_views(model.stage, model.first)
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


def _card(query: Query, views: list[str], names: Mapping[str, str], rows: Tensor, clip: Callable[[int], dict[str, Any]]
          ) -> dict[str, Any]:
    """Describe a query.

    Returns:
        What ``clip`` says of its row, "recall" (positive mining recall), "chance" (share of the queue that is right),
        and of each stage {"title", "kept", "before", "hits", "entries": [{what ``clip`` says, "own", "other", "right"
        (None: of the own source), "mined"}, ...]}.
    """
    def entry(k: int) -> dict[str, Any]:
        return {**clip(int(rows[k])), **{view: float(sims[k]) for view, sims in query.sims.items()},
                "right": bool(query.right[k]) if query.allowed[k] else None, "mined": k in query.stages[-1]}

    stages, before, hits = [], len(rows), 0
    for number, (view, kept) in enumerate(zip(views, query.stages, strict=True), start=1):
        hits = int(query.right[kept].sum())
        shown = kept[:SHOWN * (2 if number == len(views) else 1)].tolist()
        stages.append({"title": f"Stage {number}: {view} view ({names[view]})", "kept": len(kept), "before": before,
                       "hits": hits, "entries": [entry(k) for k in shown]})
        before = len(kept)
    return {**clip(query.row), "recall": hits / max(1, int(query.allowed[query.stages[-1]].sum())),
            "chance": float(query.right.sum() / query.allowed.sum().clamp(min=1)), "stages": stages}
