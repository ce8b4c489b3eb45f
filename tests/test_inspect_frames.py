"""Damage in LMDBs, and LMDBs that do not belong together: what was planted is found, all of it and nothing else."""

import sys

import lmdb
import miniature
import msgpack
import numpy as np
import pytest
from test_data_faults import change_video, cut, without_frames
from test_inspect import inspected, made, place_of, rewrite

from dataset.lmdb_reader import LmdbReader
from inspection import survey
from inspection.frames import look, spread
from inspection.pair import compare
from inspection.store import Sample
from inspection.worries import worries
from process_data.src import index_lmdb


def test_damaged_frames_are_found(tmp_path):
    mini = made(tmp_path, frames=14)
    path = mini.data_root / "mine" / "mine_frame.lmdb"
    one, other, third, *_ = mini.train
    change_video(path, one, without_frames(0, 5))
    change_video(path, other, cut)
    change_video(path, third, lambda value: msgpack.packb([b"x"] * mini.lengths[third]))
    found = look(LmdbReader(path), mini.lengths, None)
    assert found.damaged.keys() == {one, other, third} and found.damaged[one].keys() == {0, 5}
    assert found.damaged[other].keys() == set(range(7, mini.lengths[other]))
    assert "has no bytes" in found.damaged[other][7] and "does not decode" in found.damaged[one][0]
    assert found.faulty == {third: "no frame of it can be read"} and found.mixed == []
    for name, damaged in found.damaged.items():
        if name != third:  # what training replaces
            replaced: list[int] = []
            LmdbReader(path).clips(name, np.arange(mini.lengths[name])[None], replaced)
            assert replaced == list(damaged)
    text = "\n".join(worries(inspected(mini)))
    assert f"{2 + mini.lengths[other] - 7 + mini.lengths[third]} damaged frames in 3 videos: " in text


def test_a_video_that_is_wrong_as_a_whole(tmp_path):
    mini = made(tmp_path)
    path = mini.data_root / "mine" / "mine_frame.lmdb"
    gone, longer, *_ = mini.train
    change_video(path, longer, lambda value: msgpack.packb([*msgpack.unpackb(value), b"x"]))
    with lmdb.open(str(path), subdir=False, lock=False) as env, env.begin(write=True) as transaction:
        assert transaction.delete(b"%09d" % LmdbReader(path).names.index(gone))
    found = look(LmdbReader(path), mini.lengths, None)
    assert found.faulty.keys() == {gone, longer} and not found.damaged
    assert "has no value" in found.faulty[gone] and "__vlen__" in found.faulty[longer]


def test_ends_of_another_lmdb_and_frames_of_several_sizes(tmp_path, monkeypatch):
    images = {"A/a": [miniature.jpeg(miniature.frame("A/a", i, (24, 32 + 2 * i))) for i in range(3)], "A/b": []}
    path = miniature.write_lmdb(tmp_path / "x.lmdb", images)
    monkeypatch.setattr(sys, "argv", ["", str(path)])
    index_lmdb.main()
    found = look(LmdbReader(path), images, None)
    assert found.mixed == ["A/a"] and found.faulty == {"A/b": "no frame of it can be read"}
    assert found.sizes == {(32, 24): 1, (34, 24): 1, (36, 24): 1}
    path.unlink()
    miniature.write_lmdb(path, {"A/a": images["A/a"][::-1], "A/b": []})
    assert "ends" in look(LmdbReader(path), ["A/a"], None).faulty["A/a"]


@pytest.mark.parametrize(("count", "most"), [(1, 8), (8, 8), (9, 8), (100, 8), (5, 1), (5, None), (0, 8), (3, 2)])
def test_a_sample_is_even_and_has_both_ends(count, most):
    picked = spread(count, most)
    assert len(picked) == len(set(picked)) == min(count, most or count)
    assert picked == sorted(picked) and all(0 <= place < count for place in picked)
    if len(picked) > 1:
        gaps = np.diff(picked)
        assert picked[0] == 0 and picked[-1] == count - 1 and gaps.max() - gaps.min() <= 1


def test_a_sample_looks_at_so_many(tmp_path):
    mini = made(tmp_path)
    found = survey.make(place_of(mini), [1], Sample(5, 3, seed=2))
    assert [store.looked_at for store in found.stores] == [(5, 15), (5, 15)]


def test_lmdbs_that_differ(tmp_path):
    mini = made(tmp_path)
    lengths = {name: count - 1 for name, count in mini.lengths.items()}
    gone, odd = mini.train[0], mini.train[1]
    del lengths[gone]
    rewrite(mini, "tvl1_frame", lengths | {odd: lengths[odd] - 2, "New/v": 3})
    found = compare(*(LmdbReader(mini.data_root / f"mine/mine_{kind}.lmdb") for kind in ("frame", "tvl1_frame")))
    assert (found.both, found.only_rgb, found.only_flow) == (len(mini.lengths) - 1, [gone], ["New/v"])
    assert found.odd == {odd: (mini.lengths[odd], mini.lengths[odd] - 3)}
    text = "\n".join(worries(inspected(mini)))
    assert f"RGB LMDB alone: {gone}" in text and "flow LMDB alone: New/v" in text and f"{odd} has " in text
