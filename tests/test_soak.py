"""benchmarks.soak: its arithmetic, what it reads of processes, and a short run of it."""

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import processes, soak
from utils.errors import TrainingError

MB = 1 << 20


def test_the_second_tenth_is_compared_with_the_last():
    seen = [(second, value) for second, value in enumerate([9] * 10 + [1, 2, 3, 2, 2, 2, 2, 2, 2, 2] + [50] * 70
                                                           + [7, 8, 9, 8, 8, 8, 8, 8, 8, 8, 8])]
    assert soak.windows(seen, 100) == (2, 8)
    with pytest.raises(TrainingError, match="more --minutes"):
        soak.windows(seen[:50], 100)


def test_processor_time_of_a_step_is_taken_between_the_first_and_last_line_of_a_window():
    steps = [soak.Steps(second, 5 * second, 0.1, cpu) for second, cpu in
             ((5, 1.0), (10, 2.0), (15, 8.0), (20, 12.0), (50, 60.0), (90, 100.0), (100, 103.0))]
    assert soak.cpu_a_step(steps, 100) == (10 / 50, 3 / 50)


def test_what_grows_is_reported(capsys):
    looks = [processes.Look(second, 100 * MB + second * MB, 12, 3) for second in range(101)]
    steps = [soak.Steps(second, second, 0.5, 1.0 * second) for second in range(101)]
    rows = soak.report(looks, steps, 100)
    assert rows["memory, MB"] == (115, 195) and rows["file handles"] == (12, 12) and rows["step, CPU s"] == (1, 1)
    assert "memory, MB" in capsys.readouterr().out


def test_a_process_is_seen_with_its_children_its_memory_and_its_handles(tmp_path):
    body = f"import os, time; held = bytearray(os.urandom({64 * MB})); open('ready', 'w').close(); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', "
                               f"{body!r}])"], cwd=tmp_path)
    try:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        [_, child] = processes.tree(parent.pid)
        assert parent.pid in processes.tree(os.getpid())
        assert 64 * MB < processes.memory(child) < 96 * MB
        seen = processes.look(parent.pid, 3.0)
        assert seen.second == 3.0 and seen.processes == 2 and seen.memory >= processes.memory(child)
        assert seen.handles == sum(len(os.listdir(f"/proc/{each}/fd")) for each in (parent.pid, child))
        assert processes.cpu_seconds(child) >= 0
    finally:
        for each in reversed(processes.tree(parent.pid)):
            os.kill(each, 9)
        parent.wait()
    assert processes.look(parent.pid, 0.0) is None


def test_only_complete_lines_of_steps_are_read_and_each_once(tmp_path):
    path = tmp_path / "ckpt/log-a/run/metrics.jsonl"
    lines = soak.Lines(tmp_path)
    assert lines.new() == []
    path.parent.mkdir(parents=True)
    path.write_text('{"kind": "steps", "done": 1}\n{"kind": "epoch"}\n{"kind": "steps", "do')
    assert lines.new() == [{"kind": "steps", "done": 1}]
    with open(path, "a") as file:
        file.write('ne": 2}\n')
    assert lines.new() == [{"kind": "steps", "done": 2}] and lines.new() == []


def test_a_short_soak_trains_stops_and_reports(tmp_path, capsys):
    words = ["--img_dim", "32", "--batch_size", "2", "--videos", "8", "-j", "1", "--json", str(tmp_path / "soak.json")]
    try:
        code = soak.main(["--minutes", "0.4", *words])
    except TrainingError as error:  # on a busy machine a tenth of that has no two steps
        assert "take more --minutes" in str(error)
        capsys.readouterr()
        code = soak.main(["--minutes", "3", *words])
    output, seen = capsys.readouterr().out, json.loads((tmp_path / "soak.json").read_text())
    grown = [name for name, (start, end) in seen["windows"].items() if end / start - 1 >= 0.02]
    assert code == (1 if grown else 0) and ("grew by 2% or more" in output) == bool(grown)
    assert seen["steps"][-1]["done"] > seen["steps"][0]["done"] and {look["processes"] for look in seen["looks"]} == {2}
