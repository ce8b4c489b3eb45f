"""How good the views of a co-training are to mine in, told from clips of the training set without any label.

Mining is only as good as the view it ranks by. A clip and a second clip of the same video, both augmented as in
training, are embedded as the queue's keys are; what lies near what then tells of each view, see `utils.health`.
"""

import copy
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dataset.video_dataset import VideoDataset
from model.momentum import embed, make_encoder
from model.pretrain import CoCLR
from utils import distributed, health
from utils.console import say
from utils.loader import items
from utils.memory import move
from utils.mining import agreement
from utils.presets import PretrainTransform, to_blocks

NEAREST = 5  # neighbours in a list
CALIBRATION = 4  # batches that a random network takes its BatchNorm statistics from
CLEAR = 2.0  # standard deviations
Clips = tuple[Tensor, Tensor]  # embeddings of two clips of each video, (N, D) each


class HealthProbe:
    """Measures the views of a model on the same clips of the same videos each time.

    Args:
        dataset: of the training. videos: how many of it. img_dim: side of the clips. seed: of the choice of videos.
        network, dim: of the encoders; a random one is compared with.
    """

    def __init__(self, dataset: VideoDataset, videos: int, *, img_dim: int, batch_size: int, workers: int, seed: int,
                 network: str, dim: int, device: torch.device) -> None:
        self.dataset = copy.copy(dataset)
        self.dataset.transform, self.dataset.by_epoch = PretrainTransform(img_dim, p_two_clips=1.0), False
        W = distributed.world_size()
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        self.rows = chosen[:max(1, min(videos, len(chosen)) // W) * W]  # each process embeds as many
        self.batch_size, self.workers, self.seed, self.device = batch_size, workers, seed, device
        self.network, self.dim = network, dim
        self._other: Clips | None = None
        self._sources = torch.zeros(0)

    def before(self, model: CoCLR) -> dict[str, float]:
        """Signs of both views before the first step, and of the miner beside its random initialisation.

        ``second_*``: share of clips whose nearest neighbour among all others is the second clip of the same video.
        ``agreement``: of both views' lists of 5 nearest, above chance. ``hub_*``: how often the most popular clip is in
        the others' lists, as a multiple of the mean. ``spread_*``, ``rank_*``: see `utils.health`.
        """
        views = self._embed(model, {"own": (_of_main(model.encoder_q), model.own_view),
                                    "random": (self._random_encoder(model), model.other_view)})
        hits = {"random": health.instance_hits(*views["random"]), "other": health.instance_hits(*self.miner(model))}
        sign = health.better(hits["other"], hits["random"])
        if sign < CLEAR:
            own, random = (hits[name].float().mean() for name in ("other", "random"))
            say("warning: the view that mines is not clearly better than its random initialisation: the second clip of "
                f"a video is the nearest for {own:.1%} of {len(hits['other'])} clips, by a random network for "
                f"{random:.1%} ({sign:+.1f} standard deviations). What it mines may mislead the training: train it "
                "longer, or with other settings, before co-training")
        return {**self._signs(views["own"]), "second_random": float(hits["random"].float().mean()), "better": sign}

    def now(self, model: CoCLR) -> dict[str, float]:
        """Signs of both views; the miner's, which is frozen, are as before."""
        if len(self._sources) == 0:
            self.miner(model)
        return self._signs(self.trained(model))

    def _signs(self, own: Clips) -> dict[str, float]:
        assert self._other is not None
        values, sims = {}, []
        same = self._sources[:, None] == self._sources[None, :]
        same = same.repeat(2, 2)  # first clips, then second ones
        n = min(NEAREST, int((~same).sum(dim=1).min()))
        for name, clips in (("own", own), ("other", self._other)):
            z = torch.cat(clips)
            values[f"second_{name}"] = float(health.instance_hits(*clips).float().mean())
            values[f"spread_{name}"], values[f"rank_{name}"] = float(health.spread(z)), float(health.effective_rank(z))
            if n:
                values[f"hub_{name}"] = health.hubness(z, same, n)
            sims.append(z @ z.T)
        if n:
            values["agreement"] = float(agreement(sims[0], sims[1], ~same, n))
        return values

    def miner(self, model: CoCLR) -> Clips:
        """Embeddings by the network that mines; it is frozen, so they are made once."""
        if self._other is None:
            self._other = self._embed(model, {"other": (model.sampler, model.other_view)})["other"]
        return self._other

    def trained(self, model: CoCLR) -> Clips:
        """Embeddings by the network that is trained, as it is now."""
        return self._embed(model, {"own": (_of_main(model.encoder_q), model.own_view)})["own"]

    def _random_encoder(self, model: CoCLR) -> nn.Module:
        """A new network, its BatchNorm statistics taken from clips."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder = make_encoder(self.network, self.dim)
        move(encoder, self.device)
        norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm3d)]
        for norm in norms:
            norm.momentum = None  # the plain mean over batches
        encoder.train()
        rows = self.rows[distributed.rank()::distributed.world_size()]
        whole = min(CALIBRATION, len(rows) // self.batch_size) * self.batch_size  # a smaller batch would count as much
        for blocks, _ in self._blocks(rows[:whole or len(rows)]):
            embed(encoder, blocks[:, :, model.other_view].flatten(0, 1), model.dtype)
        for norm in norms:
            for statistic in (norm.running_mean, norm.running_var):
                if statistic is not None:
                    statistic.copy_(distributed.reduce_mean(statistic))
        return encoder.eval()

    @torch.no_grad()
    def _embed(self, model: CoCLR, encoders: Mapping[str, tuple[nn.Module, int]]) -> dict[str, Clips]:
        """Embeddings of the chosen videos by each encoder, of the view it is for; all processes have all."""
        start, training = time.perf_counter(), model.training
        model.eval()
        parts: dict[str, list[Tensor]] = {name: [] for name in encoders}
        sources = []
        for blocks, batch in self._blocks(self.rows[distributed.rank()::distributed.world_size()]):
            sources.append(batch["source"])
            for name, (encoder, view) in encoders.items():
                both = [embed(encoder, blocks[:, clip, view], model.dtype) for clip in (0, 1)]
                parts[name].append(torch.stack(both, dim=1))  # (B, 2, D)
        model.train(training)
        self._sources = distributed.all_gather(torch.cat(sources).to(self.device))
        say(f"health: {2 * len(self.rows)} clips by {len(encoders)} network(s) in "
            f"{time.perf_counter() - start:.1f} s")
        gathered = {name: distributed.all_gather(torch.cat(rows)) for name, rows in parts.items()}  # (N, 2, D) each
        return {name: (both[:, 0], both[:, 1]) for name, both in gathered.items()}

    @torch.no_grad()
    def _blocks(self, rows: Tensor) -> Iterator[tuple[Tensor, dict]]:
        """Blocks (B, 2 clips, S, 3, T, H, W) of some videos on the device, and their batches."""
        loader = DataLoader(self.dataset, batch_size=self.batch_size, sampler=[(0, row) for row in rows.tolist()],
                            num_workers=self.workers, generator=torch.Generator())
        for batch in items(loader):
            yield to_blocks(batch, self.device), batch


def _of_main(encoder: nn.Module) -> nn.Module:
    """With the BatchNorm statistics of the main process, which its checkpoints hold; others have their own."""
    if distributed.world_size() == 1:
        return encoder
    encoder = copy.deepcopy(encoder).eval()
    for buffer in encoder.buffers():
        distributed.broadcast(buffer)
    return encoder
