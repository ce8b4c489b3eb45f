"""The kNN monitor: are neighbours in the encoder's features of one class, on the dataset's own split?

Every test video is a query, every training video is in the gallery, each with one clip that depends on the seed and the
video alone, so a curve over epochs shows the encoder and nothing else. Features are those of retrieval: pooled backbone
outputs of centre crops, centred by the mean of their set and L2-normalised. The monitor measures the weighted kNN
classifier (Wu et al., arXiv 1805.01978, section 3.4) and R@1. It looks at labels, which training never does.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dataset import catalog
from dataset.transforms.presets import CropsTransform
from dataset.video_dataset import VideoDataset
from engine.config import DataConfig
from engine.trainer import DamageCounter
from eval import protocols
from eval.windows import apply_packed, read_samples, window_clips
from model.classifier import pooled_features
from model.folding import fold_batchnorm
from utils import distributed
from utils.console import say
from utils.errors import DataError

K, T = 200, 0.07  # neighbours and temperature, as in section 4.1 of the paper
QUERIES_AT_ONCE = 1024  # their similarities to all of K400 (240,000 videos) are 1 GB


def single_stream_name(name: str, reverse: bool = False) -> str:
    """Return the dataset with one clip per video of the stream that a pretraining dataset trains.

    "ucf101-f-2clip" -> "ucf101-f", "ucf101-2stream-2clip" -> "ucf101", or with `reverse` "ucf101-f".
    """
    spec = catalog.parse(name)
    flow = spec.streams == ("flow",) or (len(spec.streams) > 1 and reverse)
    return f"{spec.base}-f" if flow else spec.base


def query_and_gallery(data: DataConfig, reverse: bool = False) -> tuple[VideoDataset, VideoDataset]:
    """Open the test and the training videos of split 1, one clip of each, in the centre crop.

    Args:
        data: dataset of the pretraining.
        reverse: whether the second of two streams is trained.

    Raises:
        DataError: files of either set are missing, damaged or empty, or it has a single video.
    """
    name = single_stream_name(data.dataset, reverse)
    data = replace(data, dataset=name, which_split=1, second_view=data.second_view if name.endswith("-f") else "flow")
    try:
        query, gallery = (data.build(mode, CropsTransform(data.img_dim)) for mode in ("query", "gallery"))
        for part, videos in (("test", query), ("training", gallery)):
            if len(videos) < 2:  # one video, less the mean of its set, has no direction
                raise DataError(f"the {part} split of {name} has a single video")
    except DataError as error:
        raise DataError(f"--knn_freq finds the neighbours of the test videos among the training videos, but {error} "
                        "(--knn_freq 0 trains without it)") from error
    return query, gallery


@dataclass(frozen=True)
class _VideoSet:
    title: str
    labels: Tensor  # (N,), on the CPU
    own: VideoDataset  # the videos that this process embeds
    damage: DamageCounter


def _video_set(title: str, dataset: VideoDataset) -> _VideoSet:
    """Give this process every W-th video, filled up from the beginning so that all processes have as many."""
    size, world = len(dataset), distributed.world_size()
    rows = [row % size for row in range(distributed.rank(), -(-size // world) * world, world)]
    own = VideoDataset(dataset.readers, dataset.index.take(rows), dataset.sampler, dataset.transform,
                       seed=dataset.seed, by_epoch=dataset.by_epoch)
    damage = DamageCounter(own, len(own) * own.frames_per_sample)
    return _VideoSet(title, torch.as_tensor(dataset.index.labels, dtype=torch.int64), own, damage)


class KnnMonitor:
    """Measures an encoder without changing it or any global random generator.

    Each of several processes embeds its share of the videos, and all of them find the same numbers.

    Args:
        query, gallery: see :func:`query_and_gallery`.
        batch_size: clips per batch of each process.
        workers: number of loader processes, which end with each set.
        device: device of the encoder.
        k: number of neighbours that vote.
    """

    def __init__(self, query: VideoDataset, gallery: VideoDataset, *, batch_size: int, workers: int,
                 device: torch.device, k: int = K) -> None:
        self.batch_size, self.workers, self.device, self.k = batch_size, workers, device, k
        self.classes = len(gallery.index.classes)
        self.sets = (_video_set("knn queries", query), _video_set("knn gallery", gallery))

    def measure(self, backbone: nn.Module, dtype: torch.dtype | None = None, *, title: str = "knn",
                epoch_seconds: float | None = None, after_video: Callable[[], None] = lambda: None
                ) -> dict[str, float]:
        """Measure weighted kNN accuracy and R@1, and print them with their cost.

        Args:
            backbone: maps clips (B, 3, T, h, w) to feature maps (B, F, t, h, w); in train or evaluation mode.
            dtype: autocast type of the backbone.
            title: first part of the printed line.
            epoch_seconds: time of the training epoch, to compare the cost with.
            after_video: called after each video that this process reads, equally often in all processes; may raise.

        Returns:
            See :func:`neighbour_scores`.

        Raises:
            DataError, TrainingError: see :func:`eval.windows.read_samples`.
        """
        began = time.perf_counter()
        net = copy.deepcopy(backbone).eval()
        for buffer in net.buffers():  # the main process's BatchNorm statistics, which its checkpoints hold
            distributed.broadcast(buffer)
        fold_batchnorm(net)
        with torch.no_grad():
            query, gallery = (self._features(net, dtype, videos, after_video) for videos in self.sets)
        query_label, gallery_label = (videos.labels for videos in self.sets)
        found = neighbour_scores(query, gallery, query_label, gallery_label, self.classes, self.k)
        clips, seconds = len(query) + len(gallery), time.perf_counter() - began
        share = f", {seconds / epoch_seconds:.1%} of the epoch's {epoch_seconds:.1f} s" if epoch_seconds else ""
        say(f"{title}: {'  '.join(f'{name} {value:.4g}' for name, value in found.items())}; {clips} clips in "
            f"{seconds:.1f} s, {clips / seconds:.1f} clips/s{share}")
        return found

    def _features(self, net: nn.Module, dtype: torch.dtype | None, videos: _VideoSet,
                  after_video: Callable[[], None]) -> Tensor:
        """Return the features (N, F) of a set in its order, from all processes."""
        def samples() -> Iterator[dict]:
            for sample in read_samples(videos.own, workers=self.workers, device=self.device, title=videos.title,
                                       damage=videos.damage):
                yield sample
                after_video()
        videos.damage.reset()
        rows = apply_packed(lambda clips: pooled_features(net, clips, dtype).float(),
                            window_clips(samples(), self.device), self.batch_size)
        own = torch.cat([features for _, features in rows])  # (n, F)
        videos.damage.report(videos.title)
        by_process = distributed.all_gather(own).unflatten(0, (-1, len(own)))  # (W, n, F)
        return by_process.transpose(0, 1).flatten(0, 1)[:len(videos.labels)]


def knn_monitor(data: DataConfig, reverse: bool, batch_size: int, workers: int, device: torch.device) -> KnnMonitor:
    """Build the monitor of a pretraining; see :func:`query_and_gallery` and :class:`KnnMonitor`."""
    return KnnMonitor(*query_and_gallery(data, reverse), batch_size=batch_size, workers=workers, device=device)


def neighbour_scores(query: Tensor, gallery: Tensor, query_label: Tensor, gallery_label: Tensor, classes: int,
                     k: int = K) -> dict[str, float]:
    """Compute weighted kNN accuracy and R@1 of raw features, a block of queries at a time.

    Args:
        query, gallery: (Q, F) and (G, F).
        query_label, gallery_label: (Q,) and (G,) int64, on the CPU.
        classes, k: number of classes, and of neighbours that vote.

    Returns:
        "knn_top1", "knn_top5" and "r1", shares in 0-1.
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
