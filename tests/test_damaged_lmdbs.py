"""Damaged frame LMDBs: frames of the right form or an error of one line, wherever the damage is."""

from pathlib import Path

import miniature
import numpy as np
import pytest
from damage import damaged, refused

from dataset.jpeg import decode
from dataset.lmdb_reader import LmdbReader

COUNTS = {"A/a": 4, "A/b": 3, "B/c": 3}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    """The bytes of a small LMDB."""
    videos = {name: [miniature.jpeg(miniature.frame(name, i)) for i in range(count)] for name, count in COUNTS.items()}
    return miniature.write_lmdb(tmp_path_factory.mktemp("lmdb") / "x.lmdb", videos).read_bytes()


def read(path: Path) -> int:
    """Read all that an LMDB has of our videos; return how many readings were refused."""
    reader, count = LmdbReader(path), 0

    def frames(name: str) -> None:
        found = reader.frames(name, [0, 2])
        assert found.dtype == np.uint8 and found.ndim == 4 and found.shape[::3] == (2, 3)

    def lengths() -> None:
        assert reader.names and all(reader.num_frames(name) >= 0 for name in reader.names)
    for name in COUNTS:
        count += refused(lambda name=name: frames(name))
    return count + refused(lengths)


def test_damage_anywhere_is_read_or_refused(sound, tmp_path):
    path, found = tmp_path / "x.lmdb", []
    path.write_bytes(sound)
    assert read(path) == 0
    for data in damaged(sound, 300):
        path.write_bytes(data)
        found.append(read(path))
    assert 0 < sum(each > 0 for each in found) < 300


def test_damaged_jpegs_decode_or_are_named():
    good = miniature.jpeg(miniature.frame("A/a", 0))
    faults = 0
    for data in damaged(good, 300):
        images, found = decode([memoryview(good), memoryview(good), memoryview(data)])
        assert images.dtype == np.uint8 and images.shape == (3, *miniature.SIZE, 3) and set(found) <= {2}
        faults += len(found)
    assert 0 < faults < 300
