"""The contrastive models: InfoNCE (MoCo on clips), UberNCE (with labels), and CoCLR with cascade positive retrieval.

Symbols as in the papers: q query, k key, kf the key's other view (frozen encoder), D embedding size, K queue length,
B clips per process, W processes, T temperature (frames in shapes). A model is in training while gradients are recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.cascade import cascade_stages, cascade_topk, stage_sizes, stage_views
from model.errors import ModelError
from model.momentum import MomentumContrast, check_queue, embed, freeze, make_encoder
from utils import distributed

__all__ = ["CoCLR", "InfoNCE", "Mining", "UberNCE", "check_queue"]


class InfoNCE(MomentumContrast):
    """MoCo on video clips (MoCo, algorithm 1; CoCLR, equation 1). Arguments as of its base."""

    def forward(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Contrast two clips of each video.

        Args:
            block: two clips a sample, (B, 2, 3, T, H, W).

        Returns:
            Logits (B, 1+K) and labels (B,), all 0: the key is in column 0.
        """
        logits, k_all = self.contrast(block[:, 0], block[:, 1])
        if k_all is not None:
            self.enqueue({"queue": k_all})
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)


class UberNCE(MomentumContrast):
    """Supervised contrast: queue entries of the same label are positives (CoCLR, section 3.1).

    Args:
        network, dim, K, m, T: see :class:`~model.momentum.MomentumContrast`.
    """

    queue_label: Tensor  # (K,) int64, -1 where nothing has been written

    def __init__(self, network: str, dim: int = 128, K: int = 2048, m: float = 0.999, T: float = 0.07) -> None:
        super().__init__(network, dim, K, m, T)
        self.register_buffer("queue_label", torch.full((K,), -1, dtype=torch.long))

    def forward(self, block: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Contrast two clips of each video, with the classes known.

        Args:
            block: two clips a sample, (B, 2, 3, T, H, W). labels: classes (B,), int64.

        Returns:
            Logits (B, 1+K) and the mask of positives (B, 1+K), bool: column 0 and entries of the same label.
        """
        logits, k_all = self.contrast(block[:, 0], block[:, 1])
        same_label = labels[:, None] == self.queue_label[None, :]  # (B, K)
        mask = torch.cat([torch.ones_like(same_label[:, :1]), same_label], dim=1)
        if k_all is not None:
            self.enqueue({"queue": k_all, "queue_label": distributed.all_gather(labels)})
        return logits, mask


@dataclass(frozen=True)
class Mining:
    """What a forward of CoCLR mined, for whoever watches it.

    Args:
        other, own: similarities of the queries to the queue in both views, (B, K); the own ones are divided by the
            temperature, unless the anchor is the key.
        excluded: entries of the query's own source, (B, K) bool.
        stages: queue indices that survived each stage, (B, size) int64; the last are the mined ones, best first.
    """

    other: Tensor
    own: Tensor
    excluded: Tensor
    stages: list[Tensor]


class CoCLR(MomentumContrast):
    """Co-training of two views; positives are mined in the other view (CoCLR, section 3.2), by a cascade with CPR.

    Args:
        network, dim, K, m, T: see :class:`~model.momentum.MomentumContrast`.
        topk: positives mined per query; 0 mines none.
        ratio, stage: the cascade's, see :func:`model.cascade.stage_sizes`; used only with ``cascade``.
        reverse: train the flow encoder and mine in RGB, instead of the other way round.
        cascade: mine by cascade positive retrieval instead of plain top-k.
        anchor: what the cascade compares with the own view's queue: the "query" q, as released, or the "key" k, the
            positive variant of the paper (CPR, section 3.2).
        first: the view that stage 1 ranks by, "other" or "own".

    Attributes:
        watch: called with what was mined in each forward that mines, if set.

    Raises:
        ModelError: topk is larger than the queue, some stage of the cascade would keep fewer than topk, or anchor or
            first would change nothing.
    """

    queue_second: Tensor  # the keys' other view kf, (D, K)
    queue_vname: Tensor  # source ids, (K,) int64, -1 where nothing has been written
    queue_label: Tensor  # (K,) int64, -1 where nothing has been written
    memory_index_record: Tensor  # 0 ... K-1, int64; published files hold it
    watch: Callable[[Mining], None] | None = None

    def __init__(self, network: str, dim: int = 128, K: int = 2048, m: float = 0.999, T: float = 0.07, topk: int = 5,
                 ratio: float = 0.5, stage: int = 3, reverse: bool = False, cascade: bool = False, *,
                 anchor: str = "query", first: str = "other") -> None:
        check_mining(K, topk, ratio, stage, cascade, anchor, first)  # before anything is built
        super().__init__(network, dim, K, m, T)
        self.topk, self.ratio, self.stage = topk, ratio, stage if cascade else 1
        self.anchor, self.first = anchor, first
        self.own_view, self.other_view = (1, 0) if reverse else (0, 1)
        self.sampler = make_encoder(network, dim)
        freeze(self.sampler)
        self.sampler.eval()
        self.register_buffer("queue_second", torch.nn.functional.normalize(torch.randn(dim, K), dim=0))
        self.register_buffer("queue_vname", torch.full((K,), -1, dtype=torch.long))
        self.register_buffer("queue_label", torch.full((K,), -1, dtype=torch.long))
        self.register_buffer("memory_index_record", torch.arange(K))
        self._full = False
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "_full", False))

    def train(self, mode: bool = True) -> "CoCLR":
        """Training or evaluation mode; the sampler's BatchNorm always uses its running statistics.

        Args:
            mode: True for training.
        """
        super().train(mode)
        self.sampler.eval()
        return self

    @property
    def queue_is_full(self) -> bool:
        """Whether every queue entry has been written; only then are positives mined. Asks the device until it is so."""
        if not self._full:
            self._full = bool((self.queue_label != -1).all())
        return self._full

    def forward(self, block1: Tensor, block2: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """Contrast two clips of each video, with positives mined in the other view.

        Args:
            block1, block2: a clip each, in two views, (B, 2, 3, T, H, W): index 0 RGB, 1 flow.
            source: id of the source video of each sample, (B,) int64. Clips of one source are positives.

        Returns:
            Logits (B, 1+K) and the mask of positives (B, 1+K), float 0 or 1.
        """
        q = embed(self.encoder_q, block1[:, self.own_view], self.dtype)  # (B, D)
        training = q.requires_grad
        if training:
            self.update_key_encoder()
        with torch.no_grad():
            k, k_all = self.embed_keys(block2[:, self.own_view])  # (B, D), (W*B, D)
            kf = embed(self.sampler, block2[:, self.other_view], self.dtype)  # (B, D)
        logits = self.logits(q, k)  # (B, 1+K)
        own = logits[:, 1:].detach() if self.anchor == "query" else k @ self.queue  # (B, K)
        mask = self.positives(kf, own, source)  # (B, 1+K)
        if training:
            sources = distributed.all_gather(source)  # (W*B,)
            self.enqueue({"queue": k_all, "queue_second": distributed.all_gather(kf), "queue_vname": sources,
                          "queue_label": torch.ones_like(sources)})
        return logits, mask

    @torch.no_grad()
    def positives(self, kf: Tensor, own: Tensor, source: Tensor) -> Tensor:
        """The mask of positives (B, 1+K), float: own key, same source, and once the queue is full the mined entries.

        Args:
            kf: other view's keys (B, D). own: similarities to the queue in the own view (B, K). source: (B,).
        """
        same_source = source[:, None] == self.queue_vname[None, :]  # (B, K)
        mask = torch.cat([torch.ones_like(same_source[:, :1]), same_source], dim=1).float()
        if self.topk and self.queue_is_full:
            other = kf @ self.queue_second  # (B, K)
            mask.scatter_(1, self._mine(other, own, same_source) + 1, 1.0)
        return mask

    def _mine(self, other: Tensor, own: Tensor, same_source: Tensor) -> Tensor:
        """The mined entries (B, topk), best first."""
        settings = self.topk, self.ratio, self.stage
        first = self.first if self.stage > 1 else "other"
        if self.watch is None:
            return cascade_topk(other, own, same_source, *settings, first=first)
        stages = cascade_stages(other, own, same_source, *settings, first=first)
        self.watch(Mining(other, own, same_source, stages))
        return stages[-1]


def check_mining(K: int, topk: int, ratio: float, stage: int, cascade: bool, anchor: str = "query",
                 first: str = "other") -> None:
    """Refuse settings of :class:`CoCLR` that cannot work, or would change nothing.

    Args:
        K, topk, ratio, stage, cascade, anchor, first: see :class:`CoCLR`.

    Raises:
        ModelError: with the numbers, and what to do.
    """
    if not 0 <= topk <= K:
        raise ModelError(f"topk must lie between 0 and the queue's length {K}, but is {topk}")
    if cascade:
        stage_sizes(K, topk, ratio, stage)
    if anchor not in ("query", "key") or first not in ("other", "own"):
        raise ModelError(f"the anchor is query or key, the first view other or own, but they are {anchor} and {first}")
    if first == "own" and not (cascade and stage > 1):
        raise ModelError("the own view can come first only in a cascade of two stages or more (--cascade, --stage): "
                         "the last stage always ranks by the other view")
    if anchor == "key" and not (cascade and "own" in stage_views(stage, first)):
        raise ModelError("the key can be the anchor only in a cascade with a stage of the own view (--cascade, and "
                         "--stage 3 or more, or 2 with the own view first)")
