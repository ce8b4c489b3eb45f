"""Linear probe on feature files: the training against a loop in numpy, the files, and bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.feature_linear_probe import Probe, build_layer, main, train_probe
from eval.retrieval import FeatureSet, save_features
from utils import launch

CLASSES = 3


def features(count: int, seed: int, width: int = 6, noise: float = 0.3) -> FeatureSet:
    """Features around one direction per class."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % CLASSES
    rows = torch.eye(CLASSES, width)[label] + noise * torch.randn(count, width, generator=rng)
    names = [f"some/prefix/Class{int(y)}/v{i}" for i, y in enumerate(label)]
    return FeatureSet(rows, label, names)


def class_list(root, count: int = CLASSES):
    """A split root with a class list of ucf101."""
    (root / "splits" / "ucf101").mkdir(parents=True)
    (root / "splits" / "ucf101" / "ClassInd.txt").write_text("".join(f"Class{y}\n" for y in range(count)))
    return root / "splits"


def numpy_sgd(data: FeatureSet, probe: Probe) -> np.ndarray:
    """Weights (classes, F+1), the bias last, after full-batch SGD with momentum 0.9 from the same start."""
    torch.manual_seed(probe.seed)
    layer = build_layer(data.features.shape[1], CLASSES, final_bn=False)[0]
    theta = np.concatenate([layer.weight.detach().double().numpy(), np.zeros((CLASSES, 1))], axis=1)
    x = np.concatenate([data.features.double().numpy(), np.ones((len(data.names), 1))], axis=1)
    target = np.eye(CLASSES)[data.labels.numpy()]
    velocity, lr = None, probe.lr
    for epoch in range(probe.epochs):
        lr = lr / 10 if epoch in probe.schedule else lr
        logits = x @ theta.T
        soft = np.exp(logits - logits.max(axis=1, keepdims=True))
        soft /= soft.sum(axis=1, keepdims=True)
        gradient = (soft - target).T @ x / len(x) + probe.wd * theta
        velocity = gradient if velocity is None else 0.9 * velocity + gradient
        theta = theta - lr * velocity
    return theta


def test_full_batch_training_against_numpy():
    train, test = features(21, seed=1, noise=1.5), features(9, seed=2, noise=1.5)
    for epochs in (1, 2, 5, 8):
        probe = Probe(epochs=epochs, schedule=(3,), wd=0.05, eval_freq=1, batch_size=64)
        outcome = train_probe(train, test, probe, CLASSES)
        theta = numpy_sgd(train, Probe(**{**probe.__dict__, "epochs": outcome.epoch + 1}))
        logits = np.concatenate([test.features.double().numpy(), np.ones((9, 1))], axis=1) @ theta.T
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(outcome.prob.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("flags", [["--final_bn", "--batch_size", "59"], ["--normalize", "--verbose", "1"]])
def test_script_finds_features_beside_a_checkpoint_that_is_gone(tmp_path, capsys, flags):
    folder = tmp_path / "model" / "feature"
    train, test = features(60, seed=1), features(12, seed=2)
    save_features(folder, "ucf101", "train", train, {})
    save_features(folder, "ucf101", "test", test, {})
    checkpoint = tmp_path / "model" / "epoch9.pth.tar"
    assert main(["--test", str(checkpoint), "--dataset", "ucf101", "--epochs", "30", "--lr", "0.5",
                 "--split_root", str(class_list(tmp_path)), *flags]) == 0
    written = json.loads((folder / "epoch9.pth.tar-lp-ucf101-prob.json").read_text())
    assert list(written) == test.names
    assert all(len(row) == 1 and len(row[0]) == CLASSES and sum(row[0]) == pytest.approx(1) for row in written.values())
    right = sum(int(np.argmax(row[0])) == int(y) for row, y in zip(written.values(), test.labels, strict=True))
    shown = capsys.readouterr().out
    accuracy = json.loads((folder / "epoch9.pth.tar-lp-ucf101-acc.json").read_text())
    assert right == 12 and "100.00" in shown and accuracy == {"epoch": accuracy["epoch"], "1": 100.0, "5": 100.0}
    assert shown.splitlines()[2].split()[:2] == ["ucf101", str(accuracy["epoch"])] or "--verbose" in flags


@pytest.mark.parametrize(("what", "words"), [
    ("no train", "ucf101_train_feature.pth.tar"), ("no test", "ucf101_test_feature.pth.tar"),
    ("cut", "ucf101_test_label.pth.tar"), ("nan", "not finite"), ("fewer labels", "are inconsistent"),
    ("wider", "cannot be used together")])
def test_features_that_cannot_be_used_are_one_line(tmp_path, capsys, what, words):
    sets = {split: features(6, seed=1) for split in ("train", "test") if what != f"no {split}"}
    if what == "nan":
        sets["train"].features[2, 1] = float("nan")
    if what == "fewer labels":
        sets["train"] = replace(sets["train"], labels=sets["train"].labels[:-1])
    if what == "wider":
        sets["train"] = replace(sets["train"], features=torch.rand(6, 9))
    for split, content in sets.items():
        save_features(tmp_path / "feature", "ucf101", split, content, {})
    if what == "cut":
        (tmp_path / "feature/ucf101_test_label.pth.tar").write_bytes(b"cut")
    assert launch.exit_code(lambda: main(["--test", str(tmp_path / "epoch9.pth.tar")])) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(("count", "code", "words"), [
    (5, 0, ""), (2, 2, "the 2 classes of ucf101 cannot be used together"), (0, 2, "ClassInd.txt")])
def test_classes_are_those_of_the_class_list(tmp_path, capsys, count, code, words):
    for split in ("train", "test"):
        save_features(tmp_path / "feature", "ucf101", split, features(6, seed=1), {})
    root = class_list(tmp_path, count) if count else tmp_path / "nowhere"
    path = tmp_path / "x.pth.tar"
    assert launch.exit_code(lambda: main(["--test", str(path), "--epochs", "1", "--split_root", str(root)])) == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == (code != 0)
    if code == 0:
        written = json.loads((tmp_path / "feature" / "x.pth.tar-lp-ucf101-prob.json").read_text())
        assert all(len(row[0]) == count for row in written.values())
