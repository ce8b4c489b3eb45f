"""Of some numbers the smallest, the median, the mean and the largest."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """See the module."""

    smallest: float
    median: float
    mean: float
    largest: float


def spread_of(numbers: Sequence[float] | np.ndarray) -> Spread | None:
    """None where there are no numbers."""
    if not len(numbers):
        return None
    values = np.asarray(numbers)
    return Spread(values.min().item(), float(np.median(values)), float(values.mean()), values.max().item())
