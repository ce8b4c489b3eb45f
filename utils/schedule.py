"""The learning rate as a closed form of the epoch: the same after a resume as without one."""

import math
from collections.abc import Sequence


def lr_factor(epoch: int, *, schedule: Sequence[int], cos: bool, epochs: int) -> float:
    """The share of the starting learning rate that an epoch (0-based) uses.

    Args:
        schedule: epochs at which the rate falls to a tenth; not used with ``cos``.
        cos: half a cosine from 1 down to 0 over ``epochs`` (SGDR, arXiv 1608.03983, without restarts).
    """
    if cos:
        return 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
    return 0.1 ** sum(epoch >= milestone for milestone in schedule)


def lr_at(epoch: int, *, lr: float, schedule: Sequence[int], cos: bool, epochs: int) -> float:
    """The learning rate of an epoch (0-based), for a starting rate ``lr``; see :func:`lr_factor`."""
    return lr * lr_factor(epoch, schedule=schedule, cos=cos, epochs=epochs)
