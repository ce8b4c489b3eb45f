"""The classifier of an evaluation: built for a way of training, filled from the files that pretraining or we wrote."""

from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor, nn

from model.classifier import LinearClassifier
from utils import checkpoint
from utils.console import warn
from utils.errors import CheckpointError
from utils.resuming import other_view

ENCODER = "encoder_q.0."  # the backbone inside a pretraining file
BACKBONE = "backbone."  # the backbone inside a classifier's file
HEAD = ("final_fc.", "final_bn.")


def build(num_class: int, network: str, train_what: str, *, dropout: float = 0.9, final_bn: bool = False,
          num_fc: int = 1) -> LinearClassifier:
    """A classifier for `train_what`.

    "last" (linear probe): L2 norm, BatchNorm, linear layer, no dropout. Anything else: dropout and linear layer, with
    a BatchNorm before them if `final_bn`.

    Args:
        num_class: classes. network: backbone's name. train_what: as of ``--train_what``. dropout: probability.
        final_bn: BatchNorm before the final layer in any case. num_fc: fully connected layers.

    Raises:
        UnknownNetworkError: there is no such backbone.
    """
    probe = train_what == "last"
    return LinearClassifier(num_class, network=network, dropout=dropout, use_dropout=not probe, use_l2_norm=probe,
                            use_final_bn=probe or final_bn, num_fc=num_fc)


def shadow(args: Namespace) -> nn.Sequential:
    """What clips pass on their way to the last layer, without memory of its own (on the meta device).

    It is in the mode of the command: training, where the backbone of a linear probe stays in evaluation, or test.

    Args:
        args: of the command; net, train_what, final_bn and test count.
    """
    with torch.device("meta"):
        net = build(1, args.net, args.train_what, final_bn=args.final_bn)
    net.train(not args.test)
    net.backbone.train(not (args.test or args.train_what == "last"))
    return nn.Sequential(net.backbone, nn.AdaptiveAvgPool3d(1), nn.Flatten(), net.final_bn or nn.Identity())


def load_backbone(net: nn.Module, path: str | Path, second_view: str = "") -> str:
    """Fill the backbone from a pretraining file or a classifier's; the final layer stays as it is.

    Args:
        net: a classifier. path: of the file.
        second_view: what the network is for, "" for RGB; where the file is of another one, that is said.

    Returns:
        What was loaded, in words.

    Raises:
        CheckpointError: the file is missing or damaged, has no backbone, or one of another network.
    """
    content = checkpoint.load(path)
    _warn_of_another(content, second_view, path)
    state = checkpoint.renamed(content["state_dict"], {ENCODER: BACKBONE})
    backbone = {key: value for key, value in state.items() if key.startswith(BACKBONE)}
    if not backbone:
        raise CheckpointError(f"{path} has no {ENCODER}* and no {BACKBONE}* entries: it is neither a pretraining file "
                              "nor a classifier's")
    unused = len(state) - len(backbone)
    checkpoint.load_state(net, backbone, may_miss=HEAD)
    return f"backbone: {len(backbone)} tensors from {path}; {unused} others of the file are not part of a backbone"


def load_classifier(net: nn.Module, path: str | Path, require: tuple[str, ...] = ("state_dict",),
                    second_view: str = "") -> tuple[dict, str]:
    """Fill the whole classifier from a file that finetuning or the linear probe wrote.

    Args:
        net: a classifier of as many classes. path: of the file. require: keys that the file must have.
        second_view: as of :func:`load_backbone`.

    Returns:
        The file's content, and what was loaded, in words.

    Raises:
        CheckpointError: the file is missing or damaged, of a pretraining, another network or head, or other classes.
    """
    content = checkpoint.load(path, require)
    _warn_of_another(content, second_view, path)
    state = checkpoint.renamed(content["state_dict"], {})
    if not any(key.startswith("final_fc.") for key in state):
        raise CheckpointError(f"{path} is not a classifier's file, it has no final_fc.*: evaluate it with --retrieval, "
                              "or train a classifier on it with --pretrain")
    _check_head(net.state_dict(), state, path)
    return content, f"classifier: {checkpoint.load_state(net, state)} from {path}"


def _warn_of_another(content: dict, second_view: str, path: str | Path) -> None:
    other = other_view(content)
    if second_view and other not in ("", second_view):
        warn(f"{path} was trained on {other}, and is used on {second_view}")


def _check_head(ours: dict[str, Tensor], theirs: dict[str, Tensor], path: str | Path) -> None:
    head = {key for key in ours if key.startswith(HEAD)}
    found = {key for key in theirs if key.startswith(HEAD)}
    if head != found:
        raise CheckpointError(f"{path} ends in {', '.join(sorted(found))}, but this command builds "
                              f"{', '.join(sorted(head))}: give the --train_what, --final_bn and --num_fc it was "
                              "trained with")
    last = max(key for key in head if key.startswith("final_fc.") and key.endswith(".bias"))
    if ours[last].shape != theirs[last].shape:
        raise CheckpointError(f"{path} is a classifier of {len(theirs[last])} classes, but the dataset has "
                              f"{len(ours[last])}: give the --dataset it was trained on")
