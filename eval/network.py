"""Build the classifier of an evaluation, and load it from files of pretraining or finetuning."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import checkpoint
from engine.compatibility import Facts, check_facts
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


def build_on_meta(network: str, train_what: str, *, final_bn: bool = False, training: bool) -> LinearClassifier:
    """Build a classifier of one class without memory of its own, to try the clip sizes of a command on."""
    with torch.device("meta"):
        net = build(1, network, train_what, final_bn=final_bn)
    set_mode(net, train_what, training)
    return net


def set_mode(net: nn.Module, train_what: str, training: bool) -> None:
    """Set train or evaluation mode; the frozen backbone of a linear probe always evaluates, BatchNorm included."""
    net.train(training)
    if train_what == "last":
        bare: Any = getattr(net, "module", net)
        bare.backbone.eval()


def load_backbone(net: nn.Module, path: str | Path, needed: Facts | None = None, accept: bool = False) -> str:
    """Load a classifier's backbone from a pretraining or classifier's file, whose "state_dict" is enough.

    `needed` and `accept` are those of :func:`engine.compatibility.check_facts`. Returns what was loaded, in words.
    """
    content = checkpoint.load(path)
    check_facts(content, path, needed or {}, accept)
    own = {key.removeprefix(BACKBONE): key for key in net.state_dict()}  # a file of a backbone alone has no prefix
    state = {own.get(key, key): value for key, value in
             checkpoint.renamed(content["state_dict"], {ENCODER: BACKBONE}).items()}
    backbone = {key: value for key, value in state.items() if key.startswith(BACKBONE)}
    if not backbone:
        raise CheckpointError(f"{path} has no {ENCODER}* and no {BACKBONE}* entries, but "
                              f"{checkpoint.first_keys(state)}: it is neither a pretraining file nor a classifier's")
    checkpoint.load_state(net, backbone, may_miss=HEAD)
    unused = len(state) - len(backbone)
    return f"backbone: {len(backbone)} tensors from {path}; {unused} others of the file are not part of a backbone"


def load_classifier(net: nn.Module, path: str | Path, require: Iterable[str] = ("state_dict",),
                    needed: Facts | None = None, accept: bool = False) -> tuple[dict, str]:
    """Load the whole classifier from a file of finetuning or of a linear probe, which must have the keys `require`.

    Returns the file's content, and what was loaded, in words; CheckpointError if the file does not fit.
    """
    content = checkpoint.load(path, require)
    check_facts(content, path, needed or {}, accept)
    state, model = checkpoint.renamed(content["state_dict"]), net.state_dict()
    if not any(key.startswith("final_fc.") for key in state):
        raise CheckpointError(f"{path} is not a classifier's file, it has no final_fc.* but "
                              f"{checkpoint.first_keys(state)}: evaluate it with --retrieval, or train a classifier on "
                              "it with --pretrain")
    expected, found = (sorted(key for key in each if key.startswith(HEAD)) for each in (model, state))
    if expected != found:
        raise CheckpointError(f"{path} has head {', '.join(found)}, but these options build {', '.join(expected)}: "
                              "give the --train_what, --final_bn and --num_fc it was trained with")
    last = [key for key in model if key.startswith("final_fc.") and key.endswith(".bias")][-1]
    if model[last].shape != state[last].shape:
        raise CheckpointError(f"{path} is a classifier of {len(state[last])} classes, but the dataset has "
                              f"{len(model[last])}: give the --dataset it was trained on")
    return content, f"classifier: {checkpoint.load_state(net, state)} from {path}"
