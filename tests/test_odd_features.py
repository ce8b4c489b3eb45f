"""Features and probabilities that would give numbers which look right, and mean nothing: refused in one line."""

import json
import re

import hostile
import pytest
import torch
from fuzz_watch import alarm

import launch
from eval import feature_files, feature_linear_probe, merge_2stream_prob
from eval.feature_files import FeatureSet

NAMES = [f"{name}/v{i}" for i in range(3) for name in ("A", "B")]
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sound features of two streams, and two classes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/ClassInd.txt").write_text("A\nB\n")
    for stream in ("own", "own-f"):
        for split in ("train", "test"):
            sound = FeatureSet(torch.rand(6, 4), torch.tensor([0, 1] * 3), NAMES)
            feature_files.save(tmp_path / "feature", stream, split, sound, {})
    return tmp_path / "feature"


def scripts(capsys) -> list[str]:
    """What the linear probe and the fusion say to end with, "" where they come to their end."""
    common = ["--dataset", "own", "--split_root", "."]
    runs = (lambda: feature_linear_probe.main(["--test", "x", "--epochs", "1", "--normalize", *common]),
            lambda: merge_2stream_prob.main(["--mode", "s", "--prob1", "feature", "--prob2", "feature", *common]))
    said = []
    for run in runs:
        capsys.readouterr()
        with alarm():
            code = launch.exit_code(run)
        error = capsys.readouterr().err
        assert (code, error.count("\n")) == ((2, 1) if error else (0, 0))
        said.append(error)
    return said


def only(value: float) -> torch.Tensor:
    """Features of which one number is another."""
    features = torch.rand(6, 4)
    features[2, 1] = value
    return features


@pytest.mark.parametrize(("value", "words"), [
    (only(NAN), "not finite"), (only(INF), "not finite"), (only(1e38), "too large"),
    (torch.full((6, 4), 1e300, dtype=torch.float64), "not finite"), (torch.rand(6, 4) * 1j, "complex"),
    (hostile.shared(), "again and again"), (hostile.deep(), "levels"), ([[1 << 62] * 4] * 6, ""),
    (torch.rand(6, 4, requires_grad=True), ""), (torch.rand(6, 4, dtype=torch.float64, requires_grad=True), ""),
    (torch.randint(0, 9, (6, 4)), ""), (torch.rand(6, 4).half(), "")])
def test_features(folder, capsys, value, words):
    assert scripts(capsys) == ["", ""]
    torch.save(value, folder / "own_train_feature.pth.tar")
    assert all(words in error and bool(error) == bool(words) for error in scripts(capsys))


@pytest.mark.parametrize(("value", "words"), [
    (torch.tensor([0.9, 1.9] * 3), "no whole numbers"), (torch.full((6,), NAN), "no whole numbers"),
    (torch.tensor([0j, 1 + 2j] * 3), "complex"), (torch.tensor([False, True] * 3), "no whole numbers"),
    ([0.5] * 6, "no whole numbers"), ([10**400] * 6, "64 bits"), ([1j] * 6, "complex"), (hostile.shared(), "again"),
    (torch.tensor([-1, 1] * 3), ("beyond the 2 classes", "label")), ([0, 1] * 3, ""),
    (torch.tensor([0, 1] * 3, dtype=torch.uint8), "")])
def test_labels(folder, capsys, value, words):
    torch.save(value, folder / "own_train_label.pth.tar")
    one, two = (words, words) if isinstance(words, str) else words
    said = scripts(capsys)
    assert one in said[0] and two in said[1] and bool(said[0]) == bool(said[1]) == bool(words)


@pytest.mark.parametrize("again", ["A/v0", "x/A/v0", "A/v0/"])
def test_a_video_that_has_two_rows(folder, capsys, again):
    (folder / "own_train_vname.json").write_text(json.dumps([*NAMES[:5], again]))
    assert all("own_train_vname.json has the video A/v0 twice" in error for error in scripts(capsys))


def test_labels_of_no_class_in_both_streams(folder, capsys):
    for stream in ("own", "own-f"):
        torch.save(torch.tensor([-1, 1] * 3), folder / f"{stream}_test_label.pth.tar")
    said = scripts(capsys)
    assert "beyond the 2 classes" in said[0] and "below 0" in said[1]


@pytest.mark.parametrize(("text", "words"), [
    ('{"A/v": [[NaN, NaN]]}', "of A/v are not finite"), ('{"A/v": [[1e999, 0]]}', "not finite"),
    ('{"A/v": [[%s, 1]]}' % ("9" * 400), "not a probability file"),
    ('{"x/A/v": [[0.9, 0.1]], "y/A/v": [[0.1, 0.9]]}', "the video A/v twice"),
    ('{"A/v": [[0.9, 0.1]], "A/v": [[0.1, 0.9]]}', "has A/v twice"),
    ('{"A/v": [[0.9, 0.1]], "A\\u000a/v\\u000aerror: all is well": [[0, NaN]]}', "well are not finite"),
    ('\ufeff{"A/v": [[0.9, 0.1]]}', ""), ('{"A/v": [0.9, 0.1]}', "")])
def test_probabilities(folder, capsys, text, words):
    (folder / "one.json").write_text(text, encoding="utf-8")
    (folder / "two.json").write_text('{"A/v": [[0.5, 0.5]]}')
    for first, second in (("one", "two"), ("two", "one")):
        argv = ["--dataset", "own", "--split_root", ".", "--prob1", f"feature/{first}.json", "--prob2",
                f"feature/{second}.json"]
        assert launch.exit_code(lambda argv=argv: merge_2stream_prob.main(argv)) == (2 if words else 0)
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == bool(words)
        assert words or re.search(r"RGB +100.00\* +100.00\*", said.out)
