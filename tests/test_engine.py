"""One epoch: means, iteration numbers, what is said and written, errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import launch
from utils.console import log_file, say
from utils.engine import run_epoch
from utils.errors import OptionError
from utils.journal import Journal
from utils.loader import make_loader

ROOT = Path(__file__).parents[1]


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, item):
        epoch, i = item
        return torch.tensor(float(100 * epoch + i))


class Recorder:
    def __init__(self):
        self.scalars = {}

    def add_scalar(self, tag, value, step):
        self.scalars.setdefault(tag, {})[step] = value


def epoch(step, **settings):
    loader = make_loader(Numbers(), batch_size=1, workers=0, train=False, seed=0, rank=0, world_size=1,
                         device=torch.device("cpu"))
    defaults = {"title": "train", "epoch": 2, "print_freq": 3, "device": torch.device("cpu")}
    return run_epoch(loader, step, **defaults | settings)


def test_means_iterations_and_scalars(tmp_path, capsys):
    seen, writer = [], Recorder()

    def step(batch, iteration):
        seen.append((batch.item(), iteration))
        return {"loss": batch.mean()} | ({"late": torch.tensor(8.0)} if iteration > 12 else {})
    with log_file(tmp_path / "log"):
        means, iteration = epoch(step, journal=Journal(writer, tmp_path / "metrics.jsonl"), iteration=10)
    assert seen == [(200.0 + i, 10 + i) for i in range(7)]
    assert iteration == 17 and means == {"loss": 203.0, "late": 8.0}
    assert writer.scalars["train/loss"] == {11: 200.0, 14: 202.0, 17: 205.0}  # by steps done
    assert writer.scalars["train/late"] == {14: 8.0, 17: 8.0}
    assert writer.scalars["train_epoch/loss"] == {17: 203.0}
    assert set(writer.scalars) >= {"train/data_seconds", "train/step_seconds"}
    text = capsys.readouterr().out
    assert text == (tmp_path / "log").read_text()
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("train epoch 2 [4/7]  loss 202  late 8  data ") and "step" in lines[1]
    assert lines[3] == "train epoch 2 mean: loss 203  late 8"


def test_lines_for_the_log_alone(tmp_path, capsys):
    with log_file(tmp_path / "log"):
        say("one")
        say("two", terminal=False)
    say("three")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert capsys.readouterr().out == "one\nthree\n"


def test_exit_codes(capsys):
    def wrong():
        raise OptionError("what is wrong: do this")
    assert launch.exit_code(wrong) == 2
    assert capsys.readouterr().err == "error: what is wrong: do this\n"
    assert launch.exit_code(lambda: None) == 0 and launch.exit_code(lambda: 3) == 3

    def stopped():
        raise KeyboardInterrupt
    assert launch.exit_code(stopped) == 130
    with pytest.raises(ZeroDivisionError):
        launch.exit_code(lambda: 1 / 0)


def test_other_processes_leave_the_word_to_the_first(monkeypatch, capsys):
    def wrong():
        raise OptionError("no")
    monkeypatch.setenv("RANK", "1")
    assert launch.exit_code(wrong) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(launch, "_started", True)
    launch.exit_code(wrong)
    assert capsys.readouterr().err == "error (process 1): no\n"


def test_an_error_of_a_loader_worker_is_one_line():
    error = OptionError("Caught DataError in DataLoader worker process 0.\nOriginal Traceback:\n  File x\n"
                        "dataset.errors.DataError: frame 3 of v does not decode\n")
    assert launch.one_line(error) == "frame 3 of v does not decode"


@pytest.mark.parametrize("script", ["main_nce.py", "main_coclr.py"])
def test_a_script_ends_with_one_line_and_code_2(script, tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / script), "--batch_size", "0"], cwd=tmp_path, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: argument --batch_size") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
