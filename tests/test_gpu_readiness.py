"""Forwards, losses and metrics on fake tensors of a GPU: a tensor made on the wrong device fails, without a GPU."""

import pytest
import torch
from test_pretrain import TinyBackbone
from torch._subclasses.fake_tensor import FakeTensorMode

from model import momentum
from model.cascade import cascade_topk
from model.loss import coclr_loss, drop_self, infonce_loss, ubernce_loss
from model.pretrain import CoCLR, InfoNCE, Mining, UberNCE
from utils.metrics import Meters, mask_accuracy, topk_accuracy
from utils.mining import MiningMonitor

GPU = torch.device("cuda", 0)


@pytest.fixture
def fake_gpu(monkeypatch):
    """Tensors exist by shape and device only; the backbone is a tiny one."""
    monkeypatch.setattr(momentum, "select_backbone", lambda _: (TinyBackbone(), {"feature_size": 8}))
    with FakeTensorMode():
        yield GPU


def clips(device):
    return torch.empty(4, 2, 3, 4, 16, 16, device=device)


def on_gpu(model_class, *arguments, **settings):
    with GPU:
        return model_class(*arguments, **settings)


def test_a_tensor_on_the_wrong_device_does_fail(fake_gpu):
    with pytest.raises(RuntimeError, match="device"):
        torch.empty(2, device=fake_gpu) + torch.empty(2)


def test_infonce(fake_gpu):
    model = on_gpu(InfoNCE, "tiny", 16, 8)
    logits, labels = model(clips(fake_gpu))
    loss = infonce_loss(logits)
    assert {t.device for t in (logits, labels, loss, model.queue, model.queue_ptr)} == {fake_gpu}


def test_ubernce(fake_gpu):
    model = on_gpu(UberNCE, "tiny", 16, 8)
    logits, mask = model(clips(fake_gpu), torch.zeros(4, dtype=torch.long, device=fake_gpu))
    assert {t.device for t in (logits, mask, ubernce_loss(logits, mask), model.queue_label)} == {fake_gpu}


def test_coclr_with_cascade(fake_gpu):
    model = on_gpu(CoCLR, "tiny", 16, 32, topk=2, cascade=True, stage=3)
    model._full = True  # what the host knows once the queue is full; nothing asks the device from then on
    logits, mask = model(clips(fake_gpu), clips(fake_gpu), torch.zeros(4, dtype=torch.long, device=fake_gpu))
    loss = coclr_loss(logits, drop_self(mask))
    assert {t.device for t in (logits, mask, loss, model.queue_second, model.queue_vname)} == {fake_gpu}


def test_cascade(fake_gpu):
    rows = torch.empty(4, 64, device=fake_gpu)
    assert cascade_topk(rows, rows, rows > 0, 2, 0.5, 4).device == fake_gpu


def test_metrics(fake_gpu):
    logits = torch.empty(4, 33, device=fake_gpu)
    labels = torch.zeros(4, dtype=torch.long, device=fake_gpu)
    monitor = MiningMonitor(32, device=fake_gpu)
    mask = logits > 0
    values = [*topk_accuracy(logits, labels), *mask_accuracy(logits, mask)]
    monitor.ring.update(labels, labels, labels)
    monitor.ring.written = 32
    rows = logits[:, 1:]
    monitor.watch(Mining(rows, rows, rows > 0, [rows.topk(2, dim=1).indices]))
    values += monitor.read(labels).values()
    meters = Meters(fake_gpu)
    meters.add({str(i): value for i, value in enumerate(values)})
    assert {t.device for t in (*values, monitor.ring.labels, monitor.ring.rows, *meters._sums.values())} == {fake_gpu}
