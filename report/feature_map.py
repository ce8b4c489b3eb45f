"""A map of the test clips' features in two dimensions."""

from dataclasses import dataclass

import numpy as np
import torch

from eval.protocols import centre_and_normalise
from report.retrieval_gallery import Retrieved
from utils.errors import OptionError

SIDE, MARGIN = 360, 12  # of the drawing
KINDS = ("pca", "umap")


@dataclass(frozen=True)
class Map:
    """kind: how it was made. axes: what they tell. points: place in the drawing of each query shown, in their order."""

    kind: str
    axes: tuple[str, str]
    points: list[tuple[float, float]]


def draw(found: Retrieved, kind: str = "pca") -> Map:
    """The map of a kind: "pca", the two directions of most variance, or "umap", which keeps neighbours together.

    Features are centred and L2-normalised first, as retrieval compares them.

    Raises:
        OptionError: umap is not installed.
    """
    rows = centre_and_normalise(found.query.features)
    if kind == "umap":
        places, axes = _umap(rows.numpy()), ("UMAP 1", "UMAP 2")
    else:
        places, shares = principal(rows)
        axes = tuple(f"principal direction {i + 1}, {100 * share:.0f} % of the variance"
                     for i, share in enumerate(shares))
    return Map(kind, axes, _placed(places[found.rows]))


def principal(rows: torch.Tensor) -> tuple[np.ndarray, list[float]]:
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
    shares = [float(value) ** 2 / total if total else 0.0 for value in s[:2]]
    return (places * farthest.sign()).numpy(), [*shares, 0.0][:2]


def _umap(rows: np.ndarray) -> np.ndarray:
    try:
        import umap  # slow to load, and not needed for the map that is the default
    except ImportError as error:
        raise OptionError("--map umap needs umap-learn, which is not installed: pip install umap-learn, or take --map "
                          "pca") from error
    if len(rows) < 4:
        raise OptionError(f"--map umap needs four test clips, but there are {len(rows)}: take --map pca")
    return umap.UMAP(n_neighbors=min(15, len(rows) - 1), metric="cosine", init="random", random_state=0,
                     n_jobs=1).fit_transform(rows)


def _placed(places: np.ndarray) -> list[tuple[float, float]]:
    low, size = places.min(axis=0), np.ptp(places, axis=0)
    scaled = (places - low) / np.where(size > 0, size, 1)
    return [(round(MARGIN + float(x) * (SIDE - 2 * MARGIN), 1), round(SIDE - MARGIN - float(y) * (SIDE - 2 * MARGIN), 1))
            for x, y in scaled]
