"""The experiment: its sets, its commands, what it collects, and that a stopped one goes on."""

import contextlib
import dataclasses
import json
import os
import re
import runpy
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import noise
import numpy as np
import pytest
import torch

import launch
from experiments import cascades, oracles, records, results, run, video_sets
from experiments.oracles import queue_recall
from experiments.plan import SeedPlan
from experiments.settings import GRIDS, METHODS, Grid, changed
from model import classifier, momentum
from model.momentum import embed
from process_data.src.splits import source_splits
from utils import pipeline
from utils.errors import OptionError, TrainingError
from utils.provenance import code_version
from utils.stop import EXIT_CODE, StopRequested

ROOT = Path(__file__).parents[1]


def test_a_cascade_that_the_queue_does_not_allow_is_left_out_and_why():
    grid = Grid(tuple(METHODS), moco_k=128, topk=5)
    for name, method in METHODS.items():
        if method.cascade is None:
            assert name not in grid.skipped
            continue
        stage, ratio = method.cascade
        kept = [int(128 * ratio**i) for i in range(1, stage)]
        assert (name in grid.skipped) == any(count < 5 for count in kept), name
    assert "128" in grid.skipped["cpr_s7_r0.5"]


def test_changes_have_the_type_of_the_setting():
    grid = changed(GRIDS["tiny"], ["lr=1e-3", "moco_k=32", "methods=infonce,coclr", "size=64x48"])
    assert (grid.lr, grid.moco_k, grid.methods, grid.size) == (1e-3, 32, ("infonce", "coclr"), "64x48")
    assert changed(grid, ["seeds=3,4"]).seeds == (3, 4)
    for wrong in ("lr", "lr=", "depth=3", "moco_k=many", "methods=simclr"):
        with pytest.raises(OptionError):
            changed(GRIDS["tiny"], [wrong])


def test_the_real_clips_have_settings_of_their_own():
    grid = Grid(("infonce", "cpr_s5_r0.5"), moco_k=128, lr=3e-4, fights={"moco_k": 64, "infonce_epochs": 45})
    fights, rendered = grid.on("fights"), grid.on("rendered")
    assert (fights.moco_k, fights.infonce_epochs, fights.lr) == (64, 45, 3e-4)
    assert rendered == grid.on("rendered").on("fights") and rendered.moco_k == 128
    assert "64" in fights.skipped["cpr_s5_r0.5"] and not rendered.skipped  # 32, 16, 8, 4: fewer than topk


def test_what_is_changed_is_changed_on_the_real_clips_too():
    before = GRIDS["reduced"].on("fights")
    fights = changed(GRIDS["reduced"], ["methods=infonce,coclr", "moco_k=32"]).on("fights")
    assert (fights.methods, fights.moco_k) == (("infonce", "coclr"), 32) != (before.methods, before.moco_k)
    assert fights.infonce_epochs == before.infonce_epochs != GRIDS["reduced"].infonce_epochs  # what is not asked for


@pytest.mark.parametrize("grid", ["full", "reduced"])
def test_the_queue_is_well_under_an_epoch_of_each_set(grid):
    clips = {"rendered": GRIDS[grid].classes * GRIDS[grid].groups * GRIDS[grid].clips * 3 // 4, "fights": 113}
    for name, count in clips.items():
        assert 1.5 * GRIDS[grid].on(name).moco_k < count


@pytest.mark.parametrize("grid", ["full", "reduced"])
def test_the_rendered_set_is_as_large_as_was_asked(grid):
    grid = GRIDS[grid]
    assert grid.classes >= 10 and grid.groups >= 12 and grid.classes * grid.groups * grid.clips >= 400
    assert len(grid.seeds) >= 3


def test_validation_lists_hold_no_test_group(tmp_path):
    names = [f"{label}/v_{label}_g{group:02d}_c{clip:02d}" for label in "AB" for group in range(1, 13)
             for clip in (1, 2)]
    train, test = source_splits(names)[0]
    (tmp_path / "own").mkdir()
    for file, rows in (("ClassInd.txt", "AB"), ("video_source.json", []), ("train_split01.csv", train),
                       ("test_split01.csv", test)):
        (tmp_path / "own" / file).write_text("".join(f"{row},24\n" for row in rows))
    video_sets.hold_out(tmp_path / "own", tmp_path / "held")
    fit, held = ([line.split(",")[0] for line in (tmp_path / "held" / f"{part}_split01.csv").read_text().splitlines()]
                 for part in ("train", "test"))
    assert sorted(fit + held) == sorted(train)
    groups = [{re.search(r"_g(\d+)", name)[1] for name in part} for part in (fit, held, test)]
    assert [len(each) for each in groups] == [6, 3, 3]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_a_set_of_one_training_group_has_nothing_to_hold_out():
    with pytest.raises(OptionError, match="class A"):
        video_sets._held(["A/v_A_g03_c01,9", "A/v_A_g03_c02,9"], 3)


def test_a_relative_folder_of_real_clips_is_found_from_the_work_folder(tmp_path, monkeypatch):
    """Where their steps run."""
    monkeypatch.chdir(tmp_path)
    assert run.parse(["--fights", "clips"]).fights == tmp_path / "clips"


def test_settings_are_not_changed_where_test_groups_are_tested():
    with pytest.raises(OptionError, match="--validation"):
        run.parse(["--change", "lr=1"])


@pytest.fixture(scope="module")
def full_plan(tmp_path_factory):
    return SeedPlan(GRIDS["full"], "rendered", 7, tmp_path_factory.mktemp("plan"), "splits-validation")


def test_every_command_starts_from_what_an_earlier_one_leaves(full_plan):
    made = set()
    for step in full_plan.steps:
        used = {word for word in step.command if word.endswith(".pth.tar")}
        assert used <= made, step.name
        made.add(str(step.makes.args[0].relative_to(full_plan.planner.out)))
    assert len({step.name for step in full_plan.steps}) == len(full_plan.steps)
    files = {file for plan in full_plan.methods.values() for file, _ in plan.measures.values()}
    assert files <= made


def test_side_by_side_every_command_waits_for_those_whose_files_it_takes(full_plan):
    makers, waits = {}, {}
    for step in full_plan.steps:
        waits[step.name] = {*step.after, *(name for before in step.after for name in waits[before])}
        sources = [path for path in step.makes.args[1:] if isinstance(path, Path)]
        used = {full_plan.planner.out / word for word in step.command if word.endswith(".pth.tar")} | {*sources}
        assert {makers[path] for path in used} <= waits[step.name], step.name
        makers[step.makes.args[0]] = step.name
    assert waits["coclr RGB"] == {"infonce RGB", "infonce flow"}
    assert {"coclr RGB retrieval", "infonce flow retrieval"} <= waits["coclr both"]


def test_validation_reads_the_validation_lists_alone(full_plan):
    for step in full_plan.steps:
        roots = [step.command[i + 1] for i, word in enumerate(step.command) if word == "--split_root"]
        assert roots == ["../splits-validation"], step.name


def test_all_methods_of_the_issue_are_in_the_full_grid(full_plan):
    asked = {"supervised", "infonce", "coclr", "progressive", "residual_coclr", "residual_cpr", "ubernce",
             *(f"cpr_s{stage}_r{ratio}" for stage in (3, 5, 7) for ratio in (0.5, 0.8))}
    for name in ("rendered", "fights"):
        grid = GRIDS["full"].on(name)
        assert asked <= set(grid.methods), name
        assert set(grid.skipped) == {"rendered": {"cpr_s7_r0.5"}, "fights": {"cpr_s5_r0.5", "cpr_s7_r0.5"}}[name]
    assert set(full_plan.methods) == set(GRIDS["full"].methods) - {"cpr_s7_r0.5"}
    for stage, ratio in ((3, 0.5), (5, 0.8)):
        words = next(step.command for step in full_plan.steps if step.name == f"cpr_s{stage}_r{ratio} RGB")
        assert _following("--stage", words)[0] == str(stage) and _following("--ratio", words)[0] == str(ratio)


def test_no_epoch_is_chosen_by_test_videos(full_plan):
    """Probes are evaluated after their last epoch alone, and what is tested of a classifier is its last epoch."""
    probes = [step for step in full_plan.steps if step.command[1].endswith("feature_linear_probe.py")]
    assert len(probes) > 10 and all(_following("--eval_freq", step.command)[0] == "0" for step in probes)
    tested = [_following("--test", step.command)[0] for step in full_plan.steps if step.name.endswith(" test")]
    assert tested and all(Path(path).name == f"epoch{full_plan.grid.label_epochs - 1}.pth.tar" for path in tested)


def test_a_method_brings_what_it_starts_from(tmp_path):
    grid = changed(GRIDS["tiny"], ["methods=residual_coclr"])
    plan = SeedPlan(grid, "rendered", 0, tmp_path, "splits")
    assert list(plan.methods) == ["infonce", "residual_infonce", "residual_coclr"]


def _following(option: str, command: tuple[str, ...]) -> tuple[str, ...]:
    """The two words after an option."""
    start = command.index(option) + 1
    return command[start:start + 2]


def test_what_goes_on_with_an_encoder_differs_in_its_mining_alone(tmp_path):
    """Both start from CoCLR's RGB encoder, with the flow encoder that had mined for it."""
    grid = changed(GRIDS["tiny"], ["methods=cpr_later,coclr_longer"])
    plan = SeedPlan(grid, "rendered", 0, tmp_path, "splits")
    assert list(plan.methods) == ["infonce", "coclr", "cpr_later", "coclr_longer"]
    commands = {step.name: step.command for step in plan.steps if "main_coclr.py" in step.command[1]}
    assert list(commands) == ["coclr RGB", "cpr_later RGB", "coclr_longer RGB"]
    flow = _following("--pretrain", commands["coclr RGB"])[1]
    assert "infonce_infonce" in flow and "rendered-f-2clip" in flow
    for name in ("cpr_later RGB", "coclr_longer RGB"):
        own, other = _following("--pretrain", commands[name])
        assert "coclr_coclr" in own and Path(own).name == "epoch1.pth.tar" and other == flow
    differing = set(commands["cpr_later RGB"]) ^ set(commands["coclr_longer RGB"])
    assert differing == {"--cascade", "--stage", "3", "--ratio", "0.5", "cpr_later_", "coclr_longer_"}
    assert plan.pairs == [("infonce", "infonce"), ("coclr", "infonce")]


def test_the_recall_of_a_queue_is_that_of_mining_in_it():
    """With all videos in the queue, against sorted rows in NumPy; and where all or none are of one class."""
    rng = np.random.default_rng(0)
    clips = tuple(torch.nn.functional.normalize(torch.as_tensor(rng.normal(size=(40, 6))), dim=1) for _ in range(2))
    labels, sources = torch.as_tensor(rng.integers(3, size=40)), torch.arange(40) // 2
    hits = []
    for i in range(40):
        order = [j for j in np.argsort(-(clips[1].numpy() @ clips[0][i].numpy())) if sources[j] != sources[i]]
        hits += [labels[j] == labels[i] for j in order[:4]]
    assert queue_recall(clips, labels, sources, 40, 4, seed=3) == pytest.approx(float(np.mean(hits)))
    assert queue_recall(clips, labels * 0, sources, 10, 4, seed=3) == 1.0
    assert queue_recall(clips, torch.arange(40), sources, 10, 4, seed=3) == 0.0


def _mined_by_loops(views: dict[str, np.ndarray], order: list[str], sizes: list[int], i: int, own_source: np.ndarray
                    ) -> list[int]:
    """A cascade over the whole set as queue: sort, keep, and so on; entries of the query's source are not there."""
    kept = [j for j in range(len(own_source)) if not own_source[j]]
    for view, size in zip(order, sizes, strict=True):
        kept = sorted(kept, key=lambda j: -views[view][i, j])[:size]
    return kept


def test_what_cascades_mine_is_what_loops_over_sorted_rows_find():
    rng = np.random.default_rng(1)
    other, own = rng.normal(size=(2, 40, 40))
    labels, sources = rng.integers(3, size=40), np.arange(40) // 2
    found = cascades.recalls(*map(torch.as_tensor, (other, own, labels, sources)), K=40, topk=4,
                             cascades=[(3, 0.5), (2, 0.3)], seed=0)
    ways = {"top-k": (["other"], [4]), "own top-k": (["own"], [4]),
            "s = 3, r = 0.5": (["other", "own", "other"], [20, 10, 4]), "s = 2, r = 0.3": (["other", "other"], [12, 4])}
    assert list(found) == ["chance", *ways]
    for name, (order, sizes) in ways.items():
        hits = [labels[j] == labels[i] for i in range(40)
                for j in _mined_by_loops({"other": other, "own": own}, order, sizes, i, sources == sources[i])]
        assert found[name] == pytest.approx(np.mean(hits)), name
    allowed = sources[:, None] != sources[None, :]
    assert found["chance"] == pytest.approx(np.mean((labels[:, None] == labels[None, :])[allowed]))


def test_a_cascade_gains_where_each_view_knows_half_of_the_class():
    """Four classes, of which each view tells two halves apart: top-k by one is right half the time, a cascade always.

    Of a queue of 16 of each class the other view keeps 28, all in the right half, and the own one 12 of these.
    """
    labels = torch.arange(64) % 4
    noise = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0)) / 10
    other, own = ((half[:, None] == half[None, :]) + each for half, each in zip((labels // 2, labels % 2), noise,
                                                                               strict=True))
    found = cascades.recalls(other, own, labels, torch.arange(64), 64, 5, [(3, 0.45)], seed=0)
    assert found["s = 3, r = 0.45"] == 1.0
    assert 0.4 < found["top-k"] < 0.6 and 0.4 < found["own top-k"] < 0.6


@pytest.mark.parametrize("words, said", [
    ("--own a b --other c --cascades 3,0.5", "--own has 2 checkpoints and --other 1: give one of each a pair"),
    ("--own random --other random --cascades 7,0.5", "the cascade is too deep: queue 128"),
    ("--own random --other random --cascades 3,0.5 --cascade --cascade_first own", "--cascade is main_coclr.py's"),
    ("--own random --other random --cascades 7:0.5", "'7:0.5' is not a cascade: give its stages and ratio as in 7,0.5"),
])
def test_what_cascades_cannot_be_compared_is_said_in_one_line(words, said, capsys):
    argv = [*words.split(), "--result", "x.json", "--dataset", "x-2stream-2clip", "--moco-k", "128"]
    assert launch.exit_code(lambda: cascades.parse(argv)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.parametrize("script", [cascades, oracles], ids=["cascades", "oracles"])
def test_all_checkpoints_are_looked_for_before_the_first_is_measured(script, tmp_path, capsys):
    first = str(tmp_path / "first.pth.tar")
    Path(first).touch()
    named = {cascades: f"--own {first} random --other {first} {tmp_path}/gone.pth.tar --cascades 3,0.5",
             oracles: f"--own {first} --miners {first} {tmp_path}/gone.pth.tar"}[script]
    argv = [*named.split(), "--result", "x.json", "--dataset", "x-2stream-2clip", "--moco-k", "128"]
    assert launch.exit_code(lambda: script.parse(argv)) == 2
    assert f"there is no checkpoint {tmp_path}/gone.pth.tar" in capsys.readouterr().err


def test_miners_compute_in_the_precision_that_is_asked_for():
    clip = torch.rand(2, 3, 8, 32, 32)
    found = {}
    for precision in ("fp32", "bf16"):
        words = f"--miners random --own random --result x --dataset x-2stream-2clip --moco-k 8 --precision {precision}"
        args = oracles.parse(words.split())[1]
        torch.manual_seed(0)
        model = oracles.load(args, "random", "random")
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            plain = torch.nn.functional.normalize(model.sampler.eval()(clip).flatten(1).float(), dim=1)
        found[precision] = embed(model.sampler, clip, model.dtype)
        assert torch.allclose(found[precision], plain, atol=1e-6), precision
    assert not torch.equal(found["fp32"], found["bf16"])


def test_a_queue_is_not_filled_with_fewer_videos_than_it_holds():
    """Silently, a cascade of other sizes would be measured than was asked for."""
    words = "--own random --other random --cascades 2,0.5 --result x.json --dataset x-2stream-2clip --topk 2"
    for K, clips, seen in ((16, 40, 8), (8, 5, 5)):  # of eight videos
        args = cascades.parse([*words.split(), "--moco-k", str(K), "--health_clips", str(clips)])[1]
        with pytest.raises(OptionError, match=rf"--moco-k {K} .*{seen} videos.*--health_clips"):
            oracles.make_probe(args, noise.Noise(2))
    args.health_clips = 8
    assert len(oracles.make_probe(args, noise.Noise(2)).rows) == 8


def test_means_and_standard_deviations():
    runs = {"coclr": {"0": {"measures": {"PMR": 10.0, "RGB R@1": 4.0}}, "1": {"measures": {"PMR": 13.0}},
                      "2": {"measures": {"PMR": 22.0}}}}
    summary = results.summarise(runs)["coclr"]
    mean = (10 + 13 + 22) / 3
    std = (((10 - mean) ** 2 + (13 - mean) ** 2 + (22 - mean) ** 2) / 2) ** 0.5
    assert summary["PMR"] == pytest.approx({"mean": mean, "std": std, "n": 3})
    assert summary["RGB R@1"] == {"mean": 4.0, "std": 0.0, "n": 1}


def test_of_an_epoch_written_twice_the_last_line_counts(tmp_path):
    lines = [{"kind": "epoch", "title": "train", "epoch": 0, "values": {"recall": 0.1}},
             {"kind": "steps", "title": "train", "epoch": 1, "values": {"recall": 0.9}},
             {"kind": "epoch", "title": "train", "epoch": 1, "values": {"recall": 0.2}},
             {"kind": "epoch", "title": "train", "epoch": 1, "values": {"recall": 0.3}}]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert [line["values"]["recall"] for line in results.read_journal(tmp_path / "metrics.jsonl")] == [0.1, 0.3]


class InProcess:
    """In place of Runner._execute: runs scripts in this process, with a small network, and can be stopped.

    Attributes:
        ran: names of the steps that were run. stop_at: how many of them before one is stopped, before its start.
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.stop_at = sys.maxsize

    def __call__(self, runner: pipeline.Runner, step: pipeline.Step, log: Path) -> int:
        if len(self.ran) == self.stop_at:
            raise StopRequested
        self.ran.append(step.name)
        script = step.command[1]
        with (contextlib.chdir(runner.out), open(log, "a") as file, contextlib.redirect_stdout(file),
              contextlib.redirect_stderr(file)):
            if "process_data" in script:
                return subprocess.run([sys.executable, *step.command[1:]], check=False, stdout=file).returncode
            before, sys.argv = sys.argv, [script, *step.command[2:]]
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                return end.code or 0
            finally:
                sys.argv = before
        return 0


@pytest.fixture
def in_process(monkeypatch):
    executor = InProcess()
    monkeypatch.setattr(pipeline.Runner, "_execute", lambda *given: executor(*given))
    for module in (momentum, classifier):
        monkeypatch.setattr(module, "select_backbone", noise.small_backbone)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return executor


def _run(folder: Path, *words: str) -> dict:
    assert run.main(["--grid", "tiny", "--out", str(folder / "work"), "--results", str(folder / "results.json"),
                     "--sets", "rendered", "--jobs", "1", "--seeds", "0", *words]) == 0
    return json.loads((folder / "results.json").read_text())


def test_the_tiny_grid_stopped_and_started_is_as_one_that_was_not(in_process, tmp_path, capsys):
    (tmp_path / "once").mkdir()
    once = _run(tmp_path / "once")
    steps = list(in_process.ran)
    _run(tmp_path / "once")
    assert in_process.ran == steps  # nothing was left to do

    (tmp_path / "twice").mkdir()
    in_process.ran, in_process.stop_at = [], 6
    with pytest.raises(StopRequested):
        _run(tmp_path / "twice")
    assert not (tmp_path / "twice" / "results.json").exists()
    so_far = json.loads((tmp_path / "twice" / "work" / "so_far.json").read_text())
    assert list(so_far["sets"]["rendered"]["runs"]) == ["supervised"] != []
    in_process.stop_at = sys.maxsize
    twice = _run(tmp_path / "twice")
    assert in_process.ran == steps

    assert "rendered: left out, cpr_s7_r0.5" in capsys.readouterr().out
    runs = once["sets"]["rendered"]["runs"]
    assert set(runs) == {"supervised", "infonce", "coclr", "cpr_s3_r0.8"}
    for method, seeds in runs.items():
        assert seeds["0"]["measures"] == twice["sets"]["rendered"]["runs"][method]["0"]["measures"], method
        assert str(tmp_path) not in json.dumps(seeds) and str(ROOT) not in json.dumps(seeds)
        assert seeds["0"]["commits"] == [code_version()["commit"]] and seeds["0"]["seconds"] > 0
    _check_numbers(once["sets"]["rendered"], tmp_path / "once" / "work" / "rendered" / "seed0")


def _check_numbers(found: dict, folder: Path) -> None:
    """What was collected against the files of the run, found by their names."""
    assert found["chance"] == 50.0
    run = found["runs"]["coclr"]["0"]
    recall, = folder.glob("ckpt/log-pretrain/coclr_*/model/feature/rendered_recall.json")
    assert run["measures"]["RGB R@1"] == json.loads(recall.read_text())["1"]
    log, = folder.glob("ckpt/log-pretrain/coclr_*/img/train.log")
    last = re.findall(r"train epoch 1 mean: .*recall ([\d.e-]+)", log.read_text())[-1]
    assert run["measures"]["PMR"] == pytest.approx(100 * float(last), rel=1e-3)
    assert {"RGB finetune", "both R@20", "flow probe"} <= set(run["measures"])
    assert found["summary"]["coclr"]["PMR"]["mean"] == statistics.fmean([run["measures"]["PMR"]])
    assert any("main_coclr.py" in command for command in run["commands"])
    miners = found["oracles"]["0"]
    assert [each["view"] for each in miners] == ["flow", "RGB"] and len(found["oracle_commands"]) == 3
    assert all(0 <= each["PMR"] <= 1 and each["epochs"] == 1 and "better" in each for each in miners)
    pairs = found["cascades"]["0"]
    assert [(each["own"], each["other"]) for each in pairs] == [("infonce", "infonce"), ("coclr", "infonce")]
    assert all({"own_file", "chance", "top-k", "s = 3, r = 0.8"} <= set(each) for each in pairs)
    assert pairs[0]["top-k"] == pairs[1]["top-k"] != pairs[0]["s = 3, r = 0.8"]  # of the same flow


def test_what_other_settings_have_made_is_not_taken(in_process, tmp_path, capsys):
    """Neither videos nor models; what is asked for differs in one option each, and is named."""
    words = ["--grid", "tiny", "--out", str(tmp_path), "--sets", "rendered", "--jobs", "1", "--seeds", "0",
             "--validation", "--change", "methods=infonce"]
    assert run.main(words) == 0
    steps = list(in_process.ran)
    for change, option in (("typical=0.5", "'render' was made with --typical 1.0, and would be with --typical 0.5 now"),
                           ("moco_m=0.9", "epoch0.pth.tar was made with --moco-m 0.99 (now 0.9)")):
        capsys.readouterr()
        assert launch.exit_code(lambda change=change: run.main([*words, change])) == 2
        assert option in capsys.readouterr().err and in_process.ran == steps
    assert run.main(words) == 0 and in_process.ran == steps


def test_what_a_method_did_is_told_by_the_commands_that_were_run(tmp_path):
    """Also where today's plan has others."""
    step = pipeline.Step("a b", ("python", str(ROOT / "main_nce.py"), "--lr", "1"), lambda: True)
    records.add(tmp_path, [step], {"a b": 2.04, "another": 1.0})
    records.add(tmp_path, [step], {"a b": 1.0})
    assert records.read(tmp_path) == {"a b": {"command": "python '$ROOT/main_nce.py' --lr 1".replace("'", ""),
                                              "seconds": 3.0, "commit": code_version()["commit"]}}
    records.check(tmp_path, [step])
    other = dataclasses.replace(step, command=(*step.command, "--seed", "3"))
    with pytest.raises(OptionError, match="'a b' was made without, and would be with --seed 3 now"):
        records.check(tmp_path, [other])
    records.check(tmp_path, [dataclasses.replace(other, makes=lambda: False)])  # it will be run
    records.add(tmp_path, [other], {"a b": 1.0})
    records.check(tmp_path, [dataclasses.replace(step, command=(*step.command[:2], "--seed", "3", "--lr", "1"))])


def _part(args, grid, name, number):
    """In place of a set and seed, in a process of its own: 7 fails, 8 is stopped, 9 waits to be told to stop."""
    folder = Path(args.out)
    if number == 9:  # listens before the others, which wait for its file, can end
        signal.signal(signal.SIGTERM, lambda *_: (folder / "told").touch() or sys.exit(0))
    (folder / f"{name}{number}").write_text(os.environ["OMP_NUM_THREADS"])
    while number == 9 or (number in (7, 8) and not (folder / "rendered9").exists()):
        time.sleep(0.01)
    sys.exit({7: 1, 8: EXIT_CODE}.get(number, 0))


def _parts(tmp_path, monkeypatch, numbers, jobs):
    monkeypatch.setattr(run, "_run_apart", _part)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which is another one's afterwards
    args = run.parse(["--grid", "tiny", "--out", str(tmp_path), "--jobs", str(jobs), "--steps_at_once", "2"])
    run.run_all(args, GRIDS["tiny"], [("rendered", number) for number in numbers])


def test_sets_and_seeds_share_the_cores(tmp_path, monkeypatch):
    _parts(tmp_path, monkeypatch, range(3), jobs=2)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {f"rendered{i}": "3" for i in range(3)}


@pytest.mark.parametrize("number, error", [(7, TrainingError), (8, StopRequested)], ids=["fails", "is stopped"])
def test_where_one_seed_ends_early_those_beside_it_are_told_and_none_is_started(tmp_path, monkeypatch, number, error):
    with pytest.raises(error):
        _parts(tmp_path, monkeypatch, [9, number, 3, 4], jobs=2)
    assert {path.name for path in tmp_path.iterdir()} == {"rendered9", f"rendered{number}", "told"}


def test_a_step_that_fails_is_named(in_process, tmp_path):
    with pytest.raises(TrainingError, match=r"'supervised training with labels' .*smaller --batch_size"):
        _run(tmp_path, "--validation", "--change", "methods=supervised", "label_batch_size=64")
