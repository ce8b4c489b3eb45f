"""Full disks, damaged checkpoints, lost losses: each is shown to happen, and what comes of it."""

import math
import os
import random
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import interrupted
import noise
import pytest
import torch
from interrupted import differences, said

import launch
import main_nce
import pretrain_script
from utils import checkpoint
from utils.errors import CheckpointError
from utils.keeper import newest_complete

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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB as the place of `ckpt`; where none can be mounted, files of at most 60 kB."""
    place = tmp_path / "ckpt"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead: EFBIG
        before = resource.getrlimit(resource.RLIMIT_FSIZE)

        def fill() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

        def free() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    else:
        def fill() -> None:
            with open(place / "filler", "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))

        def free() -> None:
            (place / "filler").unlink()
    yield fill, free
    if mounted.returncode:
        free()
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    else:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_the_file_that_was_there(small_disk):
    fill, free = small_disk
    path = Path("ckpt/epoch0.pth.tar")
    checkpoint.save(path, {"state_dict": {"x": torch.ones(10)}})
    before = path.read_bytes()
    fill()
    with pytest.raises(OSError, match=r"No space|too large"):  # the fault happens
        Path("ckpt/plain").write_bytes(bytes(100_000))
    Path("ckpt/plain").unlink()
    with pytest.raises(CheckpointError, match=r"cannot write ckpt/epoch0\.pth\.tar .*: free some space") as error:
        checkpoint.save(path, {"state_dict": {"x": torch.ones(100_000)}})
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert not list(path.parent.glob(".*"))
    free()
    checkpoint.save(path, {"state_dict": {"x": torch.ones(100_000)}})


def test_a_training_on_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_space(small_disk, monkeypatch, capsys):
    fill, free = small_disk
    begin = pretrain_script.Pretraining.begin
    with monkeypatch.context() as patch:
        patch.setattr(pretrain_script.Pretraining, "begin", lambda self, epoch: (epoch == 2 and fill(),
                                                                                 begin(self, epoch))[1])
        assert run("--epochs 4 --resume auto") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot ") and error.count("\n") == 1 and "space" in error
    assert newest_complete(only_folder() / "model").name == "epoch1.pth.tar"
    assert not list((only_folder() / "model").glob(".*"))
    free()
    assert run("--epochs 4 --resume auto") == 0
    disturbed = only_folder().resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert run("--epochs 4") == 0
    assert differences(only_folder(), disturbed, 3) == []


def truncated(content: bytes) -> bytes:
    return content[:len(content) * 2 // 3]


def flipped(content: bytes) -> bytes:
    """A bit of a weight: the file is as long as it was, and PyTorch reads it."""
    with_bit = bytearray(content)
    with_bit[len(content) // 2] ^= 4
    return bytes(with_bit)


@pytest.mark.parametrize("damage", [truncated, flipped], ids=lambda function: function.__name__)
def test_auto_falls_back_to_the_checkpoint_before_a_damaged_one(damage, capsys):
    assert run("--epochs 3 --prefix whole") == 0
    assert run("--epochs 3 --resume auto") == 0
    whole, folder = (next(Path(f"ckpt/log-{prefix}").iterdir()) for prefix in ("whole", "pretrain"))
    for path in (folder / "model").glob("*epoch2.pth.tar"):  # the last one, and the best if it is the same
        path.write_bytes(damage(path.read_bytes()))
    last = folder / "model/epoch2.pth.tar"
    if damage is flipped:  # the fault happens: PyTorch alone does not see it
        one, two = (torch.load(each / "model/epoch2.pth.tar", weights_only=True) for each in (whole, folder))
        assert one.keys() == two.keys()
    capsys.readouterr()
    assert run(f"--epochs 3 --resume {last}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {last} cannot be read") and error.count("\n") == 1
    assert run("--epochs 3 --resume auto") == 0
    assert f"warning: passed over: {last} cannot be read" in capsys.readouterr().out
    assert differences(whole, folder, 2) == []


def test_checkpoints_that_are_all_damaged_do_not_start_the_run_anew(capsys):
    assert run("--epochs 2") == 0
    paths = list((only_folder() / "model").iterdir())
    for path in paths:
        path.write_bytes(truncated(path.read_bytes()))
    before = contents(only_folder())
    assert run("--epochs 3 --resume auto") == 2
    assert f"error: none of the {len(paths)} checkpoints in" in capsys.readouterr().err
    assert contents(only_folder()) == before


def test_every_flipped_bit_is_seen_or_does_nothing():
    assert run("--epochs 1") == 0
    path = only_folder() / "model/epoch0.pth.tar"
    good, truth, rng, seen = path.read_bytes(), interrupted.state(path), random.Random(0), 0
    for _ in range(200):
        damaged = bytearray(good)
        damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        Path("damaged.pth.tar").write_bytes(damaged)
        try:
            assert interrupted.state(Path("damaged.pth.tar")) == truth
        except CheckpointError:
            seen += 1
    assert seen > 100  # most of the file is weights


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [3, 6])
def test_a_loss_that_is_lost_ends_the_run_and_names_its_videos(value, at, monkeypatch, capsys):
    assert run("--epochs 3 --prefix whole") == 0
    batches = []
    steps = pretrain_script.exact_at_first

    def broken(*given):
        def of_epoch(epoch):
            step = steps(*given)(epoch)

            def lost(batch, iteration):
                batches.append([f"Class/v_{row}" for row in batch["index"].tolist()])
                values = step(batch, iteration)
                return values | ({"loss": values["loss"] * value} if iteration == at else {})
            return lost
        return of_epoch
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(pretrain_script, "exact_at_first", broken)
        assert run("--epochs 3 --save_steps 3") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the loss of iteration {at} is {value}; its videos: {', '.join(batches[-1])}.")
    assert error.count("\n") == 1 and len(batches) == at + 1
    folder = Path("ckpt/log-pretrain")
    assert checkpoint.load(newest_complete(next(folder.iterdir()) / "model"))["iteration"] == {3: 3, 6: 6}[at]
    assert run("--epochs 3 --save_steps 3 --resume auto") == 0
    assert differences(next(Path("ckpt/log-whole").iterdir()), next(folder.iterdir()), 2) == []


def test_weights_that_are_lost_are_not_saved(monkeypatch, capsys):
    """The step after a huge learning rate gives a finite loss still, and weights that are none."""
    assert run("--epochs 1") == 0
    before = contents(only_folder())
    begin = pretrain_script.Pretraining.begin

    def lose(self, epoch):
        with torch.no_grad():
            next(self.run.model.encoder_k.parameters())[0] = math.nan
        step = begin(self, epoch)
        return lambda *given: {name: torch.nan_to_num(value) for name, value in step(*given).items()}
    monkeypatch.setattr(pretrain_script.Pretraining, "begin", lose)
    assert run("--epochs 2 --resume auto") == 2
    error = capsys.readouterr().err
    assert "no longer finite" in error and error.count("\n") == 1
    assert contents(only_folder()) == before


def test_what_a_killed_process_was_writing_is_removed():
    assert run("--epochs 1") == 0
    draft = only_folder() / f"model/.epoch1.pth.tar.{os.getpid()}.tmp"
    shutil.copy(only_folder() / "model/epoch0.pth.tar", draft)
    assert run("--epochs 2 --resume auto") == 0
    assert not draft.exists()


def test_said_is_what_a_fork_says():
    assert interrupted.train(lambda: print("hello") or 3) == [3] and said() == "hello\n"
