"""Full disks, damaged checkpoints, non-finite losses and weights: each test first shows that the fault occurs."""

import math
import os
import resource
import signal
from pathlib import Path

import noise
import pytest
import torch
from interrupted import differences
from tensorboardX import event_file_writer
from tensorboardX.record_writer import RecordWriter

import main_nce
from engine import checkpoint, steps
from engine.optimizer import Optimizer
from engine.pretraining import PretrainTask
from engine.run_folder import newest_complete
from engine.trainer import LossCheck
from utils.errors import CheckpointError

FULL = "/dev/full"  # whatever is written there finds no space


pytestmark = pytest.mark.usefixtures("on_noise")


def run(options: str) -> int:
    return noise.run(main_nce, f"--print_freq 2 {options}")


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (noise.run_folder() / "model").iterdir()}


def error_of(capsys) -> str:
    """Return the error message, which is one line."""
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text.removeprefix("error: ")


def before_epoch(number: int, act, patch) -> None:
    """Call ``act(task)`` when an epoch begins."""
    begin = PretrainTask.begin_epoch

    def begin_epoch(self, epoch):
        if epoch == number:
            act(self)
        begin(self, epoch)
    patch.setattr(PretrainTask, "begin_epoch", begin_epoch)


@pytest.fixture
def small_disk():
    """Files may have at most 20 kB once the disk is full, as if by EFBIG; yields fill and free."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    free = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)  # noqa: E731
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1])), free
    free()
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def test_training_on_a_full_disk_stops_with_one_line_and_resumes_later(small_disk, monkeypatch, capsys):
    fill, free = small_disk
    with monkeypatch.context() as patch:
        before_epoch(2, lambda task: fill(), patch)
        assert run("--epochs 4 --resume auto") == 2
    error = error_of(capsys)
    assert error.startswith("cannot ") and "space" in error
    assert newest_complete(noise.run_folder() / "model").name == "epoch1.pth.tar"
    assert not list((noise.run_folder() / "model").glob(".*"))
    free()
    assert run("--epochs 4 --resume auto") == 0
    disturbed = noise.run_folder().resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert run("--epochs 4") == 0
    assert differences(noise.run_folder(), disturbed, 3) == []


@pytest.mark.parametrize(("tensors", "numbers"), [(100, 10), (1, 100_000)])
def test_a_checkpoint_on_a_full_disk_says_so_whatever_pytorch_makes_of_it(tensors, numbers):
    path = Path("x.pth.tar")
    checkpoint.save(path, {"state_dict": {"w": torch.ones(2)}})
    before = path.read_bytes()
    state = {"state_dict": {str(number): torch.ones(numbers) for number in range(tensors)}}
    with pytest.raises((OSError, RuntimeError)), open(FULL, "wb") as file:
        torch.save(state, file)
    Path(f".x.pth.tar.{os.getpid()}.tmp").symlink_to(FULL)
    with pytest.raises(CheckpointError, match=r"^cannot write x\.pth\.tar \(.*\): free some "):
        checkpoint.save(path, state)
    assert path.read_bytes() == before and os.listdir() == ["x.pth.tar"]


def test_a_log_on_a_full_disk_is_named_in_one_line(capsys):
    assert run("--epochs 1") == 0
    log = noise.run_folder().resolve() / "img/train.log"
    log.unlink()
    log.symlink_to(FULL)
    assert run("--epochs 2 --resume auto") == 2
    assert error_of(capsys).startswith(f"cannot read or write {log} (No space left on device): ")


def test_a_full_disk_for_tensorboard_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(event_file_writer, "RecordWriter", lambda path: RecordWriter(FULL))
    assert run("--epochs 1") == 2
    error = error_of(capsys)
    assert "/img/events" in error and "No space left" in error


def truncated(content: bytes) -> bytes:
    return content[:len(content) * 2 // 3]


def flipped(content: bytes) -> bytes:
    """Flip a bit of a weight: the file is as long as it was, and PyTorch reads it."""
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 4
    return bytes(damaged)


@pytest.mark.parametrize("damage", [truncated, flipped], ids=lambda function: function.__name__)
def test_auto_falls_back_to_the_checkpoint_before_a_damaged_one(damage, capsys):
    assert run("--epochs 3 --prefix whole") == 0
    assert run("--epochs 3 --resume auto") == 0
    whole, folder = noise.run_folder(prefix="whole"), noise.run_folder()
    for path in (folder / "model").glob("*epoch2.pth.tar"):  # the last one, and the best if it is the same
        path.write_bytes(damage(path.read_bytes()))
    last = folder / "model/epoch2.pth.tar"
    if damage is flipped:  # PyTorch alone does not notice
        one, two = (torch.load(each / "model/epoch2.pth.tar", weights_only=True) for each in (whole, folder))
        assert one.keys() == two.keys()
    capsys.readouterr()
    assert run(f"--epochs 3 --resume {last}") == 2
    assert error_of(capsys).startswith(f"{last} cannot be read")
    assert run("--epochs 3 --resume auto") == 0
    assert f"warning: skipped: {last} cannot be read" in capsys.readouterr().out
    assert differences(whole, folder, 2) == []


def test_a_run_does_not_restart_when_all_checkpoints_are_damaged(capsys):
    assert run("--epochs 2") == 0
    for path in (noise.run_folder() / "model").iterdir():
        path.write_bytes(truncated(path.read_bytes()))
    before = contents()
    capsys.readouterr()
    assert run("--epochs 3 --resume auto") == 2
    assert f"none of the {len(before)} checkpoints" in error_of(capsys)
    assert contents() == before


@pytest.mark.parametrize(("value", "at"), [(math.nan, 3), (math.inf, 6)])
def test_a_non_finite_loss_stops_the_run_and_names_its_videos(value, at, monkeypatch, capsys):
    assert run("--epochs 3 --prefix whole") == 0
    capsys.readouterr()
    step, batches = main_nce.NceTask.step, []

    def broken(task, batch, epoch, iteration):
        batches.append([f"Class/v_{row}" for row in batch["index"].tolist()])
        values = step(task, batch, epoch, iteration)
        return values | ({"loss": values["loss"] * value} if iteration == at else {})
    with monkeypatch.context() as patch:
        patch.setattr(main_nce.NceTask, "step", broken)
        assert run("--epochs 3 --save_steps 3") == 2
    error = error_of(capsys)
    assert error.startswith(f"the loss of iteration {at} is {value}; its videos: {', '.join(batches[-1])}.")
    assert len(batches) == at + 1
    assert checkpoint.load(newest_complete(noise.run_folder() / "model"))["iteration"] == at
    assert run("--epochs 3 --save_steps 3 --resume auto") == 0
    assert differences(noise.run_folder(prefix="whole"), noise.run_folder(), 2) == []


@pytest.mark.parametrize("late", [False, True])
def test_weights_corrupted_by_a_non_finite_loss_are_not_saved(late, monkeypatch, capsys):
    """late: losses are checked later, as on a GPU, so more steps follow the broken one."""
    assert run("--epochs 1 --save_steps 3") == 0
    before, loss, tasks = contents(), steps.infonce_loss, []
    monkeypatch.setattr(steps, "infonce_loss", lambda logits: loss(logits) * math.nan)
    before_epoch(1, tasks.append, monkeypatch)
    if late:
        monkeypatch.setattr(LossCheck, "add", lambda self, iteration, rows, loss, now:
                            self._pending.append((iteration, rows, loss.detach())))
    assert run("--epochs 3 --resume auto --save_steps 3 --print_freq 100") == 2
    assert not all(value.isfinite().all() for value in tasks[0].model.state_dict().values())  # the fault happens
    assert error_of(capsys).startswith("the loss of iteration 4 is ")
    assert contents() == before


def test_non_finite_weights_are_not_saved(monkeypatch, capsys):
    """The step after a huge learning rate may still have a finite loss."""
    assert run("--epochs 1") == 0
    before, step = contents(), main_nce.NceTask.step

    def spoil(task) -> None:
        with torch.no_grad():
            next(task.model.encoder_k.parameters())[0] = math.nan
    before_epoch(1, spoil, monkeypatch)
    monkeypatch.setattr(main_nce.NceTask, "step", lambda *given: {
        name: torch.nan_to_num(value) for name, value in step(*given).items()})
    assert run("--epochs 2 --resume auto") == 2
    assert "no longer finite" in error_of(capsys) and contents() == before


def test_non_finite_moments_are_not_saved(monkeypatch, capsys):
    """A gradient of 1e25 is finite, and so are loss and weights ever after; its square is not."""
    step = Optimizer.step

    def steep(self) -> None:
        self.parameters[0].grad.fill_(1e25)
        step(self)
    monkeypatch.setattr(Optimizer, "step", steep)
    assert run("--epochs 1") == 2
    error = error_of(capsys)
    assert "optimizer's exp_avg_sq of 0" in error and "not saved" in error
    assert contents() == {}
