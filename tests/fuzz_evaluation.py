"""Fuzz targets: checkpoints, features, probabilities, and the JSON files of runs."""

import contextlib
import io
import json
import random
import zlib
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from fuzz_checkpoints import hostile_inputs, odd_checkpoints
from fuzz_inputs import JSON, PROBABILITIES, checkpoints, edits, mutated, pickle_of, repacked, saved
from fuzz_targets import Target, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

from eval import feature_files, feature_linear_probe, merge_2stream_prob, retrieval
from utils import checkpoint, journal, provenance, training
from utils.console import NEXT
from utils.metrics import LabelRing, Meters
from utils.optimizer import RunOptimizer, resumed_lr
from utils.resuming import refuse_changes

OPTIONS = {"lr": 0.1, "schedule": [2], "cos": False, "epochs": 4, "batch_size": 2, "net": "s3d", "reset_lr": False}
WEIGHTS = {"weight": torch.arange(6.).reshape(2, 3), "bias": torch.ones(2)}
GOOD = {
    "state_dict": WEIGHTS, "epoch": 1, "iteration": 8, "best_acc": 0.5, "options": OPTIONS,
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2, 3)}, 1: {"momentum_buffer": torch.ones(2)}},
                  "param_groups": [{"params": [i], "lr": 0.1, "initial_lr": 0.1} for i in range(2)]},
    "made_with": {"processes": 1}, "progress": {"epoch": 2, "samples": 0, "meters": None, "generators": None}}
INSIDE = GOOD | {
    "progress": {"epoch": 1, "samples": 4, "generators": {"shuffle": torch.Generator().get_state()},
                 "meters": {"names": ["loss"], "rows": torch.ones(1, 2, 1, dtype=torch.float64),
                            "read": {"loss": [1.0, 1]}}},
    "label_ring": {"labels": torch.zeros(4, dtype=torch.long), "sources": torch.zeros(4, dtype=torch.long),
                   "pointer": 1, "written": 4}}
PUBLISHED = {"epoch": 3, "state_dict": {"module." + key: value for key, value in WEIGHTS.items()}, "best_acc": 0.25,
             "optimizer": GOOD["optimizer"], "iteration": 100}


def with_pickles(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Checkpoints with a damaged pickle whose checksum is right."""
    def damage(whole: bytes, number: int) -> bytes:
        return repacked(mutated(random.Random(number), [pickle_of(whole)]), whole)
    return st.builds(damage, st.sampled_from(list(seeds)), st.integers(0, 1 << 32))


def checkpoint_target(folder: Path, form: str) -> Target:
    path = folder / "checkpoint.pth.tar"
    seeds = [saved(content, legacy=form == "legacy") for content in (GOOD, PUBLISHED, INSIDE)]
    loader = DataLoader(range(8), batch_size=2)

    def read(data: bytes) -> int:
        path.write_bytes(data)
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        before = {key: value.clone() for key, value in model.state_dict().items()}

        def resume() -> None:
            content = checkpoint.load(path, require=("state_dict", "optimizer", "epoch"))
            refuse_changes(content, Namespace(**OPTIONS), {"processes": 1}, str(path))
            checkpoint.load_state(model, content["state_dict"])
            optimizer = RunOptimizer(model.named_parameters(), name="sgd", lr=0.1, wd=0)
            optimizer.load_state_dict(content["optimizer"])
            optimizer.base_lr = resumed_lr(content["optimizer"], 1.0, 0.1)
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            assert isinstance(int(content["epoch"]), int)
            go_inside(content, loader)

        def use() -> None:
            content = checkpoint.load(path)
            assert isinstance(content["state_dict"], Mapping)
            other = nn.Linear(3, 2)
            checkpoint.load_state(other, content["state_dict"])
            if data in seeds:
                assert all(torch.equal(value, WEIGHTS[key]) for key, value in other.state_dict().items())
        results = given(resume, use)
        assert results or all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert data not in seeds or results == 2
        return results
    odd = (checkpoints(GOOD) | odd_checkpoints(INSIDE) | hostile_inputs(form == "legacy")
           | (edits(seeds) if form == "legacy" else with_pickles(seeds)))
    return Target(f"checkpoints, {form}", seeds, read, odd, weight=2)


def go_inside(content: dict, loader: DataLoader) -> None:
    """What a training takes over besides weights and moments."""
    place, inside = training.place_of(content, loader)
    assert min(place.epoch, place.batch, place.iteration) >= 0 and 0 <= place.best_acc <= 1 and place.batch <= 4
    if inside is not None:
        meters = Meters("cpu")
        meters.load_state_dict(inside["meters"])
        meters.window()
        for name, state in inside["generators"].items():
            training._set_state(torch.Generator(), state, name)
    if "label_ring" in content:
        ring = LabelRing(len(content["label_ring"]["labels"]))
        ring.load_state_dict(content["label_ring"])
        assert 0 <= ring.pointer < max(1, len(ring.labels)) and ring.written <= len(ring.labels)


def feature_target(folder: Path, part: str) -> Target:
    """One of the files of features, read by the linear probe, the fusion and retrieval."""
    folder = folder / part
    train = feature_files.FeatureSet(torch.rand(4, 3, generator=torch.Generator().manual_seed(0)),
                                     torch.tensor([0, 1, 0, 1]), ["A/a", "B/b", "A/c", "B/c"])
    for dataset in ("own", "own-f"):
        for split, rows in (("train", [0, 1, 2, 3]), ("test", [1, 2])):
            feature_files.save(folder / "feature", dataset, split, train.rows(rows), {})
    (folder / "splits/own").mkdir(parents=True)
    (folder / "splits/own/ClassInd.txt").write_text("A\nB\n")
    path = folder / "feature" / f"own_train_{part}"
    sound = path.read_bytes()
    seeds = [sound]
    if part.endswith("tar"):
        value = torch.load(path, weights_only=True)
        seeds += [saved(value, legacy=True), saved(value.tolist())]

    def probe() -> None:
        assert feature_linear_probe.main(["--test", str(folder / "x.pth.tar"), "--dataset", "own", "--epochs", "1",
                                          "--split_root", str(folder / "splits")]) == 0
        found = json.loads((folder / "feature/x.pth.tar-lp-own-prob.json").read_text())
        assert list(found) == ["B/b", "A/c"] and all(len(row[0]) == 2 for row in found.values())

    def fuse() -> None:
        assert merge_2stream_prob.main(["--mode", "s", "--dataset", "own", "--prob1", str(folder / "feature"),
                                        "--prob2", str(folder / "feature")]) == 0

    def retrieve() -> None:
        found = feature_files.load(folder / "feature", "own", "train")
        assert found.features.dtype == torch.float32 and found.labels.dtype == torch.int64
        assert found.features.isfinite().all() and len(set(found.names)) == len(found.names)
        assert found.features.shape[0] == len(found.labels) == len(found.names) and found.labels.dim() == 1
        assert all(isinstance(name, str) for name in found.names)
        sim, recall = retrieval.retrieve(found, found, torch.device("cpu"))
        assert sim.shape == (len(found.names),) * 2 and all(0 <= share <= 1 for share in recall.values())

    def again() -> None:
        found = feature_files.load_if_made_from(folder / "feature", "own", "train", {})
        assert found is None or isinstance(found.features, Tensor)

    def read(data: bytes) -> int:
        path.write_bytes(data)
        with contextlib.redirect_stdout(io.StringIO()):
            results = given(probe, fuse, retrieve, again)
        assert data not in seeds or results == 4
        return results - 1  # the last one gives a result always
    odd = checkpoints({"x": value}) | odd_checkpoints(value.tolist()) if part.endswith("tar") else JSON
    return Target(f"features, {part}", seeds, read, odd | (with_pickles(seeds[::2]) if part.endswith("tar") else odd))


def probability_target(folder: Path) -> Target:
    seeds = [b'{"/x/A/a/": {"mean_prob": [[0.25, 0.75]]}, "/x/B/b/": {"mean_prob": [[0.5, 0.5]]}}',
             b'{"A/a": [[0.25, 0.75]], "B/b": [[0.125, 0.875]]}']
    one, two = folder / "one.json", folder / "two.json"
    two.write_bytes(seeds[0])
    (folder / "own").mkdir()
    (folder / "own/ClassInd.txt").write_text("A\nB\n")

    def merge(first: Path, second: Path) -> Callable[[], None]:
        def check() -> None:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                assert merge_2stream_prob.main(["--dataset", "own", "--split_root", str(folder), "--prob1",
                                                str(first), "--prob2", str(second)]) == 0
            shown, next_lines, _ = said.getvalue().partition(f"{NEXT}\n")
            assert next_lines and [line.split()[0] for line in shown.splitlines()[2:]] == ["RGB", "flow", "both"]
        return check

    def read(data: bytes) -> int:
        one.write_bytes(data)
        results = given(merge(one, two), merge(two, one))
        assert data not in seeds or results == 2
        return results
    return Target("probabilities", seeds, read, PROBABILITIES | JSON | edits(seeds))


def run_target(folder: Path, name: str, seeds: list[bytes], reading: Callable[[Path], object]) -> Target:
    """A file of a run folder, of which what is damaged is passed over."""
    path = folder / name

    def read(data: bytes) -> int:
        path.write_bytes(data)
        return given(lambda: reading(path))
    return Target(name, seeds, read, JSON | edits(seeds))


def starts_of(path: Path) -> None:
    data = path.read_bytes()
    found = provenance._starts(path)
    assert isinstance(found, list)
    if zlib.crc32(data) == zlib.crc32(RUN):
        assert found == json.loads(RUN)["starts"]


def lines_of(path: Path) -> None:
    (path.parent / "img").mkdir(exist_ok=True)
    before = path.read_bytes()
    journal.open_journal(path.parent, 1, 4).close()
    if before == METRICS:
        assert path.read_bytes() == b"".join(METRICS.splitlines(keepends=True)[:2])
    for events in (path.parent / "img").iterdir():
        events.unlink()


RUN = b'{"starts": [{"command": ["main_nce.py"], "code": null}, {"command": ["main_nce.py", "--resume", "auto"]}]}'
METRICS = (b'{"kind": "steps", "title": "train", "epoch": 0, "done": 2, "values": {"loss": 1.5}}\n'
           b'{"kind": "epoch", "title": "train", "epoch": 0, "done": 3, "values": {"loss": null}}\n'
           b'{"kind": "steps", "title": "train", "epoch": 1, "done": 5, "values": {"loss": 1.25}}\n')


def targets(folder: Path) -> list[Target]:
    return [checkpoint_target(folder, "zip"), checkpoint_target(folder, "legacy"),
            *(feature_target(folder, part) for part in ("feature.pth.tar", "label.pth.tar", "vname.json",
                                                        "made_from.json")),
            probability_target(folder), run_target(folder, "run.json", [RUN], starts_of),
            run_target(folder, "metrics.jsonl", [METRICS], lines_of)]
