"""scripts/: what the SLURM job does with a training's exit code, and which options the launchers pass on."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from utils.stop import EXIT_CODE

ROOT = Path(__file__).parents[1]
SBATCH = ROOT / "scripts/k400_cpr_rgb.sbatch"
TRAININGS = [path for path in sorted((ROOT / "scripts").glob("*.sh"))
             if any(word in path.name for word in ("_cpr_", "nce", "finetune.sh"))]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put stand-ins for programs in front of the real ones; each writes down what it was called with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, body: str) -> Path:
        (folder / name).write_text(f'#!/usr/bin/env bash\necho "$@" >> {tmp_path}/{name}.calls\n{body}\n')
        (folder / name).chmod(0o755)
        return tmp_path / f"{name}.calls"
    return make


@pytest.mark.parametrize("code", [0, 1, 2, EXIT_CODE, 137, 138])
def test_slurm_job_requeues_itself_only_after_a_stop(code, tmp_path, programs):
    started = programs("srun", f"exit {code}")
    calls = programs("scontrol", "echo node1; sleep 0.2; echo node2")  # the job must read both names
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[1-2]"}
    done = subprocess.run(["bash", str(SBATCH), "a.pth.tar", "b.pth.tar", "--lr", "0.5"], env=os.environ | job)
    assert done.returncode == code
    expected = ["show hostnames node[1-2]"] + (["requeue 123456"] if code in (EXIT_CODE, 128 + signal.SIGUSR1) else [])
    assert calls.read_text().splitlines() == expected
    [command] = started.read_text().splitlines()
    assert " --resume auto --pretrain a.pth.tar b.pth.tar " in command and command.endswith("--lr 0.5")


@pytest.mark.parametrize("script", TRAININGS, ids=lambda path: path.stem)
def test_launcher_becomes_a_training_that_resumes_when_it_is_run_again(script, programs):
    """It replaces itself by the program, so both are one process, and a signal to it reaches the training."""
    python, torchrun = (programs(name, "echo process $$") for name in ("python", "torchrun"))
    arguments = {"cpr": ["a.pth.tar", "b.pth.tar"], "finetune": ["a.pth.tar"]}.get(script.stem.split("_")[1], [])
    for restarts in ("", "3"):
        environment = os.environ | ({"RESTARTS": restarts} if restarts else {})
        process = subprocess.Popen(["bash", str(script), *arguments, "--lr", "0.5"], env=environment, text=True,
                                   stdout=subprocess.PIPE)
        assert process.communicate()[0] == f"process {process.pid}\n"
    calls = (python if python.exists() else torchrun).read_text().splitlines()
    assert len(calls) == 2
    assert all("--resume auto" in call and call.endswith("--lr 0.5") for call in calls)
    if torchrun.exists():
        assert "--max-restarts=0" in calls[0] and "--max-restarts=3" in calls[1]


def test_ucf101_as_published_ends_with_the_comparison(programs, tmp_path):
    calls = programs("python", "case $1 in cotrain.py) exit $CODE ;; esac")
    for code in (0, EXIT_CODE):
        done = subprocess.run(["bash", str(ROOT / "scripts/ucf101.sh"), "--cycles", "1"],
                              env=os.environ | {"CODE": str(code), "DATA": "d", "OUT": "o"})
        assert done.returncode == code
    made, trained, compared, *again = calls.read_text().splitlines()
    assert made.endswith("--name ucf101 --data d/UCF101/ucf101_frame.lmdb")
    assert trained == "cotrain.py --dataset ucf101 --data_root d --out o --gpus 2 --cycles 1"
    assert compared == "-m tools.verify o" and again == [made, trained]  # it was stopped


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*_*.s[hb]*")), ids=lambda path: path.name)
def test_a_missing_checkpoint_is_one_line(script, tmp_path):
    if "$1" in script.read_text():
        done = subprocess.run(["bash", str(script)], env=os.environ | {"SLURM_SUBMIT_DIR": str(tmp_path)},
                              capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: give ") and done.stderr.count("\n") == 1
