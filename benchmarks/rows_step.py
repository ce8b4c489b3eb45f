"""Rows of the training step: CoCLR with cascade positive retrieval, and where its time goes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import plain_cascade
from benchmarks.measure import Case, Disagreement, clocked
from benchmarks.sizes import Sizes
from model.cascade import cascade_topk, stage_sizes
from model.loss import coclr_loss, drop_self
from model.pretrain import CoCLR
from pretrain_steps import CoclrSteps, masks_self
from utils.conv_check import check_convolutions
from utils.mining import MiningMonitor
from utils.optimizer import RunOptimizer
from utils.photo import PhotoRecipe, stack
from utils.precision import choose
from utils.presets import to_blocks

LR, WD, SEED = 1e-3, 1e-5, 0
TOLERANCE = 1e-5
MATRIX = 2048


def make_model(sizes: Sizes) -> CoCLR:
    """The same model each time, with a full queue."""
    torch.manual_seed(SEED)
    model = CoCLR("s3d", K=sizes.queue, topk=sizes.topk, ratio=sizes.ratio, stage=sizes.stage, cascade=True)
    model.queue_label.fill_(1)
    model.queue_vname.copy_(torch.arange(sizes.queue) % (sizes.queue // 2))
    return model.train()


def make_batch(sizes: Sizes, step: int) -> dict:
    """A batch as the loader hands it over, without photometric steps: those of both ways would differ in rounding."""
    draw = torch.Generator().manual_seed(step)
    coarse = torch.rand(sizes.batch * 4, 3, sizes.frames // 2, 8, 8, generator=draw)
    smooth = F.interpolate(coarse, size=(sizes.frames, sizes.img_dim, sizes.img_dim), mode="trilinear") * 255
    clips = smooth.to(torch.uint8).unflatten(0, (sizes.batch, 2, 2)).permute(0, 1, 2, 4, 5, 6, 3).contiguous()
    photos = [PhotoRecipe().draw(np.random.default_rng(0), 2, sizes.frames) for _ in range(2)]
    photo = {name: torch.stack([value] * sizes.batch) for name, value in stack(photos).items()}
    # All of one video, which is never mined from itself: at initialisation the keys of such clips are so alike that
    # rounding would decide which of them are mined.
    source = torch.zeros(sizes.batch, dtype=torch.long)
    return {"clips": clips, "photo": photo, "source": source, "label": source, "index": source}


class InKind(torch.nn.Module):
    """A model that is given its clips in a type of numbers."""

    def __init__(self, model: CoCLR, kind: torch.dtype) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, block1: Tensor, block2: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`CoCLR.forward`."""
        return self.model(block1.to(self.kind), block2.to(self.kind), source)


class Ours:
    """Steps as main_coclr.py takes them; kind: the type of all numbers. precision: the encoders', as --precision."""

    def __init__(self, sizes: Sizes, kind: torch.dtype = torch.float32, precision: str = "fp32") -> None:
        self.model = make_model(sizes).to(sizes.device, kind).to(memory_format=torch.channels_last_3d)
        arithmetic = choose(precision, sizes.device)
        self.model.dtype = arithmetic.dtype
        if precision != "fp32":
            check_convolutions(self.model.encoders(), (sizes.frames, sizes.img_dim, sizes.img_dim), arithmetic)
        self.optimizer = RunOptimizer(self.model.named_parameters(), lr=LR, wd=WD, scaler=arithmetic.scaler())
        self.steps = CoclrSteps(InKind(self.model, kind), self.model, self.optimizer,
                                MiningMonitor(sizes.queue, device=sizes.device), sizes.device, SEED)

    def step(self, batch: dict, iteration: int) -> float:
        """The loss of a step."""
        return float(self.steps(0)(batch, iteration)["loss"].detach())


class Plain:
    """The same steps in contiguous memory, with a loop over parameters, and a cascade that gathers features."""

    def __init__(self, sizes: Sizes, kind: torch.dtype = torch.float32) -> None:
        self.model, self.device, self.kind = make_model(sizes).to(sizes.device, kind), sizes.device, kind
        self.kept = stage_sizes(sizes.queue, sizes.topk, sizes.ratio, sizes.stage)
        self.optimizer = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=LR,
                                          weight_decay=WD, foreach=False)

    def step(self, batch: dict, iteration: int) -> float:
        """The loss of a step, from float clips in contiguous memory."""
        model = self.model
        clips = batch["floats"].to(self.device, self.kind)  # (B, 2, 2, 3, T, H, W)
        source = batch["source"].to(self.device)
        q = self._embed(model.encoder_q, clips[:, 0, 0])
        with torch.no_grad():
            for key, query in zip(model.encoder_k.parameters(), model.encoder_q.parameters(), strict=True):
                key.data = key.data * model.m + query.data * (1 - model.m)
            k = self._embed(model.encoder_k, clips[:, 1, 0])
            kf = self._embed(model.sampler, clips[:, 1, 1])
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ model.queue.clone().detach()], dim=1) / model.T
        mask = self._positives(q.detach(), kf, source)
        loss = coclr_loss(logits, drop_self(mask) if masks_self(SEED, 0, iteration) else mask)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        model.enqueue({"queue": k, "queue_second": kf, "queue_vname": source, "queue_label": torch.ones_like(source)})
        return float(loss.detach())

    def _embed(self, encoder: torch.nn.Module, clips: Tensor) -> Tensor:
        return F.normalize(encoder(clips.contiguous()).flatten(1), dim=1)

    def _positives(self, q: Tensor, kf: Tensor, source: Tensor) -> Tensor:
        same_source = source[:, None] == self.model.queue_vname[None]
        mined = plain_cascade.cascade(q, kf, (self.model.queue, self.model.queue_second), same_source, self.kept)
        mask = torch.cat([torch.ones_like(same_source[:, :1]), same_source], dim=1).float()
        for b in range(len(mask)):
            mask[b, mined[b] + 1] = 1.0
        return mask


def _with_floats(batch: dict) -> dict:
    blocks = to_blocks(batch, torch.device("cpu"))
    return {**batch, "floats": blocks.contiguous()}


def step(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """The losses of the first steps of both, then a step of each, beside the machine's own matrix product."""
    agreement = f"{agreement_in_float64(sizes)}; float32: {told(losses(sizes, torch.float32))}"
    plain, ours, batch = Plain(sizes), Ours(sizes), _with_floats(make_batch(sizes, 0))
    notes = {"flop": float(_flop(lambda: ours.step(batch, 0))), **parts(ours, batch, sizes)}
    matrix = torch.randn(MATRIX, MATRIX, device=sizes.device)
    products = max(1, round(notes["flop"] / (2 * MATRIX**3)))
    yield Case("training step", f"{sizes.batch} clips of {sizes.frames}x{sizes.img_dim}x{sizes.img_dim}, float32",
               plain=lambda: plain.step(batch, 0), ours=lambda: ours.step(batch, 0), agree=lambda a, b: agreement,
               bound=lambda: [matrix @ matrix for _ in range(products)],
               bound_of=f"as many operations in float32 products of {MATRIX}x{MATRIX} matrices", notes=notes,
               goals={"ratio": ">= 1.5", "losses": f"within {TOLERANCE:g} over {sizes.steps} steps"})
    precision = sizes.precision or ("fp16" if sizes.device.type == "cuda" else "")
    if precision:
        yield _in_precision(sizes, plain, precision, batch)


def _in_precision(sizes: Sizes, plain: Plain, precision: str, batch: dict) -> Case:
    """Our step in a lower precision against the straightforward one in float32; `benchmarks.fidelity` judges it."""
    ours = Ours(sizes, precision=precision)

    def both_learn(a: float, b: float) -> str:
        if not (np.isfinite(a) and np.isfinite(b)):
            raise Disagreement(f"losses {a} in float32 and {b} in {precision}")
        return f"losses are finite; python -m benchmarks.fidelity tells whether {precision} is safe"

    return Case(f"training step, {precision}", f"{sizes.batch} clips of {sizes.frames}x{sizes.img_dim}x{sizes.img_dim}",
                plain=lambda: plain.step(batch, 0), ours=lambda: ours.step(batch, 0), agree=both_learn,
                goals={"ratio": ">= 2.5"})


def losses(sizes: Sizes, kind: torch.dtype) -> np.ndarray:
    """Losses (2, steps) of the plain way and of ours, from equal weights on equal batches."""
    ways = Plain(sizes, kind), Ours(sizes, kind)
    batches = (_with_floats(make_batch(sizes, i)) for i in range(sizes.steps))
    return np.array([[way.step(batch, i) for way in ways] for i, batch in enumerate(batches)]).T


def agreement_in_float64(sizes: Sizes) -> str:
    """Both ways do the same arithmetic: in float64, at a small size, their losses are equal.

    In float32 they cannot be for long: S3D at initialisation magnifies rounding a hundred times and more, and Adam
    makes of the sign of a tiny gradient a whole step.
    """
    small = replace(sizes, frames=min(sizes.frames, 16), img_dim=min(sizes.img_dim, 64))
    found = losses(small, torch.float64)
    apart = float(np.abs(found[0] - found[1]).max())
    if not apart <= TOLERANCE:
        raise Disagreement(f"in float64 the losses are {apart:.3g} apart: {found}")
    return f"float64: losses within {TOLERANCE:g} over {small.steps} steps ({apart:.1g})"


def told(found: np.ndarray) -> str:
    """How far apart the losses (2, steps) of both ways are."""
    apart = np.abs(found[0] - found[1])
    return f"first losses {apart[0]:.1g} apart, at most {apart.max():.1g} over {len(apart)} steps"


def _flop(work: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return counter.get_total_flops()


def parts(ours: Ours, batch: dict, sizes: Sizes) -> dict[str, float]:
    """Seconds that the parts of our step take by themselves, medians of three, and of the whole."""
    model = ours.model
    views = to_blocks(batch, sizes.device)
    q, kf = (F.normalize(torch.randn(sizes.batch, model.dim, device=sizes.device), dim=1) for _ in range(2))
    other, own = kf @ model.queue_second, q @ model.queue
    none = torch.zeros_like(own, dtype=torch.bool)
    graph: list[Tensor] = []

    def keys(encoder: torch.nn.Module, stream: int) -> None:
        with torch.no_grad():
            encoder(views[:, 1, stream])

    works = {
        "to the device, normalised": lambda: to_blocks(batch, sizes.device),
        "query forward": lambda: graph.append(model.encoder_q(views[:, 0, 0]).sum()),
        "query backward": lambda: graph.pop().backward(),
        "momentum update": model.update_key_encoder,
        "key forward": lambda: keys(model.encoder_k, 0),
        "other view forward": lambda: keys(model.sampler, 1),
        "cascade": lambda: cascade_topk(other, own, none, sizes.topk, sizes.ratio, sizes.stage),
        "optimizer": ours.optimizer.step,
    }
    taken = [{name: clocked(work, "wall", sizes.device) for name, work in works.items()} for _ in range(4)][1:]
    found = {f"{name}, s": float(np.median([times[name] for times in taken])) for name in works}
    whole = [clocked(lambda: ours.step(batch, 0), "wall", sizes.device) for _ in range(3)]
    return found | {"sum of the parts, s": sum(found.values()), "whole step, s": float(np.median(whole))}

