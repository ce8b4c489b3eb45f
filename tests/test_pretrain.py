"""InfoNCE, UberNCE and CoCLR against the released outputs and against small hand-computed queues."""

from pathlib import Path

import hashed
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import momentum
from model.momentum import check_queue
from model.pretrain import CoCLR, InfoNCE, UberNCE
from utils.errors import ModelError

GOLDEN = np.load(Path(__file__).parent / "golden_model.npz")
K = 64
SOURCE = torch.tensor([0, 3, 5, 100])
MODELS = {"coclr": {}, "cpr": {"cascade": True, "stage": 3, "ratio": 0.5}}


class TinyBackbone(nn.Module):
    """Stands in for a backbone where only the method is tested: one strided convolution with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm3d(8)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(momentum, "select_backbone", lambda _: (TinyBackbone(), {"feature_size": 8}))


AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
# S3D in train mode on four clips amplifies the last bit. The golden float32 outputs, made with AVX-512 and two threads,
# are within 6.7e-4 of the largest value of the exact ones, and so is float32 of another CPU: only there are they equal.
TOLERANCE = {torch.float32: 2e-4, torch.float64: 8e-4}
DTYPES = [pytest.param(torch.float32, marks=pytest.mark.skipif(not AVX512, reason="golden float32 needs AVX-512")),
          torch.float64]


@pytest.fixture
def golden_threads():
    """Two threads, with which the golden outputs were made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def blocks():
    return (hashed.clip(name, 4, 2, 3, 8, 32, 32) for name in ("block1", "block2"))


def assert_equals_golden(name, got, tolerance=2e-4):
    expected = torch.as_tensor(GOLDEN[name]).double()
    assert got.shape == expected.shape
    assert float((got.detach().double() - expected).abs().max()) <= tolerance * float(expected.abs().max()), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_infonce_equals_released_outputs(dtype, golden_threads):
    model = InfoNCE("s3d", 128, K)
    hashed.fill(model)
    logits, labels = model.to(dtype)(next(blocks()).to(dtype))
    assert labels.tolist() == [0, 0, 0, 0]
    assert_equals_golden("infonce/logits", logits, TOLERANCE[dtype])
    assert_equals_golden("infonce/queue", model.queue, TOLERANCE[dtype])
    assert_equals_golden("infonce/ptr", model.queue_ptr)
    assert_equals_golden("infonce/k_w", model.encoder_k[0].Conv_1a.conv1.weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MODELS)
def test_coclr_equals_released_outputs(name, dtype, golden_threads):
    model = CoCLR("s3d", 128, K, topk=5, **MODELS[name])
    hashed.fill(model)
    logits, mask = model.to(dtype)(*(block.to(dtype) for block in blocks()), SOURCE)
    assert_equals_golden(f"{name}/logits", logits, TOLERANCE[dtype])
    assert_equals_golden(f"{name}/mask", mask)
    assert_equals_golden(f"{name}/queue_second", model.queue_second)
    assert_equals_golden(f"{name}/queue_vname", model.queue_vname)


def test_buffers_start_as_specified(tiny):
    model = CoCLR("tiny", 16, 32)
    for queue in (model.queue, model.queue_second):
        torch.testing.assert_close(queue.norm(dim=0), torch.ones(32))
    assert (model.queue_vname == -1).all() and (model.queue_label == -1).all()
    assert torch.equal(model.memory_index_record, torch.arange(32)) and not model.queue_is_full
    pairs = zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True)
    assert all(torch.equal(q, k) for q, k in pairs)


def test_queue_is_read_before_it_is_written_and_wraps_around(tiny):
    model = InfoNCE("tiny", 16, 8)
    expected = model.queue.clone()
    for step in range(5):
        before = model.queue.clone()
        x = torch.randn(4, 2, 3, 4, 16, 16)
        logits, _ = model(x)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        with torch.no_grad():
            q = F.normalize(model.encoder_q(x[:, 0]).flatten(1), dim=1)
            k = F.normalize(model.encoder_k(x[:, 1]).flatten(1), dim=1)
        model.load_state_dict(state)
        torch.testing.assert_close(logits[:, 1:], q @ before / 0.07, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(logits[:, 0], (q * k).sum(1) / 0.07, rtol=1e-4, atol=1e-4)
        for b in range(4):
            expected[:, (4 * step + b) % 8] = k[b]
        torch.testing.assert_close(model.queue, expected, rtol=1e-4, atol=1e-5)
        assert int(model.queue_ptr) == 4 * (step + 1) % 8


def test_momentum_update_covers_parameters_only(tiny):
    model = InfoNCE("tiny", 16, 8, m=0.9)
    with torch.no_grad():
        for p in model.encoder_q.parameters():
            p.add_(torch.randn_like(p))
    before = [p.clone() for p in model.encoder_k.parameters()]
    model(torch.randn(4, 2, 3, 4, 16, 16))
    for k_after, k_before, q in zip(model.encoder_k.parameters(), before, model.encoder_q.parameters(), strict=True):
        torch.testing.assert_close(k_after, 0.9 * k_before + 0.1 * q)
    # BatchNorm's statistics are each encoder's own: they saw different clips
    assert not torch.allclose(model.encoder_q[0].bn.running_mean, model.encoder_k[0].bn.running_mean)


def test_without_gradient_nothing_is_updated(tiny):
    model = CoCLR("tiny", 16, 8, topk=2).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        model(torch.randn(4, 2, 3, 4, 16, 16), torch.randn(4, 2, 3, 4, 16, 16), torch.arange(4))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_only_the_query_encoder_gets_a_gradient(tiny):
    model = CoCLR("tiny", 16, 8, topk=2)
    logits, _ = model(torch.randn(4, 2, 3, 4, 16, 16), torch.randn(4, 2, 3, 4, 16, 16), torch.arange(4))
    logits.sum().backward()
    with_gradient = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"encoder_q"}


def test_sampler_stays_in_eval_mode(tiny):
    model = CoCLR("tiny", 16, 8).train()
    assert not any(m.training for m in model.sampler.modules())
    assert all(m.training for m in model.encoder_k.modules())


def test_uber_mask_by_loop(tiny):
    model = UberNCE("tiny", 16, 8)
    model.queue_label[:] = torch.tensor([0, 1, 2, 0, 1, 2, -1, -1])
    queue_label = model.queue_label.tolist()
    labels = torch.tensor([0, 2, 1, 3])
    _, mask = model(torch.randn(4, 2, 3, 4, 16, 16), labels)
    assert mask.dtype == torch.bool
    for b in range(4):
        assert mask[b].tolist() == [True] + [entry == int(labels[b]) for entry in queue_label]
    assert model.queue_label.tolist() == [0, 2, 1, 3, 1, 2, -1, -1]


def coclr_step(model, source):
    return model(torch.randn(4, 2, 3, 4, 16, 16), torch.randn(4, 2, 3, 4, 16, 16), torch.tensor(source))


def test_mining_starts_when_the_queue_is_full(tiny):
    model = CoCLR("tiny", 16, 8, topk=3)
    _, first = coclr_step(model, [0, 1, 2, 3])
    assert first.dtype == torch.float32 and first.sum(dim=1).tolist() == [1, 1, 1, 1]
    _, second = coclr_step(model, [0, 1, 7, 7])
    assert second.sum(dim=1).tolist() == [2, 2, 1, 1]  # same source in the half-filled queue; nothing mined
    assert model.queue_is_full and model.queue_vname.tolist() == [0, 1, 2, 3, 0, 1, 7, 7]
    _, third = coclr_step(model, [0, 5, 7, 6])
    assert third.sum(dim=1).tolist() == [1 + 2 + 3, 1 + 3, 1 + 2 + 3, 1 + 3]  # column 0, same source, mined


@pytest.mark.parametrize("reverse", [False, True])
def test_reverse_swaps_the_views(tiny, reverse):
    model = CoCLR("tiny", 16, 8, topk=0, reverse=reverse)
    block1, block2 = torch.randn(4, 2, 3, 4, 16, 16), torch.randn(4, 2, 3, 4, 16, 16)
    own, other = (1, 0) if reverse else (0, 1)
    with torch.no_grad():
        kf = F.normalize(model.sampler(block2[:, other]).flatten(1), dim=1)
        model(block1, block2, torch.arange(4))
    assert torch.equal(model.queue_label, torch.full((8,), -1))
    logits, _ = model(block1, block2, torch.arange(4))
    torch.testing.assert_close(model.queue_second[:, :4], kf.T)
    q = F.normalize(model.encoder_q(block1[:, own]).flatten(1), dim=1)
    torch.testing.assert_close(logits[:, 5:] * 0.07, q @ model.queue[:, 4:], rtol=1e-4, atol=1e-4)


def test_bad_settings_are_refused(tiny):
    with pytest.raises(ModelError, match="too deep"):
        CoCLR("tiny", 16, 64, topk=5, cascade=True, stage=7, ratio=0.5)
    with pytest.raises(ModelError, match="topk must lie"):
        CoCLR("tiny", 16, 4, topk=5)
    with pytest.raises(ModelError, match=r"3 \(--batch_size\) x 2 processes = 6"):
        check_queue(64, 3, 2)
    check_queue(64, 4, 2)
    with pytest.raises(ModelError, match="multiple"):
        InfoNCE("tiny", 16, 6)(torch.randn(4, 2, 3, 4, 16, 16))
