"""Clip sizes that a network cannot compute; and all forwards on fake tensors of a GPU, where a wrong device fails."""

import pytest
import torch
from test_pretrain import TinyBackbone
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.device import check_clips
from engine.monitors import MiningMonitor
from model import momentum
from model.cascade import cascade_topk
from model.loss import coclr_loss, drop_self, infonce_loss, ubernce_loss
from model.momentum import make_encoder
from model.pretrain import CoCLR, InfoNCE, Mining, UberNCE
from utils.errors import OptionError
from utils.metrics import Meters, mask_accuracy, topk_accuracy

GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(("batch", "frames", "side", "training"), [
    (2, 8, 16, True), (1, 8, 32, True), (2, 8, 32, True), (1, 8, 32, False)])
def test_check_clips_refuses_what_s3d_cannot_compute(batch, frames, side, training):
    encoder = make_encoder("s3d", 4).train(training)
    try:
        with torch.no_grad():
            encoder(torch.rand(batch, 3, frames, side, side))
        possible = True
    except (RuntimeError, ValueError):
        possible = False
    if possible:
        check_clips(encoder.to("meta"), "s3d", batch, frames, side)
        return
    with pytest.raises(OptionError, match="--net s3d") as caught:
        check_clips(encoder.to("meta"), "s3d", batch, frames, side)
    assert "\n" not in str(caught.value)


@pytest.fixture
def fake_gpu(monkeypatch):
    """Tensors have a shape and a device, and no content; the backbone is a tiny one."""
    monkeypatch.setattr(momentum, "select_backbone", lambda _: (TinyBackbone(), {"feature_size": 8}))
    monkeypatch.setattr(CoCLR, "miners", lambda model: [model.sampler])  # fake tensors cannot be copied
    with FakeTensorMode():
        yield GPU


def clips():
    return torch.empty(4, 2, 3, 4, 16, 16, device=GPU)


def on_gpu(model_class, *arguments, **settings):
    with GPU:
        return model_class(*arguments, **settings)


def test_infonce_and_ubernce(fake_gpu):
    model = on_gpu(InfoNCE, "tiny", 16, 8)
    logits, labels = model(clips())
    assert {t.device for t in (logits, labels, infonce_loss(logits), model.queue, model.queue_ptr)} == {fake_gpu}
    model = on_gpu(UberNCE, "tiny", 16, 8)
    logits, mask = model(clips(), torch.zeros(4, dtype=torch.long, device=fake_gpu))
    assert {t.device for t in (logits, mask, ubernce_loss(logits, mask), model.queue_label)} == {fake_gpu}


def test_coclr_with_cascade(fake_gpu):
    model = on_gpu(CoCLR, "tiny", 16, 32, topk=2, cascade=True, stage=3)
    model._full = True  # known on the CPU once the queue is full; nothing asks the device from then on
    logits, mask = model(clips(), clips(), torch.zeros(4, dtype=torch.long, device=fake_gpu))
    loss = coclr_loss(logits, drop_self(mask))
    assert {t.device for t in (logits, mask, loss, model.queue_second, model.queue_vname)} == {fake_gpu}
    rows = torch.empty(4, 64, device=fake_gpu)
    assert cascade_topk(rows, rows, rows > 0, 2, 0.5, 4).device == fake_gpu


def test_metrics(fake_gpu):
    logits = torch.empty(4, 33, device=fake_gpu)
    labels = torch.zeros(4, dtype=torch.long, device=fake_gpu)
    monitor = MiningMonitor(32, device=fake_gpu)
    values = [*topk_accuracy(logits, labels), *mask_accuracy(logits, logits > 0)]
    monitor.ring.update(labels, labels, labels)
    monitor.ring.written = 32
    rows = logits[:, 1:]
    values += monitor.measure(Mining(rows, rows, rows > 0, [rows.topk(2, dim=1).indices]), labels).values()
    meters = Meters(fake_gpu)
    meters.add({str(i): value for i, value in enumerate(values)})
    assert {t.device for t in (*values, monitor.ring.labels, monitor.ring.rows, *meters._sums.values())} == {fake_gpu}
