"""scripts/: what the SLURM job does with a training's exit code, and which options the launchers pass on."""

import os
import signal
import subprocess
import sys
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


def submit(tmp_path: Path, *words: str) -> subprocess.CompletedProcess:
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[1-2]"}
    return subprocess.run(["bash", str(SBATCH), *words], env=os.environ | job, capture_output=True, text=True)


@pytest.mark.parametrize("code", [0, 1, 2, EXIT_CODE, 137, 138])
def test_slurm_job_requeues_itself_only_after_a_stop(code, tmp_path, programs):
    programs("srun", f"exit {code}")
    calls = programs("scontrol", "echo node1; sleep 0.2; echo node2")  # the job must read both names
    assert submit(tmp_path, "rgb.pth.tar", "flow.pth.tar").returncode == code
    expected = ["show hostnames node[1-2]"] + (["requeue 123456"] if code in (EXIT_CODE, 128 + signal.SIGUSR1) else [])
    assert calls.read_text().splitlines() == expected


def test_warned_slurm_task_saves_and_goes_on_when_requeued(tmp_path, programs):
    """The stand-in for srun starts the real script as the only task, on noise, and sends its first start SIGUSR1."""
    noise = f"{sys.executable} {ROOT}/tests/noise.py main_coclr"
    small = "--dataset noise-2stream-2clip --seq_len 8 --img_dim 32 --batch_size 2 --moco-k 16 --moco-dim 8 -j 0 " \
        "--stage 1 --topk 2 --epochs 12 --schedule"
    programs("srun", f"""
export SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_LOCALID=0
shift 3
if [ -e warned ]; then exec {noise} "$@"; fi
touch warned
{noise} "$@" > first.txt & task=$!
until grep -q "train epoch 2 " first.txt || ! kill -0 $task; do sleep 0.1; done
kill -USR1 $task
wait $task""")
    calls = programs("scontrol", "echo node1")
    words = ("random", "random", *small.split())
    first = submit(tmp_path, *words)
    assert first.returncode == EXIT_CODE, first.stderr
    assert f"stopping on {signal.SIGUSR1.name}: saved after" in (tmp_path / "first.txt").read_text()
    assert calls.read_text().splitlines()[-1] == "requeue 123456"
    again = submit(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    assert "train epoch 11 mean" in again.stdout and "train epoch 0 " not in again.stdout
    assert len(calls.read_text().splitlines()) == 3


@pytest.mark.parametrize("script", TRAININGS, ids=lambda path: path.stem)
def test_launcher_resumes_when_it_is_run_again(script, programs):
    python, torchrun = programs("python", ""), programs("torchrun", "")
    arguments = [] if "nce" in script.stem and "cpr" not in script.stem else ["a.pth.tar", "b.pth.tar"]
    for restarts in ("", "3"):
        environment = os.environ | ({"RESTARTS": restarts} if restarts else {})
        subprocess.run(["bash", str(script), *arguments[:1 if "finetune" in script.stem else 2], "--lr", "0.5"],
                       env=environment, check=True)
    calls = (python if python.exists() else torchrun).read_text().splitlines()
    assert len(calls) == 2
    assert all("--resume auto" in call and call.endswith("--lr 0.5") for call in calls)
    if torchrun.exists():
        assert "--max-restarts=0" in calls[0] and "--max-restarts=3" in calls[1]


@pytest.mark.parametrize("script", TRAININGS, ids=lambda path: path.stem)
def test_signal_to_a_launcher_reaches_what_it_starts(script, programs):
    """The launcher replaces itself by the program, so both are one process."""
    for name in ("python", "torchrun"):
        programs(name, "echo process $$")
    arguments = [] if "nce" in script.stem and "cpr" not in script.stem else ["a.pth.tar", "b.pth.tar"]
    process = subprocess.Popen(["bash", str(script), *arguments[:1 if "finetune" in script.stem else 2]],
                               stdout=subprocess.PIPE, text=True)
    assert process.communicate()[0] == f"process {process.pid}\n"
