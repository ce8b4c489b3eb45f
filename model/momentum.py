"""Momentum contrast (MoCo, arXiv 1911.05722): query and key encoders, projection head, queue, shuffled BatchNorm."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.select_backbone import select_backbone
from utils import distributed
from utils.errors import ModelError


def make_encoder(network: str, dim: int) -> nn.Sequential:
    """Build CoCLR's encoder (arXiv 2010.09709, section 4): backbone, average pool, two-layer projection head.

    It maps clips (B, 3, T, H, W) to embeddings (B, dim, 1, 1, 1) that are not normalised.
    """
    backbone, info = select_backbone(network)
    width = info["feature_size"]
    return nn.Sequential(backbone, nn.AdaptiveAvgPool3d(1), nn.Conv3d(width, width, kernel_size=1), nn.ReLU(),
                         nn.Conv3d(width, dim, kernel_size=1))


def embed(encoder: nn.Module, clips: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return L2-normalised float32 embeddings (B, D) of clips (B, 3, T, H, W).

    Args:
        encoder: see :func:`make_encoder`.
        clips: see :func:`dataset.transforms.presets.to_blocks`.
        dtype: autocast type inside the encoder, None for float32.
    """
    with torch.autocast(clips.device.type, dtype=dtype, enabled=dtype is not None):
        embeddings = encoder(clips)
    embeddings = embeddings.flatten(1)
    return F.normalize(embeddings if dtype is None else embeddings.float(), dim=1)


def check_queue(K: int, batch: int, world: int) -> None:
    """Raise ModelError unless the queue length K is a multiple of the keys per step, `batch` x `world`."""
    step = batch * world
    if K <= 0 or K % step:
        raise ModelError(f"the queue of {K} entries (--moco-k) must be a multiple of the keys per step, "
                         f"{batch} (--batch_size) x {world} processes = {step}")


def fitting_queue(videos: int, step: int) -> int:
    """Return the longest queue, up to 2048, that is a multiple of a step's clips and at most half the videos."""
    return max(1, min(2048, videos // 2) // step) * step


class MomentumContrast(nn.Module):
    """Base of InfoNCE, UberNCE and CoCLR: query encoder, momentum (key) encoder, and the queue of keys.

    Args:
        network: name of the backbone.
        dim: embedding size D.
        K: queue length.
        m: momentum of the key encoder.
        T: temperature of the logits.
    """

    queue: Tensor  # keys, (D, K)
    queue_ptr: Tensor  # index of the oldest column, (1,) int64

    def __init__(self, network: str, dim: int = 128, K: int = 2048, m: float = 0.999, T: float = 0.07) -> None:
        super().__init__()
        self.dim, self.K, self.m, self.T = dim, K, m, T
        self.encoder_q = make_encoder(network, dim)
        self.encoder_k = make_encoder(network, dim)
        self.encoder_k.load_state_dict(self.encoder_q.state_dict())
        self.encoder_k.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, K), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self._shuffle = torch.Generator().manual_seed(0)  # the default of `generator` below

    def contrast(self, query: Tensor, key: Tensor, *, dtype: torch.dtype | None = None,
                 generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """Compute the logits of two clips of each video (MoCo, algorithm 1).

        Args:
            query: first clips, (B, 3, T, H, W).
            key: second clips, (B, 3, T, H, W).
            dtype: autocast type of the encoders, None for float32; all else is float32.
            generator: shuffles the clips for BatchNorm; must be seeded identically in all processes.

        Returns:
            Logits (B, 1+K), and in training the keys of all processes (W*B, D), else None.
        """
        q = embed(self.encoder_q, query, dtype)  # (B, D)
        training = q.requires_grad
        if training:
            self.update_key_encoder()
        k, k_all = self.embed_keys(key, dtype, generator)  # (B, D), (W*B, D)
        return self.logits(q, k), k_all if training else None

    def encoders(self) -> list[nn.Module]:
        """Return all encoders; they share one architecture."""
        return [module for name, module in self.named_children() if name in ("encoder_q", "encoder_k", "sampler")]

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """Set encoder_k to m * encoder_k + (1 - m) * encoder_q; parameters only (MoCo, equation 2)."""
        keys: list[Tensor] = list(self.encoder_k.parameters())
        queries: list[Tensor] = list(self.encoder_q.parameters())
        # As in the released code: two products and a sum, each rounded. A fused multiply-add differs in the last bit,
        # which S3D in train mode amplifies at initialisation to 3e-4 of the keys.
        torch._foreach_mul_(keys, self.m)
        torch._foreach_add_(keys, torch._foreach_mul(queries, 1 - self.m))

    @torch.no_grad()
    def embed_keys(self, clips: Tensor, dtype: torch.dtype | None = None, generator: torch.Generator | None = None
                   ) -> tuple[Tensor, Tensor]:
        """Embed clips with the key encoder and shuffled BatchNorm (MoCo, section 3.3).

        Args:
            clips: this process's clips, (B, 3, T, H, W).
            dtype, generator: see :meth:`contrast`.

        Returns:
            Keys of this process (B, D), and of all processes in rank order (W*B, D).
        """
        B, W = len(clips), distributed.world_size()
        if W == 1:  # BatchNorm does not depend on the order within a process
            k = embed(self.encoder_k, clips, dtype)
            return k, k
        # Row r lists the clips that process r encodes, sorted by the process they come from. All processes draw the
        # same order, so it need not be communicated.
        order = torch.randperm(W * B, generator=generator or self._shuffle).view(W, B).sort(dim=1).values
        shuffled = embed(self.encoder_k, exchange_clips(clips, order), dtype)
        k_all = distributed.all_gather(shuffled)  # (W*B, D) in the order of `order`
        k_all = k_all[order.flatten().argsort().to(k_all.device, non_blocking=True)]
        return k_all.view(W, B, -1)[distributed.rank()], k_all

    def logits(self, q: Tensor, k: Tensor) -> Tensor:
        """Compute [q . k | q . queue] / T, (B, 1+K) (MoCo, equation 1).

        The queue is cloned because this step overwrites part of it before the gradient has used it.

        Args:
            q: queries, (B, D).
            k: keys, (B, D).
        """
        positive = (q * k).sum(dim=1, keepdim=True)  # (B, 1)
        return torch.cat([positive, q @ self.queue.clone()], dim=1) / self.T

    @torch.no_grad()
    def enqueue(self, columns: dict[str, Tensor]) -> None:
        """Replace the oldest queue entries with those of this step.

        Args:
            columns: new entries by buffer name: (W*B, D) for a (D, K) buffer, (W*B,) for a (K,) buffer.

        Raises:
            ModelError: K is not a multiple of their number.
        """
        n = len(next(iter(columns.values())))
        if self.K % n:
            check_queue(self.K, n // distributed.world_size(), distributed.world_size())
        where = (self.queue_ptr + torch.arange(n, device=self.queue_ptr.device)) % self.K
        for name, entries in columns.items():
            buffer = getattr(self, name)
            buffer[..., where] = entries.movedim(0, -1).to(buffer.dtype)
        self.queue_ptr.add_(n).remainder_(self.K)


def exchange_clips(clips: Tensor, order: Tensor) -> Tensor:
    """Send each clip to the process that encodes it.

    Args:
        clips: this process's clips, (B, C, T, H, W); clip j of process r has number r*B + j.
        order: numbers of the clips that each process encodes, (W, B) int64 on the CPU, rows sorted.

    Returns:
        The clips of row ``rank`` of ``order``, (B, C, T, H, W).
    """
    W, B = order.shape
    rank = distributed.rank()
    origin = order // B  # (W, B): the process that holds each clip
    outgoing = order[origin == rank] - rank * B  # row-major: by destination, then in its order
    send = [int(n) for n in (origin == rank).sum(dim=1)]
    receive = torch.bincount(origin[rank], minlength=W).tolist()
    # Clips are channels-last in memory: with the channels moved last, the copy is one contiguous read.
    packed = clips.movedim(1, -1)[outgoing.to(clips.device, non_blocking=True)].contiguous()
    return distributed.all_to_all(packed, send, receive).movedim(-1, 1)
