"""Backbones against torchvision's S3D, the released outputs and the published key names; BatchNorm folding."""

import copy
from pathlib import Path

import hashed
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.video import s3d as torchvision_s3d

from backbone.select_backbone import fold_batchnorm, select_backbone
from model.classifier import LinearClassifier
from model.pretrain import CoCLR

HERE = Path(__file__).parent
BLOCK_OF_FEATURE = {0: "Conv_1a", 2: "Conv_2b", 3: "Conv_2c", 5: "Mixed_3b", 6: "Mixed_3c", 8: "Mixed_4b",
                    9: "Mixed_4c", 10: "Mixed_4d", 11: "Mixed_4e", 12: "Mixed_4f", 14: "Mixed_5b", 15: "Mixed_5c"}


def published_keys() -> dict[str, dict[str, tuple]]:
    """Key -> shape of the sections of state_dict_keys.txt: "coclr", "classifier", "s3dg" (additions), "r50"."""
    sections = {"coclr": {}, "classifier": {}, "s3dg": {}, "r50": {}}
    current = "coclr"
    for line in (HERE / "state_dict_keys.txt").read_text().splitlines():
        if line.startswith("# s3dg"):
            current = "s3dg"
        elif line.startswith("# r50"):
            current = "r50"
        elif line and not line.startswith("#"):
            key, shape = line.split("|")
            if current == "coclr" and key.startswith(("backbone.", "final_")):
                current = "classifier"
            sections[current][key] = tuple(int(n) for n in shape.strip("()").split(",") if n)
    return sections


def shapes(module: nn.Module) -> dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def torchvision_key(key: str) -> str | None:
    """Our key to torchvision's; None for the second name of a layer."""
    name, _, rest = key.partition(".")
    places = {ours: f"features.{i}" for i, ours in BLOCK_OF_FEATURE.items()}
    if name not in places:
        return None
    separable = {"conv1": "0.0", "bn1": "0.1", "conv2": "1.0", "bn2": "1.1", "conv": "0", "bn": "1"}
    parts = [separable.get(part, part) for part in rest.split(".")]
    if parts[0] == "branch0":
        del parts[1]  # torchvision's branch0 is the layer itself, ours a Sequential of one
    return ".".join([places[name], *parts])


def test_s3d_equals_torchvision_with_weights_mapped():
    theirs = torchvision_s3d(weights=None)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-5  # torchvision's S3D takes 1e-3; the released system PyTorch's default
    ours, info = select_backbone("s3d")
    hashed.fill(ours)
    mapped = {torchvision_key(k): v for k, v in ours.state_dict().items() if torchvision_key(k)}
    report = theirs.load_state_dict(mapped, strict=False)
    assert not report.unexpected_keys
    assert all(key.startswith("classifier") for key in report.missing_keys)
    x = hashed.clip("tv", 2, 3, 16, 64, 64)
    with torch.no_grad():
        a, b = ours.eval()(x), theirs.eval().features(x)
    assert a.shape == (2, info["feature_size"], 2, 2, 2)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("folded", [False, True])
def test_s3d_equals_released_output(folded):
    golden = torch.as_tensor(np.load(HERE / "golden_model.npz")["bb/s3d"])
    ours, _ = select_backbone("s3d")
    hashed.fill(ours)
    ours.eval()
    if folded:
        fold_batchnorm(ours)
    with torch.no_grad():
        pooled = ours(hashed.clip("bb", 2, 3, 16, 64, 64)).mean(dim=(2, 3, 4))
    assert float((pooled - golden).abs().max()) <= 2e-4 * float(golden.abs().max())


def test_state_dicts_have_exactly_the_published_keys():
    published = published_keys()
    with torch.device("meta"):
        coclr, classifier = CoCLR("s3d", dim=128, K=64), LinearClassifier(11, "s3d", use_dropout=False,
                                                                          use_final_bn=True)
        s3d, s3dg, r50 = (shapes(select_backbone(name)[0]) for name in ("s3d", "s3dg", "r50"))
    assert shapes(coclr) == published["coclr"] and shapes(classifier) == published["classifier"]
    assert s3dg == {**s3d, **published["s3dg"]}
    assert r50 == published["r50"]


def test_the_small_network_has_the_layers_of_s3d_at_a_quarter_of_the_widths():
    with torch.device("meta"):
        (full, _), (small, sizes) = select_backbone("s3d"), select_backbone("s3d_small")
    for (name, wide), (same, narrow) in zip(full.named_parameters(), small.named_parameters(), strict=True):
        inputs = () if wide.dim() == 1 else (3 if wide.shape[1] == 3 else wide.shape[1] // 4, *wide.shape[2:])
        assert name == same and narrow.shape == (wide.shape[0] // 4, *inputs), name
    assert sizes == {"feature_size": 256} and sum(each.numel() for each in small.parameters()) == 500_120


def test_both_names_of_a_layer_are_one_tensor():
    s3d, _ = select_backbone("s3d")
    assert s3d.Mixed_3b.branch0[0].conv.weight is s3d.block3[1].branch0[0].conv.weight


def test_gating_scales_each_channel_by_a_sigmoid_of_the_means():
    s3dg, _ = select_backbone("s3dg")
    gate = s3dg.Mixed_3b.gating_b2
    x = hashed.clip("gate", 2, 32, 2, 3, 3)
    expected = torch.empty_like(x)
    for b in range(2):
        means = torch.stack([x[b, c].mean() for c in range(32)])
        for c in range(32):
            score = float((gate.fc.weight[c].detach() * means).sum() + gate.fc.bias[c].detach())
            expected[b, c] = x[b, c] / (1 + np.exp(-score))
    torch.testing.assert_close(gate(x), expected, rtol=1e-5, atol=1e-6)


def conv_bn(state: dict, x: torch.Tensor, conv: str, bn: str, stride: tuple, padding: tuple) -> torch.Tensor:
    """Convolution and BatchNorm in evaluation mode, from a state dict."""
    x = F.conv3d(x, state[f"{conv}.weight"], stride=stride, padding=padding)
    return F.batch_norm(x, *(state[f"{bn}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")))


def published_r50(state: dict, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of stem and layers 1-4 of the published 2D-3D ResNet-50, from its description and a state dict."""
    x = conv_bn(state, x, "conv1", "bn1", (2, 2, 2), (2, 3, 3)).relu()
    outputs = [F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))]
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        time = layer > 2  # 3x1x1 instead of 1x1x1
        x = outputs[-1]
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            stride = (1, 2, 2) if layer > 1 and block == 0 else (1, 1, 1)
            y = conv_bn(state, x, f"{name}.conv1", f"{name}.bn1", (1, 1, 1), (int(time), 0, 0)).relu()
            y = conv_bn(state, y, f"{name}.conv2", f"{name}.bn2", stride, (0, 1, 1)).relu()
            y = conv_bn(state, y, f"{name}.conv3", f"{name}.bn3", (1, 1, 1), (0, 0, 0))
            if block == 0:
                x = conv_bn(state, x, f"{name}.downsample.0", f"{name}.downsample.1", stride, (0, 0, 0))
            x = x + y if (layer, block) == (4, 2) else (x + y).relu()
        outputs.append(x)
    outputs[-1] = outputs[-1].relu()
    return outputs


def test_r50_is_the_published_network():
    r50, info = select_backbone("r50")
    hashed.fill(r50)
    x = hashed.clip("r50", 1, 3, 7, 64, 32)
    with torch.no_grad():
        expected = published_r50(r50.state_dict(), x)
        found = r50.eval()(x)
    assert float(found.min()) == 0.0
    assert [tuple(y.shape[1:]) for y in expected] == [(64, 4, 16, 8), (256, 4, 16, 8), (512, 4, 8, 4), (1024, 4, 4, 2),
                                                      (info["feature_size"], 4, 2, 1)]
    torch.testing.assert_close(found, expected[-1], rtol=1e-4, atol=1e-5 * float(expected[-1].max()))


@pytest.mark.parametrize("network", ["s3dg", "r50"])
def test_folding_whole_networks_changes_rounding_alone(network):
    folded, _ = select_backbone(network)
    hashed.fill(folded)
    exact = copy.deepcopy(folded).double().eval()
    fold_batchnorm(folded.eval())
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    x = hashed.clip("fold", 1, 3, 8, 32, 32)
    with torch.no_grad():
        found, expected = folded(x).double(), exact(x.double())
    assert float((found - expected).norm() / expected.norm()) < 2e-6
