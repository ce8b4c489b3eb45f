"""The experiment: its settings, its commands, what it collects, and continuing after a stop."""

import contextlib
import json
import os
import re
import runpy
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import noise
import pytest

from experiments import report, run
from experiments.plan import GRIDS, METHODS, SeedPlan, changed
from process_data.src.splits import source_splits
from utils import launch
from utils.errors import OptionError
from utils.runner import Runner, Step, groups
from utils.stop import StopRequested

ROOT = Path(__file__).parents[1]


def test_changes_have_the_type_of_the_setting():
    grid = changed(GRIDS["tiny"], ["lr=1e-3", "moco_k=32", "methods=infonce,coclr", "net=s3d"])
    assert (grid.lr, grid.moco_k, grid.methods, grid.net) == (1e-3, 32, ("infonce", "coclr"), "s3d")
    assert changed(GRIDS["headline"], ["moco_k=32"]).on("fights").moco_k == 32  # on every set
    for wrong in ("lr", "lr=", "depth=3", "moco_k=many", "methods=simclr", "fights=3", "seeds=3"):
        with pytest.raises(OptionError):
            changed(GRIDS["tiny"], [wrong])
    with pytest.raises(OptionError, match="--validation"):  # not where test groups are tested
        run.main(["--change", "lr=1"])


def test_validation_lists_hold_no_test_group(tmp_path):
    names = [f"{label}/v_{label}_g{group:02d}_c{clip:02d}" for label in "AB" for group in range(1, 13)
             for clip in (1, 2)]
    train, test = source_splits(names)[0]
    (tmp_path / "own").mkdir()
    for file, rows in (("ClassInd.txt", "AB"), ("video_source.json", []), ("train_split01.csv", train),
                       ("test_split01.csv", test)):
        (tmp_path / "own" / file).write_text("".join(f"{row},24\n" for row in rows))
    run.hold_out(tmp_path / "own", tmp_path / "held")
    fit, held = ([line.split(",")[0] for line in (tmp_path / "held" / f"{part}_split01.csv").read_text().splitlines()]
                 for part in ("train", "test"))
    assert sorted(fit + held) == sorted(train)
    groups = [{re.search(r"_g(\d+)", name)[1] for name in part} for part in (fit, held, test)]
    assert [len(each) for each in groups] == [6, 3, 3]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """All methods, on validation lists."""
    return SeedPlan(GRIDS["extended"], "synthetic", 7, tmp_path_factory.mktemp("plan"), "splits-validation")


def following(option: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """The two words after an option."""
    start = command.index(option) + 1
    return command[start:start + 2]


def test_every_command_starts_from_what_an_earlier_one_leaves(plan):
    made = set()
    for group in groups(plan.steps):  # side by side: none needs what another one makes
        for step in group:
            assert {word for word in step.command if word.endswith(".pth.tar")} <= made, step.name
        made.update(str(step.product) for step in group)
    assert len({step.name for step in plan.steps}) == len(plan.steps)
    assert {file for method in plan.methods.values() for file, _ in method.measures.values()} <= made


def test_the_plan_has_all_methods_with_their_options_and_reads_the_validation_lists_alone(plan):
    assert set(plan.methods) == set(METHODS)
    commands = {step.name: step.command for step in plan.steps}
    for name, stage in (("cpr", "3"), ("cpr_s7_frozen", "7")):
        assert following("--stage", commands[f"{name} RGB"])[0] == stage
        assert ("frozen" in commands[f"{name} RGB"]) == name.endswith("frozen")
    assert following("--mining", commands["fused_frozen RGB"])[0] == "fused"
    epochs = {"cpr": "8", "cpr_half": "4", "cpr_half_cpr_s7": "4", "coclr_x4": "32", "progressive": "3"}  # of a phase
    assert {name: following("--epochs", commands[f"{name} RGB"])[0] for name in epochs} == epochs
    made = {step.name: str(step.product) for step in plan.steps}
    assert following("--pretrain", commands["cpr_half_cpr_s7 RGB"]) == (made["cpr_half RGB"], made["infonce flow"])
    assert following("--pretrain", commands["residual RGB"]) == (made["infonce RGB"], made["infonce residual"])
    for words in commands.values():
        assert [words[i + 1] for i, word in enumerate(words) if word == "--split_root"] == ["../splits-validation"]
    # No epoch is chosen by test videos: probes are evaluated after their last epoch alone.
    probes = [step for step in plan.steps if step.command[1].endswith("feature_linear_probe.py")]
    assert len(probes) > 10 and all(following("--eval_freq", step.command)[0] == "0" for step in probes)


def test_every_grid_fits_the_real_set_and_further_seeds_train_the_compared_methods_on_the_synthetic_one():
    grid = GRIDS["headline"]
    assert grid.with_seed(2) == grid and (grid.seeds, grid.more) == ((0, 1, 2), (3, 4)) and not grid.on("fights").more
    assert {*grid.with_seed(3).methods} == {"coclr", "cpr", "fused_frozen", "infonce_longer"}
    assert all(SeedPlan(each.on("fights"), "fights", 0, Path("out"), "splits").steps for each in GRIDS.values())


def test_paired_differences_have_the_interval_of_student():
    runs = {name: {str(seed): {"measures": {"RGB R@1": value}} for seed, value in enumerate(values)}
            for name, values in (("cpr", [20.0, 23, 21, 24, 30]), ("coclr", [19.0, 20, 22, 20, 25]))}
    found, differences = report.paired(runs, "cpr", "coclr", "RGB R@1"), [1, 3, -1, 4, 5]
    half = 2.7764 * statistics.stdev(differences) / 5 ** 0.5  # t of 4 degrees of freedom, 97.5 %
    assert found == pytest.approx({"mean": 2.4, "low": 2.4 - half, "high": 2.4 + half, "n": 5}, rel=1e-3)
    assert report.paired(runs, "cpr", "fused_frozen", "RGB R@1") is None


class InProcess:
    """In place of Runner._execute: runs scripts in this process, with a small network, and can be stopped.

    Attributes:
        ran: names of the steps that were run.
        stop_at: how many of them before one is stopped, before its start.
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.stop_at = sys.maxsize

    def __call__(self, runner: Runner, steps: Sequence[Step], lines: object) -> list[int]:
        return [self._run(runner, step, runner.log(step)) for step in steps]

    def _run(self, runner: Runner, step: Step, log: Path) -> int:
        if len(self.ran) == self.stop_at:
            raise StopRequested
        self.ran.append(step.name)
        with contextlib.chdir(runner.out), pytest.MonkeyPatch.context() as patch, open(log, "a") as file:
            patch.setattr(sys, "argv", [step.command[1], *step.command[2:]])
            patch.setattr(launch, "_started", False)
            patch.setattr(launch, "protect_streams", lambda: None)  # would take over the log
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                try:
                    runpy.run_path(step.command[1], run_name="__main__")
                except SystemExit as ended:
                    return ended.code or 0
        return 0


@pytest.fixture
def in_process(monkeypatch):
    executor = InProcess()
    monkeypatch.setattr(Runner, "_execute", lambda *given: executor(*given))
    noise.install_network(monkeypatch.setattr)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return executor


def run_tiny(folder: Path, *words: str) -> dict:
    assert run.main(["--grid", "tiny", "--out", str(folder / "work"), "--results", str(folder / "results.json"),
                     "--sets", "synthetic", "--seeds", "0", *words]) == 0
    return json.loads((folder / "results.json").read_text())


def test_a_grid_continues_after_a_stop_and_collects_what_its_commands_wrote(in_process, tmp_path, capsys, monkeypatch):
    in_process.stop_at = 6
    with pytest.raises(StopRequested):
        run_tiny(tmp_path)
    assert not (tmp_path / "results.json").exists()
    in_process.stop_at = sys.maxsize
    found = run_tiny(tmp_path)["sets"]["synthetic"]
    assert len(in_process.ran) == len(set(in_process.ran))
    steps = list(in_process.ran)
    run_tiny(tmp_path)
    assert in_process.ran == steps  # nothing was left to do

    assert set(found["runs"]) == {"infonce", "coclr"}
    assert str(tmp_path) not in json.dumps(found["runs"]) and str(ROOT) not in json.dumps(found["runs"])
    check_numbers(found, tmp_path / "work" / "synthetic" / "seed0")

    for name, value, said in (
            ("swapped", 0.5, "'render' was run with --swapped 0.1, but the options now give --swapped 0.5"),
            ("moco_m", 0.9, "RGB' was run with --moco-m 0.99, but the options now give --moco-m 0.9")):
        monkeypatch.setattr(run, "GRIDS", {"tiny": replace(GRIDS["tiny"], **{name: value})})
        argv = ["--grid", "tiny", "--out", str(tmp_path / "work"), "--sets", "synthetic", "--seeds", "0"]
        assert launch.exit_code(lambda argv=argv: run.main(argv)) == 2
        assert said in capsys.readouterr().err and in_process.ran == steps


def check_numbers(found: dict, folder: Path) -> None:
    """Compare what was collected with the files of the run, found by their names."""
    assert found["chance"] == 6.25
    method = found["runs"]["coclr"]["0"]
    recall, = folder.glob("ckpt/log-pretrain/coclr_*/model/feature/synthetic_recall.json")
    assert method["measures"]["RGB R@1"] == json.loads(recall.read_text())["1"]
    log, = folder.glob("ckpt/log-pretrain/coclr_*/metrics.jsonl")
    last = [line for line in map(json.loads, log.read_text().splitlines()) if line["kind"] == "epoch"][-1]
    assert last["epoch"] == 1 and method["measures"]["PMR"] == pytest.approx(100 * last["values"]["recall"])
    assert {"both R@20", "flow probe"} <= set(method["measures"])
    assert found["summary"]["coclr"]["PMR"]["mean"] == statistics.fmean([method["measures"]["PMR"]])
    assert any(command.startswith("python '$ROOT/main_coclr.py'") or command.startswith("python $ROOT/main_coclr.py")
               for command in method["commands"])
