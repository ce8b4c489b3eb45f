"""main_nce.py and main_coclr.py in this process, on noise, with a small network: resume, starts, bad input, files."""

import json
from pathlib import Path

import noise
import pytest
import torch

import main_coclr
import main_nce
from engine import checkpoint
from engine.config import configs_of
from engine.optimizer import Optimizer
from engine.trainer import Task, Trainer
from model.pretrain import InfoNCE
from utils import distributed

pytestmark = pytest.mark.usefixtures("on_noise")


def run(script, options: str, dataset: str = "") -> int:
    own = f"--dataset {dataset}" if dataset else "--topk 2" if script is main_coclr else ""
    return noise.run(script, f"--batch_size 4 --print_freq 1 {own} {options}")


def newest(prefix: str, epoch: int) -> Path:
    [path] = [path for path in Path("ckpt/log-pretrain").glob(f"{prefix}*/model/*epoch{epoch}.pth.tar")
              if not path.name.startswith("model_best")]
    return path


def test_what_a_run_leaves(capsys):
    assert run(main_coclr, "--epochs 3 --save_freq 2") == 0
    folder = Path("ckpt/log-pretrain/coclr-top2_k8_noise-2stream-2clip-32_s3d_bs4_lr0.001_seq2_len8_ds1")
    names = {path.name for path in (folder / "model").iterdir()}
    assert "epoch2.pth.tar" in names and not any(name.startswith("epoch0") for name in names)
    assert (folder / "img/train.log").read_text() == capsys.readouterr().out
    assert list((folder / "img").glob("events.out.tfevents.*"))
    saved = checkpoint.load(folder / "model/epoch2.pth.tar")
    assert {"epoch", "state_dict", "best_acc", "optimizer", "iteration"} <= set(saved)
    assert (saved["epoch"], saved["iteration"], saved["options"]["topk"]) == (2, 6, 2)
    names = [name for name, _ in main_coclr.CoCLR("s3d", 8, 8).named_parameters()]
    assert [group["params"] for group in saved["optimizer"]["param_groups"]] == [[i] for i in range(len(names))]
    trained = {names[i] for i in saved["optimizer"]["state"]}
    assert trained == {name for name in names if name.startswith("encoder_q.")}


def test_nothing_is_trained_until_the_queue_is_full():
    assert run(main_coclr, "--epochs 2") == 0  # two steps of four fill the queue of eight: the first epoch
    saved = checkpoint.load(newest("coclr", 0))
    assert saved["optimizer"]["state"] == {}
    torch.manual_seed(0)
    fresh = main_coclr.CoCLR("s3d", 8, 8, topk=2)
    for name, value in fresh.named_parameters():
        if name.startswith("encoder_k."):  # a momentum update between equals, which rounds
            assert torch.allclose(saved["state_dict"][name], value, rtol=1e-6, atol=0)
        else:
            assert torch.equal(saved["state_dict"][name], value), name
    assert not torch.equal(saved["state_dict"]["queue"], fresh.queue)
    lines = [json.loads(line) for line in (newest("coclr", 0).parents[1] / "metrics.jsonl").read_text().splitlines()]
    assert all(("recall" in line["values"]) == (line["epoch"] == 1) for line in lines if line["kind"] == "steps")


def test_a_run_that_would_train_nothing_is_refused(capsys):
    assert run(main_coclr, "--epochs 1") == 2  # its two steps of four only fill the queue of eight
    [line] = capsys.readouterr().err.splitlines()
    assert "takes 2 more steps of 4 clips (--moco-k 8), but 2 are left (2 per epoch)" in line
    assert "a --moco-k such as 4 in a new run" in line and not list(Path().glob("ckpt/*/*"))
    assert run(main_coclr, "--epochs 2 --save_freq 1") == 0


def test_a_resumed_run_counts_what_its_queue_holds(capsys):
    assert run(main_coclr, "--epochs 4 --moco-k 16") == 0
    assert "the queue of 16 clips (--moco-k) is longer than the training set of 8 videos" in capsys.readouterr().out
    path = newest("coclr", 3)
    saved = checkpoint.load(path)
    for epochs, filled, code in ((5, 8, 2), (5, 12, 0), (6, 4, 0)):
        saved["state_dict"]["queue_label"] = torch.where(torch.arange(16) < filled, 1, -1)
        checkpoint.save(path, saved)
        assert run(main_coclr, f"--epochs {epochs} --moco-k 16 --resume {path}") == code


@pytest.mark.parametrize(("script", "options", "first"), [
    (main_nce, "--moco-k 8", 2), (main_nce, "--moco-k 4", 2), (main_nce, "--moco-k 12", 3), (main_coclr, "", 2)])
def test_no_epoch_is_the_best_before_one_has_run_on_a_full_queue(script, options, first, monkeypatch):
    """Two steps of four clips an epoch: a queue of 8 is full after the first epoch, and of 12 inside the second."""
    monkeypatch.setattr(Task, "score", lambda self, trainer: 1 / (1 + trainer.state.epoch))  # the first looks best
    assert run(script, f"--epochs 4 {options}") == 0
    [folder] = Path("ckpt/log-pretrain").iterdir()
    assert [path.name for path in (folder / "model").glob("model_best*")] == [f"model_best_epoch{first - 1}.pth.tar"]


def test_a_cascade_that_is_plain_topk_says_so(capsys):
    for stage, said in ((2, True), (3, False)):
        assert run(main_coclr, f"--epochs 2 --cascade --stage {stage} --ratio 0.5 --name_prefix s{stage}") == 0
        assert ("which is plain top-k" in capsys.readouterr().out) == said


def test_a_pretrained_start_of_coclr(capsys):
    assert run(main_nce, "--epochs 1 --name_prefix rgb --seed 1") == 0
    assert run(main_nce, "--epochs 1 --name_prefix flow --seed 2", dataset="noise-f-2clip") == 0
    rgb, flow = newest("rgb", 0), newest("flow", 0)
    options = vars(main_coclr.parse([*noise.SMALL, "--topk", "2", "--dataset", "noise-2stream-2clip"]))
    task = main_coclr.CoclrTask(*configs_of(options), distributed.init())
    model, queue = task.model, task.model.queue.clone()
    task.load_pretrained(str(rgb), str(flow))
    state = model.state_dict()
    for key, value in checkpoint.load(rgb)["state_dict"].items():
        if key.startswith("encoder_q."):
            assert torch.equal(state[key], value)
            assert torch.equal(state[key.replace("encoder_q.", "encoder_k.")], value)
    for key, value in checkpoint.load(flow)["state_dict"].items():
        if key.startswith("encoder_q."):
            assert torch.equal(state[key.replace("encoder_q.", "sampler.")], value)
    assert torch.equal(model.queue, queue)
    assert run(main_coclr, f"--epochs 2 --pretrain {rgb} random") == 0
    assert "into encoder_q and encoder_k: " in capsys.readouterr().out


def test_files_start_and_test_their_own_stream_alone(capsys):
    paths = {}
    for stream, dataset in (("rgb", "noise-2clip"), ("flow", "noise-f-2clip")):
        assert run(main_nce, f"--epochs 1 --name_prefix {stream}", dataset) == 0
        paths[stream] = str(newest(stream, 0))
    assert checkpoint.load(paths["rgb"])["classes"] == ["A", "B"]
    both = "{rgb} {flow}".format(**paths), "{flow} {rgb}".format(**paths)
    for order, reverse in ((0, ""), (1, "--reverse")):
        assert run(main_coclr, f"--epochs 2 {reverse} --name_prefix ok{order} --pretrain {both[order]}") == 0
        assert run(main_coclr, f"--epochs 1 {reverse} --name_prefix no{order} --pretrain {both[1 - order]}") == 2
    assert run(main_nce, f"--test {paths['flow']}") == run(main_nce, f"--pretrain {paths['flow']}") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and all("trained on " in error and "--accept_changes" in error for error in errors)
    assert not list(Path("ckpt/log-pretrain").glob("no*"))
    assert run(main_nce, f"--epochs 1 --pretrain {paths['flow']} --accept_changes --seq_len 4") == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2 and "but is needed for RGB" in warnings[0]
    assert "--seq_len 8 but is used with" in warnings[1]


def test_a_pretrained_start_of_infonce_takes_the_whole_file():
    assert run(main_nce, "--epochs 1 --name_prefix first") == 0
    path = newest("first", 0)
    model = InfoNCE("s3d", 8, 8)
    checkpoint.load_state(model, checkpoint.load(path)["state_dict"])
    assert run(main_nce, f"--model ubernce --epochs 1 --lr 1e-30 --moco-m 1 --pretrain {path}") == 0
    saved, first = checkpoint.load(newest("ubernce", 0))["state_dict"], checkpoint.load(path)["state_dict"]
    for name, _ in model.named_parameters():
        assert torch.equal(saved[name], first[name]), name
    assert newest("ubernce", 0).parent.parent.name.endswith(f"_pt={str(path).replace('/', '-')}")


def test_the_learning_rate_after_a_resume(monkeypatch):
    assert run(main_nce, "--epochs 2 --lr 0.002 --schedule 1") == 0
    path, rates = newest("infonce", 1), []
    monkeypatch.setattr(Trainer, "fit", lambda self, task: rates.append((self.state.epoch, self.optimizer.base_lr)))
    for options in ("", "--reset_lr"):
        assert run(main_nce, f"--epochs 3 --lr 0.5 --schedule 1 --resume {path} {options}") == 0
    assert rates == [(2, pytest.approx(0.002)), (2, 0.5)]


def test_a_checkpoint_is_measured_without_training(capsys):
    assert run(main_coclr, "--epochs 2") == 0
    path = newest("coclr", 1)
    before = {file: file.read_bytes() for file in path.parents[1].rglob("*") if file.is_file()}
    capsys.readouterr()
    assert run(main_coclr, f"--test {path}") == 0
    output = capsys.readouterr().out
    assert "test epoch 1 mean: loss" in output and "recall" in output and " lr " not in output
    assert output.endswith((path.parent / "epoch1-test.log").read_text())
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize(("script", "options", "words"), [
    (main_coclr, "--moco-k 10", "must be a multiple"), (main_coclr, "--cascade --stage 7", "too deep"),
    (main_coclr, "--topk 9", "topk must lie"), (main_nce, "--net s4d", "s4d"),
    (main_nce, "--batch_size 16 --moco-k 16", "only 8 clips"), (main_nce, "--pretrain {text}", "not a checkpoint"),
    (main_nce, "--resume {run} --moco-k 16", "--moco-k"), (main_nce, "--test {run} --net r50", "--net"),
    (main_nce, "--pretrain {run} --moco-dim 16", "--moco-dim"), (main_coclr, "--resume {run}", "another model"),
    (main_coclr, "--pretrain {text} random", "not a checkpoint"),
    (main_nce, "--resume {run} --model ubernce", "queue_label"), (main_nce, "--img_dim 2", "--net s3d"),
    (main_nce, "--seq_len 2", "--img_dim")])
def test_bad_input_is_one_line_and_leaves_no_trace(script, options, words, capsys, tmp_path_factory):
    away = tmp_path_factory.mktemp("files") / "model"
    away.mkdir()
    (away / "text").write_text("not a checkpoint")
    if "{run}" in options:
        model = InfoNCE("s3d", 8, 8)
        optimizer = Optimizer(model.named_parameters(), lr=1e-3, wd=0.0).state_dict()
        checkpoint.save(away / "run", {"epoch": 0, "state_dict": model.state_dict(), "optimizer": optimizer})
    assert run(script, options.format(text=away / "text", run=away / "run")) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and words in captured.err
    assert captured.out == "" and not Path("ckpt").exists()
    assert {path.name for path in away.iterdir()} <= {"text", "run"}


@pytest.mark.parametrize("blocked", ["ckpt", "img/train.log"])
def test_places_that_cannot_be_written_are_one_line(blocked, capsys):
    if blocked == "ckpt":
        Path("ckpt").touch()
    else:
        assert run(main_nce, "--epochs 1") == 0
        folder = newest("infonce", 0).parents[1]
        (folder / "model").rename("model")
        (folder / blocked).unlink()
        (folder / blocked).mkdir()
    capsys.readouterr()
    assert run(main_nce, "--epochs 1") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot ") and error.count("\n") == 1 and blocked.split("/")[-1] in error
