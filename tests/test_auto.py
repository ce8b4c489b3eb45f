"""Automatic settings: a table of data, machine and time, what fits what, and the time that a plan takes."""

from dataclasses import replace

import pytest

from engine import auto, settings
from engine.auto import Facts, choose
from model.cascade import stage_sizes
from utils.errors import OptionError

TIMED = {"infonce": 0.25, "coclr": 0.35}


def values(given=None, **facts) -> dict:
    usual = {"videos": 140, "tested": 20, "frames": 50, "side": 240, "cores": 2}
    return {name: value for name, value, _ in choose(Facts(**usual | facts), given)}


@pytest.mark.parametrize(("facts", "expected"), [
    ({}, {"net": "s3d_small", "workers": 1, "seq_len": 8, "ds": 3, "img_dim": 64, "batch_size": 16, "moco_k": 64,
          "mining": "fused", "own_view": "frozen", "topk": 5, "cycles": 1, "infonce_epochs": 60, "coclr_epochs": 40,
          "lr": 5e-4, "coclr_lr": 1e-4, "moco_m": 0.99}),
    ({"videos": 1900, "frames": 20, "side": 48}, {"ds": 1, "img_dim": 32, "batch_size": 32, "moco_k": 928, "topk": 5}),
    ({"videos": 9537, "gpus": 2, "memory": 24, "cores": 32, "labels": True, "frames": 180},
     {**auto.PUBLISHED, "gpus": 2, "workers": 8, "probe_epochs": 100}),
    ({"videos": 9537, "gpus": 8, "memory": 11, "cores": 16}, {"gpus": 2, "batch_size": 8, "workers": 8}),
    ({"videos": 300, "gpus": 1, "memory": 80, "frames": 20}, {"seq_len": 16, "moco_k": 144, "lr": 5e-4, "cycles": 2,
                                                                         "mining": "fused", "own_view": "frozen"}),
    ({"videos": 22, "tested": 0}, {"batch_size": 2, "moco_k": 10, "mining": "fused", "topk": 3}),
    ({"videos": 4, "tested": 0}, {"batch_size": 2, "moco_k": 2, "mining": "topk", "topk": 1}),
    ({"hours": 0.25, "seconds": TIMED, "spent": 60, "cores": 1}, {"infonce_epochs": 45, "coclr_epochs": 30}),
    ({"hours": 0.25, "seconds": TIMED, "spent": 60}, {"infonce_epochs": 66, "coclr_epochs": 44}),  # side by side
    ({"hours": 8, "seconds": TIMED}, {"infonce_epochs": 300, "coclr_epochs": 200}),
    ({"hours": 0.01, "seconds": TIMED}, {"infonce_epochs": 5, "coclr_epochs": 3}),
])
def test_what_is_chosen(facts, expected):
    chosen = values(**facts)
    assert {name: chosen[name] for name in expected} == expected


@pytest.mark.parametrize("videos", [12, 22, 75, 140, 500, 5000, 100_000])
@pytest.mark.parametrize("given", [{}, {"batch_size": 24, "stage": 1, "mining": "cascade"},
                                   {"moco_k": 48, "ratio": 0.3}, {"mining": "cascade"}])
def test_what_is_chosen_fits(videos, given):
    for gpus in (0, 1, 8):
        chosen = values(given, videos=videos, gpus=gpus, memory=40, cores=16)
        step = chosen["batch_size"] * chosen["gpus"]
        assert given.items() <= chosen.items()
        assert chosen["moco_k"] % step == 0 or given
        assert chosen["moco_k"] <= max(step, videos // 2) or given
        if chosen["mining"] == "cascade":
            stage_sizes(chosen["moco_k"], chosen["topk"], chosen["ratio"], chosen["stage"])  # raises if it is too deep
        else:
            assert 0 < chosen["topk"] < chosen["moco_k"]


@pytest.mark.parametrize("hours", [0.5, 1, 3])
@pytest.mark.parametrize("labels", [False, True])
def test_a_plan_uses_its_hours_and_no_more(hours, labels):
    facts = Facts(140, 20, 50, 240, labels, cores=2, hours=hours, spent=100, seconds={"infonce": 1.0, "coclr": 1.4})
    chosen = {name: value for name, value, _ in choose(facts)}
    more = chosen | {f"{name}_epochs": chosen[f"{name}_epochs"] * 1.3 for name in ("infonce", "coclr")}
    assert auto.total(facts, chosen) + 100 <= auto.MARGIN * 3600 * hours < auto.total(facts, more) + 100


def test_what_is_skipped_takes_no_time():
    facts = Facts(140, 20, 50, 240, True, cores=2, seconds={"infonce": 1.0, "coclr": 1.4})
    chosen = {name: value for name, value, _ in choose(facts)}
    each, took = auto.costs(facts, chosen), [auto.total(replace(facts, skip=skip), chosen) for skip in (
        (), ("probe",), ("probe", "retrieval"))]  # both streams train, and are tested, side by side
    assert took[0] - took[1] == pytest.approx(each["probe"] + each["test"] + each["both"])
    assert took[1] - took[2] == pytest.approx(each["retrieval"] + each["both"])


def test_settings_are_read_back_and_a_contradiction_is_refused(tmp_path):
    line = ["--videos", str(tmp_path), "--out", str(tmp_path), "--probe_options", "--lr 0.1", "--skip", "probe"]
    args, none = settings.parse(line, "")
    rows = choose(Facts(140, 20, 50, 240, cores=2), {"topk": 4})
    settings.keep(rows, vars(args) | {name: value for name, value, _ in rows}, tmp_path)
    again, kept = settings.parse(line, "")
    assert not none and {(row.name, row.value, row.reason) for row in rows} <= {tuple(row) for row in kept}
    assert again.probe_options == ["--lr", "0.1"] and again.videos == tmp_path and again.moco_k == 64
    fresh, _ = settings.parse(["--config", str(tmp_path / "settings.yaml"), "--out", str(tmp_path / "new")], "")
    assert fresh.data_root == str(tmp_path / "new/data")
    places = {name: getattr(again, name) for name in ("out", "data_root", "split_root")}
    assert vars(fresh) | places == vars(again)
    with pytest.raises(OptionError, match=r"--topk is 3 here, but 4 in .*settings\.yaml"):
        settings.parse([*line, "--topk", "3"], "")
