"""Every row of the benchmarks at a tiny size: both ways run and agree. Nothing here looks at times."""

import json

import pytest
import torch

from benchmarks import __main__ as benchmarks
from benchmarks.measure import Case, Disagreement, close, measure, same
from benchmarks.sizes import Sizes, parse
from model.cascade import stage_sizes
from utils.errors import OptionError

CPU = torch.device("cpu")
SLOW = {"flow_workers"}  # starts processes; the extraction itself is tested with two workers elsewhere


@pytest.mark.parametrize("name", sorted(set(benchmarks.rows()) - SLOW))
def test_row(name, tmp_path):
    cases = list(benchmarks.rows()[name](parse(["tiny"], CPU), tmp_path))
    assert cases
    for case in cases:
        assert case.agree(case.plain(), case.ours())
        for work in (case.bound, case.core):
            assert work is None or work() is not NotImplemented
    assert len({(case.row, case.size) for case in cases}) == len(cases)


def test_the_step_is_measured_in_another_precision_too(tmp_path):
    exact, other = benchmarks.rows()["step"](parse(["tiny", "steps=1", "precision=bf16"], CPU), tmp_path)
    assert exact.row == "training step" and other.row == "training step, bf16"
    assert "finite" in other.agree(other.plain(), other.ours())


def test_command_writes_table_and_json(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert benchmarks.main(["--rows", "cascade", "bytes", "--rounds", "1", "--json", str(path), "tiny"]) == 0
    written = json.loads(path.read_text())
    assert [each["row"] for each in written["results"]] == ["cascade", "bytes of a sample"]
    assert written["machine"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert "| cascade | K=64 B=2 |" in printed and "share of the bytes 0.25" in printed


def test_a_wrong_result_is_noticed():
    case = Case("row", "size", plain=lambda: 1, ours=lambda: 2, agree=same)
    with pytest.raises(Disagreement):
        measure(case, 1, CPU)
    with pytest.raises(Disagreement, match=r"feature: 0\.5 apart"):
        close(torch.zeros(2), torch.tensor([0.0, 0.5]), 0.1, "feature")
    with pytest.raises(Disagreement):
        close(torch.zeros(1), torch.tensor([float("nan")]), 0.1, "feature")


def test_a_measurement_has_both_times_and_what_bounds_them():
    calls = []
    case = Case("row", "size", plain=lambda: calls.append("plain"), ours=lambda: calls.append("ours"),
                agree=lambda a, b: "fine", bound=lambda: calls.append("bound"))
    result = measure(case, 3, CPU)
    assert calls[:5] == ["plain", "ours", "plain", "ours", "bound"] and calls.count("bound") == 4
    assert result.plain > 0 and result.ours > 0 and result.ratio > 0 and result.times_bound > 0
    assert result.agreement == "fine" and result.rounds == 3


def test_sizes():
    assert parse([], CPU) == Sizes(device=CPU)
    assert parse(["queues=64,128", "ratio=0.25", "tiny", "batch=7"], CPU).batch == 7
    assert parse(["queues=64,128"], CPU).queues == (64, 128)
    for wrong in ("nothing=1", "batch=many", "device=cuda"):
        with pytest.raises(OptionError):
            parse([wrong], CPU)
    default = Sizes()
    assert all(stage_sizes(K, default.topk, default.ratio, default.stage) for K in default.scaling)


def test_wrong_options_are_refused():
    with pytest.raises(OptionError, match="rounds"):
        benchmarks.main(["--rounds", "0"])
