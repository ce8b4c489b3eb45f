"""--precision, with loss scaling across a resume; --fp32_steps; --compile."""


import pytest
import torch
from test_main_pretrain import newest, run
from test_pretrain import TinyBackbone
from torch import nn

import main_coclr
import main_nce
from engine import checkpoint
from engine.config import configs_of
from engine.device import Precision, choose_precision
from model import momentum
from model.classifier import LinearClassifier
from model.loss import coclr_loss
from model.pretrain import CoCLR
from utils import distributed
from utils.errors import OptionError

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
def test_dtype_of_each_precision(name, device, chosen, dtype, scaled, tf32):
    precision = choose_precision(name, device)
    assert (precision.name, precision.dtype) == (chosen, dtype)
    if device is CPU:
        assert precision.scaler().is_enabled() is scaled
    assert torch.backends.cudnn.conv.fp32_precision == tf32
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_tf32_needs_a_gpu_and_other_names_are_refused():
    with pytest.raises(OptionError, match="take fp32"):
        choose_precision("tf32", CPU)
    with pytest.raises(OptionError, match="--precision"):
        main_nce.parse(["--precision", "fp8"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_only_the_encoders_leave_float32(tiny, dtype):
    model = CoCLR("tiny", 16, 8, topk=2, cascade=True, stage=2)
    model.queue_label.zero_()
    seen = set()
    for encoder in model.encoders():
        encoder[0].conv.register_forward_hook(lambda *hooked: seen.add(hooked[2].dtype))
    blocks = torch.randn(2, 2, 2, 3, 4, 8, 8)
    logits, mask = model(blocks[0], blocks[1], torch.arange(2), dtype=dtype)
    coclr_loss(logits, mask).backward()
    assert len(model.encoders()) == 3 and seen == {dtype}
    assert {t.dtype for t in (logits, mask, model.queue, model.queue_second)} == {torch.float32}
    assert {t.dtype for t in model.state_dict().values()} == {torch.float32, torch.int64}
    assert all(p.grad.dtype == torch.float32 for p in model.encoder_q.parameters())


def test_classifier_leaves_float32_in_its_backbone_alone():
    net = LinearClassifier(3, "s3d")
    seen = []
    net.backbone.Conv_1a.conv1.register_forward_hook(lambda *hooked: seen.append(hooked[2].dtype))
    logits, feature = net(torch.randn(2, 3, 16, 32, 32), torch.bfloat16)
    assert seen == [torch.bfloat16] and (logits.dtype, feature.dtype) == (torch.float32, torch.float32)


def test_the_first_steps_run_in_float32(on_noise, capsys):
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


def task(*words: str) -> main_coclr.CoclrTask:
    options = vars(main_coclr.parse(["--topk", "2", "--moco-k", "8", *words]))
    return main_coclr.CoclrTask(*configs_of(options), distributed.init())


def test_the_first_steps_switch_tf32_off(tiny):
    found = task("--fp32_steps", "3")
    found.precision = Precision("tf32", CPU)  # as on a GPU
    seen = [(found.use_precision(iteration), torch.backends.cudnn.conv.fp32_precision) for iteration in range(5)]
    assert seen == [(None, "ieee")] * 3 + [(None, "tf32")] * 2


def test_compiled_encoders_keep_their_keys(tiny, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    model = task("--compile").model
    assert compiled == model.encoders() and list(model.state_dict()) == list(task().model.state_dict())
