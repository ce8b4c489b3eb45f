"""Damaged YAML files of options, and JSON files of results: a right value or an error of one line."""

import json
from pathlib import Path

import torch
from damage import damaged, refused

import main_nce
from eval import merge_2stream_prob

OPTIONS = b"""dataset: rendered-2clip
moco-k: 128         # a comment
lr: 1e-4
schedule: [10, 20]
cos: false
prefix: "a b"
"""


def test_options_from_yaml(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(OPTIONS)
    good = main_nce.parse(["--config", str(path)])
    assert (good.dataset, good.moco_k, good.lr, good.schedule) == ("rendered-2clip", 128, 1e-4, [10, 20])

    def read() -> None:
        found = main_nce.parse(["--config", str(path)])
        assert type(found.moco_k) is int and type(found.lr) is float
        assert all(type(x) is int for x in found.schedule or [])
    refusals = 0
    for data in damaged(OPTIONS, 100):
        path.write_bytes(data)
        refusals += refused(read)
    assert 10 < refusals < 100


def test_probabilities(tmp_path: Path):
    path = tmp_path / "x-prob-ten.json"
    good = json.dumps({f"/x/A/v{i}/": {"mean_prob": [[0.5, 0.25, 0.25]]} for i in range(3)}).encode()

    def read() -> None:
        for prob in merge_2stream_prob.read_probabilities(path).values():
            assert isinstance(prob, torch.Tensor) and prob.isfinite().all()
    path.write_bytes(good)
    assert not refused(read)
    for data in damaged(good, 100):
        path.write_bytes(data)
        refused(read)
