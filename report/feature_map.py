"""A map of the test clips' features in two dimensions."""

from dataclasses import dataclass

import numpy as np
import torch

from eval.protocols import centre_and_normalise
from report.retrieval_gallery import Retrieved

SIDE, MARGIN = 360, 12  # of the drawing


@dataclass(frozen=True)
class Map:
    """axes: share of the variance along each. points: place in the drawing of each query shown, in their order."""

    axes: tuple[float, float]
    points: list[tuple[float, float]]


def draw(found: Retrieved) -> Map:
    """The test clips along the two directions in which their features vary most (principal components).

    Features are centred and L2-normalised first, as retrieval compares them. All test clips decide on the directions.
    """
    places, shares = principal(centre_and_normalise(found.query.features))
    return Map(shares, _placed(places[found.rows]))


def principal(rows: torch.Tensor) -> tuple[np.ndarray, tuple[float, float]]:
    """Places along the two directions of most variance (N, 2), and each one's share of it.

    The sign of a direction is such that the row farthest from the origin along it is positive.
    """
    centred = (rows - rows.mean(dim=0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    places = torch.zeros(len(rows), 2, dtype=torch.float64)
    found = min(2, len(s))
    places[:, :found] = u[:, :found] * s[:found]
    farthest = places.gather(0, places.abs().argmax(dim=0, keepdim=True))
    total = float(s.square().sum())
    shares = [float(value) ** 2 / total if total else 0.0 for value in s[:2]] + [0.0]
    return (places * farthest.sign()).numpy(), (shares[0], shares[1])


def _placed(places: np.ndarray) -> list[tuple[float, float]]:
    low, size = places.min(axis=0), np.ptp(places, axis=0)
    scaled = (places - low) / np.where(size > 0, size, 1)
    inner = SIDE - 2 * MARGIN
    return [(round(MARGIN + float(x) * inner, 1), round(SIDE - MARGIN - float(y) * inner, 1)) for x, y in scaled]
