"""BatchNorm folded into convolutions against both in turn."""

import copy

import hashed
import pytest
import torch
from torch import nn

from backbone import folding
from backbone.folding import conv_bn
from backbone.select_backbone import NETWORKS, select_backbone
from model.classifier import LinearClassifier
from model.pretrain import CoCLR


def layers(bias: bool = False) -> tuple[nn.Conv3d, nn.BatchNorm3d]:
    conv, bn = nn.Conv3d(3, 5, (1, 3, 3), padding=(0, 1, 1), bias=bias), nn.BatchNorm3d(5)
    for tensor in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(bn.running_var, 0.1, 3)
    return conv, bn.eval()


def unfolded(x: torch.Tensor, conv: nn.Conv3d, bn: nn.BatchNorm3d) -> torch.Tensor:
    return bn(conv(x))


@pytest.mark.parametrize("bias", [False, True])
def test_one_layer_by_the_formula(bias):
    conv, bn = (layer.double() for layer in layers(bias))
    x = torch.randn(2, 3, 4, 6, 6, dtype=torch.double)
    y = conv(x)
    per_channel = [(y[:, c] - bn.running_mean[c]) / (bn.running_var[c] + bn.eps) ** 0.5 * bn.weight[c] + bn.bias[c]
                   for c in range(5)]
    with torch.no_grad():
        torch.testing.assert_close(conv_bn(x, conv, bn), torch.stack(per_channel, dim=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_whole_networks_within_1e_4(network, monkeypatch):
    backbone, _ = select_backbone(network)
    hashed.fill(backbone)
    backbone.eval()
    x = hashed.clip("fold", 2, 3, 8, 32, 32)
    calls = []
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.register_forward_hook(lambda *_: calls.append(1))
        folded = backbone(x)
        assert calls == []
        for module in ("backbone.s3dg", "backbone.resnet_2d3d"):
            monkeypatch.setattr(f"{module}.conv_bn", unfolded)
        plain = backbone(x)
    assert calls
    assert float((folded - plain).abs().max()) <= 1e-4 * float(plain.abs().max())
    assert not torch.equal(folded, plain)


def joined(x: torch.Tensor, conv: nn.Conv3d, bn: nn.BatchNorm3d) -> bool:
    calls = []
    hook = bn.register_forward_hook(lambda *_: calls.append(1))
    conv_bn(x, conv, bn)
    hook.remove()
    return calls == []


def test_only_where_nothing_is_to_get_a_gradient_and_statistics_are_fixed():
    conv, bn = layers()
    x = torch.randn(2, 3, 2, 4, 4)
    assert not joined(x, conv, bn)
    for layer in (conv, bn):
        layer.requires_grad_(False)
    assert joined(x, conv, bn)
    assert not joined(x.requires_grad_(), conv, bn)
    with torch.no_grad():
        assert joined(x, conv, bn)
        assert not joined(x, conv, bn.train())


def test_training_is_as_without_folding(monkeypatch):
    results = []
    backbone, _ = select_backbone("s3d")
    for way in (conv_bn, unfolded):
        net = copy.deepcopy(backbone)
        monkeypatch.setattr("backbone.s3dg.conv_bn", way)
        net(hashed.clip("train", 2, 3, 8, 32, 32)).square().mean().backward()
        results.append([p.grad for p in net.parameters()] + list(net.buffers()))
    assert all(map(torch.equal, *results))


def test_the_frozen_backbone_of_a_probe_and_the_sampler_are_folded(monkeypatch):
    used = []

    def spy(x, conv, bn):
        used.append(joined(x, conv, copy.deepcopy(bn)))
        return conv_bn(x, conv, bn)
    monkeypatch.setattr("backbone.s3dg.conv_bn", spy)
    probe = LinearClassifier(3, "s3d", use_dropout=False, use_final_bn=True)
    probe.backbone.requires_grad_(False)
    probe.train().backbone.eval()
    logits, _ = probe(torch.randn(2, 3, 8, 32, 32))
    logits.sum().backward()
    assert used and all(used)
    used.clear()
    model = CoCLR("s3d", 8, 8, topk=2)
    model(*torch.randn(2, 2, 2, 3, 8, 32, 32), torch.arange(2))
    layers_each = len(used) // 3
    assert used == [False] * (2 * layers_each) + [True] * layers_each


def test_weights_that_change_are_seen_at_once():
    conv, bn = layers()
    x = torch.randn(2, 3, 2, 4, 4)
    with torch.no_grad():
        before = conv_bn(x, conv, bn)
        conv.weight.mul_(2)
        bn.running_mean.zero_()
        torch.testing.assert_close(conv_bn(x, conv, bn), bn(conv(x)))
        assert not torch.allclose(conv_bn(x, conv, bn), before)


def test_half_precision_scales_in_float32():
    conv, bn = layers()
    bn.running_var.fill_(1e-9)  # the scale is large, the product fits
    x = torch.randn(2, 3, 2, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = folding.conv_bn(x, conv, bn)
    with torch.no_grad():
        right = bn(conv(x))
    assert float((got.float() - right).norm() / right.norm()) < 0.01
