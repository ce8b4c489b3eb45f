"""Build the classifier of an evaluation, and load it from files of pretraining or finetuning."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.select_backbone import fold_batchnorm
from dataset.clip_sampler import windows
from dataset.transforms.photometric import stack_params
from dataset.transforms.presets import NULL, CropsTransform
from engine import checkpoint
from engine.compatibility import Facts, check_facts, trained_with
from engine.convolutions import check_convolutions, use_2d_where_faster
from engine.device import check_clips, choose_precision, move
from eval import options
from eval.retrieval import video_features
from model.classifier import LinearClassifier
from utils.errors import CheckpointError

ENCODER = "encoder_q.0."  # the backbone in a pretraining file
BACKBONE = "backbone."  # the backbone in a classifier's file
HEAD = ("final_fc.", "final_bn.")


def build(num_class: int, network: str, train_what: str, *, dropout: float = 0.9, final_bn: bool = False,
          num_fc: int = 1) -> LinearClassifier:
    """Build a classifier: "last" is L2 norm, BatchNorm and linear layer, anything else dropout and linear layer."""
    probe = train_what == "last"
    return LinearClassifier(num_class, network=network, dropout=dropout, use_dropout=not probe, use_l2_norm=probe,
                            use_final_bn=probe or final_bn, num_fc=num_fc)


@dataclass(frozen=True)
class ClassifierConfig:
    net: str
    train_what: str
    dropout: float
    final_bn: bool
    num_fc: int
    optim: str

    def build(self, classes: int, seed: int) -> LinearClassifier:
        torch.manual_seed(seed)
        return build(classes, self.net, self.train_what, dropout=self.dropout, final_bn=self.final_bn,
                     num_fc=self.num_fc)


def build_on_meta(network: str, train_what: str, *, final_bn: bool = False, training: bool) -> LinearClassifier:
    """Build a classifier of one class on the meta device, to check clip sizes without memory or time."""
    with torch.device("meta"):
        net = build(1, network, train_what, final_bn=final_bn)
    set_mode(net, train_what, training)
    return net


def set_mode(net: nn.Module, train_what: str, training: bool) -> None:
    """Set train or evaluation mode; a linear probe's frozen backbone stays in evaluation mode."""
    net.train(training)
    if train_what == "last":
        bare: Any = getattr(net, "module", net)
        bare.backbone.eval()


def load_backbone(net: nn.Module, path: str | Path, needed: Facts | None = None, accept: bool = False) -> str:
    """Load the backbone of a pretraining or classifier checkpoint, which needs no more than a "state_dict".

    `needed` and `accept`: see :func:`engine.compatibility.check_facts`. Returns a description of what was loaded.
    """
    content = checkpoint.load(path)
    check_facts(content, path, needed or {}, accept)
    own = {key.removeprefix(BACKBONE): key for key in net.state_dict()}  # a file of a backbone alone has no prefix
    state = {BACKBONE + key.removeprefix(ENCODER) if key.startswith(ENCODER) else own.get(key, key): value
             for key, value in checkpoint.renamed(content["state_dict"]).items()}
    backbone = {key: value for key, value in state.items() if key.startswith(BACKBONE)}
    if not backbone:
        raise CheckpointError(f"{path} has no {ENCODER}* and no {BACKBONE}* entries, but "
                              f"{checkpoint.first_keys(state)}: it is neither a pretraining file nor a classifier's")
    checkpoint.load_state(net, backbone, may_miss=HEAD)
    unused = len(state) - len(backbone)
    return f"backbone: {len(backbone)} tensors from {path}; {unused} others of the file are not part of a backbone"


def load_classifier(net: nn.Module, path: str | Path, require: Iterable[str] = ("state_dict",),
                    needed: Facts | None = None, accept: bool = False) -> tuple[dict, str]:
    """Load backbone and head from a classifier checkpoint with the keys `require`.

    Returns the checkpoint, and a description of what was loaded; CheckpointError if it does not fit the options.
    """
    content = checkpoint.load(path, require)
    check_facts(content, path, needed or {}, accept)
    state, model = checkpoint.renamed(content["state_dict"]), net.state_dict()
    expected, found = (sorted(key for key in each if key.startswith(HEAD)) for each in (model, state))
    if expected != found:
        raise CheckpointError(f"{path} has {checkpoint.first_keys(found or state)}, but as a classifier these options "
                              f"build {', '.join(expected)}: give the --train_what, --final_bn and --num_fc it was "
                              "trained with; a file without a classifier can be measured with --retrieval, or train "
                              "one as --pretrain")
    last = [key for key in model if key.startswith("final_fc.") and key.endswith(".bias")][-1]
    if model[last].shape != state[last].shape:
        raise CheckpointError(f"{path} is a classifier of {len(state[last])} classes, but the dataset has "
                              f"{len(model[last])}: give the --dataset it was trained on")
    return content, f"classifier: {checkpoint.load_state(net, state)} from {path}"


def load_encoder(path: str | Path, batch_size: int = 32, **given: Any) -> "Encoder":
    """Load the encoder of a pretraining or classifier checkpoint, also a published one, on the GPU if there is one.

    ``batch_size`` counts windows; ``given`` may override the net, seq_len, ds and img_dim of the training.
    """
    found = trained_with(checkpoint.load(path).get("options"), **given)
    name, seq_len, img_dim = found["net"], found["seq_len"], found["img_dim"]
    check_clips(build_on_meta(name, "last", training=False), name, 1, seq_len, img_dim)
    net = build(1, name, "last").eval()
    load_backbone(net, path)
    fold_batchnorm(net)
    return Encoder(net, seq_len, found["ds"], img_dim, batch_size)


class Encoder:
    """Embeds clips with a backbone, as retrieval does; made by :func:`load_encoder`."""

    def __init__(self, net: LinearClassifier, seq_len: int, ds: int, img_dim: int, batch_size: int) -> None:
        self.net, self.seq_len, self.ds, self.batch_size = net, seq_len, ds, batch_size
        self.device, self.crop = options.devices(None)[0], CropsTransform(img_dim)
        precision = choose_precision(None, self.device)
        move(net, self.device)
        if precision.name == "fp32":
            use_2d_where_faster([net], self.device)
        check_convolutions([net.backbone], (seq_len, img_dim, img_dim), precision)

    def __call__(self, clips: Iterable[np.ndarray], *, unit: bool = True) -> Tensor:
        """Return the feature of each clip, the mean over its windows: float32 (B, F), on the CPU.

        Args:
            clips: uint8 (T, H, W, 3) each, in the encoder's view as in LMDBs; centre-cropped unless of size img_dim.
            unit: L2-normalise the features.
        """
        rows = video_features(self.net, map(self._sample, count(), clips), batch_size=self.batch_size,
                              device=self.device, normalise=True)
        return F.normalize(rows) if unit else rows

    def _sample(self, number: int, clip: np.ndarray) -> dict[str, Any]:
        """Make a sample for `eval.windows.window_clips`."""
        frames, side = np.ascontiguousarray(clip), self.crop.img_dim
        frames = frames if frames.shape[1:3] == (side, side) else self.crop.cut(frames)[0]
        rows = windows(len(frames), self.seq_len, self.ds)
        distinct, places = np.unique(rows, return_inverse=True)
        return {"index": number, "clips": torch.from_numpy(frames[distinct])[None, None],
                "windows": torch.from_numpy(places.reshape(rows.shape)),
                "photometric": stack_params([NULL.draw(np.random.default_rng(0), 1, len(distinct))])}
