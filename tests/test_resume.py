"""Pretraining that is stopped anywhere and resumed with --resume auto ends as if it had never stopped."""

from pathlib import Path

import interrupted
import noise
import pytest
import torch
from interrupted import Stop, differences, said

import main_coclr
import main_nce
from engine import checkpoint
from engine.run_folder import newest_complete
from utils.errors import CheckpointError
from utils.stop import EXIT_CODE

COMMON = "--seq_len 8 --img_dim 32 --moco-k 8 --moco-dim 8 -j 0 --print_freq 3 --epochs 3 --resume auto " \
    "--dist-timeout 60"
# Eight clips are 4 steps an epoch.
CASES = {
    "nce": (main_nce, "--dataset noise-2clip --batch_size 2 --model ubernce --cos"),
    "fp16": (main_nce, "--dataset noise-2clip --batch_size 2 --precision fp16 --fp32_steps 3"),
    "coclr": (main_coclr, "--dataset noise-2stream-2clip --batch_size 2 --topk 2 --cascade --stage 2 --schedule 2"),
    "frozen": (main_coclr, "--dataset noise-2stream-2clip --batch_size 2 --topk 2 --mining fused --own_view frozen")}
STEPS = 12
cases = pytest.mark.parametrize("case", ["nce", "coclr"])


@pytest.fixture(autouse=True)
def growing_scale(on_noise, monkeypatch):
    """Give the loss scale a history."""
    monkeypatch.setattr(torch.amp.GradScaler, "get_growth_interval", lambda self: 1)


def train(case: str, name: str, options: str = "", *, processes: int = 1, stop: Stop | None = None) -> list[int]:
    script, own = CASES[case]
    if processes == 2:
        own = own.replace("--batch_size 2", "--batch_size 1")
    argv = [*COMMON.split(), *own.split(), "--name_prefix", f"{name}_", *options.split()]
    return interrupted.train(lambda: script.work(script.parse(argv)), processes=processes, stop=stop)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Run folders of trainings that never stop: a function of case and number of processes."""
    place, done = tmp_path_factory.mktemp("whole"), {}

    def of(case: str, processes: int = 1) -> Path:
        if (case, processes) not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                assert train(case, f"{case}{processes}", processes=processes) == [0] * processes
                done[case, processes] = noise.run_folder(f"{case}{processes}").resolve()
        return done[case, processes]
    return of


@pytest.mark.parametrize(("case", "stop"), [("nce", Stop("usr1", 4)), ("nce", Stop("term", 11)),
                                            ("coclr", Stop("term", 7)), ("frozen", Stop("term", 7)),
                                            ("fp16", Stop("term", 6))], ids=str)
def test_a_run_asked_to_stop_saves_what_is_done_and_resumes(case, stop, whole):
    assert train(case, "asked", stop=stop) == [EXIT_CODE], said()
    assert f"stopping on SIG{stop.how.upper()}" in said()
    newest = newest_complete(noise.run_folder("asked") / "model")
    saved = checkpoint.load(newest)
    assert saved["iteration"] == stop.number and ("scaler" in saved) == (case == "fp16")
    assert train(case, "asked") == [0], said()
    assert differences(whole(case), noise.run_folder("asked"), 2) == []


def test_a_run_stopped_after_every_other_step_ends_the_same(whole):
    for _ in range(STEPS // 2):
        assert train("coclr", "slow", stop=Stop("usr1", 2)) == [EXIT_CODE], said()
    assert train("coclr", "slow") == [0]
    assert differences(whole("coclr"), noise.run_folder("slow"), 2) == []


@cases
@pytest.mark.parametrize("stop", [Stop("kill", 2), Stop("kill", 8), Stop("write", 5)], ids=str)
def test_a_run_killed_anywhere_resumes_from_its_last_checkpoint(case, stop, whole):
    """The first kill comes before the first checkpoint: the run starts anew."""
    assert train(case, "killed", "--save_steps 3", stop=stop) == [-9], said()
    model = noise.run_folder("killed") / "model"
    partial = list(model.glob(".*.tmp"))
    assert len(partial) == (stop.how == "write")
    for path in partial:
        with pytest.raises(CheckpointError, match="cut short"):
            checkpoint.load(path)
    assert train(case, "killed", "--save_steps 3") == [0], said()
    assert differences(whole(case), noise.run_folder("killed"), 2) == []
    assert list(model.glob(".*")) == []


@pytest.mark.parametrize(("case", "stop"), [("nce", Stop("kill", 7)), ("coclr", Stop("term", 5, rank=1)),
                                            ("frozen", Stop("kill", 7))], ids=str)
def test_two_processes_stop_and_resume_together(case, stop, whole):
    codes = train(case, "two", "--save_steps 3", processes=2, stop=stop)
    assert codes == [-9 if stop.how == "kill" else EXIT_CODE] * 2, said() + said(1)
    if stop.how == "term":
        own = [line for line in said(1).splitlines() if not line.startswith("[Gloo]")]  # PyTorch 2.9's banner
        assert "stopping on a signal to another process" in said(0) and own == []
    assert train(case, "two", "--save_steps 3", processes=2) == [0, 0], said() + said(1)
    assert differences(whole(case, 2), noise.run_folder("two"), 2) == []
    assert differences(whole(case, 1), noise.run_folder("two"), 2) != []  # BatchNorm over one clip differs
