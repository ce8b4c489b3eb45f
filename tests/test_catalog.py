"""Dataset names, where their files lie, and what they give."""

import pytest
from miniature import make

from dataset import catalog
from dataset.clip_sampler import RandomClips, Windows
from utils.errors import DataError

BOTH = ("rgb", "flow")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name), name, raw=name == "k400", folder=name == "my.set-1", groups=5)
            for name in ("ucf101", "hmdb51", "k400", "my.set-1")}


def build(made, suffix="", mode="train", seq_len=4, ds=1, **settings):
    return catalog.build(made.name + suffix, mode, transform=None, seq_len=seq_len, ds=ds, **made.roots, **settings)


@pytest.mark.parametrize(("name", "words"), [
    ("ucf101-2stream", "ucf101-2stream-2clip"), ("../etc", "no dataset name"), ("a/b", "no dataset name"),
    ("", "no dataset name"), (".hidden", "no dataset name"), ("a b", "no dataset name")])
def test_invalid_names(name, words):
    with pytest.raises(DataError, match=words):
        catalog.parse(name)


@pytest.mark.parametrize(("name", "lmdbs", "lists"), [
    ("ucf101", ["UCF101/ucf101_frame.lmdb"], "ucf101/{}_split01.csv"),
    ("hmdb51-f", ["HMDB51/hmdb51_tvl1_frame.lmdb"], "hmdb51/{}_split01.csv"),
    ("mine-2stream-2clip", ["mine/mine_frame.lmdb", "mine/mine_tvl1_frame.lmdb"], "mine/{}_split01.csv"),
    ("k400-2stream-2clip", ["K400/k400_frame_{}.lmdb", "K400/k400_flow_{}.lmdb"], "k400/{}_split.csv")])
def test_places(tmp_path, name, lmdbs, lists):
    spec = catalog.parse(name)
    for train, part in ((True, "train"), (False, "val" if spec.base == "k400" else "test")):
        assert spec.lmdbs(tmp_path, train=train) == [tmp_path / file.format(part) for file in lmdbs]
        assert spec.csv(tmp_path, 1, train=train) == tmp_path / lists.format(part)


@pytest.mark.parametrize(("name", "split"), [("k400", 2), ("ucf101", 4), ("hmdb51", 0)])
def test_invalid_splits(tmp_path, name, split):
    with pytest.raises(DataError, match=f"{name} has no split {split}"):
        catalog.parse(name).csv(tmp_path, split, train=True)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "k400", "my.set-1"])
@pytest.mark.parametrize("suffix", ["", "-f-2clip", "-2stream-2clip"])
def test_every_name_gives_its_videos(sets, name, suffix):
    made = sets[name]
    train, test = build(made, suffix), build(made, suffix, "test")
    assert train.index.names == made.train and test.index.names == made.test
    assert train.index.paths[0] == f"/somewhere/frame/{made.train[0]}/"
    assert train.index.classes == made.classes == catalog.class_names(name + suffix, made.split_root)
    assert [made.classes[label] for label in train.index.labels] == [video.split("/")[0] for video in made.train]
    frames = min(made.lengths[made.train[0]] - ("f" in suffix or "2stream" in suffix), 20)
    assert train.index.num_frames.tolist() == [frames] * len(made.train)
    assert len(train.readers) == len(catalog.parse(name + suffix).streams)
    assert train.sampler.clips == (2 if "2clip" in suffix else 1)


def test_modes(sets):
    made = sets["ucf101"]
    modes = {mode: build(made, mode=mode) for mode in catalog.MODES}
    assert modes["train"].sampler == RandomClips(4, 1) and modes["train"].by_epoch
    assert modes["gallery"].sampler == modes["query"].sampler == RandomClips(4, 1, windowed=True)
    assert modes["test"].sampler == Windows(4, 1)
    assert not any(modes[mode].by_epoch for mode in modes if mode != "train")
    assert modes["gallery"].index.names == made.train
    assert modes["query"].index.names == modes["test"].index.names == made.test
    assert len(modes["val"]) == round(0.3 * len(made.test)) and set(modes["val"].index.names) <= set(made.test)


def test_an_unknown_dataset_says_what_it_needs(tmp_path):
    with pytest.raises(DataError) as error:
        catalog.build("ufc101-2clip", "train", transform=None, data_root=tmp_path, split_root=tmp_path, seq_len=4, ds=1)
    for words in ("not a known dataset", "ufc101/ufc101_frame.lmdb", "train_split01.csv", "prepare.py"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="ClassInd"):
        catalog.class_names("ufc101", tmp_path)
