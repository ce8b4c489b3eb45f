"""Backbones against torchvision's S3D, the released outputs, and the published key names."""

from pathlib import Path

import hashed
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.video import s3d as torchvision_s3d

from backbone.select_backbone import UnknownNetworkError, select_backbone
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


def shapes(module: torch.nn.Module) -> dict[str, tuple]:
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
        if isinstance(module, torch.nn.BatchNorm3d):
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


def test_s3d_equals_released_output():
    golden = torch.as_tensor(np.load(HERE / "golden_model.npz")["bb/s3d"])
    ours, _ = select_backbone("s3d")
    hashed.fill(ours)
    with torch.no_grad():
        pooled = ours.eval()(hashed.clip("bb", 2, 3, 16, 64, 64)).mean(dim=(2, 3, 4))
    assert float((pooled - golden).abs().max()) <= 2e-4 * float(golden.abs().max())


def test_state_dicts_have_exactly_the_published_keys():
    published = published_keys()
    assert shapes(CoCLR("s3d", dim=128, K=64)) == published["coclr"]
    assert shapes(LinearClassifier(11, "s3d", use_dropout=False, use_final_bn=True)) == published["classifier"]
    s3d, s3dg, r50 = (shapes(select_backbone(name)[0]) for name in ("s3d", "s3dg", "r50"))
    assert s3dg == {**s3d, **published["s3dg"]}
    assert r50 == published["r50"]


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


def test_r50_keeps_time_and_ends_in_one_relu():
    r50, info = select_backbone("r50")
    with torch.no_grad():
        out = r50.eval()(hashed.clip("r50", 1, 3, 4, 32, 32))
    assert out.shape == (1, info["feature_size"], 4, 1, 1)
    assert float(out.min()) == 0.0
    last = r50.layer4[-1]
    x = hashed.clip("block", 1, 2048, 2, 2, 2)
    with torch.no_grad():
        branch = last.bn3(last.conv3(F.relu(last.bn2(last.conv2(F.relu(last.bn1(last.conv1(x))))))))
        torch.testing.assert_close(last(x), branch + x)
        assert float(last(x).min()) < 0


def test_unknown_network_names_the_known_ones():
    with pytest.raises(UnknownNetworkError, match=r"'s3dx'.*s3d, s3dg, r50"):
        select_backbone("s3dx")
