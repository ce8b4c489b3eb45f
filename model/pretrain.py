"""The contrastive models: InfoNCE (MoCo on clips), UberNCE (with labels), and CoCLR with cascade positive retrieval.

Symbols as in the papers: q query, k key, kf key in the other view (from the frozen sampler), D embedding size, K queue
length, B clips per process, W processes, T temperature (in shapes: frames). With gradients enabled, a forward also
updates the key encoder and the queue.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbone.select_backbone import fold_batchnorm
from model.cascade import cascade_stages, stage_sizes, stage_views
from model.momentum import MomentumContrast, embed, freeze, make_encoder
from utils import distributed
from utils.errors import ModelError


class InfoNCE(MomentumContrast):
    """MoCo on video clips (MoCo, algorithm 1; CoCLR, equation 1). Arguments: see :class:`MomentumContrast`."""

    def forward(self, block: Tensor, *, dtype: torch.dtype | None = None, generator: torch.Generator | None = None
                ) -> tuple[Tensor, Tensor]:
        """Contrast two clips of each video.

        Args:
            block: two clips per video, (B, 2, 3, T, H, W).
            dtype, generator: see :meth:`MomentumContrast.contrast`.

        Returns:
            Logits (B, 1+K) and labels (B,), all 0: the key is in column 0.
        """
        logits, k_all = self.contrast(block[:, 0], block[:, 1], dtype=dtype, generator=generator)
        if k_all is not None:
            self.enqueue({"queue": k_all})
        return logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device)


class UberNCE(MomentumContrast):
    """Supervised contrast: queue entries of the same label are positives (CoCLR, section 3.1).

    Arguments: see :class:`~model.momentum.MomentumContrast`.
    """

    queue_label: Tensor  # (K,) int64, -1 for entries not yet written

    def __init__(self, network: str, dim: int = 128, K: int = 2048, m: float = 0.999, T: float = 0.07) -> None:
        super().__init__(network, dim, K, m, T)
        self.register_buffer("queue_label", torch.full((K,), -1, dtype=torch.long))

    def forward(self, block: Tensor, labels: Tensor, *, dtype: torch.dtype | None = None,
                generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Contrast two clips of each video, given their classes.

        Args:
            block: two clips per video, (B, 2, 3, T, H, W).
            labels: classes, (B,) int64.
            dtype, generator: see :meth:`MomentumContrast.contrast`.

        Returns:
            Logits (B, 1+K) and the mask of positives (B, 1+K), bool: column 0 and entries of the same label.
        """
        logits, k_all = self.contrast(block[:, 0], block[:, 1], dtype=dtype, generator=generator)
        same_label = labels[:, None] == self.queue_label[None, :]  # (B, K)
        mask = torch.cat([torch.ones_like(same_label[:, :1]), same_label], dim=1)
        if k_all is not None:
            self.enqueue({"queue": k_all, "queue_label": distributed.all_gather(labels)})
        return logits, mask


@dataclass(frozen=True)
class Mining:
    """What one forward of CoCLR mined."""

    other: Tensor  # similarities to the queue in the other view, (B, K)
    own: Tensor  # the same in the own view, (B, K); divided by T unless the anchor is the key
    excluded: Tensor  # queue entries of the query's own source, (B, K) bool
    stages: list[Tensor]  # queue indices that survive each stage, (B, size) int64; the last are mined, best first


class CoCLR(MomentumContrast):
    """Co-training of two views: positives are mined in the other view (CoCLR, section 3.2), in CPR by a cascade.

    Args:
        network, dim, K, m, T: see :class:`~model.momentum.MomentumContrast`.
        topk: positives mined per query; 0 mines none.
        ratio: share that each stage of the cascade keeps, see :func:`model.cascade.stage_sizes`.
        stage: number of stages.
        reverse: train the flow encoder and mine in RGB.
        cascade: mine by cascade positive retrieval instead of plain top-k; only then do ratio and stage count.
        anchor: what the cascade compares with the own view's queue: the "query" q, as released, or the "key" k, the
            paper's positive variant (CPR, section 3.2).
        first: view that stage 1 ranks by, "other" or "own".

    Raises:
        ModelError: see :func:`check_mining`.
    """

    queue_second: Tensor  # kf, the keys in the other view, (D, K)
    queue_vname: Tensor  # source ids, (K,) int64, -1 for entries not yet written
    queue_label: Tensor  # (K,) int64, -1 for entries not yet written
    memory_index_record: Tensor  # 0 ... K-1, int64; unused, but part of published files

    def __init__(self, network: str, dim: int = 128, K: int = 2048, m: float = 0.999, T: float = 0.07, topk: int = 5,
                 ratio: float = 0.5, stage: int = 3, reverse: bool = False, cascade: bool = False, *,
                 anchor: str = "query", first: str = "other") -> None:
        check_mining(K, topk, ratio, stage, cascade, anchor, first)  # before building anything
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
        self._folded: list[nn.Module] = []  # in a list, to keep it out of the state dict
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())

    def _forget(self) -> None:
        """Drop what was derived from the weights and buffers that have just been replaced."""
        self._full, self._folded = False, []

    def _apply(self, *given: Any, **settings: Any) -> "CoCLR":
        """Move or convert the model, and drop the folded miner."""
        self._folded = []
        return super()._apply(*given, **settings)

    def miner(self) -> nn.Module:
        """Return the frozen sampler as a copy for inference, with BatchNorm folded into its convolutions."""
        if not self._folded:
            folded = copy.deepcopy(self.sampler)
            fold_batchnorm(folded)
            if self.sampler._compiled_call_impl is not None:  # a copy is not compiled
                folded.compile()
            self._folded = [folded]
        return self._folded[0]

    def train(self, mode: bool = True) -> "CoCLR":
        """Set training or evaluation mode; the sampler always stays in evaluation mode."""
        super().train(mode)
        self.sampler.eval()
        return self

    @property
    def queue_is_full(self) -> bool:
        """Whether all queue entries are written, so that mining can begin; waits for the device until they are."""
        if not self._full:
            self._full = bool((self.queue_label != -1).all())
        return self._full

    def forward(self, block1: Tensor, block2: Tensor, source: Tensor, *, dtype: torch.dtype | None = None,
                generator: torch.Generator | None = None, return_mining: bool = False) -> tuple:
        """Contrast two clips of each video, with positives mined in the other view (CoCLR, equation 3).

        Args:
            block1: first clip in both views, (B, 2, 3, T, H, W): index 0 RGB, 1 flow.
            block2: second clip in both views, as block1.
            source: id of each sample's source video, (B,) int64; clips of the same source are positives.
            dtype, generator: see :meth:`MomentumContrast.contrast`.
            return_mining: also return the :class:`Mining`, or None if nothing was mined.

        Returns:
            Logits (B, 1+K) and the mask of positives (B, 1+K), float 0 or 1; with ``return_mining`` also the mining.
        """
        q = embed(self.encoder_q, block1[:, self.own_view], dtype)  # (B, D)
        training = q.requires_grad
        if training:
            self.update_key_encoder()
        with torch.no_grad():
            k, k_all = self.embed_keys(block2[:, self.own_view], dtype, generator)  # (B, D), (W*B, D)
            kf = embed(self.miner(), block2[:, self.other_view], dtype)  # (B, D)
        logits = self.logits(q, k)  # (B, 1+K)
        own = logits[:, 1:].detach() if self.anchor == "query" else k @ self.queue  # (B, K)
        mask, mining = self.positives(kf, own, source)  # (B, 1+K)
        if training:
            sources = distributed.all_gather(source)  # (W*B,)
            self.enqueue({"queue": k_all, "queue_second": distributed.all_gather(kf), "queue_vname": sources,
                          "queue_label": torch.ones_like(sources)})
        return (logits, mask, mining) if return_mining else (logits, mask)

    @torch.no_grad()
    def positives(self, kf: Tensor, own: Tensor, source: Tensor) -> tuple[Tensor, Mining | None]:
        """Find the positives: own key, same source and, once the queue is full, mined entries.

        Args:
            kf: keys in the other view, (B, D).
            own: similarities to the queue in the own view, (B, K).
            source: source ids, (B,).

        Returns:
            Mask of positives (B, 1+K), float, and the mining, if any.
        """
        same_source = source[:, None] == self.queue_vname[None, :]  # (B, K)
        mask = torch.cat([torch.ones_like(same_source[:, :1]), same_source], dim=1).float()
        if not (self.topk and self.queue_is_full):
            return mask, None
        other = kf @ self.queue_second  # (B, K)
        stages = cascade_stages(other, own, same_source, self.topk, self.ratio, self.stage,
                                first=self.first if self.stage > 1 else "other")
        mask.scatter_(1, stages[-1] + 1, 1.0)
        return mask, Mining(other, own, same_source, stages)


def check_mining(K: int, topk: int, ratio: float, stage: int, cascade: bool, anchor: str = "query",
                 first: str = "other") -> None:
    """Raise ModelError for arguments of :class:`CoCLR` that cannot work or would have no effect."""
    if not 0 <= topk <= K:
        raise ModelError(f"topk must lie between 0 and the queue's length {K}, but is {topk}")
    if cascade:
        stage_sizes(K, topk, ratio, stage)
    if anchor not in ("query", "key") or first not in ("other", "own"):
        raise ModelError(f"the anchor must be query or key, and the first view other or own, not {anchor} and {first}")
    if first == "own" and not (cascade and stage > 1):
        raise ModelError("the own view can come first only in a cascade of at least two stages (--cascade, --stage): "
                         "the last stage always ranks by the other view")
    if anchor == "key" and not (cascade and "own" in stage_views(stage, first)):
        raise ModelError("the key can be the anchor only in a cascade that ranks by the own view (--cascade, and "
                         "--stage 3 or more, or 2 with the own view first)")
