"""Two processes that share no folder, as on two machines, train as one machine with two processes."""

import json
import os
from functools import partial
from pathlib import Path

import interrupted
import pytest
from interrupted import Stop, differences, said
from processes import fork, free_port, launched

import main_nce
from engine import checkpoint

SMALL = ["--model", "ubernce", "--dataset", "noise-2clip", "--seq_len", "8", "--img_dim", "32",
         "--batch_size", "1", "--moco-k", "8", "--moco-dim", "8", "--print_freq", "3", "--epochs", "3", "-j", "0",
         "--dist-timeout", "20"]  # 4 steps an epoch


@pytest.fixture(autouse=True)
def machines(on_noise):
    """A folder for each machine."""
    for name in ("first", "second", "whole"):
        Path(name).mkdir()


def folder(place: str) -> Path:
    """Return the one run folder below a machine's working directory."""
    [found] = Path(place).glob("ckpt/*/*")
    return found


def train(*options: str, stop_second: bool = False) -> list[tuple[int, str, str]]:
    """Train with a process in each folder; return exit code, output and errors of each."""
    def begin(name: str) -> None:
        if stop_second and name == "second":
            Stop("term", 5).install()
        os.chdir(name)
    port = free_port()
    forks = [fork(lambda: main_nce.work(main_nce.parse([*SMALL, *options])), name, before=partial(begin, name),
                  environment=launched(rank, port=port) | {"LOCAL_RANK": "0"})
             for rank, name in enumerate(("first", "second"))]
    return [(each.end(), each.out.read_text(), each.err.read_text()) for each in forks]


def test_a_stop_on_one_machine_ends_both_and_both_resume_from_the_first_ones_file(monkeypatch):
    with monkeypatch.context() as patch:
        patch.chdir("whole")
        ends = interrupted.train(lambda: main_nce.work(main_nce.parse(SMALL)), processes=2)
        assert ends == [0, 0], said() + said(1)
    stopped = train(stop_second=True)
    assert [code for code, _, _ in stopped] == [75, 75], stopped
    assert "--resume auto continues from there" in stopped[0][1]
    [saved] = folder("first").glob("model/epoch*-step*.pth.tar")
    assert checkpoint.load(saved)["iteration"] == 6  # the first one learns of it a step later
    (code, out, err), (other_code, other_out, other_err) = train("--resume", "auto")
    assert (code, other_code) == (0, 0), err + other_err
    assert [start["iteration"] for start in json.loads((folder("first") / "run.json").read_text())["starts"]] == [0, 6]
    assert differences(folder("whole"), folder("first"), 2) == []
    assert checkpoint.load(folder("first") / "model/epoch2.pth.tar")["iteration"] == 12
    assert (folder("first") / "img/train.log").is_file() and "mean: loss" in out
    assert list(Path("second").iterdir()) == [] and other_out == "" and "mean: loss" not in other_err
