"""Everything that is counted of a dataset, as plain numbers and names: what is shown, and what --json writes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dataset.lmdb_reader import LmdbReader
from inspection import pair, split, store
from inspection.pair import Pair
from inspection.rows import KINDS, Place
from inspection.split import Split
from inspection.store import Sample, Store


@dataclass(frozen=True)
class Survey:
    """A dataset. streams: of its name, "RGB", "flow" or "residual". clips: of a video in a training sample. stores: its
    LMDBs. pairs: RGB and flow beside each other."""

    name: str
    streams: tuple[str, ...]
    clips: int
    seq_len: int
    ds: int
    stores: list[Store]
    pairs: list[Pair]
    splits: list[Split]

    @property
    def leaks(self) -> bool:
        """Whether any split has a leak."""
        return any(split.leaks for split in self.splits)

    def as_json(self) -> dict[str, Any]:
        """All of it for a file."""
        return asdict(self) | {"any_leak": self.leaks}


def make(place: Place, splits: Sequence[int], sample: Sample) -> Survey:
    """Look at a dataset.

    Args:
        splits: their numbers. sample: which frames are decoded.

    Raises:
        DataError: an LMDB that the name needs is missing or damaged; the class list or that of sources is.
    """
    readers = {train: place.spec.readers(place.data_root, train=train) for train in (True, False)}
    files = _lmdbs(place)
    found = [split.look(place, number, readers[True], readers[False]) for number in splits]
    opened = {path: LmdbReader(path) for kinds in files.values() for path in kinds.values()}
    parts = {path: [part for part, kinds in files.items() if path in kinds.values()] for path in opened}
    kinds_of = {path: kind for kinds in files.values() for kind, path in kinds.items()}
    used = {Path(reader.path) for pair_of in readers.values() for reader in pair_of}
    stores = [store.examine(path, reader, kinds_of[path], parts[path], sample, used=path.resolve() in used)
              for path, reader in opened.items()]
    pairs = dict.fromkeys((kinds["RGB"], kinds["flow"]) for kinds in files.values() if len(kinds) == 2)
    return Survey(place.spec.name, place.streams, place.spec.clips, place.seq_len, place.ds, stores,
                  [pair.compare(opened[rgb], opened[flow]) for rgb, flow in pairs], found)


def _lmdbs(place: Place) -> dict[str, dict[str, Path]]:
    """The LMDBs of each part, "RGB" and "flow" as far as they are there, whether or not the name needs them."""
    both = replace(place.spec, streams=tuple(KINDS), second_view="flow")
    found = {}
    for part, train in (("train", True), ("test", False)):
        paths = zip(KINDS.values(), both.lmdbs(place.data_root, train=train), strict=True)
        found[part] = {kind: path for kind, path in paths if path.exists()}
    return found
