"""Files that others made are read without running anything in them: crafted pickles in the place of each of them."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lmdb
import miniature
import noise
import numpy as np
import pytest
import torch

import launch
import main_coclr
import main_nce
from dataset.errors import DataError
from dataset.lmdb_reader import LmdbReader
from eval import feature_files, feature_linear_probe, main_classifier, merge_2stream_prob, options
from eval.feature_files import FeatureSet
from process_data.src import errors, extract_ff, index_lmdb, prepare, write_csv
from process_data.src.errors import PrepareError
from process_data.src.lmdb_file import open_lmdb
from utils import run_folder

SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2", "-j", "0"]
MOCO = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "-j", "0", "--moco-k", "8", "--moco-dim", "8"]
CODES = ("zip", "old", "tar", "pickle 0", "pickle 5")  # all that torch.load knows, and pickles alone


class Payload:
    """Makes a file when it is loaded carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mknod, (self.mark,)


class Trap:
    """Crafted files, which all make the same mark."""

    def __init__(self, folder: Path) -> None:
        self.mark = folder / "mark"

    def set(self, path: Path, code: str, **content: object) -> Path:
        """Write a crafted file; where the code allows, it holds something besides."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {"state_dict": {"weight": torch.ones(1)}, "epoch": 1, **content, "x": Payload(self.mark)}
        if code in ("zip", "old"):
            torch.save(state, path, _use_new_zipfile_serialization=code == "zip")
        elif code == "tar":
            with tarfile.open(path, "w") as file:
                data = pickle.dumps(Payload(self.mark))
                entry = tarfile.TarInfo("storages")
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
        elif code == "npy":
            np.save(path.open("wb"), np.array([Payload(self.mark)], dtype=object), allow_pickle=True)
        else:
            path.write_bytes(pickle.dumps(Payload(self.mark), protocol=int(code[-1])))
        return path

    def is_sound(self, path: Path, careless: Callable[[Path], object]) -> bool:
        """Whether nothing has run so far, but does when the file is read carelessly."""
        before = self.mark.exists()
        with suppress(Exception):  # of what comes after the payload
            careless(path)
        after = self.mark.exists()
        self.mark.unlink(missing_ok=True)
        return after and not before


def torch_load(path: Path) -> object:
    return torch.load(path, weights_only=False)


def numpy_load(path: Path) -> object:
    return np.load(path, allow_pickle=True)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_started", False)
    return Trap(tmp_path)


def complaint(capsys, main: Callable[[], int | None]) -> str:
    """The one line with which a script ends."""
    capsys.readouterr()
    assert launch.exit_code(main) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(("script", "words"), [
    (main_nce, "--resume X"), (main_nce, "--pretrain X"), (main_nce, "--test X"), (main_nce, "--resume auto"),
    (main_coclr, "--resume X"), (main_coclr, "--pretrain X random"), (main_coclr, "--pretrain random X"),
    (main_coclr, "--test X")])
def test_no_option_of_pretraining_runs_what_is_in_a_checkpoint(trap, capsys, monkeypatch, script, words, code):
    noise.install(monkeypatch.setattr)
    name = "epoch1.pth.tar"
    path = Path("run/model") / name
    if words == "--resume auto":
        path = run_folder.nce_folder(script.parse([*MOCO, "--dataset", "noise-2clip"])) / "model" / name
    trap.set(path, code, optimizer={})
    dataset = ["--dataset", "noise-2clip"] if script is main_nce else ["--dataset", "noise-2stream-2clip", "--topk=2"]
    argv = [*MOCO, *dataset, *words.replace("X", str(path)).split()]
    line = complaint(capsys, lambda: script.work(script.parse(argv)))
    assert "none of the 1 checkpoints" in line if words == "--resume auto" else str(path) in line
    if code in ("zip", "old") and words != "--resume auto":
        assert "holds more than plain data" in line
    assert trap.is_sound(path, torch_load)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A miniature UCF101."""
    return miniature.make(tmp_path_factory.mktemp("untrusted"), groups=12, clips=2)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("words", ["--resume X", "--resume auto", "--pretrain X", "--test X", "--test X --retrieval"])
def test_no_option_of_the_classifier_runs_what_is_in_a_checkpoint(trap, capsys, data, words, code):
    path = Path("run/model/epoch1.pth.tar")
    if words == "--resume auto":
        path = run_folder.classifier_folder(options.parse([*SMALL, *data.options], ""), 1) / "model/epoch1.pth.tar"
    trap.set(path, code)
    argv = [*SMALL, *data.options, *words.replace("X", str(path)).split()]
    line = complaint(capsys, lambda: main_classifier.main(argv))
    assert "epoch1.pth.tar" in line or words == "--resume auto"
    assert trap.is_sound(path, torch_load)


def features(folder: Path, name: str = "ucf101") -> None:
    """Feature files of a few videos."""
    for split in ("train", "test"):
        names = [f"{label}/v{i}" for i in range(3) for label in ("ApplyEyeMakeup", "HandstandPushups")]
        content = FeatureSet(torch.randn(6, 4), torch.tensor([0, 1] * 3), names)
        feature_files.save(folder, name, split, content, {})


@pytest.mark.parametrize("file", ["train_feature.pth.tar", "train_label.pth.tar", "test_feature.pth.tar",
                                  "test_vname.json"])
@pytest.mark.parametrize("code", CODES)
def test_nothing_in_feature_files_is_run(trap, capsys, data, file, code):
    probe = ["--test", "run/model/epoch1.pth.tar", "--split_root", str(data.split_root), "--epochs", "1"]
    merge = ["--mode", "s", "--prob1", "run/model/feature", "--prob2", "run/model/flow"]
    features(Path("run/model/feature"))
    features(Path("run/model/flow"), "ucf101-f")
    assert launch.exit_code(lambda: feature_linear_probe.main(probe)) == 0
    assert launch.exit_code(lambda: merge_2stream_prob.main(merge)) == 0
    path = trap.set(Path("run/model/feature") / f"ucf101_{file}", code)
    for main, argv in ((feature_linear_probe.main, probe), (merge_2stream_prob.main, merge)):
        assert file in complaint(capsys, lambda main=main, argv=argv: main(argv))
    assert trap.is_sound(path, torch_load)


@pytest.mark.parametrize("code", CODES)
def test_features_that_would_be_used_again_are_made_again_instead(trap, code):
    folder = Path("feature")
    features(folder)
    assert feature_files.load_if_made_from(folder, "ucf101", "test", {}) is not None
    for file in ("label.pth.tar", "made_from.json"):
        path = trap.set(folder / f"ucf101_test_{file}", code)
        assert feature_files.load_if_made_from(folder, "ucf101", "test", {}) is None
        assert trap.is_sound(path, torch_load)


@pytest.mark.parametrize("code", ["pickle 0", "pickle 5", "zip"])
def test_nothing_in_probability_files_is_run(trap, capsys, data, code):
    path = trap.set(Path("a.json"), code)
    argv = ["--prob1", "a.json", "--prob2", "a.json", "--split_root", str(data.split_root)]
    assert "a.json is not a JSON file" in complaint(capsys, lambda: merge_2stream_prob.main(argv))
    assert trap.is_sound(path, torch_load)


@pytest.mark.parametrize("code", ["pickle 0", "pickle 5", "zip", "npy"])
@pytest.mark.parametrize("file", ["splits/ucf101/ClassInd.txt", "splits/ucf101/test_split01.csv",
                                  "splits/ucf101/video_source.json", "data/UCF101/ucf101_frame.lmdb",
                                  "data/UCF101/ucf101_frame.lmdb-ends.npy"])
def test_nothing_in_the_files_of_a_dataset_is_run(trap, capsys, file, code):
    made = miniature.make(Path("."), groups=2, clips=1)
    path = trap.set(Path(file), code)
    argv = [*SMALL, *made.options, "--test", "random", "--retrieval"]
    assert Path(file).name in complaint(capsys, lambda: main_classifier.main(argv))
    assert trap.is_sound(path, numpy_load if code == "npy" else torch_load)


@pytest.mark.parametrize("code", ["pickle 0", "pickle 5", "zip"])
@pytest.mark.parametrize(("script", "words", "file"), [
    (write_csv, "--name ucf101 --data x.lmdb --split_root other", "x.lmdb"),
    (write_csv, "--name mine --data DATA --split_root other --splits lists", "lists/trainlist01.txt"),
    (write_csv, "--name hmdb51 --data DATA --split_root other --splits lists", "lists/run_test_split1.txt"),
    (write_csv, "--name k400 --data DATA --split_root other --splits lists", "lists/train.csv"),
    (write_csv, "--name ucf101 --data DATA --split_root other", "other/ucf101/ClassInd.txt"),
    (index_lmdb, "x.lmdb", "x.lmdb"),
    (extract_ff, "--videos videos --out frames --workers 1", "frames/extract.json"),
    (prepare, "--videos videos --name mine --data_root data --split_root other --workers 1",
     "data/mine/mine_prepare.json")])
def test_nothing_in_files_of_data_preparation_is_run(trap, capsys, monkeypatch, data, script, words, file, code):
    frames = str(data.data_root / "UCF101/ucf101_frame.lmdb")
    for name in ("lists/testlist01.txt", "lists/val.csv", "videos/Run/v_g01_c01.avi", "videos/Run/v_g02_c01.avi"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    path = trap.set(Path(file), code)
    monkeypatch.setattr("sys.argv", ["script", *words.replace("DATA", frames).split()])
    with pytest.raises(SystemExit) as ended:
        errors.run(script.main)
    [line] = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and path.name in line
    assert trap.is_sound(path, torch_load)


@pytest.mark.parametrize("kind", ["__order__", "__keys__", "__vlen__", "000000000"])
def test_nothing_in_the_values_of_an_lmdb_is_run(trap, kind):
    path = miniature.write_lmdb(Path("x.lmdb"), {"A/a": [miniature.jpeg(miniature.frame("A/a", 0))]})
    crafted = pickle.dumps(Payload(trap.mark))
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as transaction:
        transaction.put(kind.encode(), crafted)
    with pytest.raises(DataError):
        LmdbReader(path).frames("A/a", [0])
    if kind != "000000000":
        with pytest.raises(PrepareError), open_lmdb(path):
            pass
    assert trap.is_sound(path, lambda _: pickle.loads(crafted))


def test_what_a_run_left_behind_is_not_run_when_it_goes_on(trap, capsys, monkeypatch):
    noise.install(monkeypatch.setattr)

    def run(*words: str) -> int:
        return launch.exit_code(lambda: main_nce.work(main_nce.parse([*MOCO, "--dataset", "noise-2clip", *words])))
    assert run("--epochs", "1") == 0
    [folder] = Path("ckpt/log-pretrain").iterdir()
    for file in ("run.json", "metrics.jsonl"):
        path = trap.set(folder / file, "pickle 5")
        crafted = path.read_bytes()
        assert run("--epochs", "2", "--resume", "auto") == 0
        assert path.read_bytes() != crafted and b"mknod" not in path.read_bytes()
        path.write_bytes(crafted)
        assert trap.is_sound(path, lambda path: pickle.loads(path.read_bytes()))
