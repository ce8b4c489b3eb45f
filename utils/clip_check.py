"""Start-up check that a network can take the clips of a run; nothing is computed, and no memory used."""

from argparse import Namespace

import torch
from torch import nn

from utils.errors import OptionError


def check_clips(network: nn.Module, args: Namespace) -> None:
    """Let a batch of the run's size pass a network on the meta device, in the mode that the network is in.

    Clips that are too small leave nothing after some pooling, and BatchNorm in training needs two values a channel.

    Args:
        network: on the meta device; takes (B, 3, T, H, W). args: net, batch_size, seq_len and img_dim.

    Raises:
        OptionError: the network cannot take such a batch.
    """
    try:
        with torch.no_grad():
            network(torch.empty(args.batch_size, 3, args.seq_len, args.img_dim, args.img_dim, device="meta"))
    except (RuntimeError, ValueError) as error:
        what = "are too small for" if "too small" in str(error) else "cannot be used with"
        raise OptionError(f"batches of --batch_size {args.batch_size} clips of --seq_len {args.seq_len} frames of "
                          f"--img_dim {args.img_dim} px {what} --net {args.net} "
                          f"({' '.join(str(error).split())}): take larger ones") from error
