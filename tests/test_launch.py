"""Two processes, started in three ways, train to the same bits; only the first one writes and speaks. Exit codes."""

import os
import signal
import socket
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from engine import checkpoint
from utils import distributed, launch
from utils.errors import OptionError
from utils.stop import EXIT_CODE

ROOT, TESTS = Path(__file__).parents[1], Path(__file__).parent
NOISE = str(TESTS / "noise.py")
OPTIONS = ["main_coclr", "--dataset", "noise-2stream-2clip", "--seq_len", "8", "--img_dim", "32", "--batch_size", "2",
           "--moco-k", "8", "--moco-dim", "8", "-j", "0", "--topk", "2"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command: list[str], folder: Path) -> subprocess.Popen:
    """Start Python with an environment of its own: of one thread, without GPUs, with MARK=folder to find it by."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "MASTER", "RANK"))}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MARK": str(folder)}
    return subprocess.Popen([sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=environment)


def finish(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def checkpoint_of(folder: Path, epoch: int) -> Path:
    [path] = folder.rglob(f"epoch{epoch}.pth.tar")
    return path


def run_whole(folder: Path) -> str:
    out, err = finish(start(["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}",
                             NOISE, *OPTIONS, "--epochs", "3"], folder))
    assert err.count("no GPU found") == 1
    return out


def run_in_parts(folder: Path) -> str:
    """Two epochs by the older launcher; the third as two nodes that start their processes themselves."""
    out, _ = finish(start(["-m", "torch.distributed.launch", "--nproc_per_node=2", f"--master_port={free_port()}",
                           NOISE, *OPTIONS, "--epochs", "2"], folder))
    meeting = ["--multiprocessing-distributed", "--dist-url", f"tcp://127.0.0.1:{free_port()}", "--world-size", "2"]
    resume = ["--epochs", "3", "--resume", str(checkpoint_of(folder, 1))]
    nodes = [start([NOISE, *OPTIONS, *resume, *meeting, "--rank", str(node)], folder) for node in (0, 1)]
    first, second = (finish(node)[0] for node in nodes)
    assert second == ""
    return out + first


def test_three_ways_to_start_two_processes(tmp_path):
    outputs = {}
    for name, way in (("whole", run_whole), ("parts", run_in_parts)):
        (tmp_path / name).mkdir()
        outputs[name] = way(tmp_path / name)
        assert outputs[name].count("mean: loss") == 3
        assert "steps per epoch of 2 x 2" in outputs[name]
    whole, parts = (checkpoint.load(checkpoint_of(tmp_path / name, 2)) for name in outputs)
    assert (whole["iteration"], whole["best_acc"]) == (parts["iteration"], parts["best_acc"]) == (6, whole["best_acc"])
    differing = [key for key, value in whole["state_dict"].items() if not torch.equal(value, parts["state_dict"][key])]
    assert differing == []
    assert torch.equal(whole["label_ring"]["sources"], whole["state_dict"]["queue_vname"])
    assert len(set(whole["state_dict"]["queue_vname"].tolist())) == 4  # both processes' samples, all eight videos


@pytest.mark.parametrize(("moment", "failing"), [("start", 0), ("start", 1), ("training", 1)])
def test_an_error_of_one_process_ends_both(tmp_path, moment, failing):
    address = ["--dist-url", f"tcp://127.0.0.1:{free_port()}", "--world-size", "2"]
    nodes = [start([str(TESTS / "failing.py"), moment if rank == failing else "none", *OPTIONS, "--epochs", "3",
                    *address, "--rank", str(rank)], tmp_path) for rank in (0, 1)]
    ends = [node.communicate(timeout=60)[1] for node in nodes]
    assert nodes[failing].returncode == 2 and nodes[1 - failing].returncode != 0
    assert ends[failing].count("error") == 1 and "a broken disk" in ends[failing]
    assert not any("terminate called" in end for end in ends)
    if moment == "start":
        assert nodes[1 - failing].returncode == 2 and "a broken disk" not in ends[1 - failing]


@pytest.mark.parametrize("address", ["tcp", "file"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_others_do_not_come_gives_up(address, rank, tmp_path):
    url = f"tcp://127.0.0.1:{free_port()}" if address == "tcp" else f"file://{tmp_path}/meeting"
    process = start([NOISE, *OPTIONS, "--dist-url", url, "--world-size", "2", "--rank", str(rank), "--dist-timeout",
                     "2"], tmp_path)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    [error] = [line for line in err.splitlines() if line.startswith("error")]
    assert "the processes did not meet within 2 s (" in error and "Traceback" not in err


SPAWNING = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
import torch
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_name = str
import noise
noise.install()
import main_nce
from utils import launch
if __name__ == "__main__":
    launch.run(main_nce.main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_stop_reaches_spawned_processes(number, tmp_path):
    (tmp_path / "spawning.py").write_text(SPAWNING.format(tests=str(TESTS), root=str(ROOT)))
    options = ["--dataset", "noise-2clip", *OPTIONS[3:-2], "--epochs", "400", "--print_freq", "1",
               "--multiprocessing-distributed"]
    process = start(["spawning.py", *options], tmp_path)
    for line in process.stdout:
        if line.startswith("train epoch 1 "):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODE, err
    assert f"stopping on {number.name}: saved after" in out and "Traceback" not in err
    assert list(tmp_path.rglob("epoch*-step*.pth.tar"))


def test_a_signal_before_training_ends_with_the_code_of_a_stop(tmp_path):
    code = "import os, signal\nfrom utils import launch\nlaunch.run(lambda: os.kill(os.getpid(), signal.SIGUSR1))"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == EXIT_CODE and process.stderr.count("\n") == 1 and "nothing to save" in process.stderr


def test_where_processes_meet(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert launch._meeting_place("tcp://node1:1234", 2) == {"MASTER_ADDR": "node1", "MASTER_PORT": "1234"}
    assert launch._meeting_place("file:///x", 2) == {}
    assert launch._meeting_place("env://", 1)["MASTER_ADDR"] == "127.0.0.1"
    with pytest.raises(OptionError, match="--dist-url"):
        launch._meeting_place("env://", 2)
    monkeypatch.setenv("MASTER_ADDR", "somewhere")
    assert launch._meeting_place("env://", 2) == {}


def options(world_size: int, rank: int) -> Namespace:
    return Namespace(multiprocessing_distributed=True, world_size=world_size, rank=rank, dist_url="env://")


@pytest.mark.parametrize(("world_size", "rank"), [(2, -1), (2, 2), (-1, 1)])
def test_a_node_needs_its_number(world_size, rank):
    with pytest.raises(OptionError, match="node's number"):
        launch.begin(print, options(world_size, rank))


def test_one_process_is_not_spawned():
    assert launch.begin(lambda given: 7 if (given.world_size, given.rank) == (-1, -1) else 1, options(1, 0)) == 7


# Exit codes and errors


def raising(error: BaseException):
    def main():
        raise error
    return main


def test_exit_codes(capsys):
    assert launch.exit_code(raising(OptionError("what is wrong: do this"))) == 2
    assert capsys.readouterr().err == "error: what is wrong: do this\n"
    assert launch.exit_code(lambda: None) == 0 and launch.exit_code(lambda: 3) == 3
    assert launch.exit_code(raising(KeyboardInterrupt())) == 130


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "img/x"), OSError(28, "No space left")])
def test_a_file_that_cannot_be_written_is_one_line(error, capsys):
    assert launch.exit_code(raising(error)) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: cannot read or write") and error.strerror in text and text.count("\n") == 1


@pytest.mark.parametrize("error", [OSError("a mistake"), TypeError("a mistake"), TimeoutError(), ZeroDivisionError()])
def test_mistakes_of_programs_are_not_hidden(error):
    with pytest.raises(type(error)):
        launch.exit_code(raising(error))


def test_other_processes_leave_errors_to_the_first_until_training_starts(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert launch.exit_code(raising(OptionError("no"))) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(launch, "_started", True)
    launch.exit_code(raising(OptionError("no")))
    assert capsys.readouterr().err == "error (process 1): no\n"


@pytest.mark.parametrize(("local_rank", "reports"), [("0", True), ("1", False), (None, False)])
def test_before_processes_meet_one_of_each_machine_reports(local_rank, reports, monkeypatch, capsys):
    for key, text in {"RANK": "8", "WORLD_SIZE": "x", "LOCAL_RANK": local_rank}.items():
        monkeypatch.delenv(key, raising=False) if text is None else monkeypatch.setenv(key, text)
    assert launch.exit_code(distributed.init) == 2
    assert capsys.readouterr().err.startswith("error (process 8): the environment has WORLD_SIZE") == reports


@pytest.mark.parametrize(("name", "value"), [("RANK", "one"), ("WORLD_SIZE", "-2"), ("LOCAL_RANK", "x"), ("RANK", "2")])
def test_an_environment_that_makes_no_sense_is_one_line(name, value, monkeypatch, capsys):
    for key, text in ({"RANK": "0", "WORLD_SIZE": "2"} | {name: value}).items():
        monkeypatch.setenv(key, text)
    monkeypatch.setattr(launch, "_started", True)  # every process reports
    assert launch.exit_code(distributed.init) == 2
    error = capsys.readouterr().err
    assert name in error and error.count("\n") == 1


def test_an_error_of_a_loader_worker_is_one_line():
    error = OptionError("Caught DataError in DataLoader worker process 0.\nOriginal Traceback:\n  File x\n"
                        "utils.errors.DataError: frame 3 of v does not decode\n")
    assert launch.message_of(error) == "frame 3 of v does not decode"


@pytest.mark.parametrize("script", ["main_nce.py", "main_coclr.py"])
def test_a_mistyped_option_is_one_line_and_leaves_no_trace(script, tmp_path):
    process = subprocess.run([sys.executable, str(ROOT / script), "--batch_size", "0"], cwd=tmp_path,
                             capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("error: argument --batch_size") and process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
