"""Every row of the benchmarks at a tiny size, with a small network: both versions agree. No test depends on times."""

import json

import noise
import pytest
import torch

from tools.benchmarks import Case, Sizes, measure
from tools.benchmarks import __main__ as benchmarks
from utils.errors import OptionError

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", benchmarks.ROWS)
def test_both_versions_of_a_row_agree(name, tmp_path, monkeypatch):
    noise.install_network(monkeypatch.setattr)
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    sizes = benchmarks.parse_sizes(["tiny", "steps=1", "precision=fp32", "compile=1"], CPU)
    cases = list(benchmarks.ROWS[name](sizes, tmp_path))
    assert bool(compiled) == (name == "step")
    for case in cases:
        assert case.agree(case.plain(), case.ours())
        case.bound()
    assert len({(case.row, case.size) for case in cases}) == len(cases) > 0


def test_command_writes_table_and_json(tmp_path, capsys):
    path = tmp_path / "results.json"
    assert benchmarks.main(["--rows", "cascade", "--rounds", "1", "--json", str(path), "tiny"]) == 0
    written = json.loads(path.read_text())
    assert [each["row"] for each in written["results"]] == ["cascade"]
    assert written["machine"]["torch"] == torch.__version__
    assert "| cascade | K=64 B=2 |" in capsys.readouterr().out


def test_versions_are_called_in_turn():
    calls = []
    case = Case("row", "size", plain=lambda: calls.append("plain"), ours=lambda: calls.append("ours"),
                agree=lambda plain, ours: "fine", bound=lambda: calls.append("bound"), bound_of="part")
    result = measure(case, 1, CPU)
    assert calls[:5] == ["plain", "ours", "plain", "ours", "bound"] and calls.count("bound") == 2
    assert result["ratio"] == result["plain"] / result["ours"]
    assert result["times_bound"] == result["ours"] / result["bound"]
    assert result["agreement"] == "fine" and result["rounds"] == 1


def test_sizes_and_rounds():
    assert benchmarks.parse_sizes([], CPU) == Sizes()
    assert benchmarks.parse_sizes(["queues=64,128"], CPU).queues == (64, 128)
    assert benchmarks.parse_sizes(["ratio=0.25", "tiny", "batch=7"], CPU).batch == 7
    for wrong in ("nothing=1", "batch=many", "device=cuda"):
        with pytest.raises(OptionError):
            benchmarks.parse_sizes([wrong], CPU)
    with pytest.raises(OptionError, match="rounds"):
        benchmarks.main(["--rounds", "0"])
