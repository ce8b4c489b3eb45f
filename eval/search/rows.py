"""The rows of an index, one a clip, and what becomes of them and of the search structure in an update."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from eval.search.nearest import Nearest

MOST_CHANGED = 0.1  # share of a graph's clips that may be dropped or appended before it is built anew


@dataclass(frozen=True)
class Rows:
    """Clips: the number of each one's file, int32 (N,), -1 for a clip that was dropped; its start and end in the video,
    float64 (N, 2) seconds; its features as the encoders gave them, float32 (N, D)."""

    file_of: np.ndarray
    seconds: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.file_of)

    @property
    def alive(self) -> np.ndarray:
        """Which rows are clips of a file, bool (N,)."""
        return self.file_of >= 0

    @property
    def clips(self) -> int:
        """How many those are."""
        return int(self.alive.sum())

    def renumbered(self, numbers: Mapping[int, int]) -> "Rows":
        """The same rows under other numbers of files; clips of files that have none are dropped."""
        highest = int(self.file_of.max(initial=-1))
        table = np.array([*(numbers.get(i, -1) for i in range(highest + 1)), -1], dtype=np.int32)  # -1 finds the last
        return replace(self, file_of=table[self.file_of])

    def without_dropped(self) -> "Rows":
        """The rows that are clips of a file, in their order."""
        return Rows(*(column[self.alive] for column in (self.file_of, self.seconds, self.features)))

    def followed_by(self, other: "Rows") -> "Rows":
        """These rows and then others; where there are none of either, the other itself."""
        if not len(self) or not len(other):
            return other if len(other) else self
        pairs = ((self.file_of, other.file_of), (self.seconds, other.seconds), (self.features, other.features))
        return Rows(*map(np.concatenate, pairs))


NO_ROWS = Rows(np.zeros(0, np.int32), np.zeros((0, 2)), np.zeros((0, 0), np.float32))


@dataclass(frozen=True)
class Searched:
    """Rows and the structure that searches them, under the same numbers.

    built: rows that a graph was built with; later ones were appended.
    """

    rows: Rows
    nearest: Nearest
    built: int


def joined(old: Searched | None, kept: Rows, new: Rows, streams: int, hnsw_from: int) -> Searched:
    """Old rows, of which some are dropped now, and new ones; `old` itself where nothing has changed.

    An exact index is made anew, which takes no time. A graph is appended to and its dropped clips are passed over, with
    the centre that it has, until a tenth of it has changed; then it is built anew, too.

    Args:
        kept: the old rows, with those marked that are dropped. streams, hnsw_from: as of `Nearest.build`.
    """
    clips = kept.clips + len(new)
    same_kind = old is not None and old.nearest.is_graph == (clips >= hnsw_from)
    if old is not None and same_kind:
        if not len(new) and kept.clips == old.rows.clips:
            return replace(old, rows=kept)
        changed = len(kept) - kept.clips + len(kept) - old.built + len(new)
        if old.nearest.is_graph and changed <= MOST_CHANGED * old.built:
            old.nearest.add(new.features)
            return Searched(kept.followed_by(new), old.nearest, old.built)
    rows = kept.without_dropped().followed_by(new)
    return Searched(rows, Nearest.build(rows.features, streams, hnsw_from), len(rows))
