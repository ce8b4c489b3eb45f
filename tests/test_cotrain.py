"""cotrain.py: its commands against expectations written out, and a whole alternation that is killed on the way."""

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import cv2
import interrupted
import miniature
import numpy as np
import pytest
import torch

import cotrain
import main_coclr
import main_nce
from engine import auto
from eval import main_classifier, merge_2stream_prob, options
from tools import figures
from utils import launch
from utils.runner import Runner, groups

SMALL = ["--batch_size", "4", "--moco-k", "8", "--seq_len", "8", "--img_dim", "32", "-j", "0", "--coclr_options",
         "--topk 2 --cascade --stage 2"]
SHORT = [*SMALL, "--cycles", "1", "--infonce_epochs", "1", "--coclr_epochs", "3", "--finetune_epochs", "1",
         "--finetune_options", "--batch_size 2", "--skip", "probe"]
SCRIPTS = {"main_nce": main_nce, "main_coclr": main_coclr, "main_classifier": main_classifier,
           "merge_2stream_prob": merge_2stream_prob}

CLIPS = "32_s3d_bs4_lr0.001_seq2_len8_ds1"
RGB0 = f"ckpt/log-pretrain/infonce_k8_ucf101-2clip-{CLIPS}/model/epoch299.pth.tar"
FLOW0 = f"ckpt/log-pretrain/infonce_k8_ucf101-f-2clip-{CLIPS}/model/epoch299.pth.tar"
RGB1, RGB2 = (f"ckpt/log-pretrain/Cycle{cycle}-FlowMining_coclr-top2_k8_ucf101-2stream-2clip-{CLIPS}/model/"
              "epoch99.pth.tar" for cycle in (1, 2))
FLOW1, FLOW2 = (f"ckpt/log-pretrain/Cycle{cycle}-RGBMining_coclr-top2-R_k8_ucf101-2stream-2clip-{CLIPS}/model/"
                "epoch99.pth.tar" for cycle in (1, 2))


@pytest.fixture
def run(place, monkeypatch):
    """Call cotrain's main with the data; returns the exit code."""
    monkeypatch.chdir(place)
    return lambda *words: launch.exit_code(lambda: cotrain.main(
        [*words, "--data_root", "data", "--split_root", "splits"]))


def planned(text: str) -> list[list[str]]:
    """The commands of a printed plan, without those that are done."""
    return [shlex.split(line) for line in text.splitlines() if line.startswith(("python ", "torchrun "))]


RETRIEVALS = ["retrieval random RGB", "retrieval random flow", "retrieval RGB", "retrieval flow",
              "retrieval random both", "retrieval both"]


def value(command: list[str], option: str, count: int = 1) -> list[str]:
    """The words after an option."""
    place = command.index(option) + 1
    return command[place:place + count]


@pytest.mark.parametrize(("words", "most"), [(["--cycles", "0"], 4), (["--cycles", "2", "--baseline"], 5)])
def test_steps_side_by_side_do_not_need_each_other(words, most, run, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(cotrain, "as_script", lambda planned, out: steps.extend(planned) or "")
    assert run(*SMALL, "--out", str(tmp_path), "--dry_run", "--skip", "probe", "finetune", *words) == 0
    for step, group in ((each, members) for members in groups(steps) for each in members):
        made = {str(path) for other in group if other != step for path in (other.product, other.product.parent)}
        assert not made & {*step.command}
    assert max(map(len, groups(steps))) == most


def test_which_checkpoint_goes_into_which_training_of_two_cycles(run, small_network, tmp_path, capsys):
    assert run(*SMALL, "--out", str(tmp_path / "out"), "--dry_run", "--probe_options", "--batch_size 2",
               "--finetune_options", "--batch_size 2") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"cd {tmp_path}/out\n") and not (tmp_path / "out").exists()
    commands = planned(out)
    names = [line.split(". ")[1] for line in out.splitlines() if line.startswith("# ")]
    assert names == ["InfoNCE RGB", "InfoNCE flow", "cycle 1 RGB", "cycle 1 flow", "cycle 2 RGB", "cycle 2 flow",
                     *RETRIEVALS, "probe RGB", "probe flow", "probe RGB test", "probe flow test", "probe both",
                     "finetune RGB", "finetune flow", "finetune RGB test", "finetune flow test", "finetune both"]
    by_name = dict(zip(names, commands, strict=True))
    pairs = {name: value(by_name[name], "--pretrain", 2) for name in names[2:6]}
    assert pairs == {"cycle 1 RGB": [RGB0, FLOW0], "cycle 1 flow": [FLOW0, RGB1],
                     "cycle 2 RGB": [RGB1, FLOW1], "cycle 2 flow": [FLOW1, RGB2]}
    assert ["--reverse" in by_name[name] for name in names[2:6]] == [False, True, False, True]
    for kind in ("probe", "finetune"):
        assert value(by_name[f"{kind} RGB"], "--pretrain") == [RGB2]
        assert value(by_name[f"{kind} flow"], "--pretrain") == [FLOW2]
    assert value(by_name["retrieval RGB"], "--test") == [RGB2]
    assert value(by_name["retrieval flow"], "--test") == [FLOW2]
    assert value(by_name["retrieval flow"], "--dataset") == ["ucf101-f"]
    assert value(by_name["InfoNCE flow"], "--epochs", 5) == ["300", "--schedule", "250", "280", "--resume"]
    assert value(by_name["cycle 2 flow"], "--epochs", 3) == ["100", "--schedule", "80"]
    assert value(by_name["finetune RGB"], "--epochs", 4) == ["500", "--schedule", "400", "450"]
    tuned = value(by_name["finetune flow test"], "--test")[0]
    assert tuned.endswith(f"train-ft_pt={FLOW2.replace('/', '-')}/model/epoch499.pth.tar")
    assert value(by_name["finetune both"], "--prob2") == [f"{tuned}-prob-ten.json"]
    assert value(by_name["retrieval both"], "--prob1") == [str(Path(RGB2).parent / "feature")]


def test_every_printed_command_is_one_of_its_script(run, small_network, tmp_path, capsys):
    """With two processes, as torchrun starts them."""
    assert run(*SHORT, "--out", str(tmp_path), "--dry_run", "--nproc_per_node", "2") == 0
    for command in planned(capsys.readouterr().out):
        script = next(i for i, word in enumerate(command) if word.endswith(".py"))
        name, words = Path(command[script]).stem, command[script + 1:]
        assert Path(command[script]).is_file()
        assert command[:script] == (["torchrun", "--standalone", "--nproc_per_node=2"] if name in (
            "main_nce", "main_coclr") else ["python"])
        if name in ("main_nce", "main_coclr"):
            SCRIPTS[name].parse(words, planned=True)
        elif name == "main_classifier":
            options.parse(words, "")
        else:
            merge_2stream_prob.make_parser().parse_args(words)


@pytest.mark.parametrize(("words", "complaint"), [
    (["--coclr_options", "--cascade --stage 7 --topk 2"], "the cascade is too deep"),
    (["--coclr_options", "--topk 9"], "topk must lie"),
    (["--coclr_options", "", "--topk", "9"], "(option of cotrain.py: --topk)"),
    (["--nproc_per_node", "3"], "must be a multiple"),
    (["--img_dim", "2"], "step 'InfoNCE RGB': batches of --batch_size 4 clips"),
    (["--batch_size", "32", "--moco-k", "32"], "fewer than one batch"),
    (["--finetune_options", ""], "(option of cotrain.py: --finetune_options)"),
    (["--infonce_options", "--lr 0"], "(option of cotrain.py: --infonce_options)"),
    (["--infonce_options", "--nonsense"], "--nonsense"),
    (["--infonce_options", "--lr '1"], "cannot be split into options"),
    (["--probe_options", "--test x"], "--test is set by cotrain.py itself"),
    (["--coclr_options", "--second_view residual"], "--second_view is set by cotrain.py itself"),
    (["--dataset", "ucf101-f"], "has a suffix"), (["--dataset", "nowhere"], "nowhere"),
    (["--videos", "nowhere"], "nowhere is not a folder"),
    (["--infonce_rgb", "nowhere.pth.tar"], "nowhere.pth.tar: check --infonce_rgb"),
])
def test_what_cannot_work_is_refused_before_anything_runs(run, small_network, place, tmp_path, capsys, words,
                                                          complaint):
    assert run(*SHORT, "--out", str(tmp_path / "out"), *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and complaint in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def forked(monkeypatch, small_network):
    """Have steps run in forks; returns (names of those run, {name: how one is stopped, or a file's content})."""
    ran, stops = [], {}
    for page in ("write_report", "search"):
        monkeypatch.setattr(cotrain, page, lambda words, page=page: ran.append((page, words)))

    def execute(runner, steps, lines):
        for line in lines:
            line.seconds = 3.0
        return [run_step(runner, step, runner.log(step)) for step in steps]

    def run_step(runner, step, log):
        ran.append(step.name)
        if callable(stops.get(step.name)):
            log.touch()
            stops[step.name](runner.out / step.product)
            return 0
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(runner.out)
            patch.setattr(sys, "argv", list(step.command[1:]))
            [code] = interrupted.train(SCRIPTS[Path(step.command[1]).stem].main, stop=stops.pop(step.name, None))
            with open(log, "a") as file:
                file.write(f"$ {step.shell}\n{interrupted.said()}")
        return code
    monkeypatch.setattr(Runner, "_execute", execute)
    return ran, stops


def test_a_killed_alternation_continues_and_repeats_nothing(run, place, tmp_path, forked, capsys):
    ran, stops = forked
    words = [*SHORT, "--out", str(tmp_path)]
    stops["cycle 1 RGB"] = interrupted.Stop("kill", 6)  # of its 3 epochs of 4 steps
    assert run(*words) == 2
    assert "step 'cycle 1 RGB' was ended by SIGKILL" in capsys.readouterr().err
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("ckpt/log-pretrain/infonce*/model/*")}
    assert ran == ["InfoNCE RGB", "InfoNCE flow", "cycle 1 RGB"] and len(first) == 2
    ran.clear()
    assert run(*words, "--dry_run") == 0
    assert "# 2. InfoNCE flow: done already" in (plan := capsys.readouterr().out) and len(planned(plan)) == 13
    assert run(*words) == 0
    page = ("write_report", [str(tmp_path)])
    assert ran == ["cycle 1 RGB", "cycle 1 flow", *RETRIEVALS, "finetune RGB", "finetune flow", "finetune RGB test",
                   "finetune flow test", "finetune both", page]
    assert "epochs 1 to 2" in (tmp_path / "logs/cycle_1_RGB.log").read_text()
    assert {path: path.stat().st_mtime_ns for path in first if path.exists()}.items() <= first.items()
    check_results(tmp_path, capsys.readouterr().out)
    ran.clear()
    assert run(*words) == 0 and ran == [page]
    check_refusals(run, words, tmp_path, capsys)
    next(tmp_path.glob("log-eval-*/*-f-*/model/*-acc-ten.json")).unlink()
    ran.clear()
    assert run(*words) == 0 and ran == ["finetune flow test", "finetune both", page]


def check_results(out: Path, shown: str) -> None:
    """results.json has what the evaluations wrote, and the table shows it."""
    results = json.loads((out / "results.json").read_text())
    rgb, both = results["results"]["RGB"], results["results"]["both"]
    written = json.loads(next(out.glob("ckpt/**/Cycle1-Flow*/model/feature/ucf101_recall.json")).read_text())
    assert rgb["retrieval"] == written and list(written) == ["1", "5", "10", "20", "50"]
    assert results["test_videos"] == 6 and f" {rgb['retrieval']['1']:.2f}" in shown
    assert results["labels"] and results["hours"]["taken"] > 0 and ["cycles", 1, "given"] in results["settings"]
    random, = out.glob("log-eval-*/ucf101-32*_pt=random/model/feature/ucf101_recall.json")
    assert results["results"]["random RGB"]["retrieval"] == json.loads(random.read_text())
    assert list(results["runs"]) == ["InfoNCE RGB", "InfoNCE flow", "cycle 1 RGB", "cycle 1 flow", "finetune RGB",
                                     "finetune flow"]
    for folder in results["runs"].values():
        [kept] = (out / folder).glob("model/*.pth.tar")
        assert kept.name in ("epoch0.pth.tar", "epoch2.pth.tar")
    assert (out / "flow.pth.tar").read_bytes() == (out / results["models"]["flow"]).read_bytes()
    accuracy, = out.glob("log-eval-*/ucf101-32*/model/*-acc-ten.json")
    assert rgb["finetune"] == json.loads(accuracy.read_text())["ten"]
    assert both["finetune"] == json.loads((out / "results/finetune_both.json").read_text())["both"]
    assert json.loads((accuracy.parents[1] / "best.json").read_text())["epochs"] == 1
    for row in ("RGB", "flow", "both"):
        columns = results["results"][row]
        numbers = [*columns["retrieval"].values(), columns["finetune"]["1"]]
        assert " ".join([row, *(f"{number:.2f}" for number in numbers)]) in " ".join(shown.replace("*", "").split())
    assert all((out / path).is_file() for path in results["models"].values())


def check_refusals(run, words: list[str], out: Path, capsys) -> None:
    """What is there was made with other options, or from other files."""
    given, = out.glob("ckpt/log-pretrain/infonce_k8_ucf101-2clip*/model/epoch0.pth.tar")
    kept = out / "settings.yaml"
    for more, complaint in ((["--seed", "1"], f"--seed is 1 here, but 0 in {kept}, from which the run continues"),
                            (["--infonce_rgb", str(given)], f"--infonce_rgb is {given} here, but None in"),
                            (["--finetune_options", "--wd 0.5"], "is --wd 0.5 here, but --batch_size 2 in")):
        capsys.readouterr()
        assert run(*words, *more, "--dry_run") == 2
        error = capsys.readouterr().err
        assert complaint in error and error.count("\n") == 1
    settings = kept.read_text()
    kept.write_text(settings.replace("seed: 0", "seed: 1"))
    assert launch.exit_code(lambda: cotrain.main(["--out", str(out)])) == 2
    assert "was run with --seed 0, but the options now give --seed 1" in capsys.readouterr().err
    kept.write_text(settings)
    assert launch.exit_code(lambda: cotrain.main(["--config", str(kept), "--out", str(out), "--dry_run"])) == 0
    capsys.readouterr()
    assert run(*words, "--infonce_rgb", str(given), "--out", str(out / "other"), "--dry_run") == 0
    commands = planned(capsys.readouterr().out)
    assert len(commands) == 14 and value(commands[1], "--pretrain") == [str(given)]
    assert "-f-2clip" in value(commands[0], "--dataset")[0] and not (out / "other").exists()


def test_a_folder_of_videos_without_labels(tmp_path, forked, monkeypatch, capsys):
    """Prepared by a miniature, evaluated by numbers made up; killed after its settings are chosen."""
    ran, stops = forked
    (videos := tmp_path / "some videos").mkdir()
    out, words = tmp_path / "out", ["--videos", str(videos), "--out", str(tmp_path / "out"), "--net", "s3d",
                                    "--infonce_epochs", "1", "--hours", "0.01", "-j", "0"]
    made = {"second_clip": 60.0, "second_clip_random": 20.0, "effective_rank": 5.5, "videos": 8, "hits": 5}

    def write(content):
        return lambda path: path.parent.mkdir(exist_ok=True) or path.write_text(json.dumps(content))
    stops |= {"prepare": lambda path: miniature.make(out, "videos", classes=1, groups=16, clips=2),
              "retrieval RGB": write(made), "retrieval flow": write(made), "cycle 1 RGB": interrupted.Stop("kill", 6),
              "retrieval both": write({"both": {"agreement": 41.0}})}
    monkeypatch.setattr(auto, "LONG", 0.0)
    timed, time_steps = [], auto.seconds_per_step
    monkeypatch.setattr(auto, "seconds_per_step", lambda task: timed.append(task.model) or time_steps(task))
    assert run_in(out, *words, "--dry_run") == 0 and "prepare.py" in capsys.readouterr().out and not out.exists()
    assert run_in(out, *words) == 2 and ran[-1] == "cycle 1 RGB" and timed[1].own_view_is_frozen
    shown = capsys.readouterr().out
    assert re.search(r"moco_k +12 +at most half of 24 training videos", shown) and "hardly worth it" in shown
    monkeypatch.setattr(auto, "choose", None)
    assert run_in(out, *words) == 0
    index = ["index", f"{out}/rgb.pth.tar", str(videos), "--two_stream", f"{out}/flow.pth.tar", "--flow", "dis"]
    assert ran[-2][1][:7] == index and ran[-1] == ("write_report", [str(out)])
    assert ran.count("prepare") == 1 and not [name for name in ran if "random" in name or "probe" in name]
    results, shown = json.loads((out / "results.json").read_text()), capsys.readouterr().out
    assert results["results"]["RGB"]["retrieval"] == made and not results["labels"]
    assert results["hours"]["asked"] == 0.01 and results["hours"]["estimated"] > 0.01
    assert [line.partition(":")[0] for line in results["warnings"][:2]] == ["24 training videos",
                                                                            "--hours 0.01 is too short"]
    assert all(f"warning: {line}" in shown for line in results["warnings"])
    assert shown.splitlines()[-1] == f"open this page: {out}/report.html"


def run_in(out: Path, *words: str) -> int:
    return launch.exit_code(lambda: cotrain.main(words))


def test_the_demo_ends_in_its_table(tmp_path, forked, monkeypatch, capsys):
    """With a miniature in place of the rendered videos, and a small network and queue."""
    _, stops = forked
    spec = importlib.util.spec_from_file_location("demo", Path(cotrain.__file__).parent / "scripts/demo.py")
    spec.loader.exec_module(demo := importlib.util.module_from_spec(spec))
    (clip := tmp_path / "videos_36_0" / "A" / "v_c01.avi").parent.mkdir(parents=True)
    clip.touch()
    asked = []
    small = {"s3d_small": "s3d", "size 32": "size 4", "moco-k 512": "moco-k 8", "moco-k 128": "moco-k 4"}
    words = shlex.split(re.sub("|".join(small), lambda found: small[found[0]], shlex.join(demo.SETTINGS)))
    monkeypatch.setattr(demo, "search", asked.append)
    monkeypatch.setattr(demo, "SETTINGS", words)
    stops["prepare"] = lambda path: miniature.make(tmp_path / "run", "videos", groups=8, clips=2)
    monkeypatch.setattr(auto, "LONG", 0.0)
    assert launch.exit_code(lambda: demo.main(["--epochs", "1", "--coclr_epochs", "2", "--out", str(tmp_path)])) == 0
    shown = (tmp_path / "results.txt").read_text()
    assert shown in capsys.readouterr().out and asked == [["search", f"{tmp_path}/run/index", str(clip), "-k", "5"]]
    rows = {name: numbers for name, *numbers in (re.split(r"\*?  +|\*$", line) for line in shown.splitlines()[2:])}
    assert list(rows) == ["random RGB", "InfoNCE RGB, as long", "RGB", "random flow", "flow", "random both", "both"]
    both = json.loads((tmp_path / "run/results/retrieval_both.json").read_text())["both"]
    assert rows["both"][:3] == [f"{both[k]:.2f}" for k in ("1", "5", "10")]
    longer, = (tmp_path / "run").glob("ckpt/log-pretrain/AsLong-infonce*/model/feature/videos_recall.json")
    assert rows["InfoNCE RGB, as long"][0] == f"{json.loads(longer.read_text())['1']:.2f}"
    lines = (tmp_path / "run/logs/InfoNCE_RGB,_as_long.log").read_text()
    assert "--lr 0.0001" in lines and "--epochs 2 " in lines  # as the co-training
    (tmp_path / "videos_2_0").mkdir()
    assert launch.exit_code(lambda: demo.main(["--epochs", "1", "--scenes", "2", "--out", str(tmp_path)])) == 2
    assert "--videos is" in capsys.readouterr().err
    check_gallery(tmp_path)


def check_gallery(out: Path) -> None:
    """Neighbours whose folder is the query's are framed in green, the others in red."""
    assert figures.main(["gallery", "--run", f"{out}/run", "--output", f"{out}/gallery.png"]) == 0
    picture = cv2.imread(str(out / "gallery.png"))[..., ::-1]
    sims, names = 0, {}
    for stream, name in (("RGB", "videos"), ("flow", "videos-f")):
        model = json.loads((out / "run/results.json").read_text())["models"][stream]
        parts = []
        for split in ("test", "train"):
            start = out / "run" / Path(model).parent / "feature" / f"{name}_{split}_"
            names[split] = json.loads(Path(f"{start}vname.json").read_text())
            rows = torch.load(f"{start}feature.pth.tar")
            rows = (rows - rows.mean(dim=0)).double().numpy()
            parts.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        sims = sims + parts[0] @ parts[1].T
    rows = np.random.default_rng(0).permutation(len(sims))[:5]
    folder = {split: [Path(name).parent.name for name in each] for split, each in names.items()}
    right = [[folder["train"][i] == folder["test"][row] for i in np.argsort(-sims[row])[:4]] for row in rows]
    frames = picture[55::110, 274 + 6::274]  # the left of each neighbour's frame
    assert (frames == figures.GREEN).all(axis=-1).tolist() == right
    assert (frames == figures.RED).all(axis=-1).tolist() == (~np.array(right)).tolist()


def test_other_options_of_coclr_keep_the_chosen_mining(run, small_network, tmp_path, capsys):
    words = ["--coclr_options", "--wd 1e-4", "--stage", "2", "--topk", "2", "--out", str(tmp_path), "--dry_run"]
    assert run(*SHORT, *words) == 0
    commands = [each for each in planned(capsys.readouterr().out) if "main_coclr" in each[1]]
    assert commands and all(value(each, "--stage", 1) == ["2"] and "--wd" in each for each in commands)


def test_residual_frames_take_the_place_of_flow_in_every_command_that_sees_it(run, small_network, tmp_path, capsys):
    """The commands themselves are run in test_residual_scripts."""
    assert run(*SHORT, "--out", str(tmp_path), "--dry_run", "--second_view", "residual") == 0
    commands = [each for each in planned(capsys.readouterr().out) if "merge_2stream" not in each[1]]
    seen = {(value(each, "--dataset")[0], "--second_view" in each) for each in commands}
    assert seen == {("ucf101-2clip", False), ("ucf101-f-2clip", True), ("ucf101-2stream-2clip", True),
                    ("ucf101", False), ("ucf101-f", True)}
