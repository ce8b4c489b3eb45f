"""Encoders of checkpoints: what a file says of its own, and features of clips, made as retrieval makes them."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import checkpoint
from engine.convolutions import check_convolutions, use_2d_where_faster
from engine.device import check_clips, choose_precision, move
from engine.facts import facts_of
from eval import network, options
from eval.retrieval import fingerprint, video_features
from model.classifier import LinearClassifier
from model.folding import fold_batchnorm
from tools.search.clips import Clip, ClipSettings, EncoderSpec, decode
from utils.errors import OptionError

GROUP = 16  # clips whose windows share batches, which short videos would not fill
# What published checkpoints, which hold no options, were trained with.
PUBLISHED: dict[str, Any] = {"net": "s3d", "seq_len": 32, "ds": 1, "img_dim": 128}


def describe(path: str | Path, *, view: str = "", default_view: str = "rgb", **given: Any) -> EncoderSpec:
    """Read from a checkpoint what its encoder is.

    Args:
        view: what it was trained on, for a file that does not say; "" for `default_view`.
        given: net, seq_len, ds and img_dim, where they differ from the training's.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        OptionError: the checkpoint was trained on another view.
    """
    content = checkpoint.load(path)
    saved = content.get("options") or {}
    trained_on = facts_of(saved).get("stream", "").lower()
    if view and trained_on and view != trained_on:
        raise OptionError(f"{path} was trained on {trained_on}, and not on {view}: leave that out")
    found = {name: given.get(name) or saved.get(name, value) for name, value in PUBLISHED.items()}
    return EncoderSpec(os.path.abspath(path), fingerprint(str(path)), trained_on or view or default_view, **found)


@dataclass(frozen=True)
class Encoder:
    """A pretrained backbone that turns clips into features; made by `load_encoder`."""

    spec: EncoderSpec
    net: LinearClassifier
    batch_size: int
    device: torch.device

    def features(self, samples: Sequence[dict[str, Any]]) -> np.ndarray:
        """Return the means over the windows of each clip, float32 (N, F), neither centred nor normalised."""
        numbered = [sample | {"index": i} for i, sample in enumerate(samples)]
        return video_features(self.net, numbered, batch_size=self.batch_size, device=self.device,
                              normalise=True).numpy()


def load_encoder(spec: str | Path | EncoderSpec, batch_size: int = 32) -> Encoder:
    """Load the encoder of a checkpoint, or of what `describe` says of one.

    Raises:
        CheckpointError: the file is missing or damaged, or has no backbone or another one.
        OptionError: the network cannot take such clips.
    """
    spec = spec if isinstance(spec, EncoderSpec) else describe(spec)
    device = options.devices(None)[0]
    check_clips(network.build_on_meta(spec.net, "last", training=False), spec.net, 1, spec.seq_len, spec.img_dim)
    net = network.build(1, spec.net, "last").eval()
    network.load_backbone(net, spec.path)
    fold_batchnorm(net)
    move(net, device)
    precision = choose_precision(None, device)
    if precision.name == "fp32":
        use_2d_where_faster([net], device)
    check_convolutions([net.backbone], (spec.seq_len, spec.img_dim, spec.img_dim), precision)
    return Encoder(spec, net, batch_size, device)


def embed(paths: Sequence[str], settings: ClipSettings, encoders: Sequence[Encoder], workers: int = 0
          ) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray] | str]]:
    """Decode video files, in this process if there are no workers, and run encoders on their clips.

    Yields:
        Path, and features of its clips, float32 (n, S * F), and their starts and ends, float64 (n, 2) seconds; or path
        and the reason why the file cannot be used.

    Raises:
        TrainingError: a loader worker was lost.
    """
    rows: dict[int, list[np.ndarray]] = defaultdict(list)
    seconds: dict[int, list[tuple[float, float]]] = defaultdict(list)
    decoded = decode(paths, settings, workers)
    while group := list(islice(decoded, GROUP)):
        clips = [(video, clip) for video, clip in group if isinstance(clip, Clip)]
        if clips:
            parts = [encoder.features([clip.samples[i] for _, clip in clips]) for i, encoder in enumerate(encoders)]
            for (video, clip), row in zip(clips, np.concatenate(parts, axis=1), strict=True):
                rows[video].append(row)
                seconds[video].append((clip.start, clip.end))
        for video, problem in group:
            if isinstance(problem, str):  # the video ends here
                features, times = np.array(rows.pop(video, [])), np.array(seconds.pop(video, []))
                finite = np.isfinite(features).all()
                yield paths[video], problem or ((features, times) if finite else "its features are not finite numbers")
