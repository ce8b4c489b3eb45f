"""The mining gallery: for some training clips, what survives each stage of the cascade (CPR, arXiv 2201.07989, section
3.2), as the run's next step would mine it.

Queries are clips of the run's training set, drawn and augmented as in training, and embedded by the checkpoint's
networks. They mine in the queue that the checkpoint holds; of one whose queue cannot be told from the checkpoint (a
published file, or of other videos) it is made anew from clips of the training set.
"""

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dataset import catalog
from dataset.video_dataset import VideoDataset
from main_coclr import build
from model.cascade import stage_views
from model.momentum import embed
from model.pretrain import CoCLR, Mining
from report.strips import Source, Strips
from utils import checkpoint
from utils.checkpoint import load_state
from utils.errors import CheckpointError, OptionError
from utils.options import add_mining, pretraining_parser
from utils.presets import PretrainTransform, to_blocks

SHOWN_QUERIES = 16
SHOWN_ENTRIES = 6  # of a stage's survivors
REBUILT = 512  # most entries of a queue that is made anew
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Query:
    """What one query mined. row: of the dataset. stages: queue entries that survived each, by the similarity of the
    stage's view, best first. own, other, right, allowed: of the whole queue, (K,)."""

    row: int
    stages: list[Tensor]
    own: Tensor
    other: Tensor
    right: Tensor
    allowed: Tensor

    @property
    def hits(self) -> list[int]:
        """Survivors of each stage that are of the query's class, and not of its own source."""
        return [int(self.right[kept].sum()) for kept in self.stages]

    @property
    def recall(self) -> float:
        """Share of the mined entries that are of the query's class (positive mining recall)."""
        mined = self.stages[-1]
        return float(self.right[mined].sum() / self.allowed[mined].sum().clamp(min=1))

    @property
    def chance(self) -> float:
        """That share of the whole queue."""
        return float(self.right.sum() / self.allowed.sum().clamp(min=1))


@dataclass(frozen=True)
class Looked:
    """All queries that were looked at, and how. rows: of the dataset, of the queue's entries, (K,). views: what each
    stage ranks by. origin: of the queue, in words."""

    dataset: VideoDataset
    args: Namespace
    rows: Tensor
    views: list[str]
    origin: str
    seconds: float
    queries: list[Query]

    @property
    def chosen(self) -> list[Query]:
        """The queries to show, from the best to the worst, at equal distances."""
        ranked = sorted(self.queries, key=lambda query: (-query.recall, -sum(query.hits), query.row))
        count = min(SHOWN_QUERIES, len(ranked))
        return [ranked[round(i * (len(ranked) - 1) / max(1, count - 1))] for i in range(count)]

    def view(self, which: str) -> str:
        """What the "own" or the "other" view is: "RGB", "flow" or "residual frames"."""
        second = {"flow": "flow", "residual": "residual frames"}[self.args.second_view]
        return second if (which == "own") == bool(self.args.reverse) else "RGB"


def options(said: dict[str, Any], data_root: str, split_root: str) -> Namespace:
    """The options of a co-training as run.json has them; those that it lacks have their defaults.

    Raises:
        OptionError: one is of another kind than it should be.
    """
    parser = pretraining_parser("", dataset="ucf101-2stream-2clip", models=["coclr"])
    add_mining(parser)
    found = vars(parser.parse_args([]))
    for name in found.keys() & said.keys():
        default, value = found[name], said[name]
        number = isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool)
        if default is not None and not number and type(value) is not type(default):
            raise OptionError(f"run.json has {value!r:.60} for --{name}, which should be like {default!r:.60}")
        found[name] = value
    return Namespace(**found | {"data_root": data_root, "split_root": split_root})


def look(args: Namespace, path: str, count: int) -> Looked:
    """Let ``count`` training clips mine, those that a seed picks.

    Raises:
        CheckpointError, DataError, ModelError: checkpoint or data are missing or damaged, or do not fit the options.
    """
    began = time.perf_counter()
    dataset = catalog.build(args.dataset, "train", transform=PretrainTransform(args.img_dim), seq_len=args.seq_len,
                            ds=args.ds, data_root=args.data_root, split_root=args.split_root, seed=args.seed,
                            second_view=args.second_view)
    if args.topk == 0:
        raise CheckpointError("the run mines nothing (--topk 0)")
    saved = checkpoint.load(path, require=("state_dict", "epoch"))
    queue = saved["state_dict"].get("queue")
    if not isinstance(queue, Tensor) or queue.shape != (args.moco_dim, args.moco_k) or args.stage > args.moco_k:
        raise CheckpointError(f"{path} has no queue of the --moco-k {args.moco_k} and --moco-dim {args.moco_dim} that "
                              "run.json names")
    model = build(args)
    load_state(model, saved["state_dict"])
    model.train()  # BatchNorm takes the statistics of the batch, as in the run; nothing of it is kept
    epoch = int((saved.get("progress") or {"epoch": saved["epoch"] + 1})["epoch"])  # the next one, or the one it is in
    generator = torch.Generator().manual_seed(args.seed)
    order = torch.randperm(len(dataset), generator=generator)
    rows = _rows_of_queue(model, saved.get("label_ring"), dataset)
    origin = f"the {model.K} entries of the checkpoint's queue"
    if rows is None:
        rows = order.flip(0)[:min(model.K, REBUILT)]
        _rebuild(model, dataset, rows, epoch, args.batch_size)
        rows = rows[:model.queue.shape[1]]
        origin = (f"{len(rows)} keys of training clips, made for this page, since the checkpoint does not tell which "
                  "videos its queue is of")
    queries = list(_mine(model, dataset, order[:count], rows, epoch, args.batch_size))
    if not queries:
        raise CheckpointError(f"{args.dataset} has too few training videos to mine")
    views = stage_views(model.stage, model.first if model.stage > 1 else "other")
    return Looked(dataset, args, rows, views, origin, time.perf_counter() - began, queries)


def _rows_of_queue(model: CoCLR, ring: Any, dataset: VideoDataset) -> Tensor | None:
    """The row of the dataset that each entry of the queue is of, (K,); None where the checkpoint does not tell, or is
    of other videos."""
    rows = ring.get("rows") if isinstance(ring, dict) else None
    if not isinstance(rows, Tensor) or rows.shape != (model.K,) or not model.queue_is_full:
        return None
    if rows.is_floating_point() or int(rows.min()) < 0 or int(rows.max()) >= len(dataset):
        return None
    sources = torch.as_tensor(dataset.index.sources)
    return rows.long() if torch.equal(sources[rows.long()], model.queue_vname) else None


def _blocks(dataset: VideoDataset, rows: Tensor, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of clips (B, 2 clips, 2 streams, 3, T, H, W), sources (B,) and rows (B,); a single clip at the end, which
    BatchNorm cannot take, is left out."""
    for part in rows.split(size):
        if len(part) > 1:
            batch = torch.utils.data.default_collate([dataset[epoch, int(row)] for row in part])
            yield to_blocks(batch, CPU), batch["source"], part


@torch.no_grad()
def _rebuild(model: CoCLR, dataset: VideoDataset, rows: Tensor, epoch: int, size: int) -> None:
    """Fill the queue with keys of these videos, in their order."""
    keys, others, sources = [], [], []
    for blocks, source, _ in _blocks(dataset, rows, epoch, size):
        keys.append(model.embed_keys(blocks[:, 1, model.own_view])[0])
        others.append(embed(model.sampler, blocks[:, 1, model.other_view], model.dtype))
        sources.append(source)
    if not keys:
        raise CheckpointError("there are too few training videos for a queue")
    model.queue, model.queue_second = torch.cat(keys).T.contiguous(), torch.cat(others).T.contiguous()
    model.queue_vname = torch.cat(sources)
    model.queue_label = torch.ones_like(model.queue_vname)


@torch.no_grad()
def _mine(model: CoCLR, dataset: VideoDataset, queries: Tensor, rows: Tensor, epoch: int, size: int) -> Iterator[Query]:
    labels = torch.as_tensor(dataset.index.labels)
    seen: list[Mining] = []
    model.watch = seen.append
    views = stage_views(model.stage, model.first if model.stage > 1 else "other")
    entries = labels[rows]  # (K,)
    for blocks, source, part in _blocks(dataset, queries, epoch, size):
        model(blocks[:, 0], blocks[:, 1], source)
        mining = seen.pop()
        own = mining.own * (model.T if model.anchor == "query" else 1.0)  # cosines
        for i, row in enumerate(part.tolist()):
            sims = {"own": own[i], "other": mining.other[i]}
            allowed = ~mining.excluded[i]
            stages = [kept[i][sims[view][kept[i]].argsort(descending=True)]
                      for view, kept in zip(views, mining.stages, strict=True)]
            yield Query(row, stages, own[i], mining.other[i], allowed & (entries == labels[row]), allowed)


def cards(looked: Looked, streams: dict[str, Source], store: Strips) -> dict[str, Any]:
    """What the page's script shows.

    views: title of each stage's view, and what it keeps. queries: {"clip", "recall", "chance", "right" (entries
    of the whole queue), "stages": [{"hits",
    "shown": [[clip, own cosine, other cosine, hit (None: of the own source), whether it is mined], ...]}, ...]}. clips:
    [name, class, strips of both streams].
    """
    index = looked.dataset.index
    place: dict[int, int] = {}
    labels = sorted({int(index.labels[row]) for row in looked.rows.tolist()}
                    | {int(index.labels[query.row]) for query in looked.queries})

    def clip(row: int) -> int:
        return place.setdefault(row, len(place))
    queries = []
    for query in looked.chosen:
        mined = set(query.stages[-1].tolist())
        stages = [{"hits": hits, "shown": [_entry(query, entry, clip(int(looked.rows[entry])), entry in mined)
                                           for entry in _first(kept, last=kept is query.stages[-1])]}
                  for hits, kept in zip(query.hits, query.stages, strict=True)]
        queries.append({"clip": clip(query.row), "recall": round(query.recall, 3), "chance": round(query.chance, 3),
                        "right": int(query.right.sum()), "stages": stages})
    large = {query.row for query in looked.chosen}
    clips = [[index.names[row].split("/")[-1], labels.index(int(index.labels[row])),
              *(store.want(streams.get(stream), index.names[row], large=row in large) for stream in ("rgb", "flow"))]
             for row in place]
    return {"views": [[f"{view} view, {looked.view(view)}", len(kept)] for view, kept in
                      zip(looked.views, looked.queries[0].stages, strict=True)],
            "streams": ["RGB", {"flow": "flow", "residual": "residual"}[looked.args.second_view]],
            "names": [looked.view("own"), looked.view("other")], "entries": len(looked.rows),
            "classes": [index.classes[label] for label in labels], "clips": clips, "queries": queries}


def _first(kept: Tensor, *, last: bool) -> Sequence[int]:
    return kept[:2 * SHOWN_ENTRIES if last else SHOWN_ENTRIES].tolist()


def _entry(query: Query, entry: int, clip: int, mined: bool) -> list:
    hit = int(query.right[entry]) if query.allowed[entry] else None
    return [clip, round(float(query.own[entry]), 3), round(float(query.other[entry]), 3), hit, int(mined)]
