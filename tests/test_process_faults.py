"""Processes that are lost: loader workers and ranks, killed or frozen; and that nothing stays behind of a run."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import interrupted
import noise
import pytest
import torch
from interrupted import differences, said
from test_launch import free_port
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import launch
import main_nce
from eval.windows import read_samples
from utils import loader, rendezvous
from utils.errors import TrainingError
from utils.training import Training

SMALL = ["--dataset", "noise-2clip", "--seq_len", "8", "--img_dim", "32", "--batch_size", "1", "--moco-k", "8",
         "--moco-dim", "8", "--print_freq", "3", "--epochs", "3"]  # 8 steps an epoch, of two processes 4
KILLED = str(Path(__file__).with_name("killed.py"))


@pytest.fixture(autouse=True)
def on_noise(monkeypatch, tmp_path):
    """A small network, datasets of noise, an empty working directory; a lost worker is noticed in a moment."""
    noise.install(monkeypatch.setattr)
    monkeypatch.setattr(launch, "_started", False)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    monkeypatch.chdir(tmp_path)


def folder(prefix: str) -> Path:
    [path] = Path("ckpt/log-pretrain").glob(f"{prefix}*")
    return path


# Workers


def train(options: str) -> int:
    argv = [*SMALL, *options.split()]
    return launch.exit_code(lambda: main_nce.work(main_nce.parse(argv)))


def kill_a_worker(monkeypatch, *after: int) -> list[multiprocessing.Process]:
    """Send a SIGKILL to a loader worker after these steps of the process; those killed.

    Never to children that the process has already: an earlier training's, or those of another file's tests.
    """
    after_step, killed, steps = Training._after_step, [], [0]
    spared = set(multiprocessing.active_children())

    def counted(training: Training, *given: object) -> None:
        steps[0] += 1
        if steps[0] in after:
            worker = next(each for each in multiprocessing.active_children() if each not in spared | {*killed})
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
            killed.append(worker)
        after_step(training, *given)
    monkeypatch.setattr(Training, "_after_step", counted)
    return killed


@pytest.mark.parametrize("after", [(3,), (8,), (2, 4, 6, 13)], ids=str)
def test_a_training_whose_workers_are_killed_ends_as_if_they_were_not(after, monkeypatch, capsys):
    """Also after an epoch's last step, and four times in two epochs."""
    assert train("--name_prefix whole_ -j 2") == 0
    capsys.readouterr()
    bystanders = [multiprocessing.Process(target=time.sleep, args=(600,), daemon=True) for _ in range(8)]
    for bystander in bystanders:
        bystander.start()
    with monkeypatch.context() as patch:
        killed = kill_a_worker(patch, *after)
        assert train("--name_prefix killed_ -j 2") == 0
    for bystander in bystanders:
        assert bystander.is_alive()
        bystander.kill()
        bystander.join()
    assert [worker.exitcode for worker in killed] == [-signal.SIGKILL] * len(after)
    assert not any(Path(f"/proc/{worker.pid}").exists() for worker in killed)
    out = capsys.readouterr().out
    replaced = out.count("warning: DataLoader worker (pid")  # two that are lost together are so together
    assert 1 <= replaced == out.count("new workers carry on from batch") <= len(after)
    assert differences(folder("whole"), folder("killed"), 2) == []


def test_workers_that_are_killed_again_and_again_end_the_run_in_one_line(monkeypatch, capsys):
    killed = kill_a_worker(monkeypatch, *range(100))
    assert train("-j 2") == 2
    assert len(killed) > loader.RESTARTS
    error = capsys.readouterr().err
    assert error.startswith(f"error: loader workers were lost {loader.RESTARTS + 1} times in epoch 0 (DataLoader ")
    assert error.count("\n") == 1 and "fewer --workers" in error


def test_workers_that_take_the_pinning_thread_along_are_replaced_too(monkeypatch):
    """That thread needs a GPU: this stands in for what PyTorch says of its end."""
    batches = loader.make_loader(noise.Noise(1), batch_size=2, workers=0, train=True, seed=0, rank=0, world_size=1,
                                 device=torch.device("cpu"))
    expected = [batch["index"].tolist() for batch in loader.batches(batches, 0)]
    iterate, failures = loader._iterate, [RuntimeError("Pin memory thread exited unexpectedly")]

    def failing(given):
        for number, batch in enumerate(iterate(given)):
            if number == 1 and failures:
                raise failures.pop()
            yield batch
    monkeypatch.setattr(loader, "_iterate", failing)
    assert [batch["index"].tolist() for batch in loader.batches(batches, 0)] == expected and len(expected) == 4
    assert failures == []


def test_an_evaluation_whose_worker_is_killed_ends_in_one_line(monkeypatch, capsys):
    dataset = noise.Noise(1)
    monkeypatch.setattr(dataset, "index", SimpleNamespace(num_frames=[8] * 8), raising=False)
    sample = noise.Noise.__getitem__(dataset, (0, 0)) | {"damaged": torch.zeros(1, 2, dtype=torch.int64)}
    monkeypatch.setattr(noise.Noise, "__getitem__", lambda self, item: sample | {"index": item})

    def read() -> None:
        samples = read_samples(dataset, workers=1, device=torch.device("cpu"), title="test")
        before = set(multiprocessing.active_children())  # of other files' tests in this process
        next(samples)
        [worker] = set(multiprocessing.active_children()) - before
        worker.kill()
        worker.join()
        assert len(list(samples)) < len(dataset) - 1, "the rest had been read"
    assert launch.exit_code(read) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a loader worker was lost (DataLoader worker (pid") and error.count("\n") == 1


# Ranks


def start(command: list[str]) -> subprocess.Popen:
    """A process in whose environment, and so in its children's, stands MARK=this folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "MASTER", "RANK"))}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MARK": os.getcwd()}
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=environment)


def left_behind() -> list[str]:
    """Command lines of the processes that `start` has led to and that are there still; a zombie's is empty."""
    mark, found = f"MARK={os.getcwd()}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0"):
                found.append((place / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has just ended, or is somebody else's
            pass
    return found


EARLIER: set[str] = set()  # children that tests of other files have left in this process


def own_children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(autouse=True, scope="module")
def remember_earlier_children():
    EARLIER.update(own_children())


def wait_until_nothing_is_left(seconds: float = 40) -> None:
    """Workers look every 5 s whether the process they work for is still there."""
    end = time.monotonic() + seconds
    while left_behind() and time.monotonic() < end:
        time.sleep(0.2)
    assert left_behind() == []
    children = own_children() - EARLIER
    states = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children]
    assert "Z" not in states


@pytest.mark.parametrize("fault", ["kill-5", "freeze-5"])
def test_a_process_ends_in_time_when_the_other_one_is_lost(fault):
    """Nothing but the timeout can end it: nobody watches over these two."""
    address = ["--dist-url", f"file://{os.getcwd()}/meeting", "--world-size", "2"]
    nodes = [start([KILLED, fault if rank else "none", "main_nce", *SMALL, "-j", "1", "--dist-timeout", "10", *address,
                    "--rank", str(rank)]) for rank in (0, 1)]
    assert len(left_behind()) >= 2  # they are found
    error = nodes[0].communicate(timeout=120)[1]  # without --dist-timeout a frozen one would be waited for for 600 s
    assert nodes[0].returncode == 1
    lines = [line for line in error.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and "another process of this run has ended, or does not answer" in lines[0], error
    assert "Traceback" not in error
    if fault.startswith("freeze"):  # the fault happens: it is there, and does nothing
        assert Path(f"/proc/{nodes[1].pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        nodes[1].kill()
    nodes[1].communicate(timeout=120)
    assert nodes[1].returncode == -signal.SIGKILL
    wait_until_nothing_is_left()


def test_torchrun_carries_on_from_the_last_checkpoint_without_a_human():
    options = [*SMALL, "--save_steps", "3", "--resume", "auto"]
    whole = interrupted.train(lambda: main_nce.work(main_nce.parse([*options, "--name_prefix", "whole_", "-j", "0"])),
                              processes=2)
    assert whole == [0, 0], said() + said(1)
    torchrun = start(["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}",
                      "--max-restarts=2", KILLED, "kill-8", "main_nce", "--name_prefix", "killed_", "-j1", *options])
    out, error = torchrun.communicate(timeout=200)
    assert torchrun.returncode == 0, error
    starts = json.loads((folder("killed") / "run.json").read_text())["starts"]
    assert [begun["iteration"] for begun in starts] == [0, 6]  # the fault happens, after 8 steps
    # Rank 0 ends within milliseconds of rank 1's kill: torchrun names the first by rank where it sees both at once.
    named = re.search(r"exitcode: (-?\d+)\) local_rank: (\d)", error).groups()
    lost = "another process of this run has ended, or does not answer" in error
    assert named == ("-9", "1") or (named == ("1", "0") and lost), error
    assert "passed over" not in out
    assert differences(folder("whole"), folder("killed"), 2) == []
    wait_until_nothing_is_left()


def meet(store: torch.distributed.Store, processes: int, seconds: float = 60.0) -> list[str | Exception]:
    """What processes agree on, by rank."""
    found: list[str | Exception] = [""] * processes

    def one(rank: int) -> None:
        try:
            found[rank] = rendezvous.agree(store, rank, 3, timedelta(seconds=seconds))
        except TrainingError as error:
            found[rank] = error
    threads = [threading.Thread(target=one, args=(rank,)) for rank in reversed(range(processes))]
    for thread in threads:
        thread.start()
        time.sleep(0.01)  # the last rank comes first, and finds what earlier processes have left
    for thread in threads:
        thread.join()
    return found


def test_processes_that_meet_again_do_not_read_what_earlier_ones_wrote():
    store = torch.distributed.HashStore()
    names = [meet(store, 3) for _ in range(3)]
    assert all(len(set(each)) == 1 for each in names) and len({each[0] for each in names}) == 3
    [alone, _] = meet(store, 2, 0.3)  # process 2 does not come, but its words of the time before are there
    assert isinstance(alone, TrainingError) and "processes 2 did not come within" in str(alone)
    assert meet(store, 3)[0] not in [each[0] for each in names]
