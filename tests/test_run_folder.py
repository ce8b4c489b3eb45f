"""Run folder names, written out; they are how people and scripts find results."""

from argparse import Namespace
from pathlib import Path

import pytest

import main_coclr
import main_nce
from utils.errors import CheckpointError, OptionError
from utils.run_folder import classifier_folder, coclr_folder, folder_of, make, nce_folder, settle


def test_coclr():
    assert str(coclr_folder(main_coclr.parse(["--cascade"]))) == (
        "ckpt/log-pretrain/coclr-top5_k2048_ucf101-2stream-2clip-128_s3d_bs32_lr0.001_seq2_len32_ds1")


def test_coclr_reverse_with_other_settings():
    options = ("--reverse --topk 3 --moco-k 16384 --dataset k400-2stream-2clip --img_dim 64 --net r50 --batch_size 16 "
               "--lr 1e-4 --seq_len 16 --ds 2 --prefix try --name_prefix Cycle1-RGBMining_")
    assert str(coclr_folder(main_coclr.parse(options.split()))) == (
        "ckpt/log-try/Cycle1-RGBMining_coclr-top3-R_k16384_k400-2stream-2clip-64_r50_bs16_lr0.0001_seq2_len16_ds2")


def test_nce():
    assert str(nce_folder(main_nce.parse(["--model", "ubernce", "--name_prefix", "scratch_"]))) == (
        "ckpt/log-pretrain/scratch_ubernce_k2048_ucf101-2clip-128_s3d_bs32_lr0.001_seq2_len32_ds1")


def test_nce_from_a_pretrained_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("a/epoch9.pth.tar").touch()
    assert str(nce_folder(main_nce.parse(["--dataset", "ucf101-f-2clip", "--pretrain", "a/epoch9.pth.tar"]))) == (
        "ckpt/log-pretrain/infonce_k2048_ucf101-f-2clip-128_s3d_bs32_lr0.001_seq2_len32_ds1_pt=a-epoch9.pth.tar")


@pytest.mark.parametrize(("optim", "word"), [("adam", "Adam"), ("sgd", "SGD")])
def test_classifier(optim, word):
    args = Namespace(prefix="linclr", dataset="ucf101", img_dim=128, which_split=1, model="lincls", net="s3d",
                     optim=optim, batch_size=32, lr=1e-3, dropout=0.9, wd=1e-3, num_seq=1, seq_len=32, ds=1,
                     train_what="ft", pretrain="x/model/epoch1.pth.tar", second_view="flow")
    assert str(classifier_folder(args, gpus=2)) == (
        f"log-eval-linclr/ucf101-128_sp1_lincls_s3d_{word}_bs64_lr0.001_dp0.9_wd0.001_seq1_len32_ds1_train-ft"
        "_pt=x-model-epoch1.pth.tar")


def test_a_random_start_is_not_in_the_name():
    assert "_pt" not in nce_folder(main_nce.parse(["--pretrain", "random"])).name


def test_a_run_goes_into_a_free_folder_or_that_of_its_checkpoint(tmp_path, capsys):
    new, other = tmp_path / "new", make(tmp_path / "run") / "model" / "epoch3.pth.tar"
    outside = tmp_path / "epoch3.pth.tar"
    other.touch(), outside.touch()
    assert settle("", new, "--prefix") == new and not new.exists()
    assert settle(str(other), new, "--prefix") == tmp_path / "run"
    assert capsys.readouterr().out == ""
    assert settle(str(outside), new, "--prefix") == new
    assert capsys.readouterr().out.count("\n") == 1
    last = make(new) / "model" / "epoch12.pth.tar"
    for path in (last, last.with_name("epoch2.pth.tar"), last.with_name("model_best_epoch20.pth.tar")):
        path.touch()
    for resume in ("", str(outside)):
        with pytest.raises(OptionError, match=r"holds a run \(last: model_best_epoch20\): .*--resume auto.*--prefix"):
            settle(resume, new, "--prefix")
    assert settle(str(last), new, "--prefix") == new


def test_names_too_long_for_a_file_system_are_cut_and_stay_distinct(tmp_path):
    args = vars(main_nce.parse([]))
    one, two = (nce_folder(Namespace(**args | {"pretrain": "ü" * 200 + end})) for end in "ab")
    assert one != two
    make(tmp_path / one)


def test_the_folder_of_a_checkpoint(tmp_path, monkeypatch):
    make(tmp_path / "run")
    path = tmp_path / "run" / "model" / "epoch3.pth.tar"
    with pytest.raises(CheckpointError, match="check the path"):
        folder_of(path)
    path.touch()
    assert folder_of(path) == tmp_path / "run"
    monkeypatch.chdir(path.parent)
    assert folder_of(path.name) == tmp_path / "run"
    (tmp_path / path.name).touch()
    assert folder_of(tmp_path / path.name) is None
    assert (tmp_path / "run" / "img").is_dir()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="cannot make the run folder"):
        make(tmp_path / "file" / "run")
