"""Checkpoints made to hang, crash or mislead who reads them: refused in one line before anything uses them."""

import faulthandler
import multiprocessing
import resource
import shutil
import sys

import hostile
import noise
import numpy as np
import pytest
import torch
from fuzz_watch import alarm
from torch import nn

import launch
import main_coclr
import main_nce
from utils import checkpoint
from utils.errors import CheckpointError
from utils.resuming import refuse_changes

GROUP = {"params": [0], "lr": 0.1}
METERS = {"names": ["loss"], "rows": torch.ones(1, 2, 1, dtype=torch.float64), "read": {"loss": [1.0, 1]}}
INSIDE = {"epoch": 0, "samples": 2, "meters": METERS, "generators": {"shuffle": torch.Generator().get_state()}}
RING = {"labels": torch.zeros(4, dtype=torch.long), "sources": torch.zeros(4, dtype=torch.long), "pointer": 0,
        "written": 4}
COUNTS = {"rows": torch.zeros(4, dtype=torch.long), "found": torch.zeros(3, dtype=torch.long),
          "mined": torch.zeros(8, dtype=torch.long), "counted": True}
SCALER = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
GOOD = {"state_dict": {"w": torch.ones(1), "queue": torch.ones(2, 4)}, "epoch": -1, "iteration": 7, "best_acc": 0.5,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(1), "step": torch.tensor(2.0)}}, "param_groups": [GROUP]},
        "progress": INSIDE, "label_ring": RING, "scaler": SCALER, "options": {"lr": 0.1, "schedule": [1], "net": "s3d"},
        "made_with": {"processes": 1}}


def careless(path: str, allowed: list) -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with torch.serialization.safe_globals(allowed):
        try:
            torch.load(path, weights_only=True)
        except MemoryError:
            sys.exit(3)


@pytest.mark.parametrize("name", hostile.HARM)
def test_pytorch_alone_comes_to_harm(tmp_path, name):
    def number(kind: np.dtype, data: bytes) -> object:
        return np.frombuffer(data, kind, count=1)[0].item()
    (tmp_path / "x").write_bytes(hostile.whole(hostile.HARM[name](), legacy=False))
    allowed = [np.dtype, type(np.dtype("f8")), (number, "numpy.core.multiarray.scalar")]
    process = multiprocessing.get_context("fork").Process(target=careless, args=(str(tmp_path / "x"), allowed))
    process.start()
    process.join(3)
    hangs = process.is_alive()
    process.kill()
    process.join()
    assert (hangs, process.exitcode) == {"pointer": (False, -11), "doubled key": (True, -9), "bytearray": (False, 3)}[
        name]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", hostile.PICKLES)
def test_hostile_pickles_are_refused_in_no_time(tmp_path, name, legacy):
    (tmp_path / "x").write_bytes(hostile.whole(b"K\x01", legacy))
    assert checkpoint.load(tmp_path / "x")["hostile"] == 1
    (tmp_path / "x").write_bytes(hostile.whole(hostile.PICKLES[name](), legacy))
    with alarm(), pytest.raises(CheckpointError) as caught:
        checkpoint.load(tmp_path / "x")
    assert "\n" not in str(caught.value) and "documentation" not in str(caught.value)


def test_a_dict_keeps_its_methods(tmp_path):
    (tmp_path / "x").write_bytes(hostile.whole(hostile.shadowed(), False, "state_dict"))
    assert dict(checkpoint.load(tmp_path / "x")["state_dict"].items()) == {}


def test_the_archive_is_read_as_pytorch_reads_it(tmp_path):
    """PyTorch does not tell capital letters from small ones in names of parts."""
    data = hostile.whole(hostile.doubled_key(), legacy=False)
    (tmp_path / "x").write_bytes(data.replace(b"data.pkl", b"DATA.PKL"))
    with alarm(), pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "x")


def test_sound_parts_are_taken(tmp_path):
    for content in (GOOD, GOOD | {"label_ring": RING | COUNTS}, GOOD | {"scaler": {}},
                    {"state_dict": GOOD["state_dict"], "epoch": 3, "best_acc": np.float64(0.25)}):
        checkpoint.save(tmp_path / "x", content)
        assert list(checkpoint.load(tmp_path / "x")) == list(content)


def wrong_parts() -> list[tuple[str, object]]:
    """Key and value of what no run writes."""
    def optimizer(state: object = None, **group: object) -> tuple[str, dict]:
        return "optimizer", {"state": state or {}, "param_groups": [GROUP | group]}
    imaginary, nan = torch.tensor(1j), float("nan")
    found = [("epoch", value) for value in (-2, -6, torch.tensor([1j]), torch.tensor(nan), 1 << 60, None)]
    found += [("iteration", value) for value in (-3, 1 << 62, imaginary)]
    found += [("best_acc", value) for value in (nan, -0.1, 1.5, float("inf"), imaginary)]
    found += [optimizer(lr=value) for value in (nan, -1.0, float("inf"), imaginary)]
    found += [optimizer(initial_lr=value) for value in (nan, -1.0, imaginary)]
    found += [optimizer(params=value) for value in ([True], [0.0], ["0"])]
    found += [optimizer({0: {"exp_avg": torch.ones(1), **entry}}) for entry in (
        {"step": imaginary}, {"step": -1}, {"step": nan}, {"more": "abc"}, {"more": [[]]}, {1: 1},
        {"exp_avg": torch.ones(1, dtype=torch.complex64)}, {"exp_avg": torch.ones(2, dtype=torch.long)})]
    found += [("state_dict", {"w": torch.ones(2) * 1j})]
    found += [("progress", INSIDE | change) for change in (
        {"epoch": -5}, {"samples": -2}, {"samples": 0.5}, {"meters": None}, {"generators": None},
        {"meters": {"rows": 3}}, {"meters": METERS | {"names": [3]}}, {"meters": METERS | {"names": ["a", "b"]}},
        {"meters": METERS | {"rows": METERS["rows"] * nan}}, {"meters": METERS | {"rows": METERS["rows"].float()}},
        {"meters": METERS | {"read": {"loss": 3}}}, {"meters": METERS | {"read": {"loss": [1.0, "x"]}}},
        {"generators": {"shuffle": torch.zeros(3)}}, {"generators": {"shuffle": 3}})]
    found += [("label_ring", value) for value in (
        {}, 3, None, RING | {"pointer": "x"}, RING | {"pointer": 4}, RING | {"pointer": -1}, RING | {"written": 5},
        RING | {"labels": torch.zeros(3, dtype=torch.long)}, RING | {"labels": torch.zeros(4)},
        {**RING, "labels": torch.zeros(3, dtype=torch.long), "sources": torch.zeros(3, dtype=torch.long), "written": 3},
        RING | COUNTS | {"rows": torch.zeros(3, dtype=torch.long)}, RING | COUNTS | {"found": 3},
        RING | COUNTS | {"mined": -torch.ones(8, dtype=torch.long)}, RING | COUNTS | {"counted": "x"},
        RING | {"found": COUNTS["found"]})]
    found += [("scaler", value) for value in (3, SCALER | {"scale": "x"}, SCALER | {"scale": nan}, {"scale": 1.0})]
    found += [(key, {"a": value}) for key in ("options", "made_with") for value in (
        [torch.ones(2)] * 2, torch.ones(1), [[1]], {}, hostile.deep(40))]
    return found


@pytest.mark.parametrize(("key", "value"), wrong_parts())
def test_parts_that_no_run_writes_are_named(tmp_path, key, value):
    torch.save(GOOD | {key: value}, tmp_path / "x")
    with alarm(), pytest.raises(CheckpointError, match=f"its '{key}' is not what") as caught:
        checkpoint.load(tmp_path / "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [hostile.shared(), hostile.deep(), 10**30, 10**400])
def test_values_without_end_are_refused_anywhere(tmp_path, value):
    torch.save(GOOD | {"other": {"net": value}}, tmp_path / "x")
    with alarm(), pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path / "x")


def test_what_is_shared_a_little_is_read(tmp_path):
    betas = (0.9, 0.999)
    torch.save(GOOD | {"other": [{"betas": betas, "twice": [betas] * 9}] * 500}, tmp_path / "x")
    assert checkpoint.load(tmp_path / "x")["other"][499]["twice"][8] == betas


def test_long_options_are_cut_where_they_are_shown(tmp_path):
    options = noise_options() | {"net": ["x" * 1_000_000] * 100_000, "seed": "y\n\x1b[31m"}
    torch.save(GOOD | {"options": options, "progress": INSIDE | {"epoch": 9, "samples": 0}}, tmp_path / "x")
    with alarm(), pytest.raises(CheckpointError, match="was made with") as caught:
        refuse_changes(checkpoint.load(tmp_path / "x"), main_nce.parse([*SMALL, "--dataset", "noise-2clip"]), {}, "x")
    assert len(str(caught.value)) < 3000 and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def noise_options() -> dict:
    return vars(main_nce.parse([*SMALL, "--dataset", "noise-2clip"]))


def test_a_key_does_not_write_a_line_of_its_own(tmp_path, capsys):
    model = nn.Linear(1, 1)
    given = {**model.state_dict(), "more.x\nerror: all is well\x1b[31m": torch.ones(1)}
    report = str(checkpoint.load_state(model, given, may_have=("more.",)))
    assert "more.x\\nerror: all is well\\x1b[31m" in report and "\n" not in report
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_state(model, given)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("value", [torch.full((1, 1), float("nan")), torch.full((1, 1), float("inf")),
                                   torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.long)])
def test_weights_that_are_none_are_not_loaded(value):
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match="weight"):
        checkpoint.load_state(model, {**model.state_dict(), "weight": value})
    assert torch.equal(model.weight, before)


SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2", "--moco-k", "8", "--moco-dim", "8", "-j", "0"]


def resumed(content: dict) -> int:
    shutil.rmtree("ckpt/log-again", ignore_errors=True)
    torch.save(content, "x.pth.tar")
    argv = [*SMALL, "--dataset", "noise-2clip", "--epochs", "2", "--prefix", "again", "--resume", "x.pth.tar"]
    return launch.exit_code(lambda: main_nce.work(main_nce.parse(argv)))


@pytest.fixture
def sound(monkeypatch, tmp_path, capsys):
    """A checkpoint from inside of an epoch, in an empty working directory."""
    noise.install(monkeypatch.setattr)
    monkeypatch.setattr(launch, "_started", False)
    monkeypatch.chdir(tmp_path)
    argv = [*SMALL, "--dataset", "noise-2clip", "--epochs", "1", "--save_steps", "3", "--prefix", "first"]
    assert launch.exit_code(lambda: main_nce.work(main_nce.parse(argv))) == 0
    [path] = tmp_path.glob("ckpt/log-first/*/model/*step3.pth.tar")
    content = checkpoint.load(path)
    assert content["progress"]["samples"] == 6 and resumed(content) == 0
    capsys.readouterr()
    return content


def test_a_training_does_not_go_on_from_what_no_run_writes(sound, capsys):
    optimizer, progress = sound["optimizer"], sound["progress"]
    state = optimizer["state"]
    changes = {
        "10000 samples into an epoch of 8": {"progress": progress | {"samples": 10_000}},
        "generator 'shuffle' is damaged": {"progress": progress | {"generators": {"shuffle": torch.zeros(
            3, dtype=torch.uint8)}}},
        "the state of one that is in none": {"optimizer": optimizer | {"state": state | {4000: next(iter(
            state.values()))}}},
        "'progress' is not what": {"progress": progress | {"meters": None, "generators": None}},
        "'options' is not what": {"options": sound["options"] | {"schedule": [torch.ones(2)] * 2}},
        "does not fit": {"optimizer": optimizer | {"state": {key: {**entry, "exp_avg": entry["exp_avg"] * float("nan")}
                                                            for key, entry in state.items()}}}}
    for words, change in changes.items():
        assert resumed(sound | change) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and words in line


def test_a_ring_of_another_queue_is_refused(monkeypatch, tmp_path, capsys):
    noise.install(monkeypatch.setattr)
    monkeypatch.setattr(launch, "_started", False)
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> int:
        argv = [*SMALL, "--dataset", "noise-2stream-2clip", "--topk", "2", *words]
        return launch.exit_code(lambda: main_coclr.work(main_coclr.parse(argv)))
    assert run("--epochs", "1") == 0
    [path] = tmp_path.glob("ckpt/*/*/model/epoch0.pth.tar")
    content = checkpoint.load(path)
    ring = {name: value[:5] if isinstance(value, torch.Tensor) else 0 for name, value in content["label_ring"].items()}
    torch.save(content | {"label_ring": ring}, "x.pth.tar")
    capsys.readouterr()
    assert run("--epochs", "2", "--prefix", "again", "--resume", "x.pth.tar") == 2
    assert "its 'label_ring' is not what" in capsys.readouterr().err


