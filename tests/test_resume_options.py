"""--resume: what it accepts, what it refuses, and what it leaves in the run folder."""

import json
import os
import time
from pathlib import Path

import noise
import pytest
import torch

import main_coclr
import main_nce
from engine import checkpoint
from engine.compatibility import refuse_changes, with_schedule
from utils import files, provenance
from utils.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("on_noise")


def run(options: str, script=main_nce) -> int:
    return noise.run(script, f"--print_freq 2 {options}")


def model() -> Path:
    return noise.run_folder() / "model"


def starts() -> list[dict]:
    return json.loads((noise.run_folder() / "run.json").read_text())["starts"]


def test_auto_starts_a_run_and_then_continues_it(capsys):
    for epochs, words in ((1, "epochs 0 to 0"), (2, "epochs 1 to 1"), (2, "nothing is left to train")):
        assert run(f"--epochs {epochs} --resume auto") == 0
        assert words in capsys.readouterr().out
    assert [start["epoch"] for start in starts()] == [0, 1, 2]


def test_checkpoints_inside_epochs_are_written_every_save_steps(monkeypatch):
    saved, save = [], checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, content: saved.append(Path(path).name) or save(path, content))
    assert run("--epochs 2 --save_steps 3") == 0
    assert [name for name in saved if "best" not in name] == [
        "epoch0-step3.pth.tar", "epoch0.pth.tar", "epoch1-step2.pth.tar", "epoch1.pth.tar"]
    assert {path.name for path in model().iterdir() if "best" not in path.name} == {
        "previous-epoch1-step2.pth.tar", "epoch1.pth.tar"}
    inside = checkpoint.load(model() / "previous-epoch1-step2.pth.tar")
    assert inside["epoch"] == 0 and inside["iteration"] == 6
    assert (inside["progress"]["epoch"], inside["progress"]["samples"]) == (1, 4)


def test_changed_options_that_affect_the_result_are_named(capsys):
    assert run("--epochs 2") == 0
    path = model() / "epoch1.pth.tar"
    before = path.read_bytes()
    for options, named in (
            ("--moco-m 0.9", "--moco-m 0.999 (now 0.9)"), ("--wd 0.1", "--wd 1e-05 (now 0.1)"),
            ("--seed 3", "--seed 0 (now 3)"), ("--schedule 0", "--schedule 1 (now 0)"),
            ("--cos", "--cos False (now True)"),
            ("--moco-t 0.1 --wd 0.2", "--wd 1e-05 (now 0.2), --moco-t 0.07 (now 0.1)")):
        assert run(f"--epochs 3 --resume {path} {options}") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path} was made with {named}: ") and error.count("\n") == 1
    assert path.read_bytes() == before
    assert run(f"--epochs 3 --resume {path} {options} --accept_changes") == 0
    path = model() / "epoch2.pth.tar"  # a schedule that differs in the future alone is no change
    assert run(f"--epochs 4 --resume {path} {options} -j 1 --print_freq 1 --save_steps 1 --schedule 1 7") == 0


def test_a_schedule_that_is_not_given_fits_the_epochs_or_stays():
    assert [with_schedule({"schedule": None, "epochs": n}, None)["schedule"] for n in (1, 2, 50, 100)] == [
        [1], [1], [40], [80]]
    for given, then, expected in ((None, [3], [3]), ([], [3], []), ([2], [3], [2]), (None, None, [40])):
        saved = {"options": {"schedule": then, "epochs": 5}}
        assert with_schedule({"schedule": given, "epochs": 50}, saved)["schedule"] == expected


def test_another_training_set_is_a_change_that_matters():
    saved = {"epoch": 0, "options": {}, "made_with": {"training set": "9537 videos 0123", "precision": "fp32"}}
    refuse_changes(saved, {}, saved["made_with"] | {"other": 1}, "x")
    with pytest.raises(CheckpointError, match=r"training set 9537 videos 0123 \(now 2 videos\): the result would"):
        refuse_changes(saved, {}, {"training set": "2 videos", "precision": "fp32"}, "x")


def test_a_published_checkpoint_without_options_is_accepted():
    assert run("--epochs 1") == 0
    published = ("epoch", "state_dict", "best_acc", "optimizer", "iteration")
    content = checkpoint.load(model() / "epoch0.pth.tar")
    torch.save({key: content[key] for key in published}, "given.pth.tar")
    assert run("--epochs 2 --resume given.pth.tar --wd 0.5 --name_prefix other") == 0


def test_going_back_sets_later_checkpoints_aside_and_removes_their_metrics():
    assert run("--epochs 3") == 0
    metrics = noise.run_folder() / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    best = model() / "model_best_epoch1.pth.tar"  # which no later epoch removes
    (model() / "previous-epoch1.pth.tar").rename(best)
    last = (model() / "epoch2.pth.tar").read_bytes()
    assert run(f"--epochs 2 --resume {best}") == 0
    kept = metrics.read_text().splitlines()
    assert kept == [line for line in lines if json.loads(line)["epoch"] < 2] and len(kept) < len(lines)
    for wd in (0.1, 0.2):
        assert run(f"--epochs 3 --resume {best} --accept_changes --wd {wd}") == 0
    first, second = sorted(model().glob("set-aside-*-epoch2.pth.tar"))
    assert first.read_bytes() == last != second.read_bytes()


def test_two_runs_cannot_train_in_one_folder(capsys):
    assert run("--epochs 1") == 0
    child = os.fork()
    if child == 0:  # locks belong to processes: another one has to hold it
        with files.lock(noise.run_folder()):
            Path("held").touch()
            while not Path("enough").exists():
                time.sleep(0.01)
        os._exit(0)
    while not Path("held").exists():
        time.sleep(0.01)
    code = run("--epochs 2 --resume auto")
    Path("enough").touch()
    os.waitpid(child, 0)
    assert code == 2 and "another process is training in" in capsys.readouterr().err
    assert run("--epochs 2 --resume auto") == 0


def test_a_run_folder_records_how_it_was_made():
    assert run("--epochs 1 --topk 2 --moco-k 4", main_coclr) == 0
    [start] = starts()
    assert start["options"]["topk"] == 2 and start["options"]["epochs"] == 1
    assert start["environment"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert start["code"] == provenance.code_version() and start["code"].keys() <= {"commit", "changed"}
    assert "training set" in start and start["command"]
    lines = [json.loads(line) for line in (noise.run_folder() / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["done"]) for line in lines] == [
        ("health", 0), ("steps", 1), ("steps", 3), ("steps", 4), ("epoch", 4), ("mining", 4), ("health", 4)]
    assert all(value is None or value == value for line in lines for value in line["values"].values())
    (noise.run_folder() / "run.json").write_text("{ cut sho")  # does not keep a run from starting
    assert run("--epochs 2 --topk 2 --moco-k 4 --resume auto", main_coclr) == 0 and len(starts()) == 1
