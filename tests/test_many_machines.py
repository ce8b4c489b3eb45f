"""Two torchrun agents, on two machines as far as one can have them, train as one agent with two processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from interrupted import differences
from test_launch import free_port

from benchmarks.machines import Machine, meeting_on, start, two_machines
from utils import checkpoint

PLACED = str(Path(__file__).with_name("placed.py"))
SMALL = ["main_nce", "--model", "ubernce", "--dataset", "noise-2clip", "--seq_len", "8", "--img_dim", "32",
         "--batch_size", "1", "--moco-k", "8", "--moco-dim", "8", "--print_freq", "3", "--epochs", "3", "-j", "0",
         "--dist-timeout", "60"]  # 4 steps an epoch
SECONDS = 40


@pytest.fixture(scope="module")
def machines():
    """The machines; the printed line says how far apart they are (pytest -s)."""
    with two_machines() as made:
        where = "a network namespace each" if made[0].namespace else "the loopback alone: no namespaces can be had here"
        print(f"\ntwo machines on {where}")
        yield made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run folder of one agent with two processes, which never stops."""
    place = tmp_path_factory.mktemp("whole")
    run = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port",
                          str(free_port()), PLACED, "go", *SMALL], cwd=place, capture_output=True, text=True,
                         env=Machine("", "127.0.0.1", "lo").environment(), timeout=SECONDS)
    assert run.returncode == 0, run.stderr
    return folder(place)


def folder(place: Path) -> Path:
    """The one run folder below a working directory."""
    [found] = place.glob("ckpt/*/*")
    return found


def agents(machines: tuple[Machine, Machine], places: list[Path], *options: str, waiting: tuple[int, ...] = ()
           ) -> list[subprocess.Popen]:
    """Both agents, the second one first: the order of the addresses decides about ranks, not that of the starts."""
    meeting, begun = meeting_on(machines[0]), {}
    for number in (1, 0):
        script = [PLACED, "wait" if number in waiting else "go", *SMALL, *options]
        begun[number] = start(machines[number], machines[number].agent(meeting, *script), places[number])
    return [begun[0], begun[1]]


def ends(running: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of both agents."""
    try:
        said = [agent.communicate(timeout=SECONDS) for agent in running]
    finally:
        for agent in running:
            agent.kill()
    return [(agent.returncode, *each) for agent, each in zip(running, said, strict=True)]


def train(*given, **settings) -> list[tuple[int, str, str]]:
    return ends(agents(*given, **settings))


def stop(machines: tuple[Machine, Machine], places: list[Path], asked: tuple[int, ...]) -> Path:
    """Stop a training right after its fifth step, by SIGTERM to some of the agents; what it has saved."""
    running = agents(machines, places, waiting=asked)
    end = time.monotonic() + SECONDS
    while not all((places[number] / f"waiting-{number}").exists() for number in asked) and time.monotonic() < end:
        time.sleep(0.05)
    for number in asked:
        running[number].send_signal(signal.SIGTERM)
    stopped = ends(running)
    assert all(code != 0 for code, _, _ in stopped) and "--resume auto goes on from there" in stopped[0][1], stopped
    [saved] = folder(places[0]).glob("model/epoch*-step*.pth.tar")
    assert steps_of(saved) == 6  # the others learn of it a step later
    return saved


def steps_of(path: Path) -> int:
    return checkpoint.load(path)["iteration"]


def starts(place: Path) -> list[int]:
    """The steps at which the run in a working directory was started."""
    return [begun["iteration"] for begun in json.loads((folder(place) / "run.json").read_text())["starts"]]


def places(path: Path) -> list[Path]:
    return [path / "first", path / "second"]


def test_two_machines_train_as_one_with_two_processes_and_only_the_first_writes_and_speaks(machines, whole, tmp_path):
    first, second = places(tmp_path)
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


@pytest.mark.parametrize("asked", [(0, 1), (1,)], ids=["both", "the second alone"])
def test_machines_that_are_asked_to_stop_go_on_from_a_shared_folder(asked, machines, whole, tmp_path):
    steps = steps_of(stop(machines, [tmp_path, tmp_path], asked))
    resumed = train(machines, [tmp_path, tmp_path], "--resume", "auto")
    assert [code for code, _, _ in resumed] == [0, 0], resumed
    assert starts(tmp_path) == [0, steps]
    assert differences(whole, folder(tmp_path), 2) == []


def test_machines_without_a_shared_folder_go_on_from_what_the_first_one_has(machines, whole, tmp_path):
    """If they come back with other numbers, so that the first one knows less than the second, they say so and end."""
    first, second = places(tmp_path)
    saved = stop(machines, [first, second], (0, 1))
    steps = steps_of(saved)
    assert not list(second.glob("ckpt"))
    refused = train(machines, [second, first], "--resume", "auto")
    assert [code for code, _, _ in refused] == [1, 1]
    errors = [line for _, _, error in refused for line in error.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "the machine of process 1 has later checkpoints in ckpt/" in errors[0], refused
    assert not list(second.glob("ckpt"))
    resumed = train(machines, [first, second], "--resume", str(saved.relative_to(first)))
    assert [code for code, _, _ in resumed] == [0, 0], resumed
    assert starts(first) == [0, steps]
    assert differences(whole, folder(first), 2) == []


def test_what_only_one_machine_lacks_is_said_there(machines, tmp_path):
    first, second = places(tmp_path)
    first.mkdir()
    (first / "start.pth.tar").touch()
    ended = train(machines, [first, second], "--pretrain", "start.pth.tar", "--dist-timeout", "8")
    assert [code for code, _, _ in ended] == [1, 1]
    [error] = [line for line in ended[1][2].splitlines() if line.startswith("error (process")]
    assert error.startswith("error (process 1): there is no checkpoint start.pth.tar: check the path")
