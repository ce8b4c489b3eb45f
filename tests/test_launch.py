"""The ways to start several processes; how they report errors; exit codes."""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import meeting
import pytest
import torch.distributed.launch
from processes import Fork, fork, free_port, launched

import main_nce
from utils import distributed, launch
from utils.errors import DataError, OptionError
from utils.stop import EXIT_CODE

PROGRAM = str(Path(meeting.__file__))


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty working directory, and an environment that no launcher has touched."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("SLURM", "MASTER", "RANK", "WORLD_SIZE", "LOCAL_RANK")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def meet(*words: str) -> int:
    return launch.begin(meeting.work, main_nce.parse(words))


def by_hand() -> list[Fork]:
    words = ["--world-size", "2", "--dist-url", f"tcp://127.0.0.1:{free_port()}", "--rank"]
    return [fork(partial(meet, *words, str(rank)), f"{rank}") for rank in (0, 1)]


def by_slurm() -> list[Fork]:
    job = {"SLURM_STEP_NUM_TASKS": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [fork(meet, f"{rank}", environment=job | {"SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank}"})
            for rank in (0, 1)]


def by_launcher() -> list[Fork]:
    """The older launcher, which is torchrun but for the option that it gives to the program."""
    words = ["--nproc_per_node=2", f"--master_port={free_port()}", PROGRAM]
    return [fork(lambda: torch.distributed.launch.main(words), "0")]


@pytest.mark.parametrize("start", [by_hand, by_slurm, by_launcher], ids=lambda start: start.__name__)
def test_two_processes_meet_and_only_the_first_speaks(start):
    forks = start()
    assert [each.end(120) for each in forks] == [0] * len(forks), [each.err.read_text() for each in forks]
    assert [Path(f"met{rank}").read_text() for rank in (0, 1)] == [
        f"rank {rank}, {rank} here, of 2: [0, 1]" for rank in (0, 1)]
    out = "".join(each.out.read_text() for each in forks)
    assert out.count("no GPU found") == out.count("only the first speaks") == 1


def test_two_nodes_start_their_processes_and_a_request_to_stop_reaches_all():
    Path("wait").touch()
    words = ["--multiprocessing-distributed", "--dist-url", f"tcp://127.0.0.1:{free_port()}", "--world-size", "2"]
    nodes = [fork(partial(meet, *words, "--rank", str(node)), f"{node}") for node in (0, 1)]
    while not (Path("waiting0").exists() and Path("waiting1").exists()):
        assert all(os.waitpid(node.pid, os.WNOHANG) == (0, 0) for node in nodes)
        time.sleep(0.02)
    os.kill(nodes[1].pid, signal.SIGUSR1)
    assert [node.end() for node in nodes] == [EXIT_CODE, EXIT_CODE]
    assert [node.errors() for node in nodes] == [[], []]
    assert Path("met1").read_text() == "rank 1, 0 here, of 2: [0, 1]" and nodes[1].out.read_text() == ""


@pytest.mark.parametrize(("moment", "failing"), [("start", 0), ("start", 1), ("training", 1)])
def test_an_error_of_one_process_ends_both(moment, failing):
    def work() -> None:
        rank = distributed.init(timeout=20).rank
        if (moment, failing) == ("start", rank):
            raise DataError("a broken disk")
        launch.started()
        if (moment, failing) == ("training", rank):
            raise DataError("a broken disk")
        while True:
            distributed.barrier()
    port = free_port()
    nodes = [fork(work, f"{rank}", environment=launched(rank, port=port)) for rank in (0, 1)]
    codes = [node.end() for node in nodes]
    who = "error (process 1)" if failing else "error"
    assert codes[failing] == 2 and nodes[failing].errors() == [f"{who}: a broken disk"]
    if moment == "start":
        assert codes[1 - failing] == 2 and nodes[1 - failing].errors() == []
    else:
        [error] = nodes[1 - failing].errors()
        assert codes[1 - failing] == 1 and "another process of this run has ended" in error


@pytest.mark.parametrize(("address", "rank"), [("tcp", 0), ("tcp", 1), ("file", 0)])
def test_a_process_gives_up_when_the_others_do_not_join(address, rank, tmp_path, capsys):
    url = f"tcp://127.0.0.1:{free_port()}" if address == "tcp" else f"file://{tmp_path}/meeting"
    assert launch.exit_code(lambda: distributed.init(dist_url=url, world_size=2, rank=rank, timeout=1)) == 2
    reported = capsys.readouterr().err
    assert reported.startswith("error") and "could not form the process group within 1 s (" in reported
    assert reported.count("\n") == 1


@pytest.mark.parametrize(("url", "words"), [
    ("tcp://localhost:99999", "(Port out of range 0-65535)"), ("udp://x:1", "(No rendezvous handler for udp://)"),
    ("file:///no/such/folder/x", "there is no such folder"), ("env://", "check MASTER_ADDR and MASTER_PORT")])
def test_a_place_where_nobody_can_meet_is_refused_at_once(url, words, monkeypatch, capsys):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "70000")
    assert launch.exit_code(lambda: distributed.init(dist_url=url, world_size=2, rank=0)) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_meeting_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr(distributed, "GRACE", 0.1)
    monkeypatch.setattr(distributed.dist, "rendezvous", lambda *_, **__: time.sleep(60))
    url = f"tcp://127.0.0.1:{free_port()}"
    node = fork(lambda: distributed.init(dist_url=url, world_size=2, rank=0, timeout=0.2), "node")
    assert node.end(20) == 2
    [error] = node.errors()
    assert "could not form the process group within" in error and "--dist-url" in error


def test_each_slurm_job_has_a_port_of_its_own(monkeypatch):
    def port(job: int, step: int, task: int) -> int:
        monkeypatch.setattr(os, "environ", given | {
            "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": f"{task}", "SLURM_JOB_ID": f"{job}",
            "SLURM_STEP_ID": f"{step}", "MASTER_ADDR": "node1"})
        distributed._launched()
        return int(os.environ["MASTER_PORT"])
    given: dict[str, str] = {}
    steps = [(job, step) for job in (7, 8, 9, 4_000_000, 4_000_001) for step in (0, 1, 2)]
    ports = [port(job, step, task=0) for job, step in steps]
    assert ports == [port(job, step, task=1) for job, step in steps]
    assert len(set(ports)) == len(ports) and all(1024 < each < 32768 for each in ports)  # no port of outgoing traffic
    given["MASTER_PORT"] = "1234"
    assert port(7, 0, task=0) == 1234


def options(world_size: int, rank: int) -> Namespace:
    return Namespace(multiprocessing_distributed=True, world_size=world_size, rank=rank, dist_url="env://")


@pytest.mark.parametrize(("world_size", "rank"), [(2, -1), (2, 2), (-1, 1), (2, 0)])
def test_a_node_needs_its_rank_and_the_address_of_the_first(world_size, rank):
    with pytest.raises(OptionError, match=rf"the node's number \(it is {rank}\), and --dist-url tcp://HOST:PORT, HOST"):
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


def test_a_missing_compiler_is_one_line(monkeypatch, tmp_path, capsys):
    from torch._inductor import config
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert launch.exit_code(lambda: torch.compile(lambda x: x.sin() + x)(torch.ones(2))) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # PyTorch logs a few lines first
    assert error.startswith("error: --compile does not work here") and "g++" in error


@pytest.mark.parametrize("error", [OSError("a mistake"), TypeError("a mistake"), TimeoutError(), ZeroDivisionError()])
def test_mistakes_of_programs_are_not_hidden(error):
    with pytest.raises(type(error)):
        launch.exit_code(raising(error))


@pytest.mark.parametrize(("local_rank", "reports"), [("0", True), ("1", False), (None, False)])
def test_before_processes_meet_one_of_each_machine_reports(local_rank, reports, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("WORLD_SIZE", "16")
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert launch.exit_code(distributed.init) == 2
    assert capsys.readouterr().err.startswith("error (process 8): could not form the process group") == reports


def test_incomplete_launcher_settings(monkeypatch):
    with pytest.raises(OptionError, match="--rank"):
        distributed.init(world_size=2, rank=-1)
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert distributed.init().world_size == 1  # in an allocation, but not started by srun
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(OptionError, match="MASTER_ADDR"):
        distributed.init()


def test_an_error_of_a_loader_worker_is_one_line():
    error = OptionError("Caught DataError in DataLoader worker process 0.\nOriginal Traceback:\n  File x\n"
                        "utils.errors.DataError: frame 3 of v does not decode\n")
    assert launch.message_of(error) == "frame 3 of v does not decode"


def test_utilities_and_preparation_start_without_torch():
    modules = "utils.console, utils.parser, utils.launch, utils.runner, process_data.src.prepare, " \
        "process_data.src.extract_ff, process_data.src.convert_video_to_lmdb, process_data.src.write_csv"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(PROGRAM).parents[1])


@pytest.mark.parametrize(("membership", "limits", "expected"), [
    ("", {}, 6), ("0::/", {"cpu.max": "max 100000"}, 6), ("0::/", {"cpu.max": "150000 100000"}, 2),
    ("0::/slurm/job/step", {"slurm/cpu.max": "300000 100000", "slurm/job/cpu.max": "max 100000"}, 3),
    ("3:cpuset:/\n0::/job", {"job/cpu.max": "10000 100000"}, 1)])
def test_cores_are_those_allotted_by_affinity_and_control_groups(tmp_path, monkeypatch, membership, limits, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(launch, "CGROUPS", tmp_path)
    monkeypatch.setattr(launch, "CGROUPS_OF_PROCESS", tmp_path / "membership")
    (tmp_path / "membership").write_text(membership)
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert launch.allotted_cores() == expected
