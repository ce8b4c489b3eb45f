"""The encoders of a search: what their checkpoints say of themselves, and features of clips as retrieval makes them."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval import network
from eval.protocols import window_mean
from eval.retrieval import fingerprint
from eval.search.clips import Clip, View
from eval.windows import apply_packed, window_clips
from model.classifier import LinearClassifier
from utils import checkpoint
from utils.clip_check import check_clips
from utils.console import one_line
from utils.conv_check import check_convolutions
from utils.conv_forms import use_2d_where_faster
from utils.errors import OptionError
from utils.memory import move
from utils.options import SECOND_VIEWS
from utils.precision import choose
from utils.resuming import other_view

RGB = "rgb"
# What published files, which say nothing of themselves, were made with.
USUAL: dict[str, Any] = {"net": "s3d", "seq_len": 32, "ds": 1, "img_dim": 128}
LARGEST = 1024  # of seq_len, ds and img_dim: a damaged file can say anything


@dataclass(frozen=True)
class Stream:
    """An encoder and what it sees, which together tell its features. sha256: of the checkpoint's bytes."""

    sha256: str
    view: str
    net: str
    seq_len: int
    ds: int
    img_dim: int

    @property
    def seen(self) -> View:
        """What clips are cut for it."""
        return View(self.view, self.seq_len, self.ds, self.img_dim)

    @property
    def made_from(self) -> dict[str, Any]:
        """The same for a file."""
        return asdict(self)


def describe(path: str | Path, given: Mapping[str, Any], view: str = "", usual_view: str = RGB) -> Stream:
    """The stream of a checkpoint.

    Args:
        given: net, seq_len, ds or img_dim where they are to be others than those it was trained with. view: what it
            was trained on, where the file does not say; "" for `usual_view`.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        OptionError: it says that it was trained on another view, or names values that no network takes.
    """
    content = checkpoint.load(path)
    options = content.get("options")
    said = options if isinstance(options, Mapping) else {}
    found = {name: given.get(name) or said.get(name, value) for name, value in USUAL.items()}
    for name in ("seq_len", "ds", "img_dim"):
        if type(found[name]) is not int or not 0 < found[name] <= LARGEST:
            raise OptionError(f"{path}: --{name} {one_line(str(found[name]))} cannot be: give one of 1 to {LARGEST}")
    known = (other_view(content) or RGB) if said else ""
    if known and (view not in ("", known) or known not in (RGB, *SECOND_VIEWS)):
        raise OptionError(f"{path} was trained on {known}" + (f", and not on {view}: leave that out" if view else ""))
    return Stream(fingerprint(str(path)), known or view or usual_view, str(found["net"]), found["seq_len"],
                  found["ds"], found["img_dim"])


class Encoders:
    """The networks of one or two streams.

    Args:
        streams: see `describe`. paths: their checkpoints. batch_size: windows in a batch.

    Raises:
        CheckpointError: a checkpoint has no backbone, or another one. OptionError: clips that a network cannot take.
    """

    def __init__(self, streams: Sequence[Stream], paths: Sequence[str | Path], device: torch.device,
                 batch_size: int) -> None:
        self._device, self._batch_size = device, batch_size
        self._nets = [self._net(stream, path) for stream, path in zip(streams, paths, strict=True)]

    def _net(self, stream: Stream, path: str | Path) -> LinearClassifier:
        with torch.device("meta"):
            shadow = network.build(1, stream.net, "last").eval()
        check_clips(shadow.backbone, Namespace(**stream.made_from, batch_size=1))
        net = network.build(1, stream.net, "last").eval()
        network.load_backbone(net, path, "" if stream.view == RGB else stream.view)
        move(net, self._device)
        precision = choose(None, self._device)
        if precision.name == "fp32":
            use_2d_where_faster([net], self._device)
        check_convolutions([net.backbone], (stream.seq_len, stream.img_dim, stream.img_dim), precision)
        return net

    @torch.inference_mode()
    def features(self, clips: Sequence[Clip]) -> np.ndarray:
        """Features float32 (N, streams * F), neither centred nor normalised: those of the streams side by side."""
        columns = [self._stream_features(net, [clip.samples[s] for clip in clips]) for s, net in enumerate(self._nets)]
        return torch.cat(columns, dim=1).numpy()

    def _stream_features(self, net: LinearClassifier, samples: Sequence[dict[str, Any]]) -> Tensor:
        """Features (N, F) of samples: the mean over the windows of each, normalised before as a linear probe does."""
        chunks = window_clips([sample | {"index": i} for i, sample in enumerate(samples)], self._device)
        rows = apply_packed(net.features, chunks, self._batch_size)
        return torch.stack([window_mean(windows, normalise=True) for _, windows in rows]).cpu()
