"""Checkpoint files: loading executes nothing, and is correct or refused; writing is atomic; differences of state dicts
are reported; which files a run keeps.
"""

import argparse
import io
import os
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged, refused
from safetensors.torch import save_file
from torch import nn

from engine import checkpoint
from engine.checkpoint import load, load_state, save
from engine.run_folder import CheckpointManager
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
        assert same(load(path), GOOD)
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
        assert refused(lambda: load(path)), size


class Payload:
    """Makes a file when it is unpickled carelessly."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mknod, (self.mark,)


def crafted(path: Path, form: str, payload: Payload) -> None:
    content = {"state_dict": {"w": torch.ones(1)}, "x": payload}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        path.write_bytes(saved(content, legacy=form == "legacy"))


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_nothing_in_a_file_is_run(tmp_path, form):
    path, mark = tmp_path / "x.pth.tar", tmp_path / "mark"
    crafted(path, form, Payload(mark))
    for read in (load, checkpoint.read):
        with pytest.raises(CheckpointError):
            read(path)
    assert not mark.exists()
    if form in ("zip", "legacy"):  # the payload works
        torch.load(path, weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize("reduced", [
    np.array([{}], dtype=object).__reduce__(), (getattr, (torch.Tensor, "numpy")),
    (torch.load, ("other",)), (checkpoint.load, ("other",))])
def test_nothing_else_can_be_called_from_a_checkpoint(tmp_path, reduced):
    class Caller:
        def __reduce__(self) -> tuple:
            return reduced
    torch.save({"state_dict": {}, "x": Caller()}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="more than plain data"):
        load(tmp_path / "x")


def test_no_module_loads_more_than_numbers():
    """What else could run the content of a file, ruff finds: see pyproject.toml."""
    loading = re.compile(r"(?<!\")torch\.load\((?!.*weights_only=True)|allow_pickle=(?!False)")
    root = Path(__file__).parents[1]
    sources = [path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in ("tests", ".venv")]
    assert len(sources) > 60 and not [path for path in sources if loading.search(path.read_text())]


def test_names_of_both_numpy_versions_load(tmp_path):
    content = {"state_dict": {"w": torch.ones(2)}, "best_acc": np.float64(0.5), "a": np.int64(-3)}
    (tmp_path / "x").write_bytes(saved(content))
    assert same(load(tmp_path / "x"), content)
    (tmp_path / "x").write_bytes(saved(content, legacy=True))
    data = (tmp_path / "x").read_bytes()
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert (new in data) != (old in data)
    for name in (new, old):
        (tmp_path / "y").write_bytes(data.replace(b"c" + new + b"\n", b"c" + name + b"\n"))
        assert name in (tmp_path / "y").read_bytes()
        assert load(tmp_path / "y")["best_acc"] == 0.5


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "foreign", "tensor"])
def test_files_that_are_no_checkpoints(tmp_path, damage):
    path = tmp_path / "x.pth.tar"
    torch.save({"state_dict": {"w": torch.ones(100)}}, path)
    if damage == "foreign":
        torch.save({"weights": 1}, path)
    elif damage == "tensor":
        torch.save(torch.ones(2), path)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "text": b"hello\n" * 9}[damage])
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def state(model: nn.Module) -> dict:
    return {key: torch.full_like(value, 2.0) for key, value in model.state_dict().items()}


def test_expected_differences_are_reported_and_the_rest_loaded():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    given = {"module." + key: value for key, value in state(model).items() if not key.startswith("1.")}
    report = load_state(model, given | {"module.queue": torch.ones(1)}, may_miss=("1.",), may_have=("queue",))
    assert report == ("2 tensors loaded; 2 not in the file, as expected (1.weight, 1.bias); 1 of the file not used, as "
                      "expected (queue)")
    assert model[0].weight.eq(2).all() and not model[1].weight.eq(2).all()


def test_the_batches_that_a_batchnorm_has_seen_may_be_missing():
    model = nn.BatchNorm1d(3)
    given = {key: value for key, value in state(model).items() if key != "num_batches_tracked"}
    load_state(nn.ModuleDict({"bn": model}), {f"bn.{key}": value for key, value in given.items()})
    assert model.weight.eq(2).all() and model.running_var.eq(2).all()


@pytest.mark.parametrize(("change", "words"), [
    (lambda s: s.pop("bias"), "1 tensors are not in the file (bias)"),
    (lambda s: s.update(extra=torch.ones(1)), "unknown to the model (extra)"),
    (lambda s: s.update(weight=torch.ones(5, 2)), "weight: file (5, 2), model (3, 2)"),
    (lambda s: s.update(queue=torch.ones(3, 8)), "--moco-k"),
    (lambda s: s.update(queue=torch.ones(2, 4)), "--moco-dim")])
def test_unexpected_differences_are_an_error_and_load_nothing(change, words):
    model = nn.Linear(2, 3)
    model.register_buffer("queue", torch.zeros(3, 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = state(model)
    change(given)
    with pytest.raises(CheckpointError) as caught:
        load_state(model, given)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_last_and_five_best_are_kept(tmp_path):
    manager = CheckpointManager(tmp_path)
    for epoch in range(0, 16, 2):
        manager.save({"epoch": epoch}, epoch, is_best=epoch != 4)
    assert names(tmp_path) == sorted(["epoch14.pth.tar", "previous-epoch12.pth.tar",
                                      *(f"model_best_epoch{n}.pth.tar" for n in (6, 8, 10, 12, 14))])
    assert load(tmp_path / "model_best_epoch6.pth.tar", require=())["epoch"] == 6


def test_k400_keeps_every_epoch(tmp_path):
    manager = CheckpointManager(tmp_path, keep_all=True)
    for epoch in range(3):
        manager.save({"epoch": epoch}, epoch)
    assert names(tmp_path) == ["epoch0.pth.tar", "epoch1.pth.tar", "epoch2.pth.tar"]


def test_the_file_that_a_run_resumed_from_is_not_removed_as_an_old_best(tmp_path):
    for epoch in range(5):
        save(tmp_path / f"model_best_epoch{epoch}.pth.tar", {})
    manager = CheckpointManager(tmp_path, resumed=tmp_path / ".." / tmp_path.name / "model_best_epoch0.pth.tar")
    manager.save({}, 5, is_best=True)
    assert "model_best_epoch0.pth.tar" in names(tmp_path)
    CheckpointManager(tmp_path).save({}, 6, is_best=True)
    assert "model_best_epoch0.pth.tar" not in names(tmp_path)


@pytest.mark.parametrize("value", [[torch.ones(1)], None, {"w": 1.0}])
def test_a_state_dict_that_holds_no_tensors_is_named_in_one_line(tmp_path, value):
    torch.save({"state_dict": value}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="its 'state_dict' does not hold tensors by name") as caught:
        load(tmp_path / "x")
    assert "\n" not in str(caught.value)


LINEAR = nn.Linear(2, 3)


@pytest.mark.parametrize("prefix", ["", "module.module.", "_orig_mod.module.", "module._orig_mod.", "model.",
                                    "model._orig_mod.module."])
@pytest.mark.parametrize("form", ["ours", "bare", "safetensors", "inside"])
def test_wrappers_and_other_forms_of_weights_load(tmp_path, prefix, form):
    model, path = nn.ModuleDict({"net": nn.Linear(2, 3)}), tmp_path / "x.safetensors"
    inside = prefix.removeprefix("model.") if form == "inside" else ""
    weights = {f"{prefix}net.{inside}{key}": value.detach() for key, value in LINEAR.state_dict().items()}
    if form == "safetensors":
        save_file(weights, path)
    else:
        path = tmp_path / "x"
        torch.save({"state_dict": weights} if form == "ours" else weights, path)
    assert load_state(model, load(path)["state_dict"]) == "2 tensors loaded"
    assert torch.equal(model["net"].weight, LINEAR.weight)


def test_a_module_under_two_names_needs_one_and_a_key_that_comes_twice_is_refused():
    """S3D registers its layers twice, and safetensors writes a tensor once."""
    twice = nn.Linear(2, 3)
    model = nn.ModuleDict({"one": twice, "two": twice})
    assert load_state(model, {"one.weight": torch.ones(3, 2), "one.bias": torch.ones(3)}) == "2 tensors loaded"
    with pytest.raises(CheckpointError, match=r"has one\.bias twice, once as module\.one\.bias"):
        load_state(model, {"one.bias": torch.ones(3), "module.one.bias": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"which has Conv\.w, does not fit .* 4 tensors are not in"):
        load_state(model, {"Conv.w": torch.ones(1)})


@pytest.mark.parametrize("form", ["object", "module", "protocol", "other key"])
def test_a_file_of_another_form_names_the_command_that_converts_it(tmp_path, form):
    path, weights = tmp_path / "it is.pth", dict(LINEAR.state_dict())
    torch.save({"object": {"state_dict": weights, "args": argparse.Namespace(lr=1)}, "module": LINEAR,
                "protocol": {"state_dict": weights}, "other key": {"epoch": 3, "model_state": weights}}[form], path,
               pickle_protocol=4 if form == "protocol" else 2)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and ("if you trust it" in message) == (form != "other key")
    exec(shlex.split(message[message.index("python -c"):])[2])
    assert same(load(tmp_path / "converted-it is.pth")["state_dict"], weights)


@pytest.mark.parametrize("size", [0, 8, 40, 90, -1])
def test_a_safetensors_file_that_is_cut_short_is_refused(tmp_path, size):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(50)}, path)
    path.write_bytes(path.read_bytes()[:size])
    assert refused(lambda: load(path))


@pytest.mark.parametrize("part", [
    {"optimizer": None}, {"epoch": None}, {"epoch": "399"}, {"iteration": "9"}, {"optimizer": [1]}, {"best_acc": 71.3},
    {"scaler": "x"}, {"progress": "done"}, {"options": [1]}, {"label_ring": None}])
def test_only_what_a_command_uses_must_be_whole(tmp_path, part):
    torch.save(GOOD | part, tmp_path / "x")
    assert load(tmp_path / "x").keys() >= {"state_dict"}
    if {*part} & {"optimizer", "epoch", "iteration"}:
        with pytest.raises(CheckpointError, match=f"its '{next(iter(part))}' is .* give it as --pretrain"):
            load(tmp_path / "x", checkpoint.RESUME)
    else:
        load(tmp_path / "x", checkpoint.RESUME)
