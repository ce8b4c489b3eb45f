"""metrics.jsonl and TensorBoard: what is written, and what a resumed run takes out of it; run.json."""

import json
import struct
import subprocess
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from utils import provenance
from utils.journal import FILE, Journal, open_journal

SECONDS = {"data": 0.5, "step": 1.0}


class Scalars:
    """Stands for TensorBoard's writer."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], float] = {}

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.seen[tag, step] = value

    def close(self) -> None:
        self.seen["closed", 0] = 1


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def test_a_journal_says_the_same_twice(tmp_path):
    scalars = Scalars()
    journal = Journal(scalars, tmp_path / FILE)
    journal.steps("train", 2, 20, {"loss": 1.5}, SECONDS)
    journal.epoch("val", 2, 20, {"top1": 0.25})
    journal.close()
    assert scalars.seen == {("train/loss", 20): 1.5, ("train/data_seconds", 20): 0.5, ("train/step_seconds", 20): 1.0,
                            ("val_epoch/top1", 20): 0.25, ("closed", 0): 1}
    assert lines(tmp_path) == [
        {"kind": "steps", "title": "train", "epoch": 2, "done": 20, "values": {"loss": 1.5}, "seconds": SECONDS},
        {"kind": "epoch", "title": "val", "epoch": 2, "done": 20, "values": {"top1": 0.25}}]


def test_every_line_is_json_even_without_numbers(tmp_path):
    Journal(None, tmp_path / FILE).epoch("train", 0, 1, {"loss": float("nan"), "top1": float("inf"), "top5": 0.5})
    assert "NaN" not in (tmp_path / FILE).read_text() and "Inf" not in (tmp_path / FILE).read_text()
    assert lines(tmp_path)[0]["values"] == {"loss": None, "top1": None, "top5": 0.5}


@pytest.mark.parametrize(("epoch", "iteration"), [
    (0, 0), (0, 1), (0, 3), (1, 4), (1, 6), (2, 8), (3, 12)])
def test_what_was_written_later_than_the_checkpoint_is_taken_out(epoch, iteration, tmp_path):
    """Epochs of four steps: lines of the steps after each of two, of the epoch, and of its validation."""
    journal, expected = Journal(None, tmp_path / FILE), []
    for each in range(3):
        for done in (4 * each + 1, 4 * each + 3):
            journal.steps("train", each, done, {"loss": 1.0}, SECONDS)
            expected.append(each < epoch or (each == epoch and done <= iteration))
        journal.epoch("train", each, 4 * each + 4, {"loss": 1.0})
        journal.epoch("val", each, 4 * each + 4, {"top1": 1.0})
        expected += [each < epoch] * 2
    with open(tmp_path / FILE, "a") as file:
        file.write('{"kind": "steps", "title": "train", "epoch": 0, "do')  # killed while it wrote
    before = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()[:-1]]
    open_journal(tmp_path, epoch, iteration).close()
    assert lines(tmp_path) == [line for line, wanted in zip(before, expected, strict=True) if wanted]
    assert len(lines(tmp_path)) == sum(expected)


def shown(folder: Path) -> list[tuple[str, int]]:
    """Tags and steps that TensorBoard shows of all files of events: a start takes out its step and later ones."""
    points: list[tuple[str, int]] = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            length, = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12:12 + length])
            data = data[16 + length:]
            if event.HasField("session_log"):
                points = [point for point in points if point[1] < event.step]
            points += [(value.tag, event.step) for value in event.summary.value]
    return points


@pytest.mark.parametrize(("epoch", "iteration"), [(1, 4), (1, 6), (2, 8)])
def test_tensorboard_shows_every_point_once_after_a_resume(epoch, iteration, tmp_path, monkeypatch):
    """Of three epochs of four steps; the second start goes on after some of them."""
    monkeypatch.setattr("utils.journal.os.getpid", iter(range(100)).__next__)  # files of two processes
    (tmp_path / "img").mkdir()

    def write(first: int) -> None:
        begun = (first // 4, first)
        journal = open_journal(tmp_path, *begun)
        for done in range(first + 1, 13):
            journal.steps("train", (done - 1) // 4, done, {"loss": 1.0}, {})
            if done % 4 == 0:
                journal.epoch("train", done // 4 - 1, done, {"loss": 1.0})
                journal.steps("val", done // 4 - 1, done, {"top1": 1.0}, {})
                journal.epoch("val", done // 4 - 1, done, {"top1": 1.0})
        journal.close()
    write(0)
    once = sorted(shown(tmp_path / "img"))
    write(iteration)
    assert sorted(shown(tmp_path / "img")) == once
    assert len(once) == len(set(once)) == 12 + 3 * 3


def test_every_start_of_a_run_is_told(tmp_path):
    provenance.write_run(tmp_path, {"options": {"lr": 0.1}})
    provenance.write_run(tmp_path, {"options": {"lr": 0.2}})
    starts = json.loads((tmp_path / provenance.FILE).read_text())["starts"]
    assert [start["options"]["lr"] for start in starts] == [0.1, 0.2]
    assert all({"command", "started", "code", "environment"} <= start.keys() for start in starts)
    (tmp_path / provenance.FILE).write_text("{ cut sho")  # does not keep a run from starting
    provenance.write_run(tmp_path, {})
    assert len(json.loads((tmp_path / provenance.FILE).read_text())["starts"]) == 1


def git(folder, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *words], check=True,
                          capture_output=True, text=True).stdout.strip()


def test_the_code_is_named_by_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.code_version().keys() == {"package"}
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "begin")
    assert provenance.code_version() == {"commit": git(tmp_path, "rev-parse", "HEAD"), "changed": False}
    (tmp_path / "b.py").write_text("of the user")
    assert provenance.code_version()["changed"] is False
    (tmp_path / "a.py").write_text("2")
    assert provenance.code_version()["changed"] is True
