"""Parts of main_classifier.py: options, networks and their files, what is trained and at which learning rate."""

import noise
import pytest
import torch
from torch import nn

from engine import checkpoint
from engine.compatibility import restore_optimizer
from engine.optimizer import LrSchedule, Optimizer
from eval import finetune, main_classifier, network, options
from model.pretrain import InfoNCE
from utils.errors import CheckpointError, OptionError
from utils.launch import allotted_cores

DEFAULTS = {  # names and defaults that users' scripts rely on
    "net": "s3d", "dataset": "ucf101", "seq_len": 32, "num_seq": 1, "ds": 1, "batch_size": 32, "lr": 1e-3,
    "schedule": None, "wd": 1e-3, "epochs": 10, "start_epoch": 0, "gpu": None, "print_freq": 5, "img_dim": 128,
    "prefix": "linclr", "workers": min(8, allotted_cores()), "cos": False, "reset_lr": False, "model": "lincls",
    "num_fc": 1,
    "which_split": 1, "dropout": 0.9, "train_what": "last", "eval_freq": 1, "retrieval": False, "dirname": "feature",
    "seed": 0}


@pytest.fixture
def tiny(monkeypatch):
    """Build a small backbone whatever the network's name."""
    for module in ("classifier", "momentum"):
        monkeypatch.setattr(f"model.{module}.select_backbone", lambda _: noise.small_backbone("s3d"))


def batch(count: int = 6) -> dict[str, torch.Tensor]:
    """Clips as `to_blocks` leaves them, and labels of four classes."""
    return {"blocks": torch.randn(count, 1, 1, 3, 4, 5, 5), "label": torch.arange(count) % 4}


def take_step(net: nn.Module, optimizer: Optimizer, train_what: str, data: dict[str, torch.Tensor]) -> None:
    """Train on one batch, as the training loop does."""
    network.set_mode(net, train_what, training=True)
    optimizer.zero_grad()
    optimizer.backward(finetune.classify_step(net, data, torch.device("cpu"))["loss"])
    optimizer.step()


@pytest.fixture
def ready_blocks(monkeypatch):
    """Batches that need no photometric steps."""
    monkeypatch.setattr(finetune, "to_blocks", lambda batch, device: batch["blocks"])


def test_defaults():
    args = vars(options.parse([], "text"))
    assert {name: args[name] for name in DEFAULTS} == DEFAULTS
    assert options.parse(["--gpu", "0,1"], "text").gpu == [0, 1]


@pytest.mark.parametrize(("flags", "crops"), [([], 1), (["--center_crop"], 1), (["--five_crop"], 5),
                                              (["--center_crop", "--ten_crop"], 10), (["--retrieval"], 0)])
def test_the_largest_crop_flag_counts(flags, crops):
    assert options.parse(["--test", "x", *flags], "text").crops == crops


@pytest.mark.parametrize("words", [
    ["--ten_crop"], ["--retrieval"], ["--test", "x", "--retrieval", "--five_crop"], ["--gpu", "0,0"], ["--gpu", "a"],
    ["--num_seq", "2"], ["--dropout", "1"], ["--which_split", "0"], ["--model", "other"], ["--optim", "lars"],
    ["--num_fc", "0"], ["--resume", "x", "--test", "x"],
])
def test_options_that_cannot_work(words):
    with pytest.raises(OptionError) as error:
        main_classifier.parse(words)
    assert "\n" not in str(error.value)


def test_devices_are_all_visible_gpus_or_those_named(monkeypatch):
    assert options.devices(None) == options.devices([0, 1]) == [torch.device("cpu")] or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert options.devices(None) == [torch.device("cuda", i) for i in range(3)]
    assert options.devices([2, 0]) == [torch.device("cuda", 2), torch.device("cuda", 0)]
    with pytest.raises(OptionError, match="GPU 3"):
        options.devices([1, 3])


@pytest.mark.parametrize(("train_what", "flags", "head"), [
    ("last", {}, ["final_bn", "final_fc.0"]), ("ft", {}, ["final_fc.1"]),
    ("all", {"final_bn": True}, ["final_bn", "final_fc.1"]), ("ft", {"num_fc": 2}, ["final_fc.1", "final_fc.3"]),
])
def test_head_of_each_way_of_training(tiny, train_what, flags, head):
    net = network.build(4, "any", train_what, **flags)
    found = {key.rsplit(".", 1)[0] for key in net.state_dict() if key.startswith("final")}
    assert found == set(head)
    assert net.use_l2_norm == (train_what == "last")


@pytest.mark.parametrize(("prefix", "rename"), [("", ""), ("module.", ""), ("", "encoder_q.0."),
                                                ("model.", "encoder_q.0.")])
def test_backbone_of_a_pretraining_file(tiny, tmp_path, prefix, rename):
    """With ``rename`` the file has nothing but the backbone, whose keys then have no prefix."""
    source, net = InfoNCE("any", dim=4, K=8), network.build(4, "any", "ft")
    before = net.final_fc[1].weight.clone()
    state = {prefix + key.removeprefix(rename): value for key, value in source.state_dict().items()
             if key.startswith(rename)}
    checkpoint.save(tmp_path / "pre.pth.tar", {"state_dict": state})
    network.load_backbone(net, tmp_path / "pre.pth.tar")
    for key, value in source.encoder_q[0].state_dict().items():
        assert torch.equal(net.backbone.state_dict()[key], value), key
    assert torch.equal(net.final_fc[1].weight, before)


@pytest.mark.parametrize("rest", [{}, {"optimizer": {}, "epoch": 3}, {"optimizer": None, "epoch": 3}])
def test_evaluation_needs_the_state_dict_alone(tiny, tmp_path, rest):
    """People publish files without the optimizer."""
    source, net = network.build(4, "any", "ft"), network.build(4, "any", "ft")
    checkpoint.save(tmp_path / "slim.pth.tar", {"state_dict": source.state_dict(), **rest})
    network.load_backbone(net, tmp_path / "slim.pth.tar")
    assert torch.equal(net.backbone[0].weight, source.backbone[0].weight)
    network.load_classifier(net, tmp_path / "slim.pth.tar")
    assert torch.equal(net.final_fc[1].weight, source.final_fc[1].weight)
    optimizer = finetune.build_optimizer(net, "ft", name="sgd", lr=0.1, wd=0.0)
    rates = LrSchedule(0.1, (), cos=False, epochs=5)
    with pytest.raises(CheckpointError, match="optimizer") as error:  # a resumed training needs more
        saved, _ = network.load_classifier(net, tmp_path / "slim.pth.tar", checkpoint.RESUME)
        restore_optimizer(optimizer, saved, rates, reset_lr=False)
    assert "\n" not in str(error.value)


def test_files_that_do_not_fit(tiny, tmp_path):
    path, net = tmp_path / "file.pth.tar", network.build(4, "any", "ft")

    def complaint(load, state) -> str:
        checkpoint.save(path, {"state_dict": state})
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(CheckpointError) as error:
            load(net, path)
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "has queue, queue_ptr, " in complaint(network.load_classifier, InfoNCE("any", dim=4, K=8).state_dict())
    assert "7 classes" in complaint(network.load_classifier, network.build(7, "any", "ft").state_dict())
    assert "--train_what" in complaint(network.load_classifier, network.build(4, "any", "last").state_dict())
    assert "neither" in complaint(network.load_backbone, {"weight": torch.zeros(2)})
    other = {key: value for key, value in net.state_dict().items() if not key.startswith("backbone.1.")}
    assert "--net" in complaint(network.load_backbone, other)
    assert "--net" in complaint(network.load_classifier, other)


def test_linear_probe_leaves_the_backbone_alone(tiny, ready_blocks):
    net = network.build(4, "any", "last")
    optimizer = finetune.build_optimizer(net, "last", name="sgd", lr=0.1, wd=0.0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    take_step(net, optimizer, "last", batch())
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and not any(key.startswith("backbone.") for key in changed)
    assert {"final_bn.running_mean", "final_fc.0.weight"} <= changed
    assert len(optimizer.state_dict()["param_groups"]) == 4  # final_bn and final_fc, weight and bias each


@pytest.mark.parametrize(("train_what", "share"), [("ft", 0.1), ("all", 1.0)])
def test_sgd_step_under_finetuning_against_the_formula(tiny, ready_blocks, train_what, share):
    net = network.build(4, "any", train_what, dropout=0.0)
    optimizer = finetune.build_optimizer(net, train_what, name="sgd", lr=0.5, wd=0.01)
    network.set_mode(net, train_what, training=True)
    data = batch()
    before = {key: value.detach().clone() for key, value in net.named_parameters()}
    logits, _ = net(data["blocks"][:, 0, 0])
    loss = -logits.log_softmax(dim=1)[range(6), data["label"]].mean()
    gradients = dict(zip(before, torch.autograd.grad(loss, net.parameters()), strict=True))
    take_step(net, optimizer, train_what, data)
    for key, value in net.named_parameters():
        lr = 0.5 * share if key.startswith("backbone.") else 0.5
        torch.testing.assert_close(value, before[key] - lr * (gradients[key] + 0.01 * before[key]))
