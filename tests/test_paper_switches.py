"""Where the paper and the released system differ: each switch's effect on the mined set, and progressive training."""

import copy
import json
from pathlib import Path

import pytest
import torch
from interrupted import Stop, train
from test_cascade import cascade_by_loops
from test_main_pretrain import newest, run

import main_coclr
from engine import checkpoint
from engine.steps import draw_self_mask
from model import momentum
from model.cascade import cascade_topk, fused_topk, stage_views
from model.pretrain import CoCLR
from utils.errors import ModelError, OptionError

pytestmark = pytest.mark.usefixtures("on_noise")


def test_views_by_stage():
    assert stage_views(5) == ["other", "own", "other", "own", "other"]
    assert stage_views(4) == ["other", "own", "other", "other"]
    assert stage_views(4, "own") == ["own", "other", "own", "other"]
    assert stage_views(1, "own") == ["other"]


@pytest.mark.parametrize("stage", [2, 3, 4, 5])
def test_the_own_view_first_by_loops(stage):
    other, own = torch.randn(3, 96), torch.randn(3, 96)
    excluded = torch.rand(3, 96) < 0.1
    got = cascade_topk(other, own, excluded, 3, 0.5, stage, first="own")
    assert torch.equal(got, cascade_by_loops(other, own, excluded, 3, 0.5, stage, first="own"))
    assert not torch.equal(got, cascade_by_loops(other, own, excluded, 3, 0.5, stage))


@pytest.mark.parametrize("anchor", ["query", "key"])
def test_the_anchor_of_the_own_view(anchor):
    """q . queue as released, or k . queue as in the paper; the mined set is that of the formula."""
    model = CoCLR("s3d", 8, 64, topk=3, ratio=0.5, stage=3, cascade=True, anchor=anchor)
    for parameter in model.parameters():
        parameter.data.normal_()  # so that clips, and both encoders, lie apart
    model.queue_label.fill_(1)
    blocks = torch.randn(2, 4, 2, 3, 8, 32, 32)
    with torch.no_grad():
        _, _, mining = model(blocks[0], blocks[1], torch.arange(4), return_mining=True)
        q, k = (momentum.embed(model.encoder_q, blocks[0, :, 0]), momentum.embed(model.encoder_k, blocks[1, :, 0]))
        kf = momentum.embed(model.sampler, blocks[1, :, 1])
        rows = (q if anchor == "query" else k) @ model.queue
        expected = cascade_by_loops(kf @ model.queue_second, rows, torch.zeros(4, 64, dtype=torch.bool), 3, 0.5, 3)
    assert torch.equal(mining.stages[-1], expected)
    other_way = cascade_topk(kf @ model.queue_second, (k if anchor == "query" else q) @ model.queue,
                             torch.zeros(4, 64, dtype=torch.bool), 3, 0.5, 3)
    assert not torch.equal(expected, other_way)


@pytest.mark.parametrize("rule", ["cascade", "fused"])
def test_a_frozen_own_view_ranks_as_the_encoder_did(rule):
    """However encoder_q is trained, the mined set is that of the copy, in a queue of its own embeddings."""
    model = CoCLR("s3d", 8, 8, topk=2, ratio=0.5, stage=3, mining=rule, own_view="frozen")
    for parameter in model.parameters():
        parameter.data.normal_()
    keys = set(model.state_dict())
    if rule == "cascade":  # else the first step does
        model.freeze_own_view()
    before = copy.deepcopy(model.encoder_q).eval()
    assert set(model.state_dict()) == keys and "queue_frozen" not in keys
    queues: dict[str, list] = {"own": [], "other": []}
    for step in range(4):
        blocks = torch.randn(2, 4, 2, 3, 8, 32, 32)
        _, mask, mining = model(blocks[0], blocks[1], 4 * step + torch.arange(4), return_mining=True)
        with torch.no_grad():
            own, other = (momentum.embed(encoder, blocks[1, :, view])
                          for encoder, view in ((before, 0), (model.sampler, 1)))
        if step >= 2:  # the queue of two steps is full
            parts = [torch.cat([queues[name][i] for i in ((0, 1) if step == 2 else (2, 1))]) for name in queues]
            views = other @ parts[1].T, own @ parts[0].T, torch.zeros(4, 8, dtype=torch.bool)
            expected = fused_topk(*views, 2) if rule == "fused" else cascade_by_loops(*views, 2, 0.5, 3)
            assert torch.equal(mining.stages[-1], expected) and torch.equal(mining.own, mining.own.clamp(-1.01, 1.01))
            assert torch.equal(mask[:, 1:].nonzero()[:, 1].view(4, 2), expected.sort(dim=1).values)
        queues["own"].append(own)
        queues["other"].append(other)
        for parameter in model.encoder_q.parameters():  # a step of any size
            parameter.data += torch.randn_like(parameter)
    assert len(model.encoders()) == 4  # the copy's convolutions are checked, too


@pytest.mark.parametrize(("settings", "words"), [
    ({"cascade": True, "mining": "topk"}, "contradict"), ({"mining": "best"}, "topk or cascade or fused"),
    ({"own_view": "frozen"}, "only where it ranks"), ({"mining": "cascade", "stage": 2, "own_view": "frozen"}, "ranks"),
    ({"mining": "cascade", "anchor": "key", "own_view": "frozen"}, "own view, not frozen"),
    ({"first": "own"}, "own view can come first only"), ({"first": "own", "cascade": True, "stage": 1}, "two stages"),
    ({"anchor": "key"}, "only in a cascade"), ({"anchor": "k", "cascade": True}, "query or key"),
    ({"anchor": "key", "cascade": True, "stage": 2}, "ranks by the own view")])
def test_switches_that_would_change_nothing_are_refused(settings, words):
    with pytest.raises(ModelError, match=words):
        CoCLR("s3d", 8, 64, **settings)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_steps_that_leave_the_own_key_out(share):
    draws = [draw_self_mask(0, 0, i, share) for i in range(2000)]
    assert draws == [draw_self_mask(0, 0, i, share) for i in range(2000)]
    assert abs(sum(draws) / 2000 - share) < 0.04 and (0 < share < 1 or len(set(draws)) == 1)


def test_the_self_mask_option_reaches_the_loss():
    values = []
    for share in (0, 1):
        assert run(main_coclr, f"--epochs 3 --self_mask {share} --name_prefix m{share}") == 0
        path = newest(f"m{share}", 2).parents[1] / "metrics.jsonl"
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        values.append([line["values"] for line in steps if line["kind"] == "steps"])
    assert values[0][0]["loss"] == values[1][0]["loss"]  # an empty queue has no other positive
    assert values[0][2]["loss"] < values[1][2]["loss"]  # less mass on fewer positives
    assert all(values[0][2][name] == values[1][2][name] for name in ("top1", "top5", "self_top1", "self_top5"))


def folders(prefix: str) -> list[str]:
    return sorted(path.name.split("_k")[0] for path in Path("ckpt/log-pretrain").glob(f"{prefix}*"))


def test_progressive_phases_are_the_trainings_of_their_topk(capsys):
    assert run(main_coclr, "--epochs 3 --progressive 1 2 --name_prefix both") == 0
    assert folders("both") == ["bothcoclr-top1", "bothcoclr-top2"]
    assert run(main_coclr, "--epochs 3 --topk 1 --name_prefix a") == 0
    first = newest("acoclr-top1", 2)
    assert run(main_coclr, f"--epochs 3 --topk 2 --name_prefix a --pretrain {first} random") == 0
    for topk in (1, 2):
        one, two = (checkpoint.load(newest(f"{name}coclr-top{topk}", 2)) for name in ("both", "a"))
        assert all(torch.equal(value, two["state_dict"][key]) for key, value in one["state_dict"].items())
        assert one["iteration"] == two["iteration"] == 6 and one["options"]["topk"] == topk


def test_progressive_training_resumes_in_the_right_phase(capsys):
    def main(prefix):
        return lambda: run(main_coclr, f"--epochs 3 --progressive 1 2 --name_prefix {prefix} --resume auto")
    assert train(main("whole")) == [0]
    assert train(main("part"), stop=Stop("term", 8)) == [75]
    assert folders("part") == ["partcoclr-top1", "partcoclr-top2"]
    assert train(main("part")) == [0]
    one, two = (checkpoint.load(newest(f"{name}coclr-top2", 2))["state_dict"] for name in ("whole", "part"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize(("options", "words"), [
    ("--progressive 2 2", "does not increase"), ("--progressive 1 3 --topk 2", "contradict"),
    ("--progressive 1 2 --test x.pth.tar", "--test"), ("--progressive 1 2 --resume x.pth.tar", "--resume auto"),
    ("--moco-k 32 --cascade --stage 5 --progressive 1 5", "too deep")])
def test_impossible_phases_are_refused(options, words, tmp_path):
    Path("x.pth.tar").touch()
    with pytest.raises((OptionError, ModelError), match=words):
        main_coclr.parse(options.split())


def test_an_existing_later_phase_is_refused_before_the_first_starts(capsys):
    assert run(main_coclr, "--epochs 2 --topk 2") == 0
    capsys.readouterr()
    assert run(main_coclr, "--epochs 2 --progressive 1 2") == 2
    assert "already holds a run" in capsys.readouterr().err and folders("coclr") == ["coclr-top2"]


def test_a_later_phase_with_another_start_is_not_resumed(capsys):
    assert run(main_coclr, "--epochs 2 --topk 2") == 0
    assert run(main_coclr, "--epochs 2 --progressive 1 2 --resume auto") == 2
    assert "was started from random random" in capsys.readouterr().err and folders("coclr") == ["coclr-top2"]
