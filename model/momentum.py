"""Momentum contrast (MoCo, arXiv 1911.05722): the pair of encoders, the head, the queue, and shuffled BatchNorm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.select_backbone import select_backbone
from model.errors import ModelError
from utils import distributed


def make_encoder(network: str, dim: int) -> nn.Sequential:
    """Backbone, global average pool and a two-layer projection head: clips (B, 3, T, H, W) to (B, dim, 1, 1, 1).

    The encoder of CoCLR (arXiv 2010.09709, section 4).

    Args:
        network: backbone's name. dim: embedding size.

    Raises:
        UnknownNetworkError: see :func:`backbone.select_backbone.select_backbone`.
    """
    backbone, info = select_backbone(network)
    width = info["feature_size"]
    return nn.Sequential(
        backbone,
        nn.AdaptiveAvgPool3d(1),
        nn.Conv3d(width, width, kernel_size=1),
        nn.ReLU(),
        nn.Conv3d(width, dim, kernel_size=1),
    )


def embed(encoder: nn.Module, clips: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """L2-normalised embeddings, in the type of the weights: clips (B, 3, T, H, W) to (B, D).

    Args:
        encoder: of :func:`make_encoder`. clips: normalised, see `utils.presets.to_blocks`.
        dtype: what autocast computes in inside of the encoder (float16, bfloat16); None is without autocast.
    """
    with torch.autocast(clips.device.type, dtype=dtype, enabled=dtype is not None):
        embeddings = encoder(clips)
    embeddings = embeddings.flatten(1)
    return F.normalize(embeddings if dtype is None else embeddings.float(), dim=1)


def freeze(module: nn.Module) -> None:
    """Exclude a module's parameters from the gradient.

    Args:
        module: whose parameters.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def check_queue(K: int, batch: int, world: int, accumulate: int = 1) -> None:
    """Refuse a queue that a step's keys do not divide.

    Args:
        K: queue length. batch: clips of each process. world: processes. accumulate: batches that make one step.

    Raises:
        ModelError: K is not a positive multiple of batch * world * accumulate.
    """
    step = batch * world * accumulate
    if K <= 0 or K % step:
        pieces = f" x {accumulate} (--accumulate)" if accumulate > 1 else ""
        raise ModelError(f"the queue of {K} entries (--moco-k) must be a multiple of the keys of one step, "
                         f"{batch} (--batch_size){pieces} x {world} processes = {step}")


class MomentumContrast(nn.Module):
    """What InfoNCE, UberNCE and CoCLR share: query encoder, momentum (key) encoder, and the queue of keys.

    Args:
        network: backbone's name. dim: D, embedding size. K: queue length. m: momentum of the key encoder.
        T: temperature of the logits.

    Raises:
        UnknownNetworkError: there is no such backbone.
    """

    queue: Tensor  # keys, (D, K)
    queue_ptr: Tensor  # the oldest column, (1,) int64
    dtype: torch.dtype | None = None  # of the encoders' autocast; all else is float32
    accumulate = 1  # forwards that make one step: their keys are queued together, after the last
    _waiting: tuple[dict[str, Tensor], ...] = ()  # keys of the step so far

    def __init__(self, network: str, dim: int = 128, K: int = 2048, m: float = 0.999, T: float = 0.07) -> None:
        super().__init__()
        self.dim, self.K, self.m, self.T = dim, K, m, T
        self.encoder_q = make_encoder(network, dim)
        self.encoder_k = make_encoder(network, dim)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        freeze(self.encoder_k)
        self.register_buffer("queue", F.normalize(torch.randn(dim, K), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        # Draws the clips' order for shuffled BatchNorm. The same on every process, so the order needs no exchange.
        self.shuffle = torch.Generator().manual_seed(0)

    def contrast(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of two clips of each video (MoCo, algorithm 1).

        Args:
            query, key: clips, (B, 3, T, H, W) each.

        Returns:
            Logits (B, 1+K), and in training all processes' keys (W*B, D), else None.
        """
        q = embed(self.encoder_q, query, self.dtype)  # (B, D)
        training = q.requires_grad
        if training:
            self.update_key_encoder()
        k, k_all = self.embed_keys(key)  # (B, D), (W*B, D)
        return self.logits(q, k), k_all if training else None

    def encoders(self) -> list[nn.Module]:
        """All encoders, which are of one network."""
        return [module for name, module in self.named_children() if name in ("encoder_q", "encoder_k", "sampler")]

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """encoder_k = m * encoder_k + (1 - m) * encoder_q, over parameters only, once a step (MoCo, equation 2)."""
        if self._waiting:
            return
        keys: list[Tensor] = list(self.encoder_k.parameters())
        queries: list[Tensor] = list(self.encoder_q.parameters())
        # Two products and a sum, each rounded, as released: a fused multiply-add differs in the last bit, which S3D in
        # train mode at initialisation amplifies to 3e-4 of the keys.
        torch._foreach_mul_(keys, self.m)
        torch._foreach_add_(keys, torch._foreach_mul(queries, 1 - self.m))

    @torch.no_grad()
    def embed_keys(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Keys by the momentum encoder with shuffled BatchNorm (MoCo, section 3.3).

        Args:
            clips: this process's B clips, (B, 3, T, H, W).

        Returns:
            This process's keys (B, D), and those of all processes in rank order (W*B, D).
        """
        B, W = len(clips), distributed.world_size()
        if W == 1:  # BatchNorm does not see the order within a process
            k = embed(self.encoder_k, clips, self.dtype)
            return k, k
        # Row r lists the clips that process r encodes; sorted, in the order of the processes they come from.
        order = torch.randperm(W * B, generator=self.shuffle).view(W, B).sort(dim=1).values
        shuffled = embed(self.encoder_k, exchange_clips(clips, order), self.dtype)
        k_all = distributed.all_gather(shuffled)  # (W*B, D) in the order of `order`
        k_all = k_all[order.flatten().argsort().to(k_all.device, non_blocking=True)]
        return k_all.view(W, B, -1)[distributed.rank()], k_all

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        """[q . k | q . queue] / T, (B, 1+K): equation 1 of MoCo.

        The queue is copied, because it is written in this step and the gradient needs it as it was read.

        Args:
            q, k: queries and keys, (B, D) each.
        """
        positive = (q * k).sum(dim=1, keepdim=True)  # (B, 1)
        return torch.cat([positive, q @ self.queue.clone()], dim=1) / self.T

    @torch.no_grad()
    def enqueue(self, columns: dict[str, Tensor]) -> None:
        """Replace the oldest queue columns by those of a step, once its last forward (of ``accumulate``) is here.

        Args:
            columns: buffer name to its new entries, W*B of them, first dimension: (W*B, D) for a (D, K) buffer,
                (W*B,) for a (K,) buffer.

        Raises:
            ModelError: the entries of a step do not divide K.
        """
        self._waiting = (*self._waiting, columns)
        if len(self._waiting) < self.accumulate:
            return
        columns = {name: torch.cat([part[name] for part in self._waiting]) for name in columns}
        self._waiting = ()
        n = len(next(iter(columns.values())))
        if self.K % n:
            check_queue(self.K, n // distributed.world_size(), distributed.world_size())
        where = (self.queue_ptr + torch.arange(n, device=self.queue_ptr.device)) % self.K
        for name, entries in columns.items():
            buffer = getattr(self, name)
            buffer[..., where] = entries.movedim(0, -1).to(buffer.dtype)
        self.queue_ptr.add_(n).remainder_(self.K)


def exchange_clips(clips: Tensor, order: Tensor) -> Tensor:
    """Send each clip to the one process that encodes it.

    Args:
        clips: this process's clips (B, C, T, H, W); clip j of process r has the number r*B + j.
        order: the numbers of the clips that each process encodes, (W, B) int64 on the CPU, rows sorted.

    Returns:
        The clips of row ``rank`` of ``order``, (B, C, T, H, W).
    """
    W, B = order.shape
    rank = distributed.rank()
    origin = order // B  # (W, B): the process that holds each clip
    outgoing = order[origin == rank] - rank * B  # row-major: by destination, then in its order
    send = [int(n) for n in (origin == rank).sum(dim=1)]
    receive = torch.bincount(origin[rank], minlength=W).tolist()
    # Frames last-channel first, since that is how clips lie in memory: the copy is then one contiguous read.
    packed = clips.movedim(1, -1)[outgoing.to(clips.device, non_blocking=True)].contiguous()
    return distributed.all_to_all(packed, send, receive).movedim(-1, 1)
