"""Residual frames of a video against plain loops over its frames."""

from itertools import pairwise
from pathlib import Path

import msgpack
import numpy as np
import pytest
from miniature import frame, jpeg, write_lmdb
from test_data_faults import change_video, cut, without_frames

from dataset.lmdb_reader import LmdbReader
from dataset.residual import PairReader, ResidualReader, residual_image
from utils.errors import DamagedFramesError, DataError

NAME, OTHER = "A/a", "A/other"


def formula(before: int, after: int) -> int:
    """One number of a residual image; Python rounds halves to even."""
    return min(255, round(128 + (after - before) / 2))


def by_hand(path: Path, name: str) -> np.ndarray:
    """All residual frames of a video, from RGB frames read one by one."""
    reader = LmdbReader(path)
    frames = [reader.frames(name, [i])[0].astype(int) for i in range(reader.num_frames(name))]
    made = [np.round(128 + (after - before) / 2) for before, after in pairwise(frames)]
    return np.minimum(np.stack(made), 255).astype(np.uint8)


def reader_of(path: Path) -> ResidualReader:
    return ResidualReader(PairReader(path))


@pytest.fixture
def path(tmp_path):
    """Two videos of 12 frames, and one of a single frame."""
    videos = {name: [jpeg(frame(name, i)) for i in range(12)] for name in (NAME, OTHER)}
    return write_lmdb(tmp_path / "a.lmdb", videos | {"A/one": [jpeg(frame(NAME, 0))]})


def test_every_pair_of_numbers():
    before, after = (np.ascontiguousarray(each.astype(np.uint8)) for each in np.indices((256, 256)))
    expected = [[formula(b, a) for a in range(256)] for b in range(256)]
    assert (residual_image(before, after) == expected).all()
    assert residual_image(before, before).min() == residual_image(before, before).max() == 128


@pytest.mark.parametrize("clips", [[[0, 1, 2], [1, 2, 3]], [[0, 0, 4, 10], [10, 8, 6, 0]], [[5]], [[0, 2, 4, 6]]])
def test_clips(path, clips):
    expected = by_hand(path, NAME)
    found = reader_of(path).clips(NAME, np.array(clips))
    assert all((clip == expected[frames]).all() for clip, frames in zip(found, clips, strict=True))


def test_the_interface_is_that_of_an_lmdb(path):
    reader, rgb = reader_of(path), LmdbReader(path)
    assert reader.path == rgb.path
    assert NAME in reader and "A/b" not in reader
    assert (reader.num_frames(NAME), reader.num_frames("A/one")) == (11, 0)
    with pytest.raises(DataError, match="no video A/b"):
        reader.num_frames("A/b")
    with pytest.raises(DataError, match="frame 12 was asked for, it has 12"):
        reader.frames(NAME, [11])


@pytest.mark.parametrize(("lost", "residuals", "nearest"), [
    ([5], [4, 5], {4: 3, 5: 6}), ([0], [0], {0: 1}), ([11], [10], {10: 9}),
    ([3, 5], [2, 3, 4, 5], {2: 1, 3: 1, 4: 6, 5: 6})])
def test_a_damaged_frame_damages_those_that_it_is_part_of(path, lost, residuals, nearest):
    good = by_hand(path, NAME)
    change_video(path, NAME, without_frames(*lost))
    with pytest.raises(DamagedFramesError, match=f"a.lmdb, video {NAME}, frame {lost[0]} does not decode"):
        reader_of(path).frames(NAME, range(11))
    damaged: list[int] = []
    [clip] = reader_of(path).clips(NAME, np.arange(11)[None], damaged)
    assert damaged == residuals
    assert all((clip[i] == good[nearest.get(i, i)]).all() for i in range(11))


def test_a_value_that_is_cut_and_one_that_is_lost(path):
    good = by_hand(path, NAME)
    change_video(path, NAME, cut)  # 7 frames are left
    damaged: list[int] = []
    [clip] = reader_of(path).clips(NAME, np.arange(4, 10)[None], damaged)
    assert damaged == [6, 7, 8, 9] and (clip == good[[4, 5, 5, 5, 5, 5]]).all()
    change_video(path, NAME, lambda value: msgpack.packb([b"no image"] * 12))
    with pytest.raises(DataError, match=f"video {NAME}, frame 0 does not decode"):
        reader_of(path).clips(NAME, np.arange(8)[None], [])


def test_frames_of_another_video_are_not_taken_for_those_asked_for(path):
    rgb = PairReader(path)
    residual = ResidualReader(rgb)
    for name in (NAME, OTHER):
        rgb.clips(name, np.array([[2, 3], [3, 4]]))
        assert (residual.frames(NAME, [2, 3, 4]) == by_hand(path, NAME)[2:5]).all()
        assert (residual.frames(name, [3]) == by_hand(path, name)[3]).all()
    last = rgb.clips(NAME, np.array([[10, 11]]))[0]  # there is no frame 12
    assert (last == LmdbReader(path).frames(NAME, [10, 11])).all()
