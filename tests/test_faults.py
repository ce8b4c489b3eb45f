"""What full disks and flipped bits can do besides: each is shown to happen, and ends in one line that says where."""

import errno
import math
import os
import struct
import zipfile
from pathlib import Path

import noise
import pytest
import torch
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

import launch
import main_nce
import pretrain_script
import pretrain_steps
from utils import checkpoint, journal
from utils.errors import CheckpointError
from utils.journal import TensorBoard
from utils.optimizer import RunOptimizer
from utils.watch import FrameWatch, LossWatch

FULL = "/dev/full"  # what is written there finds no space, for anybody
SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "2", "--moco-k", "8", "--moco-dim", "8", "-j", "0",
         "--print_freq", "2", "--dataset", "noise-2clip"]


@pytest.fixture(autouse=True)
def on_noise(monkeypatch, tmp_path):
    """A small network, datasets of noise, and an empty working directory."""
    noise.install(monkeypatch.setattr)
    monkeypatch.setattr(launch, "_started", False)
    monkeypatch.chdir(tmp_path)


def run(options: str) -> int:
    return launch.exit_code(lambda: main_nce.work(main_nce.parse([*SMALL, *options.split()])))


def only_folder() -> Path:
    [path] = Path("ckpt/log-pretrain").iterdir()
    return path


def test_the_full_place_is_full():
    with pytest.raises(OSError) as caught:
        Path(FULL).write_bytes(b"x")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("tensors", [1, 100])
@pytest.mark.parametrize("numbers", [10, 100_000])
def test_a_full_disk_is_called_so_whatever_pytorch_makes_of_it(tensors, numbers):
    path = Path("x.pth.tar")
    checkpoint.save(path, {"state_dict": {"w": torch.ones(2)}})
    before = path.read_bytes()
    state = {"state_dict": {str(number): torch.ones(numbers) for number in range(tensors)}}
    with pytest.raises((OSError, RuntimeError)), open(FULL, "wb") as file:
        torch.save(state, file)
    Path(f".x.pth.tar.{os.getpid()}.tmp").symlink_to(FULL)
    with pytest.raises(CheckpointError, match=r"^cannot write x\.pth\.tar \(No space left on device\): free some "):
        checkpoint.save(path, state)
    assert path.read_bytes() == before and os.listdir() == ["x.pth.tar"]


def full_opener(path: str, flags: int) -> int:
    """In place of the opener of a run folder's files, as if the disk were full; a link to FULL would be refused."""
    return os.open(FULL, flags & ~os.O_CREAT)


def test_a_log_on_a_full_disk_is_named_in_one_line(capsys, monkeypatch):
    assert run("--epochs 1") == 0
    log = only_folder().resolve() / "img/train.log"
    monkeypatch.setattr("utils.console.regular", full_opener)
    capsys.readouterr()
    assert run("--epochs 2 --resume auto") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot read or write {log} (No space left on device): ") and error.count("\n") == 1


def fill_after_an_epoch(monkeypatch) -> None:
    begin = pretrain_script.Pretraining.begin

    def filled(self, epoch):
        if epoch == 1:
            monkeypatch.setattr(journal, "regular", full_opener)
        return begin(self, epoch)
    monkeypatch.setattr(pretrain_script.Pretraining, "begin", filled)


def test_metrics_on_a_full_disk_are_named_in_one_line(monkeypatch, capsys):
    fill_after_an_epoch(monkeypatch)
    assert run("--epochs 2") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot read or write {only_folder() / journal.FILE} (No space left on device): ")
    assert error.count("\n") == 1
    assert checkpoint.load(only_folder() / "model/epoch0.pth.tar")["iteration"] == 4


def on_full(path: str) -> RecordWriter:
    """In place of tensorboardX's writer of a file."""
    return RecordWriter(FULL)


def test_tensorboards_file_on_a_full_disk_does_not_hold_the_training_up(monkeypatch, tmp_path):
    """The writer with a thread took some values, and then waited for ever."""
    monkeypatch.setattr(journal, "RecordWriter", on_full)
    scalars = TensorBoard(tmp_path / "img", 0)
    with pytest.raises(OSError, match=r"No space left .*/img/events\.out\.tfevents"):
        for step in range(1000):
            scalars.add_scalar("train/loss", 1.0, step)


def test_tensorboards_file_on_a_full_disk_is_one_line_and_hides_no_other_error(monkeypatch, capsys):
    monkeypatch.setattr(journal, "RecordWriter", on_full)
    assert run("--epochs 1") == 2
    error = capsys.readouterr().err
    assert "/img/events.out.tfevents" in error and "No space left" in error and error.count("\n") == 1
    monkeypatch.setattr(checkpoint.torch, "save", lambda *given: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    assert run("--epochs 1 --name_prefix other") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write ckpt/") and "(I/O error)" in error and error.count("\n") == 1


def test_tensorboard_reads_what_is_written(tmp_path):
    scalars = TensorBoard(tmp_path, 7)
    scalars.add_scalar("train/loss", 0.5, 8)
    scalars.close()
    [path] = tmp_path.glob("events.out.tfevents.*")
    data, events = path.read_bytes(), []
    while data:  # a record: its length in 8 bytes, a checksum in 4, the event, a checksum in 4
        [length] = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12:12 + length]))
        data = data[16 + length:]
    first, begun, scalar = events
    assert first.file_version == "brain.Event:2"
    assert (begun.step, begun.session_log.status) == (7, begun.session_log.START)
    [value] = scalar.summary.value
    assert (scalar.step, value.tag, value.simple_value) == (8, "train/loss", 0.5) and scalar.wall_time > 1e9


def test_a_tensor_that_one_bit_makes_a_directory_is_noticed():
    """PyTorch takes its part of the file for empty, and its memory stays as it was."""
    torch.save({"state_dict": {"w": torch.ones(1000)}}, "x")
    good = Path("x").read_bytes()
    entries = len(zipfile.ZipFile("x").infolist())
    place, seen = 0, 0
    while (place := good.find(b"PK\x01\x02", place + 1)) > 0:  # of a part, in the list at the end of the file
        damaged = bytearray(good)
        damaged[place + 38] |= 0x10
        Path("x").write_bytes(damaged)
        with zipfile.ZipFile("x") as file:
            assert file.testzip() is None  # all checksums are right
        with pytest.raises(CheckpointError, match="marked as a directory"):
            checkpoint.load("x")
        seen += 1
    assert seen == entries
    Path("x").write_bytes(good)
    assert torch.equal(checkpoint.load("x")["state_dict"]["w"], torch.ones(1000))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_weights_that_a_lost_loss_has_spoilt_are_not_saved(factor, late, monkeypatch, capsys):
    """late: losses are looked at when it is cheap, as on a GPU; steps are taken after the lost one."""
    assert run("--epochs 1 --save_steps 3") == 0
    before = {path: path.read_bytes() for path in (only_folder() / "model").iterdir()}
    loss, runs = pretrain_steps.infonce_loss, []
    monkeypatch.setattr(pretrain_steps, "infonce_loss", lambda logits: loss(logits) * factor)
    begin = pretrain_script.Pretraining.begin
    monkeypatch.setattr(pretrain_script.Pretraining, "begin",
                        lambda self, epoch: runs.append(self) or begin(self, epoch))
    if late:
        monkeypatch.setattr(LossWatch, "add", lambda self, *given: self._pending.append(lost(*given)))
    assert run("--epochs 3 --resume auto --save_steps 3 --print_freq 100") == 2
    weights = runs[0].run.model.state_dict().values()
    assert not all(value.isfinite().all() for value in weights)  # the fault happens
    error = capsys.readouterr().err
    assert error.startswith("error: the loss of iteration 4 is ") and error.count("\n") == 1
    assert {path: path.read_bytes() for path in (only_folder() / "model").iterdir()} == before


def lost(iteration: int, batch: dict, loss: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    """What the watch over losses keeps of a step."""
    return iteration, batch["index"], loss


def test_moments_that_are_lost_are_not_saved(monkeypatch, capsys):
    """A gradient of 1e25 is finite, and so are loss and weights ever after; its square is not."""
    step = RunOptimizer.step

    def steep(self) -> None:
        self.parameters[0].grad.fill_(1e25)
        step(self)
    monkeypatch.setattr(RunOptimizer, "step", steep)
    assert run("--epochs 1") == 2
    error = capsys.readouterr().err
    assert "optimizer's exp_avg_sq of 0" in error and "not saved" in error and error.count("\n") == 1
    assert list((only_folder() / "model").iterdir()) == []


def test_frames_that_others_stand_in_for_are_counted_in_the_log(capsys):
    watch = FrameWatch(lambda rows: [f"v{row}" for row in rows.tolist()], 1000)
    for epoch, counts in enumerate([(2, 3), (0, 0), (1, 0)]):
        watch.new_epoch()
        watch.add({"index": torch.tensor([4, 5]), "damaged": torch.tensor([[[counts[0], 7]], [[counts[1], 8]]])})
        watch.report(f"train epoch {epoch}")
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("warning")]
    assert lines == [f"train epoch {epoch}: others stood in for {count} of 1000 frames that could not be read"
                     for epoch, count in ((0, 5), (2, 1))]
