"""Tables and figures of the experiment, of made-up results."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments import report
from experiments.results import summarise
from experiments.settings import METHODS

MEASURES = {"RGB R@1": 50.0, "RGB R@5": 60.0, "RGB R@10": 70.0, "RGB R@20": 80.0, "flow R@1": 55.0, "both R@1": 61.0,
            "RGB probe": 44.0}


def _epochs(*recalls: float) -> list[dict]:
    return [line for epoch, recall in enumerate(recalls) for line in (
        {"kind": "health", "title": None, "epoch": epoch, "values": {"agreement": recall / 2}},
        {"kind": "epoch", "title": "train", "epoch": epoch, "values": {"recall": recall, "chance": 0.08, "loss": 1.0}})]


@pytest.fixture
def content():
    runs = {"infonce": {str(seed): {"measures": MEASURES, "journal": []} for seed in range(3)},
            "coclr": {str(seed): {"measures": MEASURES | {"PMR": 20.0 + seed, "RGB R@1": 51.25},
                                  "journal": _epochs(0.1, 0.2, 0.2 + seed / 100)} for seed in range(3)}}
    return {"settings": {}, "code": {}, "sets": {"rendered": {
        "chance": 10.0, "summary": summarise(runs), "runs": runs, "skipped": {"CPR, s = 7, r = 0.5": "too deep"}}}}


def test_the_report_has_every_method_with_its_numbers(content, tmp_path):
    text = report.text(content)
    lines = {line.split("|")[1].strip(): [word.strip() for word in line.split("|")[2:-1]]
             for line in text.splitlines() if line.startswith("|")}
    assert lines["method"] == list(report.COLUMNS)
    coclr = dict(zip(report.COLUMNS, lines["CoCLR"], strict=True))
    assert coclr["PMR"] == "21.0 ± 1.0" and coclr["RGB R@1"] == "51.2 ± 0.0" and coclr["RGB finetune"] == ""
    assert "chance 10.0" in text and "3 seeds" in text and "too deep" in text


def test_report_and_figures_are_written(content, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert report.main(["--results", str(tmp_path / "results.json"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "experiment_results.md").read_text() == report.text(content)
    for name in ("retrieval", "mining"):
        assert (tmp_path / "out" / f"experiment_{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_curve_of_the_mining_figure(content):
    curve = report.recall_curve(content["sets"]["rendered"]["runs"]["coclr"])
    assert [round(value["mean"], 6) for value in curve.values()] == [0.1, 0.2, 0.21]
    assert curve[2]["std"] == pytest.approx(0.01)


def test_the_mining_figure_shows_chance_as_the_runs_tell_it(content):
    """A queue without the query's own source: less than one share of the classes."""
    figure, ax = report.plt.subplots()
    report.mining_panel(ax, content["sets"]["rendered"])
    lines = {line.get_label(): list(line.get_ydata()) for line in ax.get_lines()}
    report.plt.close(figure)
    assert lines["mining at random"] == pytest.approx([8.0, 8.0])
    assert lines["CoCLR"] == pytest.approx([10.0, 20.0, 21.0])


def test_no_two_curves_of_the_mining_figure_look_alike(content):
    runs = content["sets"]["rendered"]["runs"]
    mining = [name for name, method in METHODS.items() if method.kind == "mining"]
    figure, ax = report.plt.subplots()
    report.mining_panel(ax, {"runs": dict.fromkeys(mining, runs["coclr"])})
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.get_lines()[:-1]}
    report.plt.close(figure)
    assert len(looks) == len(mining) > 10


def test_a_method_looks_alike_in_all_panels(content):
    run = content["sets"]["rendered"]["runs"]["coclr"]
    looks = []
    for names in (["coclr", "cpr_s3_r0.8", "residual_coclr"], ["residual_coclr"]):
        figure, ax = report.plt.subplots()
        report.mining_panel(ax, {"runs": dict.fromkeys(names, run)})
        found = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in ax.get_lines()}
        looks.append(found[METHODS["residual_coclr"].title])
        report.plt.close(figure)
    assert looks[0] == looks[1]


def test_rank_correlation_is_pandas_own():
    rng = np.random.default_rng(5)
    for size in (3, 10, 40):
        x, y = rng.integers(0, 8, size), rng.normal(size=size)
        wanted = pd.DataFrame({"x": x, "y": y}).corr(method="spearman").loc["x", "y"]
        assert report.rank_correlation(x, y) == pytest.approx(wanted)
    assert np.isnan(report.rank_correlation(np.ones(5), np.arange(5)))


def _oracles() -> dict[str, list[dict]]:
    """Two miners of three seeds: the better one warns of nothing; more hubs, less recall."""
    return {str(seed): [{"view": view, "epochs": epochs, "miner": "x.pth.tar", "PMR": recall + seed / 100,
                         "chance": 0.1, "better": 9 * recall, "hub_other": 5 - recall - seed / 100}
                        for view, epochs, recall in (("flow", 16, 0.3), ("RGB", 1, 0.11))] for seed in range(3)}


def test_the_report_has_a_line_of_each_miner(content):
    content["sets"]["rendered"]["oracles"] = _oracles()
    lines = [line.split(" | ") for line in report.text(content).splitlines()]
    flow, rgb = (next(line for line in lines if line[0] == f"| {title}")
                 for title in ("flow, 16 epochs", "RGB, 1 epoch"))
    assert flow[1:4] == ["31.0", "10.0", "0 of 3"] and rgb[1:4] == ["12.0", "10.0", "3 of 3"]
    everyone, trained = (next(line for line in lines if title in line[0])
                         for title in ("rank correlation with PMR, all 6", "the same, the 3 of more than one epoch"))
    frame = pd.DataFrame([each for seed in _oracles().values() for each in seed])
    rho = frame["better"].rank().corr(frame["PMR"].rank())
    assert flow[4] == "2.7" and everyone[4] == f"{rho:+.2f}" and everyone[5] == "-1.00 |"
    assert trained[4:] == ["", "-1.00 |"]  # all three flow encoders are as certain


def test_the_report_has_a_line_of_each_pair_of_encoders(content):
    found = content["sets"]["rendered"]
    assert report.cascade_table(found) == "" == report.cascade_table({"cascades": {"0": []}})
    found["cascades"] = {str(seed): [{"own": own, "other": "infonce", "own_file": "a", "other_file": "b", "chance": 0.1,
                                      "top-k": 0.4, "own top-k": 0.2, "s = 3, r = 0.5": 0.3 + seed / 100}
                                     for own in ("infonce", "coclr")] for seed in range(3)}
    lines = [line.strip("| ").split(" | ") for line in report.text(content).splitlines() if "; InfoNCE |" in line]
    assert lines == [[f"{own}; InfoNCE", "10.0 ± 0.0", "40.0 ± 0.0", "20.0 ± 0.0", "31.0 ± 1.0"]
                     for own in ("InfoNCE", "CoCLR")]
