"""kNN accuracy of the encoder's features.

Every test video is a query, every training video is in the gallery, each with one clip that depends on the seed and the
video alone. Features are those of retrieval: pooled outputs of centre crops, centred and L2-normalised. Labels, which
training never sees, give R@1 and the accuracy of weighted kNN (Wu et al., arXiv 1805.01978, section 3.4).
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from backbone.select_backbone import fold_batchnorm
from dataset.transforms.presets import CropsTransform
from dataset.video_dataset import VideoDataset
from engine.config import DataConfig
from engine.pretraining import PretrainTask
from engine.trainer import DamageCounter
from eval import protocols
from eval.windows import apply_packed, read_samples, window_clips
from model.classifier import pooled_features
from utils import distributed
from utils.console import say
from utils.errors import DataError

K, T = 200, 0.07  # neighbours and temperature, as in section 4.1 of the paper
QUERIES_AT_ONCE = 1024  # their similarities to all of K400 (240,000 videos) are 1 GB


def query_and_gallery(data: DataConfig, reverse: bool = False) -> tuple[VideoDataset, VideoDataset]:
    """Open the test and the training videos of split 1, one clip of each; DataError if either cannot be measured."""
    name = data.single_stream(reverse)
    data = replace(data, dataset=name, which_split=1, second_view=data.second_view if name.endswith("-f") else "flow")
    try:
        query, gallery = (data.build(mode, CropsTransform(data.img_dim)) for mode in ("query", "gallery"))
        if not gallery.index.has_labels:
            raise DataError(f"those of {name} are all of one class, so that every neighbour would be right")
        if len(query) < 2 or len(gallery) < 2:  # one video, less the mean of its set, has no direction
            raise DataError(f"the test or training split of {name} has a single video")
    except DataError as error:
        raise DataError(f"--knn_freq finds the neighbours of the test videos among the training videos, but {error} "
                        "(--knn_freq 0 trains without it)") from error
    return query, gallery


class KnnMonitor:
    """Measures an encoder without changing it or any global generator; each process embeds a share of the videos."""

    def __init__(self, query: VideoDataset, gallery: VideoDataset, *, batch_size: int, workers: int,
                 device: torch.device, k: int = K) -> None:
        self.batch_size, self.workers, self.device, self.k = batch_size, workers, device, k
        self.classes = len(gallery.index.classes)
        self.labels = [torch.as_tensor(each.index.labels, dtype=torch.int64) for each in (query, gallery)]
        self.own = [_own_share(each) for each in (query, gallery)]
        self.damage = [DamageCounter(each, len(each) * each.frames_per_sample) for each in self.own]

    def measure(self, backbone: nn.Module, dtype: torch.dtype | None = None, *, title: str = "knn",
                after_video: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Measure and print weighted kNN accuracy and R@1, see :func:`neighbour_scores`.

        `after_video` is called after each video that this process reads, equally often in all processes, and may raise.
        """
        net = copy.deepcopy(backbone).eval()
        for buffer in net.buffers():  # the main process's BatchNorm statistics, which its checkpoints hold
            distributed.broadcast(buffer)
        fold_batchnorm(net)
        with torch.no_grad():
            query, gallery = (self._features(net, dtype, part, after_video) for part in (0, 1))
        found = neighbour_scores(query, gallery, self.labels[0], self.labels[1], self.classes, self.k)
        say(f"{title}: {'  '.join(f'{name} {value:.4g}' for name, value in found.items())}")
        return found

    def _features(self, net: nn.Module, dtype: torch.dtype | None, part: int, after_video: Callable[[], None]
                  ) -> Tensor:
        """Return the features (N, F) of the queries (part 0) or the gallery (1) in their order, from all processes."""
        title, damage = f"knn {('queries', 'gallery')[part]}", self.damage[part]

        def samples() -> Iterator[dict]:
            for sample in read_samples(self.own[part], workers=self.workers, device=self.device, title=title,
                                       damage=damage):
                yield sample
                after_video()
        damage.reset()
        rows = apply_packed(lambda clips: pooled_features(net, clips, dtype).float(),
                            window_clips(samples(), self.device), self.batch_size)
        own = torch.cat([features for _, features in rows])  # (n, F)
        damage.report(title)
        by_process = distributed.all_gather(own).unflatten(0, (-1, len(own)))  # (W, n, F)
        return by_process.transpose(0, 1).flatten(0, 1)[:len(self.labels[part])]


def _own_share(videos: VideoDataset) -> VideoDataset:
    """Return every W-th video for this process, filled up from the beginning so that all processes have as many."""
    size, world = len(videos), distributed.world_size()
    rows = [row % size for row in range(distributed.rank(), -(-size // world) * world, world)]
    return VideoDataset(videos.readers, videos.index.take(rows), videos.sampler, videos.transform, seed=videos.seed,
                        by_epoch=videos.by_epoch)


def knn_monitor(task: PretrainTask) -> KnnMonitor:
    return KnnMonitor(*query_and_gallery(task.data, task.config.reverse), batch_size=task.train.batch_size,
                      workers=task.train.workers, device=task.device)


def neighbour_scores(query: Tensor, gallery: Tensor, query_label: Tensor, gallery_label: Tensor, classes: int,
                     k: int = K) -> dict[str, float]:
    """Compute "knn_top1", "knn_top5" (with k neighbours) and "r1", shares in 0-1, a block of queries at a time.

    Raw features are (Q, F) and (G, F); their labels (Q,) and (G,) int64, on the CPU.
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
