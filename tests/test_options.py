"""Names, defaults and checks of the pretraining options, and that something reads each of them."""

from pathlib import Path

import pytest
import torch

import main_coclr
import main_nce
from utils.errors import CheckpointError, OptionError

ROOT = Path(__file__).parents[1]
DEFAULTS = {
    "net": "s3d", "seq_len": 32, "num_seq": 2, "ds": 1, "batch_size": 32, "lr": 1e-3, "schedule": [120, 160],
    "wd": 1e-5, "epochs": 10, "start_epoch": 0, "gpu": None, "print_freq": 5, "img_dim": 128, "prefix": "pretrain",
    "workers": 16, "resume": "", "test": "", "cos": False, "reset_lr": False, "save_freq": 1, "name_prefix": "",
    "seed": 0, "dist_backend": "nccl", "multiprocessing_distributed": False, "local_rank": None, "moco_dim": 128,
    "moco_k": 2048, "moco_m": 0.999, "moco_t": 0.07, "data_root": str(ROOT / "data"),
    "split_root": str(ROOT / "process_data" / "data")}
MINING = {"topk": 5, "reverse": False, "cascade": False, "ratio": 0.5, "stage": 7}


def test_defaults_of_main_nce():
    args = vars(main_nce.parse([]))
    assert {key: args[key] for key in DEFAULTS} == DEFAULTS
    assert (args["dataset"], args["model"], args["pretrain"]) == ("ucf101-2clip", "infonce", "")


def test_defaults_of_main_coclr():
    args = vars(main_coclr.parse([]))
    expected = DEFAULTS | MINING
    assert {key: args[key] for key in expected} == expected
    assert (args["dataset"], args["model"]) == ("ucf101-2stream-2clip", "coclr")
    assert args["pretrain"] == ["random", "random"]


@pytest.mark.parametrize("flag", ["--local_rank=3", "--local-rank=3"])
def test_both_spellings_of_the_local_rank(flag):
    assert main_nce.parse([flag]).local_rank == 3


@pytest.mark.parametrize(("options", "words"), [
    ("--batch_size 0", "--batch_size: '0' is not a whole number of at least 1"),
    ("--moco-k -4", "--moco-k"), ("--ratio 1", "--ratio: '1' is not a number between 0 and 1"),
    ("--ratio 0", "--ratio"), ("--ratio nan", "--ratio"), ("--lr 0", "--lr: '0' is not a number above 0"),
    ("--lr inf", "--lr"), ("--seq_len 3.5", "whole number"), ("--stage x", "--stage"), ("--moco-m 1.1", "--moco-m"),
    ("--num_seq 3", "always uses 2"), ("--model moco", "invalid choice"), ("--epoch 4", "unrecognized"),
    ("--schedule 5 -1", "--schedule"), ("--start_epoch 10", "nothing to train"), ("--pretrain random", "--pretrain"),
    ("--seed 8796093022208", "below 8796093022208"), (f"--seed 1{'0' * 400}", "too large"),
    ("--dist-url udp://x:1", "tcp://HOST:PORT"), ("--dist-url tcp://x", "tcp://HOST:PORT"),
    ("--dataset ucf101-2clip", "NAME-2stream-2clip"), ("--dataset ucf101", "two clips")])
def test_wrong_values_are_named_in_one_line(options, words):
    with pytest.raises(OptionError) as caught:
        main_coclr.parse(options.split())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", ["--test", "--pretrain"])
def test_a_missing_file_is_an_error(options, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*Random"):
        main_nce.parse([options, str(tmp_path / "Random")])


def test_resume_and_test_exclude_each_other(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(OptionError, match="exclude"):
        main_nce.parse(["--resume", str(tmp_path / "x"), "--test", str(tmp_path / "x")])


def test_the_largest_seed_makes_a_seed_of_every_epoch():
    seed = main_nce.parse(["--seed", str((1 << 43) - 1)]).seed
    torch.Generator().manual_seed((seed << 20) + (1 << 20) - 1)
