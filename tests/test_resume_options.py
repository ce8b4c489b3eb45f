"""--resume: what it takes, what it refuses, what it leaves in the run folder."""

import fcntl
import json
import os
import time
from pathlib import Path

import noise
import pytest
import torch

import launch
import main_coclr
import main_nce
import pretrain_script
from utils import checkpoint, provenance, run_folder
from utils.console import printable

SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2", "--moco-k", "8", "--moco-dim", "8", "-j", "0",
         "--print_freq", "2"]


@pytest.fixture(autouse=True)
def on_noise(monkeypatch, tmp_path):
    """A small network, datasets of noise, and an empty working directory."""
    noise.install(monkeypatch.setattr)
    monkeypatch.setattr(launch, "_started", False)
    monkeypatch.chdir(tmp_path)


def run(options: str, script=main_nce) -> int:
    dataset = "noise-2stream-2clip" if script is main_coclr else "noise-2clip"
    return launch.exit_code(lambda: script.work(script.parse([*SMALL, "--dataset", dataset, *options.split()])))


def only_folder() -> Path:
    [path] = Path("ckpt/log-pretrain").iterdir()
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "model").iterdir()}


def test_auto_starts_a_run_that_is_not_there_and_then_goes_on(capsys):
    assert run("--epochs 1 --resume auto") == 0
    assert "epochs 0 to 0" in capsys.readouterr().out
    assert run("--epochs 2 --resume auto") == 0
    assert "epochs 1 to 1" in capsys.readouterr().out
    assert run("--epochs 2 --resume auto") == 0
    assert "nothing is left to train" in capsys.readouterr().out
    starts = json.loads((only_folder() / "run.json").read_text())["starts"]
    assert [start["epoch"] for start in starts] == [0, 1, 2]


def test_checkpoints_inside_of_epochs_are_written_every_save_steps(monkeypatch):
    saved = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda path, content: saved.append(Path(path).name) or save(path, content))
    assert run("--epochs 2 --save_steps 3 --lr 1e-30") == 0
    assert [name for name in saved if "best" not in name] == [
        "epoch0-step3.pth.tar", "epoch0.pth.tar", "epoch1-step2.pth.tar", "epoch1.pth.tar"]
    assert {name for name in names(only_folder()) if "best" not in name} == {
        "previous-epoch1-step2.pth.tar", "epoch1.pth.tar"}
    inside = checkpoint.load(only_folder() / "model/previous-epoch1-step2.pth.tar")
    assert inside["epoch"] == 0 and inside["iteration"] == 6
    assert (inside["progress"]["epoch"], inside["progress"]["samples"]) == (1, 4)


@pytest.mark.parametrize(("options", "named"), [
    ("--moco-m 0.9", "--moco-m 0.999 (now 0.9)"), ("--wd 0.1", "--wd 1e-05 (now 0.1)"),
    ("--seed 3", "--seed 0 (now 3)"), ("--schedule 1", "--schedule 120 160 (now 1)"),
    ("--cos", "--cos False (now True)"),
    ("--moco-t 0.1 --wd 0.2", "--wd 1e-05 (now 0.2), --moco-t 0.07 (now 0.1)")])
def test_changed_options_that_matter_are_named(options, named, capsys):
    assert run("--epochs 2") == 0
    path = only_folder() / "model/epoch1.pth.tar"
    before = path.read_bytes()
    assert run(f"--epochs 3 --resume {path} {options}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path} was made with {named}: ") and error.count("\n") == 1
    assert path.read_bytes() == before
    assert run(f"--epochs 3 --resume {path} {options} --accept_changes") == 0


@pytest.mark.parametrize("options", ["-j 1", "--print_freq 1", "--save_steps 1", "--schedule 7", "--epochs 9"])
def test_options_that_do_not_matter_may_change(options):
    """A schedule that differs in the future alone is no change either."""
    assert run("--epochs 2") == 0
    path = only_folder() / "model/epoch1.pth.tar"
    assert run(f"--epochs 3 --resume {path} {options}") == 0


def test_another_training_set_is_a_change_that_matters(capsys):
    assert run("--epochs 1") == 0
    path = only_folder() / "model/epoch0.pth.tar"
    content = checkpoint.load(path)
    content["made_with"]["training set"] = "9537 videos 0123456789abcdef"
    checkpoint.save(path, content)
    assert run(f"--epochs 2 --resume {path}") == 2
    assert "training set 9537 videos 0123456789abcdef (now " in capsys.readouterr().err


def test_a_published_checkpoint_says_nothing_of_its_options_and_is_taken():
    assert run("--epochs 1") == 0
    path = only_folder() / "model/epoch0.pth.tar"
    published = ("epoch", "state_dict", "best_acc", "optimizer", "iteration")
    torch.save({key: value for key, value in checkpoint.load(path).items() if key in published}, "given.pth.tar")
    assert run("--epochs 2 --resume given.pth.tar --wd 0.5 --name_prefix other") == 0


def test_going_back_sets_later_checkpoints_aside_and_takes_their_metrics_out():
    assert run("--epochs 3 --save_freq 1") == 0
    folder = only_folder()
    earlier = folder / "model/previous-epoch1.pth.tar"
    last = (folder / "model/epoch2.pth.tar").read_bytes()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert run(f"--epochs 2 --resume {earlier}") == 0
    assert (folder / "model/set-aside-epoch2.pth.tar").read_bytes() == last
    kept = (folder / "metrics.jsonl").read_text().splitlines()
    assert kept == [line for line in lines if json.loads(line)["epoch"] < 2] and len(kept) < len(lines)


def test_going_back_twice_keeps_what_was_set_aside_first():
    assert run("--epochs 3 --save_freq 1") == 0
    folder = only_folder()
    earlier = folder / "model/previous-epoch1.pth.tar"
    earlier.rename(folder / "model/model_best_epoch1.pth.tar")  # which no later epoch removes
    last = (folder / "model/epoch2.pth.tar").read_bytes()
    for wd in (0.1, 0.2):
        resume = folder / "model/model_best_epoch1.pth.tar"
        assert run(f"--epochs 3 --resume {resume} --accept_changes --wd {wd}") == 0
    aside = sorted(path.name for path in (folder / "model").glob("set-aside*epoch2*"))
    assert aside == ["set-aside-2-epoch2.pth.tar", "set-aside-epoch2.pth.tar"]
    assert (folder / f"model/{aside[1]}").read_bytes() == last != (folder / f"model/{aside[0]}").read_bytes()


@pytest.mark.parametrize("before", ["", "--epochs 1"])
def test_a_run_that_trained_while_another_one_was_starting_is_left_alone(before, monkeypatch, capsys):
    """A whole training by another process between the choice of the checkpoint and the first step."""
    if before:
        assert run(before) == 0
    build, later = pretrain_script.build_loader, []

    def meanwhile(*given):
        if not later:
            later.append(os.fork())
            if later[0] == 0:
                os._exit(run("--epochs 2 --resume auto"))
            assert os.waitpid(later[0], 0)[1] == 0
        return build(*given)
    monkeypatch.setattr(pretrain_script, "build_loader", meanwhile)
    assert run("--epochs 3 --resume auto") == 2
    error = capsys.readouterr().err
    assert "has trained in" in error and "start again" in error and error.count("\n") == 1
    names = {path.name for path in (only_folder() / "model").iterdir()}
    assert "epoch1.pth.tar" in names and not any("set-aside" in name or "epoch2" in name for name in names)
    assert run("--epochs 3 --resume auto") == 0


def test_a_folder_is_not_looked_into_while_another_process_writes_there(capsys, monkeypatch):
    assert run("--epochs 1") == 0
    monkeypatch.setattr(run_folder, "resolve", lambda *given: pytest.fail("looked"))
    child = os.fork()
    if child == 0:
        with run_folder.hold(only_folder()):
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


def test_two_runs_cannot_train_in_one_folder(capsys):
    assert run("--epochs 1") == 0
    child = os.fork()
    if child == 0:  # locks are of processes: another one has to hold it
        with run_folder.hold(only_folder()):
            Path("held").touch()
            while not Path("enough").exists():
                pass
        os._exit(0)
    while not Path("held").exists():
        pass
    assert run("--epochs 2 --resume auto") == 2
    assert "another process is training in" in capsys.readouterr().err
    Path("enough").touch()
    os.waitpid(child, 0)
    assert run("--epochs 2 --resume auto") == 0


def test_the_lock_goes_with_its_process(tmp_path):
    with open(tmp_path / ".lock", "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
    with run_folder.hold(tmp_path):
        pass


def test_a_run_folder_says_what_it_was_made_with():
    assert run("--epochs 1 --topk 2", main_coclr) == 0
    [start] = json.loads((only_folder() / "run.json").read_text())["starts"]
    assert start["options"]["topk"] == 2 and start["options"]["epochs"] == 1
    assert start["environment"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert start["code"] == provenance.code_version() and start["code"].keys() <= {"commit", "changed", "package"}
    assert "training set" in start and start["command"]
    lines = [json.loads(line) for line in (only_folder() / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["done"]) for line in lines] == [
        ("health", 0), ("steps", 1), ("steps", 3), ("steps", 4), ("epoch", 4), ("health", 4)]
    assert all(value is None or value == value for line in lines for value in line["values"].values())


def test_what_steers_a_terminal_is_shown_as_text():
    assert printable("a\x1b[2Jb\u202ec\td\n") == "a\\x1b[2Jb\\u202ec\td\n"
