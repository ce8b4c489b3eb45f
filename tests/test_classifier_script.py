"""main_classifier.py and what follows it, on a miniature UCF101: training, resuming, crops, retrieval, fusion.

A small network stands in for S3D, but where its name is checked.
"""

import csv
import json
import os
import shutil
from pathlib import Path

import noise
import pytest
import torch

from eval import feature_linear_probe, main_classifier, merge_2stream_prob
from model.pretrain import InfoNCE
from utils import launch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("backbone", "dataset", "engine", "eval", "model", "utils")
SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2", "-j", "0", "--print_freq", "1"]
PRETRAINED = "pre/model/epoch5.pth.tar"


@pytest.fixture(scope="module")
def place(place):
    """The folder with the videos, and an InfoNCE file in pre/model/epoch5.pth.tar."""
    (place / PRETRAINED).parent.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        noise.install_network(patch.setattr)
        patch.chdir(place)
        torch.save({"epoch": 5, "state_dict": InfoNCE("s3d", dim=8, K=8).state_dict(), "best_acc": 0.5,
                    "iteration": 9}, PRETRAINED)
        yield place


@pytest.fixture
def run(place):
    """Call a script's main in the folder, with its data; returns the exit code."""
    def call(*words: str, main=main_classifier.main) -> int:
        roots = ["--data_root", "data", "--split_root", "splits"] if main is main_classifier.main else []
        return launch.exit_code(lambda: main([*words, *roots]))
    return call


@pytest.fixture(scope="module")
def trained(place):
    """A classifier finetuned for two epochs: its run folder."""
    words = ["--dataset", "ucf101", *SMALL, "--train_what", "ft", "--epochs", "2", "--pretrain", PRETRAINED]
    roots = ["--data_root", "data", "--split_root", "splits"]
    assert launch.exit_code(lambda: main_classifier.main([*words, *roots])) == 0
    return place / ("log-eval-linclr/ucf101-32_sp1_lincls_s3d_Adam_bs2_lr0.001_dp0.9_wd0.001_seq1_len8_ds1_train-ft"
                    "_pt=pre-model-epoch5.pth.tar")


def table_rows(text: str, rows: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Top-1 and top-5 of rows of a printed table, under the first part of their names."""
    lines = {row: next(line for line in text.splitlines() if line.startswith(row)) for row in rows}
    return {{"centre": "center"}.get(row.split()[0], row.split()[0]): dict(zip(("1", "5"), (
        pytest.approx(float(number), abs=0.005) for number in line[len(row):].replace("*", "").split()), strict=True))
        for row, line in lines.items()}


def csv_paths(place: Path, split: str) -> list[str]:
    """First column of a split's csv file, verbatim."""
    with open(place / "splits" / "ucf101" / f"{split}_split01.csv", newline="") as file:
        return [row[0] for row in csv.reader(file)]


def test_training_leaves_a_run_folder(trained):
    names = {path.name for path in (trained / "model").iterdir()}
    assert "epoch1.pth.tar" in names and "epoch0.pth.tar" not in names
    assert any(path.name.startswith("events") for path in (trained / "img").iterdir())
    assert "val epoch 1" in (trained / "img" / "train.log").read_text()
    saved = torch.load(trained / "model" / "epoch1.pth.tar", weights_only=True)
    assert {"epoch", "state_dict", "best_acc", "optimizer", "iteration"} <= set(saved)
    assert saved["epoch"] == 1 and "final_fc.1.weight" in saved["state_dict"]
    bests = [name for name in names if name.startswith("model_best")]
    assert bool(bests) == (saved["best_acc"] > 0)
    best = json.loads((trained / "best.json").read_text())
    assert best["validation_top1"] == pytest.approx(100 * saved["best_acc"], abs=1e-3) and best["epochs"] == 2
    assert best["checkpoint"] is None if not bests else (trained / best["checkpoint"]).is_file()


def test_crops_print_and_write(trained, run, place, capsys):
    checkpoint = trained / "model" / "epoch1.pth.tar"
    words = ["--dataset", "ucf101", *SMALL, "--train_what", "ft", "--test", str(checkpoint)]
    assert run(*words, "--ten_crop") == 0
    out = capsys.readouterr().out
    assert "ten crops" in (checkpoint.parent / "epoch1-test.log").read_text()
    ten = json.loads(Path(f"{checkpoint}-prob-ten.json").read_text())
    assert list(ten) == csv_paths(place, "test")
    for row in ten.values():
        assert len(row["mean_prob"]) == 1 and sum(row["mean_prob"][0]) == pytest.approx(1, abs=1e-5)
    assert table_rows(out, ("centre crop", "five crops", "ten crops")) == json.loads(
        Path(f"{checkpoint}-acc-ten.json").read_text())
    assert run(*words) == 0
    assert "five crops" not in capsys.readouterr().out
    assert list(json.loads(Path(f"{checkpoint}-acc-center.json").read_text())) == ["center"]
    centre = Path(f"{checkpoint}-prob-center.json").read_text()
    assert run(*words, "--center_crop", "-j", "2") == 0
    assert Path(f"{checkpoint}-prob-center.json").read_text() == centre
    assert json.loads(centre) != ten


def test_retrieval_of_both_streams_then_probe_and_fusion(run, place, capsys):
    checkpoint = place / PRETRAINED
    folder = checkpoint.parent / "feature"
    for dataset in ("ucf101", "ucf101-f"):
        assert run("--dataset", dataset, *SMALL, "--test", str(checkpoint), "--retrieval") == 0
        out = capsys.readouterr().out
        assert "R@50" in out
        recall = json.loads((folder / f"{dataset}_recall.json").read_text())
        row = next(line for line in out.splitlines() if line.startswith(f"{dataset} "))
        assert recall == {k: pytest.approx(float(shown), abs=0.005)
                          for k, shown in zip(("1", "5", "10", "20", "50"), row.split()[1:], strict=True)}
    features = torch.load(folder / "ucf101_test_feature.pth.tar", weights_only=True)
    assert features.shape == (len(csv_paths(place, "test")), 6) and (features.norm(dim=1) < 1.001).all()
    assert features.std(dim=0).mean() > 1e-3  # otherwise the comparisons below would say nothing
    assert json.loads((folder / "ucf101_train_vname.json").read_text()) == csv_paths(place, "train")
    assert (folder / "ucf101-f_sim.pth.tar").is_file()

    words = ["--dataset", "ucf101", *SMALL, "--test", str(checkpoint), "--retrieval"]
    assert run(*words) == 0 and capsys.readouterr().out.count("reused") == 2
    assert run(*words, "--dirname", "again", "-j", "2") == 0
    for split in ("train", "test"):
        again = torch.load(checkpoint.parent / "again" / f"ucf101_{split}_feature.pth.tar", weights_only=True)
        assert torch.equal(again, torch.load(folder / f"ucf101_{split}_feature.pth.tar", weights_only=True))
    assert capsys.readouterr().out.count("computing") == 2

    probe = ["--test", str(checkpoint), "--dataset", "ucf101", "--epochs", "3", "--final_bn", "--split_root", "splits"]
    assert run(*probe, main=feature_linear_probe.main) == 0
    prob = str(folder / "epoch5.pth.tar-lp-ucf101-prob.json")
    fusion = ["--prob1", prob, "--prob2", prob, "--dataset", "ucf101", "--split_root", "splits"]
    assert run(*fusion, "--mode", "c", main=merge_2stream_prob.main) == 0
    assert run("--prob1", str(folder), "--prob2", str(folder), "--mode", "s", main=merge_2stream_prob.main) == 0
    assert "both" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "complaint"), [
    (["--dataset", "ucf101-f"], "was trained on RGB but is needed for flow"),
    (["--which_split", "2"], "was trained on split 1, which holds test videos of split 2"),
    (["--which_split", "2", "--retrieval"], "was trained on split 1"),
    (["--split_root", "other"], "other classes (ApplyEyeMakeup, the dataset has ClassA)")])
def test_a_classifier_tests_what_it_was_trained_for(trained, run, place, capsys, words, complaint):
    if not Path("other").exists():
        shutil.copytree("splits", "other")
        names = Path("other/ucf101/ClassInd.txt")
        names.write_text("\n".join(line.split()[1] for line in reversed(names.read_text().splitlines())))
    checkpoint = str(trained / "model" / "epoch1.pth.tar")
    base = ["--dataset", "ucf101", *SMALL, "--train_what", "ft", "--data_root", "data", "--split_root", "splits"]
    for accept, code in ((), 2), (("--accept_changes",), 0):
        assert launch.exit_code(lambda accept=accept: main_classifier.main([*base, *words, "--test", checkpoint,
                                                                            *accept])) == code
    shown = capsys.readouterr()
    assert complaint in shown.err and "--accept_changes" in shown.err
    assert [complaint in line for line in shown.out.splitlines() if line.startswith("warning")] == [True]


def test_a_batch_may_exceed_the_validation_set(run, capsys):
    """Six test videos: two are validated, in a batch of eighteen."""
    assert run("--dataset", "ucf101", *SMALL, "--batch_size", "18", "--epochs", "1", "--prefix", "large") == 0
    assert "18 training and 2 validation videos; 1 steps" in capsys.readouterr().out
    [folder] = Path("log-eval-large").iterdir()
    best = json.loads((folder / "best.json").read_text())
    assert best["validation_top1"] in (0, 50, 100)


def test_results_of_a_checkpoint_in_a_read_only_place(trained, run, place, monkeypatch, capsys):
    """Root may write everywhere, so the question whether it may is answered here."""
    folder = trained / "model"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    words = ["--dataset", "ucf101", *SMALL, "--train_what", "ft", "--test", str(folder / "epoch1.pth.tar")]
    assert run(*words, "--retrieval") == 2
    error = capsys.readouterr().err
    assert "name another folder with --dirname" in error and error.count("\n") == 1
    assert run(*words, "--dirname", "mine") == run(*words, "--retrieval", "--dirname", "mine") == 0
    assert {path.name for path in Path("mine").iterdir()} >= {
        "epoch1-test.log", "epoch1.pth.tar-prob-center.json", "ucf101_test_feature.pth.tar"}
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert run("--test", str(folder / "epoch1.pth.tar"), "--dirname", "mine", "--epochs", "1", "--split_root", "splits",
               main=feature_linear_probe.main) == 0


def test_random_weights_are_reproducible(run):
    for dirname in ("one", "two"):
        assert run("--dataset", "ucf101", *SMALL, "--test", "random", "--retrieval", "--dirname", dirname) == 0
    folder, = Path("log-eval-linclr").glob("*_pt=random")
    one, two = (torch.load(folder / "model" / name / "ucf101_train_feature.pth.tar", weights_only=True)
                for name in ("one", "two"))
    assert torch.equal(one, two)


@pytest.mark.parametrize(("words", "complaint"), [
    (["--pretrain", "nowhere.pth.tar"], "nowhere.pth.tar"),
    (["--test", "nowhere.pth.tar", "--retrieval"], "nowhere.pth.tar"),
    (["--dataset", "ucf101-2clip"], "ucf101-2clip does not fit this script: it takes NAME or NAME-f"),
    (["--dataset", "unknown"], "unknown"),
    (["--net", "s4d", "--pretrain", "random"], "s4d"),
    (["--batch_size", "64"], "batch"), (["--test", PRETRAINED, "--ten_crop"], "has queue, queue_ptr, encoder_q"),
    (["--batch_size", "1"], "more than 1 value"), (["--net", "s3dg", "--img_dim", "16"], "--img_dim 16"),
    (["--test", PRETRAINED, "--retrieval", "--dirname", "../blocked"], "blocked"),
    (["--test", PRETRAINED, "--ten_crop"], "--retrieval"),
    (["--net", "s3dg", "--test", PRETRAINED, "--retrieval"], "--net"),
])
def test_bad_input_is_one_line_and_code_2(run, capsys, words, complaint):
    Path("pre/blocked").touch()
    assert run("--dataset", "ucf101", *SMALL, "--epochs", "1", *words) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if "videos" not in line or "error" in line]
    assert complaint in error and error.startswith("error: ")
