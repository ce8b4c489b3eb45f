"""Loader workers and processes that are lost, killed or frozen; and nothing of a run that stays behind."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import interrupted
import noise
import pytest
from interrupted import Stop, differences, said
from processes import Fork, fork, free_port, launched
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import main_nce
from dataset import loader
from engine.trainer import Trainer
from utils import launch

SMALL = ["--dataset", "noise-2clip", "--seq_len", "8", "--img_dim", "32", "--batch_size", "1", "--moco-k", "8",
         "--moco-dim", "8", "--print_freq", "3", "--epochs", "3"]  # 8 steps an epoch, of two processes 4


@pytest.fixture(autouse=True)
def quickly(on_noise, monkeypatch):
    """A lost worker is noticed in a moment."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


# Workers


def train(options: str) -> int:
    return noise.run(main_nce, f"--batch_size 1 --print_freq 3 --epochs 3 -j 2 {options}")


def kill_a_worker(monkeypatch, *after: int) -> list[multiprocessing.Process]:
    """Send a SIGKILL to a loader worker after these steps; returns those killed. Spares children of earlier tests."""
    poll, killed, steps = Trainer.poll, [], [0]
    spared = set(multiprocessing.active_children())

    def counted(trainer: Trainer) -> None:
        steps[0] += 1
        if steps[0] in after:
            worker = next(each for each in multiprocessing.active_children() if each not in spared | {*killed})
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
            killed.append(worker)
        poll(trainer)
    monkeypatch.setattr(Trainer, "poll", counted)
    return killed


def test_a_training_with_killed_workers_gives_the_same_result(monkeypatch, capsys):
    """In the middle of an epoch, right after its last step, and twice in one epoch."""
    assert train("--name_prefix whole_") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        killed = kill_a_worker(patch, 2, 4, 8, 13)
        assert train("--name_prefix killed_") == 0
    assert [worker.exitcode for worker in killed] == [-signal.SIGKILL] * 4
    out = capsys.readouterr().out
    replaced = out.count("warning: DataLoader worker (pid")  # two lost together are replaced together
    assert 1 <= replaced == out.count("new workers carry on from batch") <= 4
    assert differences(noise.run_folder("whole"), noise.run_folder("killed"), 2) == []


def test_workers_that_are_killed_again_and_again_end_the_run_in_one_line(monkeypatch, capsys):
    killed = kill_a_worker(monkeypatch, *range(100))
    assert train("") == 2
    assert len(killed) > loader.RESTARTS
    assert loader.LOST_WORKER.match("Pin memory thread exited unexpectedly")  # needs a GPU, and is treated alike
    error = capsys.readouterr().err
    assert error.startswith(f"error: loader workers were lost {loader.RESTARTS + 1} times in epoch 0 (DataLoader ")
    assert error.count("\n") == 1 and "fewer --workers" in error


def test_an_evaluation_whose_worker_is_killed_ends_in_one_line(capsys):
    def read() -> None:
        before = set(multiprocessing.active_children())  # of other files' tests in this process
        samples = loader.items(DataLoader(noise.Noise(1), batch_size=None, sampler=[(0, row) for row in range(8)],
                                          num_workers=1))
        next(samples)
        [worker] = set(multiprocessing.active_children()) - before
        worker.kill()
        worker.join()
        assert len(list(samples)) < 7, "all had been read"
    assert launch.exit_code(read) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a loader worker was lost (DataLoader worker (pid") and error.count("\n") == 1


# Processes


def wait_until_nothing_is_left(forks: list[Fork], seconds: float = 40) -> None:
    """Workers look every 5 s whether the process they work for is still there."""
    end = time.monotonic() + seconds
    while any(each.session() for each in forks) and time.monotonic() < end:
        time.sleep(0.05)
    assert [each.session() for each in forks] == [[]] * len(forks)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_process_ends_in_time_when_the_other_one_is_lost(fault, monkeypatch):
    """Nothing but the timeout can end it: nobody watches over these two. Frozen: it is there, and does nothing."""
    monkeypatch.setitem(interrupted.SIGNALS, "freeze", signal.SIGSTOP)
    argv, port = [*SMALL, "-j", "1", "--dist-timeout", "5"], free_port()
    nodes = [fork(lambda: main_nce.work(main_nce.parse(argv)), f"{rank}", environment=launched(rank, port=port),
                  before=Stop(fault, 5).install if rank else (lambda: None)) for rank in (0, 1)]
    assert nodes[0].end() == 1
    [error] = nodes[0].errors()
    assert "another process of this run has ended or does not answer" in error
    if fault == "freeze":
        assert Path(f"/proc/{nodes[1].pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        os.kill(nodes[1].pid, signal.SIGKILL)
    assert nodes[1].end() == -signal.SIGKILL
    wait_until_nothing_is_left(nodes)


def train_killed(argv: list[str]) -> None:
    """Train in a process of torchrun's agent; in the first start process 1 is killed after 8 steps."""
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == ("1", "0"):
        Stop("kill", 8).install()
    code = launch.exit_code(lambda: main_nce.work(main_nce.parse(argv)))
    if code:
        os._exit(code)


def test_torchrun_restarts_from_the_last_checkpoint_without_a_human():
    """The agent that torchrun starts, with forks as its processes."""
    options = [*SMALL, "--save_steps", "3", "--resume", "auto"]
    whole = interrupted.train(lambda: main_nce.work(main_nce.parse([*options, "--name_prefix", "whole_", "-j", "0"])),
                              processes=2)
    assert whole == [0, 0], said() + said(1)
    config = LaunchConfig(1, 1, nproc_per_node=2, max_restarts=1, rdzv_backend="c10d", start_method="fork",
                          rdzv_endpoint="127.0.0.1:0", run_id="test", monitor_interval=0.1)
    agent = elastic_launch(config, train_killed)
    torchrun = fork(lambda: agent([*options, "--name_prefix", "killed_", "-j1"]) and 0, "torchrun")
    assert torchrun.end(200) == 0, torchrun.err.read_text()
    error = torchrun.err.read_text()
    starts = json.loads((noise.run_folder("killed") / "run.json").read_text())["starts"]
    assert [start["iteration"] for start in starts] == [0, 6]  # the fault happens, after 8 steps
    # Process 0 ends within milliseconds of the kill: the agent names the first by rank where it sees both at once.
    named = re.search(r"exitcode: (-?\d+)\) local_rank: (\d)", error).groups()
    lost = "another process of this run has ended or does not answer" in error
    assert named == ("-9", "1") or (named == ("1", "0") and lost), error
    assert "skipped" not in torchrun.out.read_text()
    assert differences(noise.run_folder("whole"), noise.run_folder("killed"), 2) == []
    wait_until_nothing_is_left([torchrun])
