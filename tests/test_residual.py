"""Residual frames against plain loops over the frames, and the datasets that have them in place of flow."""

import pickle
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import msgpack
import numpy as np
import pytest
import torch
from miniature import frame, jpeg, make, write_lmdb
from test_data_faults import change_video, cut, without_frames
from test_video_dataset import Recorder, equal
from torch.utils.data import DataLoader

from dataset import catalog
from dataset import jpeg as decoding
from dataset.errors import DataError
from dataset.lmdb_reader import LmdbReader
from dataset.residual import PairReader, ResidualReader, residual_image
from utils import options
from utils.presets import CropsTransform, PretrainTransform

NAME = "A/a"
SUFFIXES = ("-f", "-f-2clip", "-2stream-2clip")


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
    """A video of 12 frames, and one of a single frame."""
    return write_lmdb(tmp_path / "a.lmdb", {NAME: [jpeg(frame(NAME, i)) for i in range(12)],
                                            "A/one": [jpeg(frame(NAME, 0))]})


def without_flow(made) -> None:
    """Leave a miniature with its RGB LMDBs alone."""
    found = [file for file in made.data_root.glob("*/*") if "tvl1" in file.name or "_flow_" in file.name]
    assert found
    for file in found:
        shutil.rmtree(file) if file.is_dir() else file.unlink()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Datasets without flow, their videos of different lengths."""
    found = {name: make(tmp_path_factory.mktemp(name), name, groups=4, folder=name == "mine", seed=3)
             for name in ("ucf101", "k400", "mine")}
    for made in found.values():
        without_flow(made)
    return found


def build(made, suffix="-2stream-2clip", mode="train", transform=None, **settings):
    settings = {"seq_len": 4, "ds": 1, "second_view": "residual"} | settings
    return catalog.build(made.name + suffix, mode, transform=transform or PretrainTransform(16), **made.roots,
                         **settings)


def rgb_file(made) -> Path:
    return made.data_root / {"ucf101": "UCF101/ucf101_frame.lmdb", "mine": "mine/mine_frame.lmdb",
                             "k400": "K400/k400_frame_train.lmdb"}[made.name]


def test_every_pair_of_numbers():
    before, after = (np.ascontiguousarray(each.astype(np.uint8)) for each in np.indices((256, 256)))
    expected = [[formula(b, a) for a in range(256)] for b in range(256)]
    assert (residual_image(before, after) == expected).all()
    assert residual_image(before, before).min() == residual_image(before, before).max() == 128


def test_frames_by_loops_over_their_numbers(tmp_path):
    images = [frame(NAME, i, (6, 8)) for i in range(4)]
    file = write_lmdb(tmp_path / "a.lmdb", {NAME: [cv2.imencode(".png", image[..., ::-1])[1].tobytes()
                                                   for image in images]})
    made = reader_of(file).frames(NAME, range(3))
    assert made.shape == (3, 6, 8, 3) and made.dtype == np.uint8
    for i in range(3):
        for place in np.ndindex(6, 8, 3):
            assert made[i][place] == formula(int(images[i][place]), int(images[i + 1][place]))


@pytest.mark.parametrize("clips", [[[0, 1, 2], [1, 2, 3]], [[0, 0, 4, 10], [10, 8, 6, 0]], [[5]], [[0, 2, 4, 6]]])
def test_clips(path, clips):
    expected = by_hand(path, NAME)
    found = reader_of(path).clips(NAME, np.array(clips))
    assert all((clip == expected[frames]).all() for clip, frames in zip(found, clips, strict=True))


def test_the_interface_is_that_of_an_lmdb(path):
    reader, rgb = reader_of(path), LmdbReader(path)
    assert (reader.path, reader.names) == (rgb.path, rgb.names)
    assert NAME in reader and "A/b" not in reader
    assert (reader.num_frames(NAME), reader.num_frames("A/one")) == (11, 0)
    with pytest.raises(DataError, match="no video A/b"):
        reader.num_frames("A/b")
    with pytest.raises(DataError, match="frame 12 was asked for, it has 12"):
        reader.frames(NAME, [11])
    reader.frames(NAME, [0])
    reader.close()
    assert reader.rgb._held is None


@pytest.mark.parametrize(("lost", "replaced", "stand_ins"), [
    ([5], [4, 5], {4: 3, 5: 6}), ([0], [0], {0: 1}), ([11], [10], {10: 9}),
    ([3, 5], [2, 3, 4, 5], {2: 1, 3: 1, 4: 6, 5: 6})])
def test_a_damaged_frame_damages_those_that_it_is_part_of(path, lost, replaced, stand_ins):
    good = by_hand(path, NAME)
    change_video(path, NAME, without_frames(*lost))
    with pytest.raises(DataError, match=f"a.lmdb, video {NAME}, frame {lost[0]} does not decode"):
        reader_of(path).frames(NAME, range(11))
    told: list[int] = []
    [clip] = reader_of(path).clips(NAME, np.arange(11)[None], told)
    assert told == replaced
    assert all((clip[i] == good[stand_ins.get(i, i)]).all() for i in range(11))


def test_a_frame_of_another_size_is_damaged_too(tmp_path):
    images = [jpeg(frame(NAME, i, (40, 40) if i == 6 else (48, 64))) for i in range(12)]
    file = write_lmdb(tmp_path / "a.lmdb", {NAME: images})
    told: list[int] = []
    [clip] = reader_of(file).clips(NAME, np.arange(3, 9)[None], told)
    assert told == [5, 6] and (clip[2] == clip[1]).all() and (clip[3] == clip[4]).all()


def test_a_value_that_is_cut_and_one_that_is_lost(path):
    good = by_hand(path, NAME)
    change_video(path, NAME, cut)  # 7 frames are left
    told: list[int] = []
    [clip] = reader_of(path).clips(NAME, np.arange(4, 10)[None], told)
    assert told == [6, 7, 8, 9] and (clip == good[[4, 5, 5, 5, 5, 5]]).all()
    change_video(path, NAME, lambda value: msgpack.packb([b"no image"] * 12))
    with pytest.raises(DataError, match=f"video {NAME}, frame 0 does not decode"):
        reader_of(path).clips(NAME, np.arange(8)[None], [])


@pytest.mark.parametrize("name", ["ucf101", "k400", "mine"])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", ["train", "test"])
def test_datasets_need_rgb_alone(sets, name, suffix, mode):
    made = sets[name]
    videos = made.train if mode == "train" else made.test
    dataset = build(made, suffix, mode)
    assert dataset.index.names == videos
    assert dataset.index.num_frames.tolist() == [made.lengths[video] - 1 for video in videos]
    assert len(dataset.readers) == (2 if "2stream" in suffix else 1)
    with pytest.raises(DataError, match="not there"):
        build(made, suffix, mode, second_view="flow")


def test_two_streams_have_the_smaller_number_of_frames(tmp_path):
    made = make(tmp_path, "ucf101", frames=20)
    without_flow(made)
    rows = made.split_root / "ucf101" / "train_split01.csv"
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([lines[0].replace(",20", ",11"), *lines[1:]]) + "\n")
    assert build(made).index.num_frames[:2].tolist() == [11, 19]
    assert build(made, "-f").index.num_frames[:2].tolist() == [19, 19]


@pytest.mark.parametrize(("seq_len", "ds"), [(4, 1), (4, 2), (3, 5), (30, 1), (14, 2)])
@pytest.mark.parametrize("name", ["ucf101", "mine"])
def test_both_streams_of_a_sample_have_the_same_frames(sets, name, seq_len, ds):
    """With videos of 20 to 25 frames, the longer clips are padded on the left."""
    made = sets[name]
    transform = Recorder((0, 1))
    dataset = build(made, transform=transform, seq_len=seq_len, ds=ds)
    for row in range(4):
        assert dataset[(1, row)]["damaged"].tolist() == [[0, 0], [0, 0]]
        name, count = made.train[row], made.lengths[made.train[row]] - 1
        rgb = LmdbReader(rgb_file(made)).frames(name, range(count))
        expected = by_hand(rgb_file(made), name)
        for clip in (0, 1):
            first, second = transform.frames[clip]
            numbers = [next(i for i in range(count) if (rgb[i] == image).all()) for image in first]
            inside = list(range(numbers[-1] % ds, numbers[-1] + 1, ds))[-seq_len:]
            assert numbers == [0] * (seq_len - len(inside)) + inside
            assert (second == expected[numbers]).all()


def test_windows_of_a_test_video(sets):
    made = sets["mine"]
    transform = Recorder((0,))
    sample = build(made, "-f", "test", transform, seq_len=6)[0]
    count = made.lengths[made.test[0]] - 1
    starts = range(0, count - 6 + 1, 2)
    assert sample["windows"].tolist() == [list(range(start, start + 6)) for start in starts]
    assert (transform.frames[0][0] == by_hand(rgb_file(made), made.test[0])[:starts[-1] + 6]).all()
    assert build(made, "-f", "test", CropsTransform(16), seq_len=6)[0]["clips"].shape[:3] == (1, 1, starts[-1] + 6)


@pytest.mark.parametrize("ds", [1, 2, 3])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_frame_is_decoded_once(sets, suffix, ds, monkeypatch):
    decoded = []
    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda jpegs: decoded.append(list(jpegs)) or decode(jpegs))
    clips = (0, 1) if "2clip" in suffix else (0,)
    dataset = build(sets["ucf101"], suffix, transform=Recorder(clips), ds=ds)
    for row in range(5):
        decoded.clear()
        dataset[row]
        drawn = dataset.sampler(int(dataset.index.num_frames[row]), dataset.rng(0, row))
        assert len(decoded) == 1
        assert len(decoded[0]) == len({number for i in drawn.ravel().tolist() for number in (i, i + 1)})


def test_both_streams_are_cut_and_flipped_alike(tmp_path):
    """The first residual frame is made to be the first RGB frame: x = 128 + ((3x - 256) - x) / 2."""
    first = np.random.default_rng(0).integers(86, 171, (40, 60, 3)).astype(np.uint8)
    images = [first, (3 * first.astype(int) - 256).astype(np.uint8), first]
    made = make(tmp_path, "mine")
    for file in (tmp_path / "data/mine").iterdir():
        file.unlink()
    coded = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images]
    write_lmdb(rgb_file(made), dict.fromkeys(made.train + made.test, coded))
    dataset = build(made, seq_len=1)
    views = [dataset[(epoch, 0)]["clips"] for epoch in range(20)]
    assert all(torch.equal(view[:, 0], view[:, 1]) for view in views)
    assert any(not torch.equal(view[0], view[1]) for view in views)


def test_damage_is_told_for_each_stream(sets, tmp_path):
    made = sets["ucf101"]
    shutil.copytree(made.data_root, tmp_path / "data")
    file = tmp_path / "data/UCF101/ucf101_frame.lmdb"
    dataset = build(replace(made, data_root=tmp_path / "data"), transform=Recorder((0,)))
    [start, *_] = dataset.sampler(int(dataset.index.num_frames[0]), dataset.rng(0, 0))[0].tolist()
    assert start > 0
    for lost, told in ((start + 2, [[1, start + 2], [2, start + 1]]), (start + 4, [[0, 0], [1, start + 3]])):
        shutil.copy(rgb_file(made), file)
        change_video(file, made.train[0], without_frames(lost))
        dataset = pickle.loads(pickle.dumps(dataset))  # the file is another one
        assert dataset[0]["damaged"].tolist() == told
        rgb, residual = dataset.transform.frames[0]
        whole = [start + i - (start + i == lost) for i in range(4)]
        assert (rgb == LmdbReader(rgb_file(made)).frames(made.train[0], whole)).all()
        good = by_hand(rgb_file(made), made.train[0])
        for i, image in enumerate(residual, start):
            nearest = {lost - 1: lost - 2, lost: lost + 1}.get(i, i)
            assert (image == good[nearest]).all()


def test_a_dataset_is_pickled_without_frames_and_workers_make_the_same_samples(sets):
    dataset = build(sets["ucf101"])
    dataset.readers[0].clips(dataset.index.names[0], np.arange(4)[None])
    again = pickle.loads(pickle.dumps(dataset))
    assert again.readers[1].rgb is again.readers[0] and again.readers[0]._kept is again.readers[0]._held is None
    items = [(epoch, i) for epoch in (0, 1) for i in range(4)]
    workers = DataLoader(dataset, batch_size=None, sampler=items, num_workers=2)
    assert all(equal(sample, again[item]) for sample, item in zip(workers, items, strict=True))
    assert again.readers[0]._kept is None  # nothing of a finished sample is held


def test_frames_of_another_video_are_not_taken_for_those_asked_for(path):
    rgb = PairReader(path)
    residual = ResidualReader(rgb)
    rgb.clips(NAME, np.arange(3)[None])
    assert (residual.frames(NAME, [2, 3]) == by_hand(path, NAME)[2:4]).all()
    last = rgb.clips(NAME, np.array([[10, 11]]))[0]  # there is no frame 12
    assert (last == LmdbReader(path).frames(NAME, [10, 11])).all()


@pytest.mark.parametrize("suffix", ["", "-2clip"])
def test_a_name_without_a_second_view_is_refused(suffix):
    for base in ("ucf101", "mine"):
        with pytest.raises(DataError, match=f"^--second_view residual has no effect on {base}{suffix}, .*{base}-f"):
            catalog.parse(base + suffix, "residual")
        assert catalog.parse(base + suffix, "flow").streams == ("rgb",)
    with pytest.raises(DataError, match="no second view 'depth'"):
        catalog.parse("ucf101-f", "depth")


def test_the_choices_are_those_of_the_option():
    assert options.SECOND_VIEWS == catalog.SECOND_VIEWS


def test_a_missing_rgb_file_is_named_once(tmp_path):
    made = make(tmp_path, "mine")
    rgb_file(made).unlink()
    with pytest.raises(DataError) as told:
        build(made)
    assert str(told.value).count("mine_frame.lmdb") == 1 and "tvl1" not in str(told.value)

