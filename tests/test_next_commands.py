"""The commands that are shown after a run: each is one of its script, with files that are there; one is pasted."""

import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import miniature
import pytest

import launch
import main_coclr
import main_nce
import next_commands
from eval import feature_linear_probe, merge_2stream_prob
from eval import options as classifier
from report import __main__ as report
from utils import run_folder

PARSE = {"main_nce.py": main_nce.parse, "main_coclr.py": main_coclr.parse,
         "main_classifier.py": lambda argv: classifier.parse(argv, ""),
         "merge_2stream_prob.py": merge_2stream_prob.parse,
         "feature_linear_probe.py": lambda argv: feature_linear_probe.make_parser().parse_args(argv)}
CLIP = ["--seq_len", "8", "--img_dim", "32", "--ds", "2", "-j", "0", "--precision", "fp32", "--prefix", "it's mine"]
MOCO = [*CLIP, "--batch_size", "2", "--moco-k", "64", "--moco-dim", "8", "--lr", "1e-05", "--epochs", "6",
        "--schedule", "--seed", "3"]


def taken(commands: next_commands.Commands) -> list[tuple[str, Namespace]]:
    """Of each command what it is started by and its script, and its options by that script's parser."""
    found = []
    for _, command in commands:
        words = shlex.split(command)
        place = next(i for i, word in enumerate(words) if word.endswith(".py"))
        assert (next_commands.ROOT / words[place]).is_file()
        found.append((" ".join([*words[:place], Path(words[place]).name]), PARSE[Path(words[place]).name](
            words[place + 1:])))
    return found


def same(one: Namespace, two: Namespace, *names: str) -> bool:
    return all(getattr(one, name) == getattr(two, name) for name in names)


def end_of(args: Namespace, folder) -> Path:
    path = run_folder.last_checkpoint(folder(args), args.epochs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture(autouse=True)
def away(tmp_path, monkeypatch):
    (tmp_path / "it's here").mkdir()
    monkeypatch.chdir(tmp_path / "it's here")


def test_after_infonce_the_other_stream_and_then_co_training():
    Path("data/mine").mkdir(parents=True)
    Path("data/mine/mine_frame.lmdb").touch()
    rgb = main_nce.parse([*MOCO, "--dataset", "mine-2clip", "--data_root", "data"])
    path = end_of(rgb, run_folder.nce_folder)
    (start, other), (test, retrieval) = taken(next_commands.after_pretraining(rgb, path, 1))
    assert (start, test) == ("python main_nce.py", "python main_classifier.py")
    assert other.dataset == "mine-f-2clip" and other.resume == "auto"
    differing = {name for name, value in vars(rgb).items() if value != getattr(other, name)}
    assert differing == {"dataset", "resume", "second_view"}  # there is no flow to train on
    assert (retrieval.dataset, retrieval.retrieval, retrieval.second_view) == ("mine", True, "flow")
    assert Path(retrieval.test).is_file() and same(rgb, retrieval, "seq_len", "ds", "img_dim", "net", "precision")
    own = end_of(other, run_folder.nce_folder)
    for args, given in ((rgb, path), (other, own)):
        (start, training), _ = taken(next_commands.after_pretraining(args, given, 2))
        assert start == "torchrun --standalone --nproc_per_node=2 main_coclr.py"
        assert training.pretrain == [str(path), str(own)]
        assert (training.dataset, training.second_view, training.topk) == ("mine-2stream-2clip", "residual", 5)
        assert (training.epochs, training.schedule) == (2, [1])
        assert training.stage == 4  # the last one ranks 64 * 0.5**3 = 8 entries; a fifth would rank 4, below topk
        assert same(rgb, training, "moco_k", "moco_dim", "batch_size", "seed", "prefix", "seq_len", "ds")


def test_after_co_training_the_other_half_and_then_the_next_cycle():
    own, other = Path("rgb.pth.tar"), Path("flow.pth.tar")
    for path in (own, other):
        path.touch()
    first = main_coclr.parse([*MOCO, "--dataset", "mine-2stream-2clip", "--second_view", "residual", "--cascade",
                              "--stage", "2", "--name_prefix", "Cycle1-FlowMining_", "--pretrain", str(own),
                              str(other)])
    path = end_of(first, run_folder.coclr_folder)
    (_, reverse), (_, retrieval) = taken(next_commands.after_pretraining(first, path, 1))
    assert {name: value for name, value in vars(reverse).items() if value != getattr(first, name)} == {
        "reverse": True, "name_prefix": "Cycle1-RGBMining_", "pretrain": [str(other), str(path)], "resume": "auto"}
    assert (retrieval.dataset, retrieval.second_view) == ("mine", "flow")
    (_, again), (_, retrieval) = taken(next_commands.after_pretraining(
        reverse, second := end_of(reverse, run_folder.coclr_folder), 1))
    assert {name: value for name, value in vars(again).items() if value != getattr(first, name)} == {
        "name_prefix": "Cycle2-FlowMining_", "pretrain": [str(path), str(second)], "resume": "auto"}
    assert (retrieval.dataset, retrieval.second_view) == ("mine-f", "residual")
    phase = Namespace(**vars(first) | {"progressive": [1, 5], "topk": 1})
    assert next_commands.after_pretraining(phase, path, 1) == []  # the next phase begins by itself


def test_after_evaluations():
    split = ["--split_root", "my splits"]
    for dataset in ("mine", "mine-f"):
        place = Path("ckpt/log", dataset, "model")
        (place / "feature").mkdir(parents=True)
        for path in (place / "feature" / f"{dataset}_train_feature.pth.tar", place / "x.pth.tar"):
            path.touch()
        args = PARSE["main_classifier.py"]([*CLIP, "--dataset", dataset, "--test", str(place / "x.pth.tar"),
                                            "--retrieval", *split])
        [(_, probe), *merges] = taken(next_commands.after_retrieval(args, place / "x.pth.tar"))
        assert (probe.test, probe.dataset, probe.split_root) == (str(place / "x.pth.tar"), dataset, "my splits")
    [(_, merge)] = merges  # of the second one, when both are there
    assert (merge.mode, merge.dataset, merge.split_root) == ("s", "mine", "my splits")
    assert (merge.prob1, merge.prob2) == ("ckpt/log/mine/model/feature", "ckpt/log/mine-f/model/feature")
    made = {}
    for dataset in ("mine-f", "mine"):
        args = PARSE["main_classifier.py"]([*CLIP, "--dataset", dataset, "--train_what", "ft", "--final_bn", *split])
        path = end_of(args, lambda args: run_folder.classifier_folder(args, 1))
        [(_, test)] = taken(next_commands.after_training_a_classifier(args, path))
        assert (test.test, test.ten_crop, test.crops) == (str(path), True, 10)
        assert same(args, test, "dataset", "train_what", "final_bn", "seq_len", "ds", "img_dim", "split_root")
        made[dataset] = path.with_name(f"{path.name}-prob-ten.json")
        made[dataset].touch()
        merges = taken(next_commands.after_crops(test, path))
    [(_, merge)] = merges
    assert (merge.mode, merge.prob1, merge.prob2) == ("c", str(made["mine"]), str(made["mine-f"]))


def test_a_name_that_steers_the_terminal_stays_visible(capsys):
    next_commands.show([("wh\x1b[2Jat", "python 'a\nb'")])
    assert capsys.readouterr().out == "next:\n  # wh\\x1b[2Jat\n  python 'a\\nb'\n"


def test_the_shown_retrieval_runs_as_it_is_pasted(tmp_path, capsys):
    made = miniature.make(tmp_path / "my data", "mine", groups=2, clips=2, frames=16)
    argv = [*CLIP, "--dataset", "mine-2clip", *made.options, "--ds", "1", "--batch_size", "2", "--moco-k", "4",
            "--moco-dim", "8", "--epochs", "1"]
    assert launch.exit_code(lambda: main_nce.work(main_nce.parse(argv))) == 0
    lines = capsys.readouterr().out.splitlines()
    command = lines[lines.index("  # retrieval, which needs no training") + 1]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [recall] = Path.cwd().rglob("mine_recall.json")
    assert json.loads(recall.read_text())["50"] == 100.0
    shown = done.stdout.splitlines()
    probe = shlex.split(shown[shown.index("  # linear probe on these features") + 1])
    assert Path(probe[probe.index("--test") + 1]).is_file()


def test_after_evaluations_the_report_from_wherever_it_is_pasted(tmp_path, monkeypatch):
    run = tmp_path / "it's here" / "log-pretrain" / "run"
    for place, variables in ((tmp_path, [f"PYTHONPATH={next_commands.ROOT}"]), (next_commands.ROOT, [])):
        monkeypatch.chdir(place)
        [(_, command)] = next_commands.after_evaluations(run)
        words = shlex.split(command)
        assert words[:len(variables) + 3] == [*variables, "python", "-m", "report"]
        assert report.make_parser().parse_args(words[len(variables) + 3:]).run == str(run)
