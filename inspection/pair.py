"""The LMDBs of RGB and flow beside each other: the same videos, and one flow frame less in each."""

from dataclasses import dataclass

from dataset.lmdb_reader import LmdbReader


@dataclass(frozen=True)
class Pair:
    """How two LMDBs agree. both: videos that both hold. only_rgb, only_flow: those of one alone.

    odd: of both, those of which flow does not have one frame less than RGB: name -> RGB and flow frames.
    """

    rgb: str
    flow: str
    both: int
    only_rgb: list[str]
    only_flow: list[str]
    odd: dict[str, tuple[int, int]]


def compare(rgb: LmdbReader, flow: LmdbReader) -> Pair:
    """Compare all videos of two LMDBs, by what they say of themselves. Raises DataError where one is damaged."""
    both = [name for name in rgb.names if name in flow]
    counts = {name: (rgb.num_frames(name), flow.num_frames(name)) for name in both}
    return Pair(rgb.path, flow.path, len(both), [name for name in rgb.names if name not in flow],
                [name for name in flow.names if name not in rgb],
                {name: pair for name, pair in sorted(counts.items()) if pair[0] != pair[1] + 1})
