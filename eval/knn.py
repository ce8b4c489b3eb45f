"""A monitor while training: whether neighbours in the encoder's features are of one class, on the dataset's own split.

Every test video asks, every training video answers, each with one clip that the seed and the video alone decide, so
that a curve over epochs shows the encoder and nothing else. Features are those of retrieval (`eval/retrieval.py`):
pooled backbone outputs of centre crops, centred by the mean of their set and L2-normalised. Measured are the weighted
kNN classifier (Wu et al., arXiv 1805.01978, section 3.4) and R@1. Labels are looked at here alone, never in training.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor, nn

from dataset import catalog
from dataset.errors import DataError
from dataset.video_dataset import VideoDataset
from eval import protocols
from eval.windows import apply_packed, read_samples, window_clips
from utils import distributed
from utils.console import say
from utils.presets import CropsTransform
from utils.watch import FrameWatch, video_names

K, T = 200, 0.07  # neighbours and temperature, as in section 4.1 of the paper
QUERIES_AT_ONCE = 1024  # their similarities to all of K400 (240,000 videos) are 1 GB
FEWEST = 2  # videos that a set needs: one alone, less the mean of its set, has no direction


def single_stream_name(name: str, reverse: bool = False) -> str:
    """The dataset whose clips the trained encoder takes: the one stream of a pretraining dataset, one clip a video.

    "ucf101-2clip" -> "ucf101", "ucf101-f-2clip" -> "ucf101-f", "ucf101-2stream-2clip" -> "ucf101", and with `reverse`
    (``--reverse``: the flow encoder is trained) "ucf101-f".

    Args:
        name: of the pretraining dataset. reverse: whether the second of two streams is trained.

    Raises:
        DataError: no such name can be.
    """
    spec = catalog.parse(name)
    flow = spec.streams == ("flow",) or (len(spec.streams) > 1 and reverse)
    return f"{spec.base}-f" if flow else spec.base


def query_and_gallery(name: str, *, data_root: str | PathLike | None, split_root: str | PathLike | None, seq_len: int,
                      ds: int, img_dim: int, seed: int, second_view: str = "flow") -> tuple[VideoDataset, VideoDataset]:
    """The test and the training videos of split 1, one clip of each, in the centre crop.

    Args:
        name: of one stream, see `single_stream_name`.
        data_root, split_root, seq_len, ds, seed, second_view: of `catalog.build`; the last is of no matter to RGB.
        img_dim: side of the clips in pixels.

    Raises:
        DataError: files of either are missing, damaged or empty, or there is but one video.
    """
    def build(mode: str) -> VideoDataset:
        dataset = catalog.build(name, mode, transform=CropsTransform(img_dim, crops=1), data_root=data_root,
                                split_root=split_root, seq_len=seq_len, ds=ds, seed=seed,
                                second_view=second_view if name.endswith("-f") else "flow")
        if len(dataset) < FEWEST:
            raise DataError(f"the {'test' if mode == 'query' else 'training'} split of {name} has a single video")
        return dataset
    try:
        return build("query"), build("gallery")
    except DataError as error:
        raise DataError(f"--knn_freq finds the neighbours of the test videos among the training videos, but {error} "
                        "(--knn_freq 0 trains without it)") from error


@dataclass(frozen=True)
class _Side:
    """One of the two sets. own: the videos that this process embeds. watch: over their frames, in all measures."""

    title: str
    labels: Tensor  # (N,), on the CPU
    own: VideoDataset
    watch: FrameWatch


class KnnMonitor:
    """Measures an encoder, and leaves it and all global random generators as they were.

    With several processes each embeds its share of the videos, and all of them find the same numbers.

    Args:
        query, gallery: see `query_and_gallery`. batch_size: clips in a batch of each process. workers: loader
            processes, which end with each set. device: of the encoder. k, T: of the votes, see `protocols.knn_votes`.
    """

    def __init__(self, query: VideoDataset, gallery: VideoDataset, *, batch_size: int, workers: int,
                 device: torch.device, k: int = K, T: float = T) -> None:
        self.batch_size, self.workers, self.device, self.k, self.T = batch_size, workers, device, k, T
        self.classes = len(gallery.index.classes)
        self.sides = (_side("knn queries", query), _side("knn gallery", gallery))

    def measure(self, backbone: nn.Module, dtype: torch.dtype | None = None, *, title: str = "knn",
                epoch_seconds: float | None = None, after_video: Callable[[], None] = lambda: None
                ) -> dict[str, float]:
        """Weighted kNN accuracy "knn_top1" and "knn_top5", and "r1", shares in 0-1; one line says them and their cost.

        Args:
            backbone: clips (B, 3, T, h, w) to feature maps (B, F, t, h, w), in any mode. dtype: of its autocast.
            title: of the line. epoch_seconds: of the training epoch that the cost is compared with.
            after_video: called after each video that this process reads, equally often in all; it may raise.

        Raises:
            DataError: a video cannot be read.
            TrainingError: more than 1 % of the frames cannot, or a loader worker was lost.
        """
        began = time.perf_counter()
        with torch.no_grad(), _as_in_main_process(backbone), _evaluating(backbone):
            query, gallery = (self._features(backbone, dtype, side, after_video) for side in self.sides)
        query_label, gallery_label = (side.labels for side in self.sides)
        found = neighbour_scores(query, gallery, query_label, gallery_label, self.classes, self.k, self.T)
        say(f"{title}: {'  '.join(f'{name} {value:.4g}' for name, value in found.items())}; "
            f"{_cost(len(query) + len(gallery), time.perf_counter() - began, epoch_seconds)}")
        return found

    def _features(self, backbone: nn.Module, dtype: torch.dtype | None, side: _Side,
                  after_video: Callable[[], None]) -> Tensor:
        """Features (N, F) of a set in its order, on the device, from all processes."""
        def pooled(clips: Tensor) -> Tensor:
            with torch.autocast(clips.device.type, dtype=dtype, enabled=dtype is not None):
                maps = backbone(clips)  # (B, F, t, h, w)
            return maps.mean(dim=(2, 3, 4), dtype=torch.float32)

        side.watch.new_epoch()
        samples = read_samples(side.own, workers=self.workers, device=self.device, title=side.title, watch=side.watch)
        chunks = window_clips(_followed(samples, after_video), self.device)
        own = torch.cat([features for _, features in apply_packed(pooled, chunks, self.batch_size)])  # (n, F)
        side.watch.report(side.title)
        by_process = distributed.all_gather(own).unflatten(0, (-1, len(own)))  # (W, n, F)
        return by_process.transpose(0, 1).flatten(0, 1)[:len(side.labels)]


def neighbour_scores(query: Tensor, gallery: Tensor, query_label: Tensor, gallery_label: Tensor, classes: int,
                     k: int = K, T: float = T) -> dict[str, float]:
    """Weighted kNN accuracy ("knn_top1", "knn_top5") and "r1" of raw features: shares in 0-1.

    Similarities are made for a block of queries at a time.

    Args:
        query: (Q, F). gallery: (G, F). query_label: (Q,) int64 on the CPU. gallery_label: (G,) int64 on the CPU.
        classes: how many there are. k, T: of the votes, see `protocols.knn_votes`.
    """
    query, gallery = protocols.centre_and_normalise(query), protocols.centre_and_normalise(gallery)
    hits = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(query), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        sim, label = query[rows] @ gallery.T, query_label[rows]
        knn = protocols.weighted_knn(sim, label, gallery_label, classes, k, T)
        recall = protocols.recall_at_k(sim, label, gallery_label, ks=(1,))
        hits += len(label) * torch.tensor([knn[1], knn[5], recall[1]], dtype=torch.float64)
    return dict(zip(("knn_top1", "knn_top5", "r1"), (hits / len(query)).tolist(), strict=True))


def _side(title: str, dataset: VideoDataset) -> _Side:
    """The set with this process's share of its videos: every W-th, filled up from the beginning, so all are as long."""
    size, world = len(dataset), distributed.world_size()
    rows = [row % size for row in range(distributed.rank(), -(-size // world) * world, world)]
    own = VideoDataset(dataset.readers, dataset.index.take(rows), dataset.sampler, dataset.transform,
                       seed=dataset.seed, by_epoch=dataset.by_epoch)
    watch = FrameWatch(video_names(own), len(own) * own.frames_per_sample)
    return _Side(title, torch.as_tensor(dataset.index.labels, dtype=torch.int64), own, watch)


def _followed(samples: Iterable[dict], after: Callable[[], None]) -> Iterator[dict]:
    for sample in samples:
        yield sample
        after()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """The network in evaluation mode; after it, each module in the mode that it had, whatever the others had."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _as_in_main_process(net: nn.Module) -> Iterator[None]:
    """The main process's BatchNorm statistics, which its checkpoints hold, in place of this one's own."""
    if distributed.world_size() == 1:
        yield
        return
    own = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        for buffer, _ in own:
            distributed.broadcast(buffer)
        yield
    finally:
        for buffer, value in own:
            buffer.copy_(value)


def _cost(clips: int, seconds: float, epoch_seconds: float | None) -> str:
    share = f", {seconds / epoch_seconds:.1%} of the epoch's {epoch_seconds:.1f} s" if epoch_seconds else ""
    return f"{clips} clips in {seconds:.1f} s, {clips / seconds:.1f} clips/s{share}"
