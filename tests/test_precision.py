"""--precision, with loss scaling across a resume; --accumulate; --compile; the verdict of the fidelity benchmark."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from test_main_pretrain import newest, on_noise, run, stopped_in_epoch_2  # noqa: F401  (on_noise is a fixture)
from test_pretrain import TinyBackbone
from torch import nn

import main_coclr
import main_nce
import pretrain_script
from benchmarks import fidelity
from model import momentum
from model.classifier import LinearClassifier
from model.loss import coclr_loss
from model.pretrain import CoCLR, InfoNCE
from pretrain_steps import CoclrSteps, infonce_steps, split, take_step
from utils import checkpoint
from utils.errors import OptionError
from utils.mining import MiningMonitor
from utils.optimizer import RunOptimizer
from utils.precision import choose

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def switches():
    """TF32 as it was."""
    before = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    yield
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(momentum, "select_backbone", lambda _: (TinyBackbone(), {"feature_size": 8}))


@pytest.mark.parametrize(("name", "device", "chosen", "dtype", "scaled", "tf32"), [
    (None, CPU, "fp32", None, False, "ieee"), (None, GPU, "tf32", None, False, "tf32"),
    ("fp32", GPU, "fp32", None, False, "ieee"), ("bf16", CPU, "bf16", torch.bfloat16, False, "ieee"),
    ("fp16", CPU, "fp16", torch.float16, True, "ieee")])
def test_what_a_precision_is(name, device, chosen, dtype, scaled, tf32):
    precision = choose(name, device)
    assert (precision.name, precision.dtype) == (chosen, dtype)
    if device is CPU:
        assert precision.scaler().is_enabled() is scaled
    assert torch.backends.cudnn.conv.fp32_precision == tf32
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_tf32_needs_a_gpu_and_other_names_are_refused():
    with pytest.raises(OptionError, match="take fp32"):
        choose("tf32", CPU)
    with pytest.raises(OptionError, match="--precision"):
        main_nce.parse(["--precision", "fp8"])
    with pytest.raises(OptionError, match="--accumulate"):
        main_nce.parse(["--accumulate", "0"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_only_the_encoders_leave_float32(tiny, dtype):
    model = CoCLR("tiny", 16, 8, topk=2, cascade=True, stage=2)
    model.dtype = dtype
    model.queue_label.zero_()
    seen = set()
    for encoder in model.encoders():
        encoder[0].conv.register_forward_hook(lambda *hooked: seen.add(hooked[2].dtype))
    logits, mask = model(torch.randn(2, 2, 3, 4, 8, 8), torch.randn(2, 2, 3, 4, 8, 8), torch.arange(2))
    coclr_loss(logits, mask).backward()
    assert len(model.encoders()) == 3 and seen == {dtype}
    assert {t.dtype for t in (logits, mask, model.queue, model.queue_second)} == {torch.float32}
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}
    assert all(p.grad.dtype == torch.float32 for p in model.encoder_q.parameters())


def test_classifier_leaves_float32_in_its_backbone_alone():
    net = LinearClassifier(3, "s3d")
    net.dtype = torch.bfloat16
    seen = []
    net.backbone.Conv_1a.conv1.register_forward_hook(lambda *hooked: seen.append(hooked[2].dtype))
    logits, feature = net(torch.randn(2, 3, 16, 32, 32))
    assert seen == [torch.bfloat16] and (logits.dtype, feature.dtype) == (torch.float32, torch.float32)


def test_scaled_steps_equal_plain_ones_and_an_overflow_is_skipped():
    torch.manual_seed(0)
    plain = nn.Linear(4, 3)
    scaled = copy.deepcopy(plain)
    optimizers = [RunOptimizer(plain.named_parameters(), lr=0.01, wd=0.0),
                  RunOptimizer(scaled.named_parameters(), lr=0.01, wd=0.0,
                               scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))]
    for net, optimizer in zip((plain, scaled), optimizers, strict=True):
        for i in range(3):
            optimizer.zero_grad()
            optimizer.backward(net(torch.full((2, 4), i + 1.0)).square().mean())
            optimizer.step()
    assert torch.equal(plain.weight, scaled.weight)
    before = scaled.weight.clone()
    optimizers[1].zero_grad()
    optimizers[1].backward(scaled(torch.full((2, 4), 1e30)).square().mean())
    optimizers[1].step()
    assert torch.equal(scaled.weight, before) and optimizers[1].scaler.get_scale() == 512.0


@pytest.mark.parametrize("options", ["--precision bf16", "--precision fp16", "--accumulate 2 --batch_size 2",
                                     "--precision bf16 --fp32_steps 3"])
def test_a_resumed_run_ends_like_one_that_never_stopped(options, on_noise, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(torch.amp.GradScaler, "get_growth_interval", lambda self: 1)  # so that the scale has a history
    assert run(main_nce, f"--epochs 3 --name_prefix whole {options}") == 0
    assert "distinct convolutions checked" in capsys.readouterr().out
    with stopped_in_epoch_2(monkeypatch):
        assert run(main_nce, f"--epochs 3 --name_prefix part {options}") == 130
    assert run(main_nce, f"--epochs 3 --name_prefix part {options} --resume {newest('part', 1)}") == 0
    whole, part = (checkpoint.load(newest(name, 2)) for name in ("whole", "part"))
    assert all(torch.equal(value, part["state_dict"][key]) for key, value in whole["state_dict"].items())
    assert ("scaler" in whole) == ("fp16" in options) and whole.get("scaler") == part.get("scaler")
    assert ("bs2x2_" in str(newest("part", 2))) == ("accumulate" in options)



def test_the_first_steps_are_float32s(on_noise, capsys):  # noqa: F811
    """As many as asked for: a run that has no others is float32's, one with an epoch more in bf16 is not."""
    def trained(name: str, options: str) -> dict:
        assert run(main_nce, f"--epochs 2 --name_prefix {name} {options}") == 0
        return checkpoint.load(newest(name, 1))

    exact = trained("exact", "")
    steps = int(exact["iteration"])
    for count, equal in ((steps, True), (steps - 1, False), (0, False)):
        found = trained(f"first{count}", f"--precision bf16 --fp32_steps {count}")["state_dict"]
        assert all(torch.equal(value, found[key]) for key, value in exact["state_dict"].items()) is equal
    said = capsys.readouterr().out
    assert f", the first {steps} steps in fp32" in said
    assert said.count("\nprecision fp32: ") == 1 + 2 and said.count("\nprecision bf16: ") == 3


def test_the_switch_of_tf32_follows_the_first_steps(tiny):
    run_ = pretrain_script.Run(InfoNCE("s3d", K=4), optimizer=None, precision=choose("bf16", CPU))
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    seen = []

    def note(batch: dict, iteration: int) -> dict:
        seen.append((run_.model.dtype, torch.backends.cudnn.conv.fp32_precision))
        return {}

    steps = pretrain_script.exact_at_first(lambda epoch: note, run_, 3)
    for iteration in range(5):
        steps(iteration // 2)({}, iteration)
    assert seen == [(None, "ieee")] * 3 + [(torch.bfloat16, "tf32")] * 2


def test_accumulated_steps_equal_one_large_batch(tiny):
    """With BatchNorm in evaluation mode, which no batch changes, N small batches and one large one are the same."""
    torch.manual_seed(0)
    start = InfoNCE("tiny", 16, 16)
    for module in start.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    batches = [{"clips": torch.randn(8, 2, 3, 4, 8, 8), "photo": {"sigma": torch.zeros(8)}} for _ in range(3)]
    results = []
    for parts in (1, 4):
        model = copy.deepcopy(start).double()
        model.accumulate = parts
        optimizer = RunOptimizer(model.named_parameters(), name="sgd", lr=0.1, wd=0.0)
        losses = []
        for batch in batches:
            pieces = split({"clips": batch["clips"].double(), "photo": batch["photo"]}, parts)
            assert len(pieces) == parts
            values = take_step(model, optimizer, pieces, lambda piece, model=model: contrast(model, piece))
            losses.append(float(values["loss"]))
        results.append((losses, model.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-9)
    for key, value in results[0][1].items():
        torch.testing.assert_close(value, results[1][1][key], rtol=1e-9, atol=1e-9, msg=key)
    assert int(results[1][1]["queue_ptr"]) == 24 % 16


def contrast(model: nn.Module, batch: dict) -> dict:
    logits, labels = model(batch["clips"])
    return {"loss": F.cross_entropy(logits, labels)}


def test_the_momentum_encoder_moves_once_a_step(tiny):
    model = InfoNCE("tiny", 16, 8, m=0.5)
    model.accumulate = 2
    with torch.no_grad():
        for p in model.encoder_q.parameters():
            p.add_(1.0)
    before = model.encoder_k[2].bias.clone()
    for _ in range(2):
        model(torch.randn(2, 2, 3, 4, 8, 8))
    torch.testing.assert_close(model.encoder_k[2].bias, before + 0.5)
    assert int(model.queue_ptr) == 4 and model._waiting == ()


def test_labels_stay_beside_their_queue_entries(tiny, monkeypatch):
    monkeypatch.setattr("pretrain_steps.to_blocks", lambda batch, device: batch["clips"])
    model = CoCLR("tiny", 16, 16, topk=2)
    model.accumulate = 4
    monitor = MiningMonitor(16, torch.arange(24) % 2, torch.arange(24))
    optimizer = RunOptimizer(model.named_parameters(), lr=0.01, wd=0.0)
    step = CoclrSteps(model, model, optimizer, monitor, CPU, seed=0, parts=4)(0)
    for i in range(3):
        values = step({"clips": torch.randn(8, 2, 2, 3, 4, 8, 8), "source": torch.arange(8) + 8 * i,
                       "label": torch.arange(8) % 2, "index": torch.arange(8) + 8 * i}, i)
        assert torch.equal(monitor.ring.sources, model.queue_vname)
    assert {"loss", "top1", "recall"} <= set(values) and values["loss"].isfinite()


def test_a_queue_that_accumulated_steps_do_not_divide(on_noise, capsys):  # noqa: F811
    assert run(main_nce, "--batch_size 2 --accumulate 3 --epochs 1") == 2
    assert "2 (--batch_size) x 3 (--accumulate) x 1 processes = 6" in capsys.readouterr().err


def test_compiled_encoders_keep_their_keys(tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    model = CoCLR("tiny", 16, 8, topk=2)
    keys = list(model.state_dict())
    args = main_coclr.parse(["--compile", "--topk", "2"])
    here = pretrain_script.Launch(0, 0, 1, CPU, "gloo")
    built = pretrain_script.build_run(model, args, here)
    assert compiled == model.encoders() and list(built.model.state_dict()) == keys


def test_steps_of_infonce_in_bf16_learn(tiny, monkeypatch):
    monkeypatch.setattr("pretrain_steps.to_blocks", lambda batch, device: batch["clips"])
    model = InfoNCE("tiny", 16, 8)
    model.dtype = torch.bfloat16
    optimizer = RunOptimizer(model.named_parameters(), lr=0.01, wd=0.0)
    step = infonce_steps(model, optimizer, CPU)(0)
    clips = torch.randn(4, 2, 1, 3, 4, 8, 8)
    losses = [float(step({"clips": clips}, i)["loss"]) for i in range(12)]
    assert losses[-1] < losses[2]


def runs_of(*curves: list[float], seconds: float) -> list[dict]:
    return [{"curve": list(curve), "step_seconds": seconds} for curve in curves]


def test_fast_and_safe_is_a_curve_inside_of_float32s_spread():
    verdicts = fidelity.judge({
        "fp32": runs_of([2.0, 1.0], [2.2, 1.4], seconds=1.0), "fp16": runs_of([2.0, 1.3], [2.1, 1.5], seconds=0.4),
        "bf16": runs_of([2.1, 1.3], [2.1, 1.7], seconds=0.3), "tf32": runs_of([2.1, 1.2], [2.1, 1.2], seconds=1.1)})
    assert {name: (v["safe"], v["fast"]) for name, v in verdicts.items()} == {
        "fp32": (True, False), "fp16": (True, True), "bf16": (False, True), "tf32": (True, False)}
    assert (verdicts["fp32"]["low"], verdicts["fp32"]["high"]) == ([2.0, 1.0], [2.2, 1.4])


def test_fidelity_goes_on_after_its_warm_up_as_if_it_had_not_stopped(on_noise, tmp_path):  # noqa: F811
    def losses(options: str) -> list[list[float]]:
        common = "--window 2 --seeds 2 --batch_size 4 --moco-k 8 --precisions tf32-emulated --seq_len 8 --img_dim 32"
        fidelity.main([*common.split(), *options.split(), "--json", str(tmp_path / "found.json")])
        found = json.loads((tmp_path / "found.json").read_text())
        assert found["first_step"]["fp32"]["feature_error"] == 0
        return [run["losses"] for run in found["runs"]["fp32"]]

    whole, part = losses("--steps 6"), losses("--warmup 2 --steps 4")
    assert [run[2:] for run in whole] == part


@pytest.mark.parametrize(("options", "words"), [("--seeds 1", "no spread"), ("--steps 10", "--window")])
def test_fidelity_options_that_cannot_work(options, words):
    with pytest.raises(OptionError, match=words):
        fidelity.parse(options.split())
