"""main_classifier.py and what follows it, on a miniature UCF101: training, resuming, crops, retrieval, fusion."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import miniature
import pytest
import torch

from eval import feature_linear_probe, main_classifier, merge_2stream_prob
from model.pretrain import InfoNCE
from utils import launch

ROOT = Path(__file__).parents[1]
SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2", "-j", "0", "--print_freq", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a miniature UCF101, and an InfoNCE file in pre/model/epoch5.pth.tar."""
    folder = tmp_path_factory.mktemp("classifier")
    miniature.make(folder, classes=3, groups=8, clips=1, seed=1)  # 18 training and 6 test videos
    (folder / "pre" / "model").mkdir(parents=True)
    torch.save({"epoch": 5, "state_dict": pretrained_state(), "best_acc": 0.5, "iteration": 9},
               folder / "pre/model/epoch5.pth.tar")
    yield folder
    shutil.rmtree(folder)  # half a gigabyte of checkpoints


def pretrained_state() -> dict[str, torch.Tensor]:
    """State of an InfoNCE model whose features tell clips apart, as those of new BatchNorm statistics do not."""
    torch.manual_seed(1)
    model = InfoNCE("s3d", dim=8, K=8)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.encoder_q(torch.randn(4, 3, 8, 32, 32) + 2 * torch.randn(4, 3, 1, 1, 1))
    return model.state_dict()


@pytest.fixture
def run(place, monkeypatch):
    """Call a script's main in the folder, with its data; returns the exit code."""
    monkeypatch.chdir(place)

    def call(*words: str, main=main_classifier.main) -> int:
        roots = ["--data_root", "data", "--split_root", "splits"] if main is main_classifier.main else []
        return launch.exit_code(lambda: main([*words, *roots]))
    return call


@pytest.fixture(scope="module")
def trained(place):
    """A classifier finetuned for two epochs: its run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        code = launch.exit_code(lambda: main_classifier.main(
            ["--dataset", "ucf101", *SMALL, "--train_what", "ft", "--epochs", "2", "--pretrain",
             "pre/model/epoch5.pth.tar", "--data_root", "data", "--split_root", "splits"]))
    assert code == 0
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


def test_a_second_training_leaves_the_first_alone(trained, run, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    words = ["--dataset", "ucf101", *SMALL, "--train_what", "ft", "--pretrain", "pre/model/epoch5.pth.tar"]
    assert run(*words, "--epochs", "3") == 2
    error = capsys.readouterr().err
    assert "already holds a run (last: epoch1)" in error and "--prefix" in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_resume_goes_on_in_the_same_run_folder(trained, run):
    last = trained / "model" / "epoch1.pth.tar"
    kept = last.read_bytes()
    assert run("--dataset", "ucf101", *SMALL, "--train_what", "ft", "--epochs", "3", "--resume", str(last)) == 0
    saved = torch.load(trained / "model" / "epoch2.pth.tar", weights_only=True)
    assert saved["epoch"] == 2 and not last.exists()
    per_epoch = saved["iteration"] / 3
    assert per_epoch == int(per_epoch) and len(list(Path("log-eval-linclr").iterdir())) == 1
    last.write_bytes(kept)


def test_a_resumed_probe_ends_like_one_that_never_stopped(run):
    words = ["--dataset", "ucf101", *SMALL, "--pretrain", "pre/model/epoch5.pth.tar", "--optim", "sgd",
             "--schedule", "1"]

    def last(prefix: str) -> Path:
        return next(Path(f"log-eval-{prefix}").glob("*/model/epoch*.pth.tar"))

    assert run(*words, "--prefix", "whole", "--epochs", "2") == 0
    assert run(*words, "--prefix", "parts", "--epochs", "1") == 0
    first = last("parts").read_bytes()
    assert run(*words, "--prefix", "parts", "--epochs", "2", "--lr", "0.7", "--resume", str(last("parts"))) == 0
    one, two = (torch.load(last(prefix), weights_only=True) for prefix in ("whole", "parts"))
    assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
    assert [group["lr"] for group in two["optimizer"]["param_groups"]] == pytest.approx([1e-4] * 4)
    last("parts").unlink()
    start = Path("log-eval-parts", *last("whole").parts[1:-1], "epoch0.pth.tar")
    start.write_bytes(first)
    assert run(*words, "--epochs", "2", "--lr", "0.7", "--reset_lr", "--resume", str(start)) == 0
    groups = torch.load(last("parts"), weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([0.07] * 4)


def test_crops_print_and_write(trained, run, place, capsys):
    checkpoint = trained / "model" / "epoch1.pth.tar"
    words = ["--dataset", "ucf101", *SMALL, "--train_what", "ft", "--test", str(checkpoint)]
    assert run(*words, "--ten_crop") == 0
    out = capsys.readouterr().out
    assert "centre crop" in out and "five crops" in out and "ten crops" in out
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
    checkpoint = place / "pre" / "model" / "epoch5.pth.tar"
    for dataset in ("ucf101", "ucf101-f"):
        assert run("--dataset", dataset, *SMALL, "--test", str(checkpoint), "--retrieval") == 0
        out = capsys.readouterr().out
        assert "R@50" in out
        recall = json.loads((checkpoint.parent / "feature" / f"{dataset}_recall.json").read_text())
        row = next(line for line in out.splitlines() if line.startswith(f"{dataset} "))
        assert recall == {k: pytest.approx(float(shown), abs=0.005)
                          for k, shown in zip(("1", "5", "10", "20", "50"), row.split()[1:], strict=True)}
    folder = checkpoint.parent / "feature"
    features = torch.load(folder / "ucf101_test_feature.pth.tar", weights_only=True)
    assert features.shape == (len(csv_paths(place, "test")), 1024) and (features.norm(dim=1) < 1.001).all()
    assert features.std(dim=0).mean() > 1e-3  # otherwise the comparisons below would say nothing
    assert json.loads((folder / "ucf101_train_vname.json").read_text()) == csv_paths(place, "train")
    assert (folder / "ucf101-f_sim.pth.tar").is_file()

    words = ["--dataset", "ucf101", *SMALL, "--test", str(checkpoint), "--retrieval"]
    assert run(*words) == 0 and capsys.readouterr().out.count("reused") == 2
    assert run(*words, "--dirname", "again", "-j", "2") == 0
    for split in ("train", "test"):
        again = torch.load(checkpoint.parent / "again" / f"ucf101_{split}_feature.pth.tar", weights_only=True)
        assert torch.equal(again, torch.load(folder / f"ucf101_{split}_feature.pth.tar", weights_only=True))
    assert run(*words, "--dirname", "again", "--gallery", "windows") == 0
    assert capsys.readouterr().out.count("computed") == 3  # both splits before, now the gallery

    probe = ["--test", str(checkpoint), "--dataset", "ucf101", "--epochs", "3", "--final_bn", "--split_root", "splits"]
    assert run(*probe, main=feature_linear_probe.main) == 0
    prob = str(folder / "epoch5.pth.tar-lp-ucf101-prob.json")
    fusion = ["--prob1", prob, "--prob2", prob, "--dataset", "ucf101", "--split_root", "splits"]
    assert run(*fusion, "--mode", "c", main=merge_2stream_prob.main) == 0
    assert run("--prob1", str(folder), "--prob2", str(folder), "--mode", "s", main=merge_2stream_prob.main) == 0
    assert "both" in capsys.readouterr().out


def test_random_weights_are_reproducible(run, place):
    for dirname in ("one", "two"):
        assert run("--dataset", "ucf101", *SMALL, "--test", "random", "--retrieval", "--dirname", dirname) == 0
    folder, = Path("log-eval-linclr").glob("*_pt=random")
    one, two = (torch.load(folder / "model" / name / "ucf101_train_feature.pth.tar", weights_only=True)
                for name in ("one", "two"))
    assert torch.equal(one, two)


@pytest.mark.parametrize(("words", "complaint"), [
    (["--pretrain", "nowhere.pth.tar"], "nowhere.pth.tar"),
    (["--test", "nowhere.pth.tar", "--retrieval"], "nowhere.pth.tar"),
    (["--dataset", "ucf101-2clip"], "pretraining"),
    (["--dataset", "unknown"], "unknown"),
    (["--net", "s4d", "--pretrain", "random"], "s4d"),
    (["--batch_size", "64"], "batch"),
    (["--batch_size", "1"], "more than 1 value"), (["--img_dim", "16"], "--img_dim 16"),
    (["--test", "pre/model/epoch5.pth.tar", "--retrieval", "--dirname", "../blocked"], "blocked"),
    (["--test", "pre/model/epoch5.pth.tar", "--ten_crop"], "--retrieval"),
    (["--net", "s3dg", "--test", "pre/model/epoch5.pth.tar", "--retrieval"], "--net"),
])
def test_bad_input_is_one_line_and_code_2(run, capsys, words, complaint):
    Path("pre/blocked").touch()
    assert run("--dataset", "ucf101", *SMALL, "--epochs", "1", *words) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(("folder", "script"), [(ROOT / "eval", ""), (ROOT, "eval/")])
def test_scripts_start_from_both_places(folder, script):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("main_classifier", "feature_linear_probe", "merge_2stream_prob"):
        done = subprocess.run([sys.executable, f"{script}{name}.py", "--help"], cwd=folder, env=environment,
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "--dataset" in done.stdout, done.stderr
