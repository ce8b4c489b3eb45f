"""The same seed and options give the same result: weights, queue, optimizer and metrics, bit for bit."""

import json
from pathlib import Path

import interrupted
import pytest
from interrupted import differences, said

import main_coclr
import main_nce

pytestmark = pytest.mark.usefixtures("in_place")
SMALL = "--seq_len 8 --img_dim 32 --batch_size 2 --moco-k 8 --moco-dim 8 --print_freq 2 --epochs 2"
CASES = {"nce": (main_nce, "--dataset ucf101-2clip"),
         "coclr": (main_coclr, "--dataset ucf101-2stream-2clip --topk 2 --cascade --stage 2")}


def train(case: str, prefix: str, options: str, processes: int = 1) -> Path:
    script, own = CASES[case]
    argv = [*SMALL.split(), *own.split(), "--data_root", "data", "--split_root", "splits", "--name_prefix", prefix,
            *options.split()]
    done = interrupted.train(lambda: script.work(script.parse(argv)), processes=processes)
    assert done == [0] * processes, said()
    [path] = Path("ckpt/log-pretrain").glob(f"{prefix}*")
    return path


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_loader_workers_gives_the_same_result(case):
    """Also with --deterministic, which changes nothing on a CPU; another seed changes it."""
    alone = train(case, f"{case}-j0_", "-j 0")
    three = train(case, f"{case}-j3_", "-j 3 --deterministic")
    assert differences(alone, three, 1) == []
    assert json.loads((three / "run.json").read_text())["starts"][0]["options"]["deterministic"] is True
    keys = differences(alone, train(case, f"{case}-seed1_", "-j 0 --seed 1"), 1)
    assert ".state_dict.queue" in keys and "metrics.jsonl" in keys


def test_two_processes_with_workers_give_the_same_result_each_time():
    runs = [train("coclr", f"two-j{workers}_", f"-j {workers}", processes=2) for workers in (0, 2)]
    assert differences(*runs, 1) == []
