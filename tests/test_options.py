"""Names, defaults and checks of the pretraining options; run folder names, by which people and scripts find results."""

from pathlib import Path

import pytest

import main_coclr
import main_nce
from engine.run_folder import choose, make
from eval import main_classifier
from utils.errors import CheckpointError, OptionError
from utils.launch import allotted_cores

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "net": "s3d", "seq_len": 32, "num_seq": 2, "ds": 1, "batch_size": 32, "lr": 1e-3, "schedule": None, "wd": 1e-5,
    "epochs": 10, "start_epoch": 0, "gpu": None, "print_freq": 5, "img_dim": 128, "prefix": "pretrain",
    "workers": min(16, allotted_cores()), "resume": "", "test": "", "cos": False, "reset_lr": False, "save_freq": 1,
    "name_prefix": "", "seed": 0, "dist_backend": "nccl", "multiprocessing_distributed": False, "local_rank": None,
    "moco_dim": 128, "moco_k": 2048, "moco_m": 0.999, "moco_t": 0.07, "data_root": str(ROOT / "data"),
    "split_root": str(ROOT / "process_data" / "data")}
MINING = {"topk": 5, "reverse": False, "cascade": False, "ratio": 0.5, "stage": 7}


@pytest.mark.parametrize(("script", "own"), [
    (main_nce, {"dataset": "ucf101-2clip", "model": "infonce", "pretrain": ""}),
    (main_coclr, MINING | {"dataset": "ucf101-2stream-2clip", "model": "coclr", "pretrain": ["random", "random"]})])
def test_defaults(script, own):
    args, expected = vars(script.parse([])), DEFAULTS | own
    assert {key: args[key] for key in expected} == expected


@pytest.mark.parametrize(("options", "words"), [
    ("--batch_size 0", "--batch_size: '0' is not a whole number of at least 1"),
    ("--moco-k -4", "--moco-k"), ("--ratio 1", "--ratio: '1' is not a number between 0 and 1"),
    ("--ratio 0", "--ratio"), ("--ratio nan", "--ratio"), ("--lr 0", "--lr: '0' is not a number above 0"),
    ("--lr inf", "--lr"), ("--seq_len 3.5", "whole number"), ("--stage x", "--stage"), ("--moco-m 1.1", "--moco-m"),
    ("--num_seq 3", "always uses 2"), ("--model moco", "invalid choice"),
    ("--epoch 4", "no option --epoch; the nearest is --epochs "),
    ("--schedule 5 -1", "--schedule"), ("--start_epoch 10", "nothing to train"), ("--pretrain random", "--pretrain"),
    ("--seed 8796093022208", "between 0 and 8796093022207"), (f"--seed 1{'0' * 400}", "whole number between"),
    ("--dataset ucf101-2clip", "NAME-2stream-2clip"), ("--dataset ucf101", "does not fit this script")])
def test_wrong_values_are_named_in_one_line(options, words):
    with pytest.raises(OptionError) as caught:
        main_coclr.parse(options.split())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", ["--test", "--pretrain"])
def test_a_missing_file_is_an_error(options, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*Random"):
        main_nce.parse([options, str(tmp_path / "Random")])


def coclr(options: str) -> str:
    return str(main_coclr.run_folder_of(vars(main_coclr.parse(options.split(), planned=True))))


def nce(options: str) -> str:
    return str(main_nce.run_folder_of(vars(main_nce.parse(options.split(), planned=True))))


def test_coclr():
    assert coclr("--cascade") == (
        "ckpt/log-pretrain/coclr-top5_k2048_ucf101-2stream-2clip-128_s3d_bs32_lr0.001_seq2_len32_ds1")
    options = ("--reverse --topk 3 --moco-k 16384 --dataset k400-2stream-2clip --img_dim 64 --net r50 --batch_size 16 "
               "--lr 1e-4 --seq_len 16 --ds 2 --prefix try --name_prefix Cycle1-RGBMining_")
    assert coclr(options) == (
        "ckpt/log-try/Cycle1-RGBMining_coclr-top3-R_k16384_k400-2stream-2clip-64_r50_bs16_lr0.0001_seq2_len16_ds2")


@pytest.mark.parametrize(("options", "word"), [
    ("--mining cascade", ""), ("--mining topk", ""), ("--mining fused", "-fused"),
    ("--cascade --own_view frozen", "-frozen")])
def test_folder_names_gain_a_word_for_rules_beyond_the_papers(options, word):
    assert f"/coclr-top5{word}_k2048" in coclr(options)


def test_nce():
    assert nce("--model ubernce --name_prefix scratch_") == (
        "ckpt/log-pretrain/scratch_ubernce_k2048_ucf101-2clip-128_s3d_bs32_lr0.001_seq2_len32_ds1")
    assert nce("--dataset ucf101-f-2clip --pretrain a/epoch9.pth.tar") == (
        "ckpt/log-pretrain/infonce_k2048_ucf101-f-2clip-128_s3d_bs32_lr0.001_seq2_len32_ds1_pt=a-epoch9.pth.tar")
    assert "_pt" not in nce("--pretrain random")


@pytest.mark.parametrize(("optim", "word"), [("adam", "Adam"), ("sgd", "SGD")])
def test_classifier(optim, word):
    words = f"--optim {optim} --batch_size 64 --train_what ft --gpu 0 --pretrain x/model/epoch1.pth.tar"
    assert str(main_classifier.run_folder_of(vars(main_classifier.parse(words.split(), planned=True)))) == (
        f"log-eval-linclr/ucf101-128_sp1_lincls_s3d_{word}_bs64_lr0.001_dp0.9_wd0.001_seq1_len32_ds1_train-ft"
        "_pt=x-model-epoch1.pth.tar")


def test_names_too_long_for_a_file_system_are_cut_and_stay_distinct(tmp_path):
    one, two = (nce(f"--pretrain {'ü' * 200}{end}") for end in "ab")
    assert one != two
    make(tmp_path / one)


def made(folder: Path, *names: str) -> Path:
    """Make a run folder with empty checkpoints, and return the first of them."""
    make(folder)
    for name in names:
        (folder / "model" / name).touch()
    return folder / "model" / names[0]


def test_a_run_goes_into_a_free_folder_or_that_of_its_checkpoint(tmp_path, monkeypatch, capsys):
    new, other, outside = tmp_path / "new", made(tmp_path / "run", "epoch3.pth.tar"), tmp_path / "epoch3.pth.tar"
    outside.touch()
    assert choose("", new, "--prefix") == (new, "") and not new.exists()
    assert choose(str(other), new, "--prefix") == (tmp_path / "run", str(other))
    assert capsys.readouterr().out == ""
    assert choose(str(outside), new, "--prefix") == (new, str(outside))
    assert capsys.readouterr().out.count("\n") == 1
    last = made(new, "epoch12.pth.tar", "epoch2.pth.tar", "model_best_epoch20.pth.tar")
    for resume in ("", str(outside)):
        with pytest.raises(OptionError, match=r"holds a run \(last: model_best_epoch20\): .*--resume auto.*--prefix"):
            choose(resume, new, "--prefix")
    monkeypatch.chdir(last.parent)
    for path in (str(last), last.name):
        assert choose(path, tmp_path / "other", "--prefix") == (new, path)
    with pytest.raises(CheckpointError, match="check the path"):
        choose("epoch4.pth.tar", new, "--prefix")
