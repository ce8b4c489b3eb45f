"""Damaged checkpoints: the right content or an error of one line, and nothing in a file is ever run."""

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged, refused

from engine import checkpoint
from utils.errors import CheckpointError

GOOD = {"state_dict": {"w": torch.arange(60.0).reshape(3, 4, 5), "n": torch.tensor(3)}, "epoch": 7, "best_acc": 0.5,
        "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "options": {"net": "s3d", "schedule": [1, 2]}}


def saved(content: object, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def same(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    return one == two


def test_damaged_file_is_read_right_or_refused(tmp_path: Path):
    path, data = tmp_path / "x.pth.tar", saved(GOOD)

    def read() -> None:
        assert same(checkpoint.load(path), GOOD)
    path.write_bytes(data)
    assert not refused(read)
    found = []
    for part in (slice(None), slice(0, 400), slice(-400, None)):  # anywhere, the first pickle, the zip's directory
        start, end, _ = part.indices(len(data))
        for changed in damaged(data, 150, start=start, end=end):
            path.write_bytes(changed)
            found.append(refused(read))
    assert sum(found) > 300


@pytest.mark.parametrize("legacy", [False, True])
def test_file_that_is_cut_short_is_refused(tmp_path, legacy):
    path, data = tmp_path / "x.pth.tar", saved(GOOD, legacy=legacy)
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        assert refused(lambda: checkpoint.load(path)), size


def test_views_and_numpy_numbers_of_both_formats_are_read(tmp_path):
    base = torch.arange(60.0).reshape(3, 4, 5)
    state = {"turned": base.transpose(0, 2), "cut": base[:, ::2, 1:3], "one": base[0, 0, 0]}
    for legacy in (False, True):
        content = {"state_dict": state, "best_acc": np.float64(0.25)}
        (tmp_path / "x").write_bytes(saved(content, legacy=legacy))
        found = checkpoint.load(tmp_path / "x")
        assert same(found["state_dict"], state) and found["best_acc"] == 0.25


class Payload:
    """Makes a file when it is unpickled carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mknod, (self.mark,)


def crafted(path: Path, form: str, payload: Payload) -> None:
    content = {"state_dict": {"w": torch.ones(1)}, "x": payload}
    if form == "tar":
        data = pickle.dumps(payload)
        with tarfile.open(path, "w") as file:
            entry = tarfile.TarInfo("storages")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    elif form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_bytes(saved(content, legacy=form == "legacy"))


@pytest.mark.parametrize("form", ["zip", "legacy", "tar", "pickle"])
def test_nothing_in_a_file_is_run(tmp_path, form):
    path, mark = tmp_path / "x.pth.tar", tmp_path / "mark"
    crafted(path, form, Payload(mark))
    for read in (checkpoint.load, checkpoint.read):
        with pytest.raises(CheckpointError):
            read(path)
    assert not mark.exists()
    if form in ("zip", "legacy"):  # the payload works
        torch.load(path, weights_only=False)
        assert mark.exists()
