"""Which process gets which samples in which epoch, also from workers that persist over epochs; what workers send."""

import ctypes
import os
import resource

import pytest
import torch
from processes import fork
from torch.utils.data import DataLoader, Dataset

from dataset.loader import batches, init_worker, items, make_loader
from utils.errors import OptionError


class Items(Dataset):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: tuple[int, int]) -> torch.Tensor:
        return torch.tensor(item)


def loader(size: int, **settings):
    defaults = {"batch_size": 4, "workers": 0, "train": True, "seed": 0, "rank": 0, "world_size": 1,
                "device": torch.device("cpu")}
    return make_loader(Items(size), **defaults | settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_know_their_epoch(workers):
    batches = loader(11, workers=workers)
    for epoch in range(3):
        batches.sampler.set_epoch(epoch)
        items = torch.cat(list(batches))
        assert items.shape == (8, 2)  # the incomplete third batch is dropped
        assert (items[:, 0] == epoch).all() and len(set(items[:, 1].tolist())) == 8


def test_validation_keeps_the_order_and_the_last_batch():
    assert [batch[:, 1].tolist() for batch in loader(9, train=False)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert [batch[:, 1].tolist() for batch in loader(3, train=False)] == [[0, 1, 2]]


@pytest.mark.parametrize(("size", "settings", "words"), [
    (0, {}, "only 0 clips"), (3, {}, "one batch of 4: use"), (7, {"world_size": 2}, "one batch of 4 on 2 processes")])
def test_less_than_a_batch_is_an_error(size, settings, words):
    with pytest.raises(OptionError, match=words):
        loader(size, **settings)


# What workers send

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18  # of Linux's sched.h and mount.h


class Clips(Items):
    """Samples of a MB; with a fault, the worker cannot send the sixth."""

    def __init__(self, fault: str = "") -> None:
        super().__init__(12)
        self.fault = fault

    def __getitem__(self, item: tuple[int, int] | int) -> dict:
        number = item[1] if isinstance(item, tuple) else item
        if number == 5 and self.fault.isdecimal():  # so many file handles are left
            most = max(map(int, os.listdir("/dev/fd"))) + 20
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            held = [os.dup(0) for _ in range(most - len(os.listdir("/dev/fd")))]
            for handle in held[:int(self.fault)]:
                os.close(handle)
        clip = torch.full((1 << 20,), number, dtype=torch.uint8)
        return {"clip": clip, "bad": Unsendable(self.fault) if number == 5 and " " in self.fault else 0}


class Unsendable:
    def __init__(self, why: str) -> None:
        self.why = why

    def __reduce__(self):
        raise RuntimeError(self.why)


def read(fault: str = "", batch: bool = False) -> None:
    settings = {"batch_size": 2, "train": False, "seed": 0, "rank": 0, "world_size": 1, "device": torch.device("cpu")}
    found = (batches(make_loader(Clips(fault), workers=2, **settings), 0) if batch else
             items(DataLoader(Clips(fault), batch_size=None, num_workers=2, worker_init_fn=init_worker)))
    print(torch.cat([each["clip"].view(-1, 1 << 20).float().mean(1) for each in found]).tolist())


def small_shared_memory() -> None:
    """Give this process a /dev/shm of 64 KB, as docker gives 64 MB."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) or libc.mount(
            b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=64k"):
        os._exit(99)


@pytest.mark.parametrize("batch", [False, True])
def test_a_small_shared_memory_ends_the_run_in_a_line(batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = fork(lambda: read(batch=batch), "node", before=small_shared_memory)
    if (code := node.end()) == 99:
        pytest.skip("only root mounts")
    assert code == 2 and "/dev/shm larger (docker run" in node.errors()[-1]


@pytest.mark.parametrize(("fault", "remedy"), [
    ("unable to write to file </torch_12_34_0>: No space left on device (28)", "/dev/shm larger (docker run"),
    ("received 0 items of ancillary data", "ulimit -n"), ("0", "ulimit -n")])
def test_what_a_worker_cannot_send_ends_the_run_in_a_line(fault, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = fork(lambda: read(fault), "node")
    assert node.end() == 2
    assert any(line.startswith("error: ") and remedy in line for line in node.err.read_text().splitlines())
