"""The cascade and a training step, against plain loops.

The straightforward cascade loops over stages and samples, and gathers the features of the survivors. The
straightforward step of CoCLR uses it, in contiguous memory, with a loop over parameters.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dataset.transforms.photometric import PhotometricRecipe, stack_params
from dataset.transforms.presets import to_blocks
from engine.convolutions import check_convolutions
from engine.device import choose_precision
from engine.monitors import MiningMonitor
from engine.optimizer import Optimizer
from engine.steps import coclr_step, draw_self_mask
from model.cascade import cascade_topk, stage_sizes
from model.loss import coclr_loss, drop_self
from model.pretrain import CoCLR
from tools.benchmarks import Case, Sizes

LR, WD, SEED = 1e-3, 1e-5, 0
TOLERANCE, COMPILED = 1e-5, 1e-3  # of losses in float64; of a compiled step's first, relative, in float32
MATRIX = 2048
SAME_SOURCE = 0.01  # share of the queue that comes from a query's own source
DIM = 128
BATCHES = 4  # per call of the cascade: branch prediction and caches would adapt to a repeated one


def plain_cascade(query: Tensor, key: Tensor, queues: tuple[Tensor, Tensor], excluded: Tensor, sizes: list[int]
                  ) -> Tensor:
    """Mine in the usual way: loop over samples, and gather features; returns queue indices (B, topk).

    Queries in the own view and keys in the other are (B, D), the queues of both (D, K), the `excluded` entries bool
    (B, K); `sizes` are the numbers of entries that the stages keep.
    """
    B, K = excluded.shape
    own, other = (queue.t().expand(B, -1, -1) for queue in queues)  # (B, kept, D)
    left = torch.arange(K, device=query.device).repeat(B, 1)  # (B, kept)
    banned = excluded
    for stage, size in enumerate(sizes, start=1):
        by_other = stage % 2 == 1 or stage == len(sizes)
        found = []
        for b in range(B):
            similarity = other[b] @ key[b] if by_other else own[b] @ query[b]  # (kept,)
            similarity[banned[b]] = float("-inf")
            found.append(similarity.sort(descending=True).indices[:size])
        own = torch.stack([own[b][found[b]] for b in range(B)])
        other = torch.stack([other[b][found[b]] for b in range(B)])
        left = torch.stack([left[b][found[b]] for b in range(B)])
        banned = torch.stack([banned[b][found[b]] for b in range(B)])
    return left


def cascade_cases(sizes: Sizes, folder: Path) -> Iterator[Case]:
    return (_cascade_case(sizes, K, B) for K in sizes.queues for B in sizes.batches)


def _cascade_case(sizes: Sizes, K: int, B: int) -> Case:
    batches = [_embeddings(K, B, seed, sizes.device) for seed in range(BATCHES)]
    settings = sizes.topk, sizes.ratio, sizes.stage
    kept = stage_sizes(K, *settings)

    def plain() -> list[Tensor]:
        return [plain_cascade(query, key, queues, excluded, kept) for query, key, queues, excluded, _ in batches]

    def ours() -> list[Tensor]:
        return [cascade_topk(key @ queues[1], own, excluded, *settings) for _, key, queues, excluded, own in batches]

    def bound() -> None:
        for _, key, queues, _, _ in batches:
            (key @ queues[1]).topk(kept[0], dim=1, sorted=False)

    def equal(plain: list[Tensor], ours: list[Tensor]) -> str:
        if not torch.equal(torch.stack(plain), torch.stack(ours)):
            raise AssertionError("the mined entries differ")
        return "equal"

    return Case("cascade", f"K={K} B={B}", plain, ours, equal, bound,
                f"keys times queue, and one unsorted top-{kept[0]} of it", units=BATCHES)


def _embeddings(K: int, B: int, seed: int, device: torch.device
                ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
    """Make the input of `plain_cascade`, and similarities (B, K) in the own view, which a model has as logits."""
    draw = torch.Generator().manual_seed(K + B + seed)
    query, key = (F.normalize(torch.randn(B, DIM, generator=draw), dim=1).to(device) for _ in range(2))
    own, other = (F.normalize(torch.randn(DIM, K, generator=draw), dim=0).to(device) for _ in range(2))
    excluded = (torch.rand(B, K, generator=draw) < SAME_SOURCE).to(device)
    return query, key, (own, other), excluded, query @ own


def make_model(sizes: Sizes) -> CoCLR:
    torch.manual_seed(SEED)
    model = CoCLR("s3d", K=sizes.queue, topk=sizes.topk, ratio=sizes.ratio, stage=sizes.stage, cascade=True)
    model.queue_label.fill_(1)
    model.queue_vname.copy_(torch.arange(sizes.queue) % (sizes.queue // 2))
    return model.train()


def make_batch(sizes: Sizes, seed: int) -> dict:
    """Make a batch as the loader does, without photometric steps: those of both versions differ in rounding."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(sizes.batch * 4, 3, sizes.frames // 2, 8, 8, generator=draw)
    smooth = F.interpolate(coarse, size=(sizes.frames, sizes.img_dim, sizes.img_dim), mode="trilinear") * 255
    clips = smooth.to(torch.uint8).unflatten(0, (sizes.batch, 2, 2)).permute(0, 1, 2, 4, 5, 6, 3).contiguous()
    draws = [PhotometricRecipe().draw(np.random.default_rng(0), 2, sizes.frames) for _ in range(2)]
    params = {name: torch.stack([value] * sizes.batch) for name, value in stack_params(draws).items()}
    # One source for all, which is never mined from itself: at initialisation the keys of such clips are so alike that
    # rounding would decide which of them are mined.
    source = torch.zeros(sizes.batch, dtype=torch.long)
    batch = {"clips": clips, "photometric": params, "source": source, "label": source, "index": source}
    return {**batch, "floats": to_blocks(batch, "cpu").contiguous()}  # floats: for the straightforward version


class Ours:
    """Steps as main_coclr.py takes them, with all numbers of one type; precision and compiled: as its options."""

    def __init__(self, sizes: Sizes, kind: torch.dtype = torch.float32, precision: str = "fp32",
                 compiled: bool = False) -> None:
        self.model = make_model(sizes).to(sizes.device, kind).to(memory_format=torch.channels_last_3d)
        self.model.register_forward_pre_hook(  # clips come as float32
            lambda _, given: tuple(each.to(kind) if each.is_floating_point() else each for each in given))
        self.precision = choose_precision(precision, sizes.device)
        if precision != "fp32":
            check_convolutions(self.model.encoders(), (sizes.frames, sizes.img_dim, sizes.img_dim), self.precision)
        if compiled:
            for encoder in self.model.encoders():
                encoder.compile()
        self.optimizer = Optimizer(self.model.named_parameters(), lr=LR, wd=WD, scaler=self.precision.scaler())
        self.monitor = MiningMonitor(sizes.queue, device=sizes.device)

    def step(self, batch: dict, iteration: int) -> float:
        self.optimizer.zero_grad()
        loss = coclr_step(self.model, batch, self.precision.device, self.monitor,
                          without_self=draw_self_mask(SEED, 0, iteration), dtype=self.precision.dtype)["loss"]
        self.optimizer.backward(loss)
        self.optimizer.step()
        return float(loss.detach())


class Plain:
    """The same steps in contiguous memory, with a loop over parameters, and a cascade that gathers features."""

    def __init__(self, sizes: Sizes, kind: torch.dtype = torch.float32) -> None:
        self.model, self.device, self.kind = make_model(sizes).to(sizes.device, kind), sizes.device, kind
        self.kept = stage_sizes(sizes.queue, sizes.topk, sizes.ratio, sizes.stage)
        self.optimizer = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=LR,
                                          weight_decay=WD, foreach=False)

    def step(self, batch: dict, iteration: int) -> float:
        model = self.model
        clips = batch["floats"].to(self.device, self.kind)  # (B, 2 clips, 2 streams, 3, T, H, W)
        source = batch["source"].to(self.device)

        def embed(encoder: torch.nn.Module, view: Tensor) -> Tensor:
            return F.normalize(encoder(view.contiguous()).flatten(1), dim=1)
        q = embed(model.encoder_q, clips[:, 0, 0])
        with torch.no_grad():
            for key, query in zip(model.encoder_k.parameters(), model.encoder_q.parameters(), strict=True):
                key.data = key.data * model.m + query.data * (1 - model.m)
            k, kf = embed(model.encoder_k, clips[:, 1, 0]), embed(model.sampler, clips[:, 1, 1])
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ model.queue.clone().detach()], dim=1) / model.T
        mask = self._positives(q.detach(), kf, source)
        loss = coclr_loss(logits, drop_self(mask) if draw_self_mask(SEED, 0, iteration) else mask)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        model.enqueue({"queue": k, "queue_second": kf, "queue_vname": source, "queue_label": torch.ones_like(source)})
        return float(loss.detach())

    def _positives(self, q: Tensor, kf: Tensor, source: Tensor) -> Tensor:
        same_source = source[:, None] == self.model.queue_vname[None]
        mined = plain_cascade(q, kf, (self.model.queue, self.model.queue_second), same_source, self.kept)
        mask = torch.cat([torch.ones_like(same_source[:, :1]), same_source], dim=1).float()
        for b in range(len(mask)):
            mask[b, mined[b] + 1] = 1.0
        return mask


def cases(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Yield a step beside as many operations in matrix products, and our step in a lower precision."""
    agreement = agreement_in_float64(sizes)
    plain, ours, batch = Plain(sizes), Ours(sizes), make_batch(sizes, 0)
    with FlopCounterMode(display=False) as counter:
        ours.step(batch, 0)
    operations = counter.get_total_flops()
    matrix = torch.randn(MATRIX, MATRIX, device=sizes.device)
    products = max(1, round(operations / (2 * MATRIX**3)))
    size = f"{sizes.batch} clips of {sizes.frames}x{sizes.img_dim}x{sizes.img_dim}"
    case = partial(Case, plain=lambda: plain.step(batch, 0), bound=lambda: [matrix @ matrix for _ in range(products)],
                   bound_of=f"{operations:.3g} operations in float32 products of {MATRIX}x{MATRIX} matrices")
    yield case("training step", f"{size}, float32", ours=lambda: ours.step(batch, 0), agree=lambda a, b: agreement)
    if sizes.compile:
        compiled, first = Ours(sizes, compiled=True), Ours(sizes).step(batch, 0)
        yield case("training step, compiled", f"{size}, float32", ours=lambda: compiled.step(batch, 0),
                   agree=lambda _, loss: torch.testing.assert_close(loss, first, rtol=COMPILED, atol=0.0) or (
                       f"first loss within {COMPILED:g} of the step's that is not compiled"))
    if precision := sizes.precision or ("fp16" if sizes.device.type == "cuda" else ""):
        lower = Ours(sizes, precision=precision)
        yield case(f"training step, {precision}", f"{size}, straightforward in float32",
                   ours=lambda: lower.step(batch, 0), agree=_both_finite)


def _both_finite(*losses: float) -> str:
    if not np.isfinite(losses).all():
        raise AssertionError(f"the losses, in float32 and in the lower precision, are {losses}")
    return "both losses are finite"


def agreement_in_float64(sizes: Sizes) -> str:
    """Check that both versions do the same arithmetic: in float64, at a small size, their losses are equal.

    In float32 they cannot be for long: S3D at initialisation magnifies rounding a hundred times and more, and Adam
    turns the sign of a tiny gradient into a whole step.
    """
    small = replace(sizes, frames=min(sizes.frames, 16), img_dim=min(sizes.img_dim, 64))
    versions = Plain(small, torch.float64), Ours(small, torch.float64)
    batches = (make_batch(small, i) for i in range(small.steps))
    losses = np.array([[version.step(batch, i) for version in versions] for i, batch in enumerate(batches)])
    apart = float(np.abs(losses[:, 0] - losses[:, 1]).max())
    if not apart <= TOLERANCE:
        raise AssertionError(f"in float64 the losses are {apart:.3g} apart: {losses.tolist()}")
    return f"float64: losses within {TOLERANCE:g} over {small.steps} steps ({apart:.1g})"
