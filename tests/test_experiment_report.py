"""Tables and figures of the experiment, of made-up results."""

import json

import numpy as np
import pytest
import torch

from eval.retrieval import FeatureSet, save_features
from experiments import report
from experiments.report import summarise
from experiments.synthetic import MOTIONS, OBJECTS

MEASURES = {"RGB R@1": 50.0, "RGB R@5": 60.0, "RGB R@10": 70.0, "RGB R@20": 80.0, "flow R@1": 55.0, "both R@1": 61.0,
            "RGB probe": 44.0}


def _epochs(*recalls: float) -> list[dict]:
    return [{"kind": "epoch", "title": "train", "epoch": epoch, "values": {"recall": recall, "chance": 0.08, "loss": 1}}
            for epoch, recall in enumerate(recalls)]


@pytest.fixture
def content():
    runs = {"infonce": {str(seed): {"measures": MEASURES, "journal": []} for seed in range(3)},
            "coclr": {str(seed): {"measures": MEASURES | {"PMR": 20.0 + seed, "RGB R@1": 51.25},
                                  "journal": _epochs(0.1, 0.2, 0.2 + seed / 100)} for seed in range(3)}}
    return {"settings": {}, "code": {"commit": "abc"}, "sets": {"rendered": {
        "chance": 10.0, "summary": summarise(runs), "runs": runs}}}


def test_the_command_writes_every_method_with_its_numbers_and_a_figure(content, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert report.main(["--results", str(tmp_path / "results.json"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/experiment_results.md").read_text()
    lines = {line.split("|")[1].strip(): [word.strip() for word in line.split("|")[2:-1]]
             for line in text.splitlines() if line.startswith("|")}
    assert lines["method"] == list(report.COLUMNS)
    coclr = dict(zip(report.COLUMNS, lines["CoCLR"], strict=True))
    assert coclr["PMR"] == "21.0 ± 1.0" and coclr["RGB R@1"] == "51.2 ± 0.0" and coclr["median CMR"] == ""
    assert "chance 10.0" in text and "3 seeds" in text and "commit abc" in text
    assert (tmp_path / "out/experiment_mining.png").read_bytes().startswith(b"\x89PNG")


def test_the_mining_figure_shows_means_over_seeds_and_chance_as_the_runs_tell_it(content):
    """A queue without the query's own source: less than one share of the classes."""
    curve = report.recall_curve(content["sets"]["rendered"]["runs"]["coclr"])
    assert [round(value["mean"], 6) for value in curve.values()] == [0.1, 0.2, 0.21]
    assert curve[2]["std"] == pytest.approx(0.01)
    lines = {line.get_label(): list(line.get_ydata()) for line in report.draw(content).axes[0].get_lines()}
    assert lines["mining at random"] == pytest.approx([8.0, 8.0])
    assert lines["CoCLR"] == pytest.approx([10.0, 20.0, 21.0])


def test_what_features_know_is_found_by_neighbours_and_by_a_linear_map(tmp_path):
    """Of features with a large part for the object, and a small one for the motion, beside a larger one of noise."""
    rng, axes = np.random.default_rng(0), np.eye(4)
    for split, count in (("train", 40), ("test", 10)):
        names, rows = [], []
        for m, motion in enumerate(MOTIONS):
            for o, thing in enumerate(OBJECTS):
                names += [f"{motion}{thing}/v_{number}" for number in range(count)]
                rows += [np.concatenate([axes[o], 0.1 * axes[m], 0.3 * rng.standard_normal(6)]) for _ in range(count)]
        features = torch.tensor(np.array(rows), dtype=torch.float32)
        save_features(tmp_path, "set", split, FeatureSet(features, torch.zeros(len(names)).long(), names), {})
    found = report.knowledge(tmp_path, "set")
    assert found["object"] == found["object probe"] == found["motion probe"] == 100 and 25 < found["motion"] < 60


def test_the_linear_map_is_ridge_regression():
    """Least squares with the penalty as further rows, in NumPy."""
    rng = np.random.default_rng(0)
    rows, labels = rng.standard_normal((50, 6)).astype(np.float32), rng.integers(3, size=50)
    x = ((rows - rows.mean(axis=0)) / rows.std(axis=0, ddof=1)).astype(np.float64)
    targets = np.eye(3)[labels]
    penalty = np.sqrt(report.RIDGE * 50) * np.eye(6)
    weights = np.linalg.lstsq(np.vstack([x, penalty]), np.vstack([targets - targets.mean(axis=0), np.zeros((6, 3))]))[0]
    expected = (x @ weights + targets.mean(axis=0)).argmax(axis=1)
    found = report.linear_map(torch.from_numpy(rows), torch.from_numpy(labels))(torch.from_numpy(rows))
    assert found.tolist() == expected.tolist()
