"""Label-free health of an embedding space: neighbours, spread, effective rank, agreement of two views.

Embeddings z are unit rows (N, D). Rows i of z1 and z2 are two clips of one video.
"""

import copy
import math
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dataset.loader import items
from dataset.transforms.presets import PretrainTransform, to_blocks
from dataset.video_dataset import VideoDataset
from engine.device import move
from model.momentum import embed, make_encoder
from model.pretrain import CoCLR
from utils import distributed
from utils.console import is_main, say, track, warn

NEAREST = 5  # neighbours per clip
CLEARLY_BETTER = 2.0  # standard deviations by which the miner should beat a random network
Net = TypeVar("Net", bound=nn.Module)
Clips = tuple[Tensor, Tensor]  # embeddings of two clips of each video, (N, D) each


def instance_hits(z1: Tensor, z2: Tensor) -> Tensor:
    """Return, for each clip of z1 and z2, whether its nearest neighbour is the other clip of its video: (2N,) bool."""
    z = torch.cat([z1, z2])  # (2N, D)
    sim = (z @ z.T).fill_diagonal_(float("-inf"))
    second = torch.arange(len(z), device=z.device).roll(len(z1))
    return sim.argmax(dim=1) == second


def spread(z: Tensor) -> Tensor:
    """Return 1 - |mean|^2, 0-d: the mean of 1 - cosine over all pairs of rows; 0 if all rows are equal."""
    return 1 - z.float().mean(dim=0).square().sum()


def effective_rank(z: Tensor) -> Tensor:
    """Return the effective rank (Roy and Vetterli, EUSIPCO 2007), 0-d, from 1 to D; nan if rows are not finite.

    It is exp(entropy) of the shares of variance along the principal axes.
    """
    if not z.isfinite().all():
        return z.new_tensor(float("nan"))
    centred = (z - z.mean(dim=0)).double()
    variance = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    share = variance / variance.sum().clamp(min=1e-300)
    return torch.special.entr(share).sum().exp()


def overlap(one: Tensor, two: Tensor, n: int) -> Tensor:
    """Return the share of each row's n most similar entries that two views have in common, (B, K) twice -> (B,)."""
    lists = [rows.topk(n, dim=1).indices for rows in (one, two)]
    return (lists[0][:, :, None] == lists[1][:, None, :]).any(dim=2).float().mean(dim=1)


def agreement(one: Tensor, two: Tensor, allowed: Tensor, n: int) -> Tensor:
    """Measure how well two views agree on the n nearest entries, 0-d: 0 is chance, 1 means the same entries.

    It is (overlap - chance) / (1 - chance), with the overlap as a share of n, and chance = n / number of candidates.
    ``one`` and ``two`` are the views' similarities, ``allowed`` the candidates, (B, K) each.
    """
    shared = overlap(one.masked_fill(~allowed, float("-inf")), two.masked_fill(~allowed, float("-inf")), n)
    chance = (n / allowed.sum(dim=1).clamp(min=n)).clamp(max=1)
    return ((shared - chance) / (1 - chance).clamp(min=1e-6)).mean()


def sign_test(one: Tensor, two: Tensor) -> float:
    """Test by how many standard deviations ``one`` hits more often than ``two``, see :func:`instance_hits`.

    It is an exact sign test (mid-p, as a normal quantile) over videos: a video's two clips are one piece of evidence.
    """
    difference = one.view(2, -1).sum(dim=0) - two.view(2, -1).sum(dim=0)  # (N,)
    a, b = int((difference > 0).sum()), int((difference < 0).sum())
    n, wins = a + b, max(a, b)
    tail = (2 * sum(math.comb(n, k) for k in range(wins + 1, n + 1)) + math.comb(n, wins)) / 2**(n + 1)
    z = -float(torch.special.ndtri(torch.tensor(max(tail, 1e-300), dtype=torch.float64)))
    return z if a > b else -z if b > a else 0.0


def untrained(build: Callable[[], Net], seed: int = 0) -> Net:
    """Build a network to compare with: random weights that keep the scale of their input, in eval mode.

    PyTorch's default initialisation would make a weaker baseline, whatever its BatchNorm statistics.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build()
        for module in net.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
    return net.eval()


MEASURES = {"spread": spread, "rank": effective_rank}  # of unit rows (N, D)


class HealthProbe:
    """Measures both views of a model, always on the same clips: mining is only as good as the view that ranks.

    Two clips of each of ``videos`` of the training set, augmented as in training, are embedded like the queue's keys.
    ``seed`` chooses them, and initialises the random encoder (``network``, ``dim``) to compare the miner with.
    ``dtype`` is the encoders' autocast type.
    """

    def __init__(self, dataset: VideoDataset, videos: int, *, img_dim: int, batch_size: int, workers: int, seed: int,
                 network: str, dim: int, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.dataset = copy.copy(dataset)
        self.dataset.transform, self.dataset.by_epoch = PretrainTransform(img_dim, p_two_clips=1.0), False
        rank, W = distributed.rank(), distributed.world_size()
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
        self.rows = chosen[:max(1, min(videos, len(chosen)) // W) * W]  # the same number for each process
        self._own_rows = self.rows[rank::W]
        self.batch_size, self.workers, self.seed, self.device = batch_size, workers, seed, device
        self.network, self.dim, self.dtype = network, dim, dtype
        self._other: Clips | None = None
        self._sources = torch.zeros(0)

    def before(self, model: CoCLR) -> dict[str, float]:
        """Measure both views before the first step, and compare the miner with a random network.

        ``second_*``: share of clips whose nearest neighbour is the other clip of their video. ``agreement`` of the 5
        nearest, ``spread_*``, ``rank_*``: see the functions above.
        """
        random = untrained(lambda: make_encoder(self.network, self.dim), self.seed)
        move(random, self.device)
        values, hits = self.now(model), instance_hits(*self._embed(random, model.other_view))
        better = sign_test(instance_hits(*self.miner(model)), hits)
        second_random = float(hits.float().mean())
        if better < CLEARLY_BETTER and is_main():
            warn("the view that mines is not clearly better than a random network: the second clip of a video is the "
                 f"nearest for {values['second_other']:.1%} of {len(hits)} clips, with random weights for "
                 f"{second_random:.1%} ({better:+.1f} standard deviations). Mined positives may mislead the training: "
                 "first train that view longer, or with other settings")
        return {**values, "second_random": second_random, "better": better}

    def now(self, model: CoCLR) -> dict[str, float]:
        start = time.perf_counter()
        views = {"own": self.trained(model), "other": self.miner(model)}
        same = (self._sources[:, None] == self._sources[None, :]).repeat(2, 2)  # first clips, then second ones
        n = min(NEAREST, int((~same).sum(dim=1).min()))
        values, sims = {}, []
        for name, clips in views.items():
            z = torch.cat(clips)
            values[f"second_{name}"] = float(instance_hits(*clips).float().mean())
            values |= {f"{measure}_{name}": float(compute(z)) for measure, compute in MEASURES.items()}
            sims.append(z @ z.T)
        if n:
            values["agreement"] = float(agreement(sims[0], sims[1], ~same, n))
        own, other = (f"{100 * values[f'second_{view}']:.0f} %" for view in views)
        say(f"health: the second clip of a video is nearest for {own} of {2 * len(self.rows)} clips, in the view that "
            f"mines for {other}; {time.perf_counter() - start:.1f} s")
        return values

    def miner(self, model: CoCLR) -> Clips:
        if self._other is None:
            self._other = self._embed(model.sampler, model.other_view)
        return self._other

    def trained(self, model: CoCLR) -> Clips:
        """Return the trained encoder's embeddings, with the BatchNorm statistics that checkpoints hold."""
        encoder = copy.deepcopy(model.encoder_q)
        for buffer in encoder.buffers():
            distributed.broadcast(buffer)
        return self._embed(encoder, model.own_view)

    @torch.no_grad()
    def _embed(self, encoder: nn.Module, view: int) -> Clips:
        """Embed the chosen videos in one view; all processes return all embeddings."""
        encoder.eval()
        parts, sources = [], []
        loader = DataLoader(self.dataset, batch_size=self.batch_size, num_workers=self.workers,
                            sampler=[(0, row) for row in self._own_rows.tolist()], generator=torch.Generator())
        for batch in track(items(loader), len(loader), "health", "step"):
            blocks = to_blocks(batch, self.device)  # (B, 2 clips, S views, 3, T, H, W)
            parts.append(torch.stack([embed(encoder, blocks[:, clip, view], self.dtype) for clip in (0, 1)], dim=1))
            sources.append(batch["source"])
        self._sources = distributed.all_gather(torch.cat(sources).to(self.device))
        both = distributed.all_gather(torch.cat(parts))  # (N, 2, D)
        return both[:, 0], both[:, 1]
