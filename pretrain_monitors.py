"""What looks at a pretraining without touching it: what it mines, how good its views are for that, and its features."""

import math
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.data import DataLoader

from dataset.video_dataset import videos_of
from eval.knn import KnnMonitor, query_and_gallery, single_stream_name
from model.momentum import MomentumContrast
from model.pretrain import CoCLR
from pretrain_health import HealthProbe
from utils.console import say
from utils.health import OF_ALL
from utils.mining import MiningMonitor
from utils.training import Record

COLLAPSED = 1.5  # effective rank of the queue: 1.0 where training had failed, 2.9 and more where it had not


@dataclass
class Monitors:
    """The monitors of a run; those that are None are not wanted. epochs: of the run. classes: names by label.
    health: makes its probe. health_freq, knn_freq: epochs between looks; the last epoch is looked at, too."""

    model: MomentumContrast
    epochs: int
    classes: Sequence[str] = ()
    mining: MiningMonitor | None = None
    health: Callable[[], HealthProbe] | None = None
    health_freq: int = 1
    knn: KnnMonitor | None = None
    knn_freq: int = 1
    _probe: HealthProbe | None = None
    _began: float = 0.0
    _warned: bool = False

    def begin_epoch(self) -> None:
        """An epoch begins."""
        self._began = time.perf_counter()

    def before(self, record: Record) -> None:
        """Look at what the first step starts from."""
        if self.health is not None and isinstance(self.model, CoCLR):
            record("health", -1, self._health().before(self.model))

    def after_epoch(self, epoch: int, record: Record) -> None:
        """Look at what an epoch has come to; all processes are here."""
        if self.mining is None or not isinstance(self.model, CoCLR):
            values = {f"{name}_own": float(measure(self.model.queue.T)) for name, measure in OF_ALL.items()}
            record("queue", epoch, values)
            self._warn_of_collapse(values)
        else:
            queues = {"own": self.model.queue, "other": self.model.queue_second}
            values, recalls = self.mining.end_epoch(queues)
            self._warn_of_collapse(values)
            if values:
                record("mining", epoch, values, classes={self.classes[label]: each for label, each in recalls.items()})
        if self.health is not None and isinstance(self.model, CoCLR) and self._is_due(epoch, self.health_freq):
            record("health", epoch, self._health().now(self.model))

    def after_save(self, epoch: int, record: Record, poll: Callable[[], None]) -> None:
        """Measure the features, which takes long. poll: called between videos, may raise."""
        if self.knn is not None and self._is_due(epoch, self.knn_freq):
            values = self.knn.measure(self.model.encoder_q[0], self.model.dtype, title=f"knn epoch {epoch}",
                                      epoch_seconds=time.perf_counter() - self._began, after_video=poll)
            record("knn", epoch, values, told=True)

    def _warn_of_collapse(self, values: Mapping[str, float]) -> None:
        """Say it, once, where nearly all of the queue's variance lies in one direction."""
        rank = values.get("rank_own", math.inf)
        if rank < COLLAPSED and not self._warned:
            self._warned = True
            say(f"warning: the embeddings have nearly collapsed: the queue's keys vary in {rank:.2f} directions of "
                f"{self.model.dim} (effective rank), so that top-1 and loss say little. A smaller --lr is the first "
                "thing to try (docs/mining.md)")

    def _is_due(self, epoch: int, every: int) -> bool:
        return (epoch + 1) % every == 0 or epoch == self.epochs - 1

    def _health(self) -> HealthProbe:
        assert self.health is not None
        if self._probe is None:
            self._probe = self.health()
        return self._probe


def build_monitors(model: MomentumContrast, args: Namespace, loader: DataLoader, device: torch.device) -> Monitors:
    """The monitors that the options ask for. loader: of the training.

    Raises:
        DataError: ``--knn_freq`` needs test videos, and they are missing or damaged.
    """
    monitors = Monitors(model, args.epochs)
    if args.knn_freq:
        name = single_stream_name(args.dataset, isinstance(model, CoCLR) and args.reverse)
        sets = query_and_gallery(name, data_root=args.data_root, split_root=args.split_root, seq_len=args.seq_len,
                                 ds=args.ds, img_dim=args.img_dim, seed=args.seed, second_view=args.second_view)
        monitors.knn_freq = args.knn_freq
        monitors.knn = KnnMonitor(*sets, batch_size=args.batch_size, workers=args.workers, device=device)
    if isinstance(model, CoCLR):
        videos = videos_of(loader)
        index = videos.index
        monitors.mining = MiningMonitor(args.moco_k, index.labels, index.sources, device)
        monitors.classes, monitors.health_freq = index.classes, args.health_freq
        if args.health_clips:
            monitors.health = partial(
                HealthProbe, videos, args.health_clips, img_dim=args.img_dim, batch_size=args.batch_size,
                workers=args.workers, seed=args.seed, network=args.net, dim=args.moco_dim, device=device)
    return monitors
