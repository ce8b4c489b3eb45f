"""Frames are found by the ends written beside an LMDB, equal to those found by walking; wrong ends are noticed."""

import pickle
import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import frame, jpeg, write_lmdb

from dataset import lmdb_reader
from dataset.errors import DataError
from dataset.frame_ends import path_beside
from dataset.lmdb_pages import Value
from dataset.lmdb_reader import LmdbReader
from dataset.msgpack_list import CutValueError, element_spans, indexed_spans
from process_data.src.lmdb_file import pack
from process_data.src.lmdb_file import write_lmdb as write_own

ROOT = Path(__file__).parents[1]
VIDEOS = {f"A/v{length}": [jpeg(frame(f"v{length}", number)) for number in range(length)] for length in (1, 17, 40)}


@pytest.fixture
def own(tmp_path):
    """An LMDB as the project writes it, with its ends."""
    write_own(tmp_path / "own.lmdb", VIDEOS, lambda name: pack(VIDEOS[name]))
    return tmp_path / "own.lmdb"


def index(path: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, ROOT / "process_data/src/index_lmdb.py", path], capture_output=True,
                          text=True)


def no_walk(monkeypatch) -> None:
    monkeypatch.setattr(lmdb_reader, "element_spans", None)


def test_a_written_file_has_the_ends_that_msgpack_gives(own):
    ends = np.load(path_beside(own))
    order = own.with_name("own.lmdb-order").read_text().split()
    sizes = [np.cumsum([len(msgpack.packb(image)) for image in VIDEOS[name]]) for name in order]
    headers = [len(msgpack.packb([0] * len(VIDEOS[name]))) - len(VIDEOS[name]) for name in order]
    assert ends.tolist() == np.concatenate([h + s for h, s in zip(headers, sizes, strict=True)]).tolist()


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("raw", [True, False])
def test_frames_are_the_same_with_ends_and_without(tmp_path, monkeypatch, raw, folder):
    path = write_lmdb(tmp_path / "a.lmdb", VIDEOS, raw=raw, folder=folder)
    wanted = {name: [len(images) - 1, 0, len(images) // 2] for name, images in VIDEOS.items()}
    expected = {name: LmdbReader(path).frames(name, frames) for name, frames in wanted.items()}
    assert index(path).returncode == 0
    no_walk(monkeypatch)
    reader = LmdbReader(path)
    assert all((reader.frames(name, frames) == expected[name]).all() for name, frames in wanted.items())


def test_an_lmdb_behind_a_link_has_its_ends_beside_the_link_or_the_file(tmp_path, monkeypatch, own):
    """Shared datasets are often linked into data/, and may not be written to."""
    link = tmp_path / "linked" / "a.lmdb"
    link.parent.mkdir()
    link.symlink_to(own)
    no_walk(monkeypatch)
    assert LmdbReader(link).frames("A/v40", [7]).shape == (1, 48, 64, 3)
    path_beside(own).unlink()
    assert index(link).returncode == 0 and path_beside(link).exists()
    assert LmdbReader(link).frames("A/v40", [7]).shape == (1, 48, 64, 3)


def test_a_copy_of_a_reader_finds_the_ends_too(monkeypatch, own):
    no_walk(monkeypatch)
    assert pickle.loads(pickle.dumps(LmdbReader(own))).frames("A/v40", [7]).shape == (1, 48, 64, 3)


def test_only_the_wanted_frames_are_asked_from_the_disk(own, monkeypatch):
    no_walk(monkeypatch)
    asked = []
    monkeypatch.setattr(Value, "_advise", lambda value, start, stop: asked.append((start, stop)))
    LmdbReader(own).frames("A/v40", [10, 11, 12, 30])
    ends = np.cumsum([len(msgpack.packb(image)) for image in VIDEOS["A/v40"]]) + 3
    assert asked == [(ends[9], ends[12]), (ends[29], ends[30])]


def test_a_file_that_is_written_again_gets_new_ends(own):
    videos = {"A/v17": VIDEOS["A/v17"][::-1], "B/new": VIDEOS["A/v1"]}
    write_own(own, videos, lambda name: pack(videos[name]))
    assert (LmdbReader(own).frames("A/v17", [3]) == LmdbReader(own).frames("A/v17", range(17))[3]).all()
    assert len(np.load(path_beside(own))) == 18


def test_ends_of_a_file_with_other_counts_are_refused_and_can_be_made_again(tmp_path, own):
    other = write_lmdb(tmp_path / "other.lmdb", {"A/a": VIDEOS["A/v17"]})
    path_beside(own).rename(path_beside(other))
    with pytest.raises(DataError, match=r"-ends\.npy is of .* but its LMDB has 17 frames: remove it, or make it again"):
        LmdbReader(other).frames("A/a", [0])
    assert index(other).returncode == 0
    assert LmdbReader(other).frames("A/a", [16]).shape == (1, 48, 64, 3)


@pytest.mark.parametrize("change", [1, -5, 2**31, -2**31])
def test_ends_of_other_frames_are_noticed(own, change):
    ends = np.load(path_beside(own)).astype(np.int64)
    np.save(path_beside(own), ((ends + change) % 2**32).astype(np.uint32))
    with pytest.raises(DataError, match=r"video A/v40: .*ends\.npy is of another one; make that again"):
        LmdbReader(own).frames("A/v40", [7, 8])


@pytest.mark.parametrize("data", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_of_ends_is_named(own, data):
    path_beside(own).write_bytes(data)
    with pytest.raises(DataError, match=r"-ends\.npy cannot be read .* remove it, or make it again"):
        LmdbReader(own).frames("A/v40", [7])


def test_the_command_names_a_damaged_lmdb(tmp_path):
    (tmp_path / "a.lmdb").write_bytes(b"nothing")
    done = index(tmp_path / "a.lmdb")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "cannot be read as an LMDB" in done.stderr
    assert not path_beside(tmp_path / "a.lmdb").exists()


def test_ends_stay_where_new_ones_cannot_be_made(own):
    before = path_beside(own).read_bytes()
    own.write_bytes(b"nothing")
    assert index(own).returncode == 2
    assert path_beside(own).read_bytes() == before
    assert sorted(path.name for path in own.parent.iterdir()) == ["own.lmdb", "own.lmdb-ends.npy", "own.lmdb-order"]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20), st.data())
def test_spans_from_ends_are_those_of_the_walk_and_wrong_ends_raise(elements, data):
    packed = memoryview(msgpack.packb(elements))
    spans = element_spans(packed, range(len(elements)))[1]
    ends = [end for _, end in spans]
    wanted = sorted(data.draw(st.sets(st.integers(0, len(elements) - 1), min_size=1)))
    assert indexed_spans(packed, wanted, ends) == [spans[i] for i in wanted]
    moved = data.draw(st.sampled_from(wanted))
    ends[moved] += data.draw(st.sampled_from([-1, 1, 1000]))
    with pytest.raises(CutValueError):
        indexed_spans(packed, wanted, ends)
