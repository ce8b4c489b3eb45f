"""Which process gets which samples in which epoch, also from workers that persist over epochs."""

import pytest
import torch
from torch.utils.data import Dataset

from dataset.loader import EpochSampler, make_loader
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


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("size", "world"), [(10, 1), (12, 3), (13, 3), (5, 4)])
def test_processes_share_the_set_as_torch_shares_it(size, world, shuffle):
    from torch.utils.data.distributed import DistributedSampler
    for rank in range(world):
        ours = EpochSampler(size, shuffle=shuffle, seed=5, rank=rank, world_size=world)
        theirs = DistributedSampler(range(size), num_replicas=world, rank=rank, shuffle=shuffle, seed=5)
        for epoch in (0, 3):
            ours.set_epoch(epoch)
            theirs.set_epoch(epoch)
            assert list(ours) == [(epoch, i) for i in theirs]
            assert len(ours) == len(theirs)


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
    (0, {}, "only 0 clips"), (3, {}, "one batch of 4: take"), (7, {"world_size": 2}, "one batch of 4 on 2 processes")])
def test_less_than_a_batch_is_an_error(size, settings, words):
    with pytest.raises(OptionError, match=words):
        loader(size, **settings)
