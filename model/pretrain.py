"""The contrastive models: InfoNCE (MoCo on clips), UberNCE (with labels), and CoCLR with cascade positive retrieval.

Symbols as in the papers: q query, k key, kf key in the other view (from the frozen sampler), D embedding size, K queue
length, B clips per process, W processes, T temperature (in shapes: frames). With gradients enabled, a forward also
updates the key encoder and the queue.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbone.select_backbone import fold_batchnorm
from model.cascade import cascade_stages, fused_topk, stage_sizes, stage_views
from model.momentum import MomentumContrast, embed, make_encoder
from utils import distributed
from utils.errors import ModelError

# What a way to mine ranks by; folders and titles of runs name all but the first two by their keys.
MINING = {"topk": "the other view", "cascade": "both views in turn", "fused": "the sum of both views' ranks"}
OWN_VIEWS = ("current", "frozen")


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
    own: Tensor  # the same in the own view, (B, K), divided by T where they are logits
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
        mining: "topk", "cascade" or "fused" (see :func:`model.cascade.fused_topk`); None: as ``cascade`` says.
        own_view: what ranks the own view: "current", the encoder being trained (CPR), or "frozen", a copy that cannot
            learn from its own choices (:meth:`freeze_own_view`, or at the first forward): one more forward a step.
        anchor: what the cascade compares with the own view's queue: the "query" q, as released, or the "key" k, the
            paper's positive variant (CPR, section 3.2).
        first: view that stage 1 ranks by, "other" or "own".

    Raises:
        ModelError: see :func:`check_mining`.
    """

    queue_second: Tensor  # kf, the keys in the other view, (D, K)
    queue_vname: Tensor  # source ids, (K,) int64, -1 for entries not yet written
    queue_label: Tensor  # (K,) int64, -1 for entries not yet written
    queue_frozen: Tensor  # keys of the frozen own view, (D, K); in no state dict
    memory_index_record: Tensor  # 0 ... K-1, int64; unused, but part of published files

    def __init__(self, network: str, dim: int = 128, K: int = 2048, m: float = 0.999, T: float = 0.07, topk: int = 5,
                 ratio: float = 0.5, stage: int = 3, reverse: bool = False, cascade: bool = False, *,
                 mining: str | None = None, anchor: str = "query", first: str = "other", own_view: str = "current"
                 ) -> None:
        self.mining = mining_rule(mining, cascade)
        check_mining(K, topk, ratio, stage, self.mining, anchor, first, own_view)  # before building anything
        super().__init__(network, dim, K, m, T)
        self.topk, self.ratio, self.stage = topk, ratio, stage if self.mining == "cascade" else 1
        self.anchor, self.first = anchor, first
        self.own_view, self.other_view = (1, 0) if reverse else (0, 1)
        self.sampler = make_encoder(network, dim)
        self.sampler.requires_grad_(False).eval()
        self.register_buffer("queue_second", torch.nn.functional.normalize(torch.randn(dim, K), dim=0))
        self.register_buffer("queue_vname", torch.full((K,), -1, dtype=torch.long))
        self.register_buffer("queue_label", torch.full((K,), -1, dtype=torch.long))
        self.register_buffer("memory_index_record", torch.arange(K))
        self._full = False
        self.own_view_is_frozen = own_view == "frozen"
        # Lists, and a buffer that is not persistent, stay out of the state dict.
        self._frozen: list[nn.Module] = []  # the encoder of the frozen own view
        self._folded: list[nn.Module] = []  # for inference: the sampler, and the encoder of the frozen own view
        if self.own_view_is_frozen:
            self.register_buffer("queue_frozen", torch.zeros(dim, K), persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())

    def _forget(self) -> None:
        """Drop what was derived from the weights and buffers that have just been replaced."""
        self._full, self._folded = False, []

    def _apply(self, *given: Any, **settings: Any) -> "CoCLR":
        """Move or convert the model, and drop the folded copies."""
        self._folded = []
        for encoder in self._frozen:
            encoder._apply(*given, **settings)
        return super()._apply(*given, **settings)

    @property
    def views(self) -> list[str]:
        """The view that each stage of the mining ranks by: "other", "own", or "both"."""
        return views_of(self.mining, self.stage, self.first)

    @property
    def own_temperature(self) -> float:
        """What the own view's similarities are divided by: T where they are the logits."""
        return self.T if self.anchor == "query" and not self.own_view_is_frozen else 1.0

    def freeze_own_view(self, saved: Mapping[str, Any] | None = None) -> None:
        """Rank the own view by a copy of encoder_q from now on, or restore the :meth:`frozen_own_view` of a run."""
        encoder = copy.deepcopy(self.encoder_q).requires_grad_(False).eval()
        self._frozen, self._folded = [encoder], []
        if saved is not None:
            encoder.load_state_dict(saved["encoder"])
            self.queue_frozen.copy_(saved["queue"])

    def frozen_own_view(self) -> dict[str, Any]:
        """Return the frozen encoder's state and its queue, for a checkpoint; empty if there is none."""
        return {"encoder": self._frozen[0].state_dict(), "queue": self.queue_frozen} if self._frozen else {}

    def encoders(self) -> list[nn.Module]:
        return [*super().encoders(), *self._frozen]

    def miners(self) -> list[nn.Module]:
        """Return the sampler and, if there is one, the frozen own view, as copies with folded BatchNorm."""
        if self.own_view_is_frozen and not self._frozen:
            self.freeze_own_view()
        if not self._folded:
            for encoder in (self.sampler, *self._frozen):
                folded = copy.deepcopy(encoder)
                fold_batchnorm(folded)
                if self.sampler._compiled_call_impl is not None:  # a copy is not compiled
                    folded.compile()
                self._folded.append(folded)
        return self._folded

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
        sampler, *frozen = self.miners()  # before the statistics of encoder_q's BatchNorm move
        q = embed(self.encoder_q, block1[:, self.own_view], dtype)  # (B, D)
        training = q.requires_grad
        if training:
            self.update_key_encoder()
        with torch.no_grad():
            k, k_all = self.embed_keys(block2[:, self.own_view], dtype, generator)  # (B, D), (W*B, D)
            kf = embed(sampler, block2[:, self.other_view], dtype)  # (B, D)
        logits = self.logits(q, k)  # (B, 1+K)
        if frozen:
            with torch.no_grad():
                own_key = embed(frozen[0], block2[:, self.own_view], dtype)  # (B, D)
            own = own_key @ self.queue_frozen  # (B, K)
        else:
            own = logits[:, 1:].detach() if self.anchor == "query" else k @ self.queue  # (B, K)
        mask, mining = self.positives(kf, own, source)  # (B, 1+K)
        if training:
            sources = distributed.all_gather(source)  # (W*B,)
            columns = {"queue": k_all, "queue_second": distributed.all_gather(kf), "queue_vname": sources,
                       "queue_label": torch.ones_like(sources)}
            if frozen:
                columns["queue_frozen"] = distributed.all_gather(own_key)
            self.enqueue(columns)
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
        if self.mining == "fused":
            stages = [fused_topk(other, own, same_source, self.topk)]
        else:
            stages = cascade_stages(other, own, same_source, self.topk, self.ratio, self.stage,
                                    first=self.first if self.stage > 1 else "other")
        mask.scatter_(1, stages[-1] + 1, 1.0)
        return mask, Mining(other, own, same_source, stages)


def views_of(mining: str, stage: int, first: str) -> list[str]:
    return {"topk": ["other"], "fused": ["both"]}.get(mining) or stage_views(stage, first)


def mining_rule(mining: str | None, cascade: bool) -> str:
    """Return "topk", "cascade" or "fused"; ModelError if the two arguments contradict each other."""
    if cascade and mining not in (None, "cascade"):
        raise ModelError(f"--mining {mining} and --cascade contradict each other: omit one of them")
    return mining or ("cascade" if cascade else "topk")


def check_mining(K: int, topk: int, ratio: float, stage: int, mining: str, anchor: str = "query", first: str = "other",
                 own_view: str = "current") -> None:
    """Raise ModelError for arguments of :class:`CoCLR` that cannot work or would have no effect."""
    if not 0 <= topk <= K:
        raise ModelError(f"topk must lie between 0 and the queue's length {K}, but is {topk}")
    cascade = mining == "cascade"
    if cascade:
        stage_sizes(K, topk, ratio, stage)
    for name, value, known in (("mining", mining, MINING), ("anchor", anchor, ("query", "key")),
                               ("first view", first, ("other", "own")), ("own view", own_view, OWN_VIEWS)):
        if value not in known:
            raise ModelError(f"the {name} must be {' or '.join(known)}, not {value}")
    if first == "own" and not (cascade and stage > 1):
        raise ModelError("the own view can come first only in a cascade of at least two stages (--cascade, --stage): "
                         "the last stage always ranks by the other view")
    ranks_own = not {"own", "both"}.isdisjoint(views_of(mining, stage, first))
    if own_view == "frozen" and not ranks_own:
        raise ModelError("the own view can be frozen only where it ranks: --mining fused, or a cascade (--cascade) "
                         "with --stage 3 or more, or 2 with the own view first")
    if anchor == "key" and (not (cascade and ranks_own) or own_view == "frozen"):
        raise ModelError("the key can be the anchor only in a cascade that ranks by the own view, not frozen "
                         "(--cascade with --stage 3 or more, or 2 with the own view first)")
