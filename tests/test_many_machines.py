"""Two torchrun agents, on two machines as far as one can have them, train as one agent with two processes."""

import json
import signal
import subprocess
import time
from pathlib import Path

import interrupted
import noise
import pytest
from interrupted import differences, said
from machines import Machine, meeting_on, start, two_machines

import main_nce
from engine import checkpoint

PLACED = str(Path(__file__).with_name("placed.py"))
SMALL = ["--model", "ubernce", "--dataset", "noise-2clip", "--seq_len", "8", "--img_dim", "32",
         "--batch_size", "1", "--moco-k", "8", "--moco-dim", "8", "--print_freq", "3", "--epochs", "3", "-j", "0",
         "--dist-timeout", "60"]  # 4 steps an epoch
SECONDS = 120


@pytest.fixture(scope="module")
def machines():
    """Two machines; the printed line tells how far apart they are (pytest -s)."""
    with two_machines() as made:
        where = "a network namespace each" if made[0].namespace else "the loopback alone: no namespaces can be had here"
        print(f"\ntwo machines on {where}")
        yield made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run folder of two processes on one machine, which never stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        noise.install(patch.setattr)
        ends = interrupted.train(lambda: main_nce.work(main_nce.parse(SMALL)), processes=2)
        assert ends == [0, 0], said() + said(1)
        return folder(Path.cwd())


def folder(place: Path) -> Path:
    """Return the one run folder below a working directory."""
    [found] = place.glob("ckpt/*/*")
    return found


def agents(machines: tuple[Machine, Machine], places: list[Path], *options: str, waiting: tuple[int, ...] = ()
           ) -> list[subprocess.Popen]:
    """Start both agents, the second one first: ranks follow the order of the addresses, not that of the starts."""
    meeting, begun = meeting_on(machines[0]), {}
    for number in (1, 0):
        script = [PLACED, "wait" if number in waiting else "go", "main_nce", *SMALL, *options]
        begun[number] = start(machines[number], machines[number].agent(meeting, *script), places[number])
    return [begun[0], begun[1]]


def ends(running: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Wait for both agents, and return exit code, output and errors of each."""
    try:
        said = [agent.communicate(timeout=SECONDS) for agent in running]
    finally:
        for agent in running:
            agent.kill()
    return [(agent.returncode, *each) for agent, each in zip(running, said, strict=True)]


def train(*given, **settings) -> list[tuple[int, str, str]]:
    return ends(agents(*given, **settings))


def stop_second(machines: tuple[Machine, Machine], places: list[Path]) -> None:
    """Stop a training right after its fifth step, by SIGTERM to the second agent."""
    running = agents(machines, places, waiting=(1,))
    end = time.monotonic() + SECONDS
    while not (places[1] / "waiting-1").exists() and time.monotonic() < end:
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    stopped = ends(running)
    assert all(code != 0 for code, _, _ in stopped) and "--resume auto continues from there" in stopped[0][1], stopped
    [saved] = folder(places[0]).glob("model/epoch*-step*.pth.tar")
    assert checkpoint.load(saved)["iteration"] == 6  # the first one learns of it a step later


def test_two_machines_train_as_one_with_two_processes_and_only_the_first_writes_and_speaks(machines, whole, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    (code, out, err), (other_code, other_out, other_err) = train(machines, [first, second])
    assert (code, other_code) == (0, 0), err + other_err
    assert [json.loads((place / "place.json").read_text()) for place in (first, second)] == [
        {"rank": rank, "local_rank": 0, "world_size": 2} for rank in (0, 1)]
    assert differences(whole, folder(first), 2) == []
    assert checkpoint.load(folder(first) / "model/epoch2.pth.tar")["iteration"] == 12
    assert {path.name for path in folder(first).iterdir()} >= {"metrics.jsonl", "run.json", "model", "img"}
    assert (folder(first) / "img/train.log").is_file() and out.count("mean: loss") == 3
    assert sorted(path.name for path in second.iterdir()) == ["place.json"]  # no run folder, not even an empty one
    assert other_out == "" and "mean: loss" not in other_err


def test_when_one_machine_is_asked_to_stop_both_do_and_resume_from_the_first_ones_file(machines, whole, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    stop_second(machines, [first, second])
    assert not list(second.glob("ckpt"))
    resumed = train(machines, [first, second], "--resume", "auto")
    assert [code for code, _, _ in resumed] == [0, 0], resumed
    assert [start["iteration"] for start in json.loads((folder(first) / "run.json").read_text())["starts"]] == [0, 6]
    assert differences(whole, folder(first), 2) == []


def test_a_file_that_one_machine_lacks_is_named_there(machines, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "start.pth.tar").touch()
    ended = train(machines, [first, second], "--pretrain", "start.pth.tar", "--dist-timeout", "3")
    assert [code for code, _, _ in ended] == [1, 1]
    [error] = [line for line in ended[1][2].splitlines() if line.startswith("error (process")]
    assert error.startswith("error (process 1): there is no checkpoint start.pth.tar: check the path")
