"""Damaged and replaced LMDBs: the nearest readable frame replaces a damaged one, too many end a run."""

import os
import shutil
import warnings
from pathlib import Path

import interrupted
import lmdb
import miniature
import msgpack
import noise
import numpy as np
import pytest
import torch
from interrupted import said
from miniature import frame, jpeg, write_lmdb

import main_nce
from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from dataset.loader import make_loader
from dataset.transforms.presets import CropsTransform, PretrainTransform
from eval.windows import read_samples
from utils.errors import DamagedFramesError, DataError, TrainingError

CPU = torch.device("cpu")
NAME = "A/a"


def put(path: Path, key: bytes, change) -> None:
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 26) as env, env.begin(write=True) as transaction:
        transaction.put(key, change(bytes(transaction.get(key))))


def change_video(path: Path, name: str, change) -> None:
    """Change a video's packed frames in the file."""
    put(path, b"%09d" % LmdbReader(path).names.index(name), change)


def without_frames(*lost: int):
    """A change that overwrites some JPEGs, lengths unchanged."""
    def change(value: bytes) -> bytes:
        frames = msgpack.unpackb(value)
        assert all(0 <= number < len(frames) for number in lost)
        return msgpack.packb([b"\0" * len(data) if number in lost else data for number, data in enumerate(frames)])
    return change


def cut(value: bytes) -> bytes:
    """Keep the first part of the list, of 7 frames and some bytes of the eighth."""
    frames = msgpack.unpackb(value)
    return value[:len(value) - sum(len(msgpack.packb(data)) for data in frames[7:]) + 20]


@pytest.fixture
def reader(tmp_path):
    """A video of 12 frames."""
    return LmdbReader(write_lmdb(tmp_path / "a.lmdb", {NAME: [jpeg(frame(NAME, i)) for i in range(12)]}))


@pytest.mark.parametrize(("lost", "nearest"), [
    ([0], {0: 1}), ([11], {11: 10}), ([4, 5, 6], {4: 3, 5: 3, 6: 7})])
def test_the_nearest_readable_frame_replaces_a_damaged_one(reader, lost, nearest):
    good = reader.frames(NAME, range(12))
    change_video(reader.path, NAME, without_frames(*lost))
    fresh = LmdbReader(reader.path)
    with pytest.raises(DamagedFramesError, match=f"video {NAME}, frame {lost[0]} does not decode"):
        fresh.frames(NAME, lost)
    damaged: list[int] = []
    [clip] = fresh.clips(NAME, np.arange(12)[None], damaged)
    assert damaged == lost
    assert all((clip[number] == good[nearest.get(number, number)]).all() for number in range(12))


def test_the_last_whole_frame_continues_a_value_that_is_cut_short(reader):
    good = reader.frames(NAME, range(12))
    change_video(reader.path, NAME, cut)
    fresh = LmdbReader(reader.path)
    with pytest.raises(DamagedFramesError, match=f"video {NAME}: its value is cut after"):
        fresh.frames(NAME, range(12))
    damaged: list[int] = []
    [clip] = fresh.clips(NAME, np.arange(12)[None], damaged)
    assert damaged == [7, 8, 9, 10, 11]
    assert (clip[:7] == good[:7]).all() and (clip[7:] == good[6]).all()
    with pytest.raises(DamagedFramesError, match=f"video {NAME}: its value is cut after .* and no other frame of the"):
        fresh.clips(NAME, np.arange(8, 12)[None], [])


@pytest.mark.parametrize("change", [without_frames(*range(12)), lambda value: b"no list"])
def test_a_clip_without_readable_frames_is_an_error_that_names_its_video(reader, change):
    change_video(reader.path, NAME, change)
    with pytest.raises(DamagedFramesError, match=f"a.lmdb, video {NAME}"):
        LmdbReader(reader.path).clips(NAME, np.arange(8)[None], [])


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """24 training and 8 test videos of 20 frames."""
    return miniature.make(tmp_path_factory.mktemp("original"), groups=8)


@pytest.fixture
def videos(original, tmp_path, monkeypatch):
    """A copy that a test may damage, in a working directory, and a small network."""
    noise.install_network(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    for root in (original.data_root, original.split_root):
        shutil.copytree(root, root.name)
    return original, tmp_path / "data/UCF101/ucf101_frame.lmdb"


def train(options: str = "") -> list[int]:
    argv = ["--dataset", "ucf101-2clip", "--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "--moco-k", "8",
            "--moco-dim", "8", "--print_freq", "3", "--data_root", "data", "--split_root", "splits", *options.split()]
    return interrupted.train(lambda: main_nce.work(main_nce.parse(argv)))


def test_a_training_survives_a_damaged_frame_and_warns_once_per_video(videos):
    made, path = videos
    change_video(path, made.train[3], without_frames(9))
    assert train("--epochs 4 -j 2") == [0], said()
    [warning] = [line for line in said().splitlines() if line.startswith("warning: video")]
    assert warning.startswith(f"warning: video {made.train[3]}: frame 9 cannot be read; the nearest readable one ")


def test_more_than_one_percent_of_damaged_frames_stops_a_training(videos):
    made, path = videos
    for name in made.train[:3]:  # of the epoch's 24 x 2 x 8 frames 48 are of these
        change_video(path, name, without_frames(*range(0, 20, 2)))
    assert train("--epochs 4 -j 2") == [2], said()
    error = said().splitlines()[-1]
    assert error.startswith("error: ") and "of 384 frames could not be read, more than 1%" in error
    assert int(error.split()[1]) > 384 / 100


def test_damaged_frames_of_an_evaluation_are_counted_too(videos, capsys):
    made, path = videos
    roots = {"data_root": "data", "split_root": "splits"}

    def samples() -> list[dict]:
        dataset = catalog.build("ucf101", "test", transform=CropsTransform(32, crops=1), seq_len=8, ds=1, **roots)
        return list(read_samples(dataset, workers=0, device=CPU, title="test"))
    good = samples()
    change_video(path, made.test[0], without_frames(4))
    damaged = samples()
    assert [sample["damaged"].tolist() for sample in damaged] == [[1, 4]] + [[0, 0]] * 7
    assert f"warning: video {made.test[0]}: frame 4 cannot be read" in capsys.readouterr().out
    clips, others = (each[0]["clips"][0, 0] for each in (damaged, good))
    assert torch.equal(clips[4], others[3]) and not torch.equal(clips[4], others[4])
    change_video(path, made.test[1], without_frames(4, 5))  # 3 of 160
    with pytest.raises(TrainingError, match="of 160 frames could not be read"):
        samples()


def batch_after(path: Path, happens, workers: int) -> None:
    """Read a batch, let something happen to the file, and read on."""
    dataset = catalog.build("ucf101-2clip", "train", transform=PretrainTransform(32), seq_len=8, ds=1,
                            data_root="data", split_root="splits")
    loader = make_loader(dataset, batch_size=2, workers=workers, train=True, seed=0, rank=0, world_size=1, device=CPU)
    batches = iter(loader)
    next(batches)
    happens(path)
    for _ in batches:
        pass


def replace(path: Path) -> None:
    """Put another file of the same videos in its place, as rsync and cp --remove-destination do."""
    other = path.with_name("other.lmdb")
    shutil.copy(path, other)
    os.replace(other, path)


def write_into(path: Path) -> None:
    with open(path, "r+b") as file:
        last = file.seek(-1, os.SEEK_END)
        byte = file.read()
        file.seek(last)
        file.write(byte)


@pytest.mark.parametrize("happens", [replace, write_into], ids=lambda function: function.__name__)
def test_replacing_a_file_that_is_being_read_stops_the_run(videos, happens):
    """Otherwise new processes would take the ids of one file and the values of another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch_after(videos[1], lambda path: None, workers=2)
        with pytest.raises(DataError, match=r"ucf101_frame\.lmdb was replaced or changed while it was in use"):
            batch_after(videos[1], happens, workers=2)
