"""Shuffled BatchNorm, queues and helpers on two gloo processes, against one process."""

from functools import partial
from unittest import mock

import pytest
import torch
from processes import fork, free_port, launched
from test_pretrain import TinyBackbone

from model import momentum
from model.pretrain import CoCLR, UberNCE
from utils import distributed

W, B, K, STEPS = 2, 4, 16, 3


def make(model_class, **settings):
    """Build a model with a tiny backbone and BatchNorm in evaluation mode, the same on every process."""
    torch.manual_seed(0)
    with mock.patch.object(momentum, "select_backbone", lambda _: (TinyBackbone(), {"feature_size": 8})):
        model = model_class("tiny", 16, K, **settings)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eval()
    return model


def data(step):
    g = torch.Generator().manual_seed(step)
    block1, block2 = (torch.randn(W * B, 2, 3, 4, 16, 16, generator=g) for _ in range(2))
    return block1, block2, torch.randint(0, 5, (W * B,), generator=g)


def coclr_run(part):
    model = make(CoCLR, topk=3, cascade=True, stage=2)
    outputs = []
    for step in range(STEPS):
        logits, mask = model(*(x[part] for x in data(step)))
        outputs.append((logits.detach(), mask))
    return model.state_dict(), outputs


def uber_run(part):
    model = make(UberNCE)
    for step in range(STEPS):
        block, _, labels = data(step)
        model(block[part], labels[part])
    return model.state_dict(), None


def exchange_run(part):
    clips = torch.arange(W * B).float()[:, None, None, None, None].expand(W * B, 3, 2, 2, 2)[part]
    order = torch.randperm(W * B, generator=torch.Generator().manual_seed(0)).view(W, B).sort(dim=1).values
    received = momentum.exchange_clips(clips, order)
    return {"order": order, "received": received[:, 0, 0, 0, 0], "shape": received.shape}, None


def train_mode_run(part):
    model = make(UberNCE)
    model.train()
    block, _, labels = data(0)
    model(block[part], labels[part])
    return model.state_dict(), None


RUNS = {f.__name__: f for f in (coclr_run, uber_run, exchange_run, train_mode_run)}


def work(folder):
    rank = distributed.init(backend="gloo").rank
    results = {name: run(slice(rank * B, (rank + 1) * B)) for name, run in RUNS.items()}
    torch.save(results, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of two processes."""
    folder, port = tmp_path_factory.mktemp("gloo"), free_port()
    forks = [fork(partial(work, folder), str(folder / f"{rank}"), environment=launched(rank, port=port))
             for rank in range(W)]
    assert [each.end() for each in forks] == [0] * W, [each.err.read_text() for each in forks]
    return [torch.load(folder / f"rank{r}.pt", weights_only=False) for r in range(W)]


@pytest.mark.parametrize("name", ["coclr_run", "uber_run"])
def test_two_processes_of_b_leave_the_queue_of_one_process_of_2b(ranks, name):
    alone, _ = RUNS[name](slice(0, W * B))
    for rank in range(W):
        state = ranks[rank][name][0]
        assert state.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(state[key], value, rtol=1e-5, atol=1e-6, msg=f"{key} of rank {rank}")


def test_two_processes_compute_the_rows_of_one(ranks):
    _, outputs = coclr_run(slice(0, W * B))
    for step, (logits, mask) in enumerate(outputs):
        for i in (0, 1):
            together = torch.cat([ranks[r]["coclr_run"][1][step][i] for r in range(W)])
            torch.testing.assert_close(together, (logits, mask)[i], rtol=1e-4, atol=1e-4)
    assert outputs[-1][1].sum(dim=1).min() >= 1 + 3  # the queue was full and mined in the last step


def test_every_clip_is_encoded_by_exactly_one_process(ranks):
    for rank in range(W):
        result = ranks[rank]["exchange_run"][0]
        assert result["received"].long().tolist() == result["order"][rank].tolist()
        assert tuple(result["shape"]) == (B, 3, 2, 2, 2)
    seen = sorted(int(c) for r in range(W) for c in ranks[r]["exchange_run"][0]["received"])
    assert seen == list(range(W * B))


def test_queues_of_a_training_are_equal_on_both_processes(ranks):
    a, b = (ranks[r]["train_mode_run"][0] for r in range(W))
    assert all(torch.equal(a[key], b[key]) for key in a if key.startswith("queue"))


def test_shuffling_mixes_the_batches_that_batchnorm_sees(ranks):
    """In train mode each key encoder sees clips of both processes: its statistics are not those of its own batch."""
    for rank in range(W):
        alone = train_mode_run(slice(rank * B, (rank + 1) * B))[0]["encoder_k.0.bn.running_mean"]
        shuffled = ranks[rank]["train_mode_run"][0]["encoder_k.0.bn.running_mean"]
        own = train_mode_run(slice(rank * B, (rank + 1) * B))[0]["encoder_q.0.bn.running_mean"]
        assert not torch.allclose(shuffled, alone, atol=1e-7)
        torch.testing.assert_close(ranks[rank]["train_mode_run"][0]["encoder_q.0.bn.running_mean"], own)
