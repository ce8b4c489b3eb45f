"""The nearest clips: cosine similarity of centred features by faiss, exact, or from many clips on by a graph (HNSW).

Features (N, S * F) hold S streams side by side. Each stream is centred by the mean of the index, as retrieval centres
a set by its own, and L2-normalised; the inner product of two rows is then the sum of the streams' similarities, which
is how `merge_2stream_prob.py` fuses them. HNSW is that of Malkov and Yashunin, arXiv 1603.09320.
"""

import time
from dataclasses import dataclass

import faiss
import numpy as np
import torch
import torch.nn.functional as F

LINKS, BUILD_DEPTH, SEARCH_DEPTH = 32, 80, 128  # of the graph: M, efConstruction and efSearch in the paper
ROWS_AT_ONCE = 1 << 15  # a block of them at a time bounds the memory beside the index's own
SAMPLED = 200  # queries that the recall is measured with
SEED = 0


@dataclass(frozen=True)
class Exactness:
    """What a graph finds of the truly nearest. k: neighbours asked for. recall: share of them that it finds.

    queries: clips that asked. seconds, exact_seconds: a query's, by the graph and by comparing with every clip.
    """

    k: int
    recall: float
    queries: int
    seconds: float
    exact_seconds: float

    def __str__(self) -> str:
        return (f"recall@{self.k} {self.recall:.4f} against exact search, mean of {self.queries} of its own clips; "
                f"{1000 * self.seconds:.2f} ms a query, exact {1000 * self.exact_seconds:.2f} ms")


def unit(features: np.ndarray, centre: np.ndarray, streams: int) -> np.ndarray:
    """Rows (N, S * F) less the centre (S * F,), each stream's part L2-normalised; one that is the centre stays 0."""
    rows = torch.from_numpy(np.ascontiguousarray(features)) - torch.from_numpy(centre)
    return F.normalize(rows.unflatten(1, (streams, -1)), dim=2).flatten(1).numpy()


def centre_of(features: np.ndarray) -> np.ndarray:
    """The mean row (D,) of features (N, D); zeros for a single one, which would be its own mean."""
    if len(features) < 2:
        return np.zeros(features.shape[1], dtype=np.float32)
    return torch.from_numpy(features).mean(dim=0).numpy()


class Nearest:
    """Searches rows by their numbers, in the order they were added.

    Args:
        index: of faiss. centre: (D,), taken off every feature. streams: S.
    """

    def __init__(self, index: faiss.Index, centre: np.ndarray, streams: int) -> None:
        self.index, self.centre, self.streams = index, centre, streams

    @classmethod
    def build(cls, features: np.ndarray, streams: int, hnsw_from: int) -> "Nearest":
        """Over features float32 (N, D), centred by their mean; a graph where N is at least `hnsw_from`."""
        width = features.shape[1]
        if len(features) < hnsw_from:
            index = faiss.IndexFlatIP(width)
        else:
            index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = BUILD_DEPTH
        made = cls(index, centre_of(features), streams)
        made.add(features)
        return made

    def __len__(self) -> int:
        return self.index.ntotal

    @property
    def is_graph(self) -> bool:
        """Whether it is HNSW, which may miss a neighbour."""
        return isinstance(self.index, faiss.IndexHNSW)

    def add(self, features: np.ndarray) -> None:
        """Append features float32 (N, D), centred as those that are there."""
        for start in range(0, len(features), ROWS_AT_ONCE):
            self.index.add(unit(features[start:start + ROWS_AT_ONCE], self.centre, self.streams))

    def search(self, features: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows, (Q, k) each and best first, of query features (Q, D); row -1 where there are fewer.

        allowed: bool (N,), rows that may be found; None for all.
        """
        select = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        how = (faiss.SearchParametersHNSW(sel=select, efSearch=max(SEARCH_DEPTH, 2 * k)) if self.is_graph
               else faiss.SearchParameters(sel=select))
        return self.index.search(unit(features, self.centre, self.streams), k, params=how)

    def by_stream(self, feature: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Similarities (R, S) of a query feature (D,) to rows (R,), of each stream by itself."""
        query = unit(feature[None], self.centre, self.streams)
        found = self.index.reconstruct_batch(np.asarray(rows, dtype=np.int64))  # (R, D)
        return (found * query).reshape(len(rows), self.streams, -1).sum(axis=2)

    def exactness(self, k: int = 10) -> Exactness | None:
        """Recall@k of the graph against exact search, with some of its own rows as queries, themselves left out.

        None for an exact index.
        """
        if not self.is_graph:
            return None
        chosen = np.random.default_rng(SEED).choice(len(self), min(SAMPLED, len(self)), replace=False)
        queries = self.index.reconstruct_batch(np.sort(chosen).astype(np.int64))
        k = min(k, len(self) - 1)
        how = faiss.SearchParametersHNSW(efSearch=SEARCH_DEPTH)
        began = time.perf_counter()
        found = self.index.search(queries, k + 1, params=how)[1]
        between = time.perf_counter()
        right = faiss.downcast_index(self.index.storage).search(queries, k + 1)[1]
        ended = time.perf_counter()
        shares = [len(_others(mine, own, k) & _others(true, own, k)) / k
                  for own, mine, true in zip(np.sort(chosen), found, right, strict=True)]
        return Exactness(k, float(np.mean(shares)), len(queries), (between - began) / len(queries),
                         (ended - between) / len(queries))


def _others(rows: np.ndarray, own: int, k: int) -> set[int]:
    """The k nearest besides a query itself."""
    return {int(row) for row in rows[rows != own][:k]}
