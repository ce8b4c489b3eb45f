"""Residual frames of a video, and datasets with them in place of flow, against plain loops over RGB frames."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from miniature import frame, jpeg, make, write_lmdb
from test_data_faults import change_video, without_frames
from test_video_dataset import Recorder

from dataset import catalog
from dataset import jpeg as jpegs
from dataset.lmdb_reader import LmdbReader
from dataset.residual import PairReader, ResidualReader, residual_image
from dataset.transforms.presets import PretrainTransform
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


def test_frames_of_another_video_are_not_taken_for_those_asked_for(path):
    rgb = PairReader(path)
    residual = ResidualReader(rgb)
    for name in (NAME, OTHER):
        rgb.clips(name, np.array([[2, 3], [3, 4]]))
        assert (residual.frames(NAME, [2, 3, 4]) == by_hand(path, NAME)[2:5]).all()
        assert (residual.frames(name, [3]) == by_hand(path, name)[3]).all()
    last = rgb.clips(NAME, np.array([[10, 11]]))[0]  # there is no frame 12
    assert (last == LmdbReader(path).frames(NAME, [10, 11])).all()


# Datasets

SUFFIXES = ("-f", "-f-2clip", "-2stream-2clip")


def without_flow(made) -> None:
    """Remove the flow LMDBs of a miniature."""
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


@pytest.mark.parametrize("name", ["ucf101", "k400", "mine"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_datasets_need_rgb_alone(sets, name, suffix):
    made = sets[name]
    for mode, videos in (("train", made.train), ("test", made.test)):
        dataset = build(made, suffix, mode)
        assert dataset.index.names == videos
        assert dataset.index.num_frames.tolist() == [made.lengths[video] - 1 for video in videos]
        assert len(dataset.readers) == (2 if "2stream" in suffix else 1)
    with pytest.raises(DataError, match="missing"):
        build(made, suffix, second_view="flow")


@pytest.mark.parametrize(("name", "seq_len", "ds"), [("ucf101", 4, 1), ("mine", 3, 5), ("ucf101", 14, 2)])
def test_both_streams_of_a_sample_have_the_same_frames(sets, name, seq_len, ds):
    """With videos of 20 to 25 frames, the longer clips are padded on the left."""
    made = sets[name]
    transform = Recorder((0, 1))
    dataset = build(made, transform=transform, seq_len=seq_len, ds=ds)
    for row in range(4):
        assert dataset[(1, row)]["damaged"].tolist() == [0, 0]
        name, count = made.train[row], made.lengths[made.train[row]] - 1
        rgb = LmdbReader(rgb_file(made)).frames(name, range(count))
        expected = by_hand(rgb_file(made), name)
        for clip in (0, 1):
            first, second = transform.frames[clip]
            numbers = [next(i for i in range(count) if (rgb[i] == image).all()) for image in first]
            inside = list(range(numbers[-1] % ds, numbers[-1] + 1, ds))[-seq_len:]
            assert numbers == [0] * (seq_len - len(inside)) + inside
            assert (second == expected[numbers]).all()


@pytest.mark.parametrize(("suffix", "ds"), [("-f", 1), ("-f-2clip", 3), ("-2stream-2clip", 2)])
def test_a_frame_is_decoded_once(sets, suffix, ds, monkeypatch):
    decoded = []
    decode = jpegs.decode
    monkeypatch.setattr(jpegs, "decode", lambda images: decoded.append(list(images)) or decode(images))
    clips = (0, 1) if "2clip" in suffix else (0,)
    dataset = build(sets["ucf101"], suffix, transform=Recorder(clips), ds=ds)
    for row in range(5):
        decoded.clear()
        dataset[row]
        drawn = dataset.sampler(int(dataset.index.num_frames[row]), dataset.rng(0, row))
        assert len(decoded) == 1
        assert len(decoded[0]) == len({number for i in drawn.ravel().tolist() for number in (i, i + 1)})


@pytest.mark.parametrize("suffix", ["", "-2clip"])
def test_a_name_without_a_second_view_is_refused(suffix):
    for base in ("ucf101", "mine"):
        with pytest.raises(DataError, match=f"^--second_view residual has no effect on {base}{suffix}, .*{base}-f"):
            catalog.parse(base + suffix, "residual")
        assert catalog.parse(base + suffix, "flow").streams == ("rgb",)
