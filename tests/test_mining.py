"""Mining measures against plain loops; monitors do not change training; label-free health measures."""

import itertools
import json
import math
import re
import statistics
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace

import noise
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_main_pretrain import newest, run

import main_coclr
import main_nce
from engine import checkpoint, health
from engine.health import CLEARLY_BETTER, HealthProbe, agreement
from engine.monitors import MiningMonitor, Monitors, class_recalls
from model.cascade import cascade_stages, cascade_topk

K, B, N = 24, 5, 40
pytestmark = pytest.mark.usefixtures("on_noise")


@pytest.fixture
def scene():
    """A monitor of a full queue, and a mining in two stages of it."""
    labels, sources = torch.randint(3, (N,)), torch.randint(4, (N,))
    monitor = MiningMonitor(K, labels, sources)
    rows = torch.randperm(N)[:K]
    monitor.ring.update(labels[rows], sources[rows], rows)
    other, own = torch.randn(B, K), torch.randn(B, K)
    excluded = torch.rand(B, K) < 0.2
    mining = SimpleNamespace(other=other, own=own, excluded=excluded,
                             stages=cascade_stages(other, own, excluded, 3, 0.5, 3))
    return SimpleNamespace(labels=labels, sources=sources, monitor=monitor, rows=rows, mining=mining,
                           queries=torch.randint(3, (B,)))


def test_measures_of_a_step_by_loops(scene):
    values = {name: value.item() for name, value in scene.monitor.measure(scene.mining, scene.queries).items()}
    candidates = [(i, j) for i in range(B) for j in range(K) if not scene.mining.excluded[i, j]]

    def right(i: int, j: int) -> bool:
        return (i, j) in candidates and scene.labels[scene.rows[j]] == scene.queries[i]
    mined = [(i, j) for i in range(B) for j in scene.mining.stages[-1][i].tolist()]
    assert values["recall"] == pytest.approx(sum(right(*p) for p in mined) / len(mined))
    assert values["chance"] == pytest.approx(sum(right(*p) for p in candidates) / len(candidates))
    plain = [(i, j) for i in range(B) for j in sorted((j for k, j in candidates if k == i),
                                                      key=lambda j: -scene.mining.other[i, j])[:len(mined) // B]]
    assert values["recall_topk"] == pytest.approx(sum(right(*p) for p in plain) / len(plain))
    best = [(i, int(scene.mining.stages[-1][i, 0])) for i in range(B)]
    assert values["mining_r1"] == pytest.approx(sum(right(*p) for p in best) / B)
    for number, stage in enumerate(scene.mining.stages, start=1):
        hits = sum(right(i, j) for i in range(B) for j in stage[i].tolist())
        assert values[f"stage{number}_hits"] == pytest.approx(hits / B)
    assert 0 < values["recall"] < 1 and 0 < values["chance"] < 1


def test_class_mining_recall_of_an_epoch_by_loops(scene):
    found, mined = set(), []
    for _ in range(4):
        other = torch.randn(B, K)
        scene.mining.stages = [cascade_topk(other, other, scene.mining.excluded, 3, 0.5, 1)]
        scene.monitor.measure(scene.mining, scene.queries)
        for i in range(B):
            for j in scene.mining.stages[0][i].tolist():
                row = int(scene.rows[j])
                if not scene.mining.excluded[i, j]:
                    mined.append(row)
                    if scene.labels[row] == scene.queries[i]:
                        found.add((int(scene.labels[row]), int(scene.sources[row])))
    pairs = set(zip(scene.labels.tolist(), scene.sources.tolist(), strict=True))
    expected = {}
    for label in range(3):
        own = [pair for pair in pairs if pair[0] == label]
        expected[label] = len(found.intersection(own)) / len(own)
    queue = F.normalize(torch.randn(8, K), dim=0)
    assert class_recalls(scene.monitor._found, scene.monitor._class_of_pair) == pytest.approx(expected)
    values = scene.monitor.end_epoch({"own": queue})
    assert values["cmr_median"] == pytest.approx(statistics.median(expected.values()))
    counts = np.bincount(mined, minlength=N)
    assert values["mined_videos"] == pytest.approx((counts > 0).mean())
    assert values["most_mined"] == pytest.approx(counts.max() / counts.mean())
    assert scene.monitor.end_epoch({"own": queue}) == {}  # an epoch that mined nothing


def test_a_class_of_one_source_has_no_recall():
    assert class_recalls(torch.tensor([1, 0, 2]), torch.tensor([0, 0, 1])) == {0: 0.5}


def test_counts_survive_a_checkpoint(scene):
    scene.monitor.measure(scene.mining, scene.queries)
    copy = MiningMonitor(K, scene.labels, scene.sources)
    copy.load_state_dict(scene.monitor.state_dict())
    queues = {"own": F.normalize(torch.randn(8, K), dim=0)}
    assert copy.end_epoch(queues) == scene.monitor.end_epoch(queues) != {}


def test_the_counts_of_another_set_are_not_taken_over(scene):
    other = MiningMonitor(K, scene.labels[:30], scene.sources[:30])
    other.load_state_dict(scene.monitor.state_dict())
    assert not other.ring.full and other.end_epoch({}) == {}


def test_agreement_by_loops_and_at_its_ends():
    one, two, allowed = torch.randn(B, K), torch.randn(B, K), torch.rand(B, K) < 0.8
    expected = []
    for i in range(B):
        ranked = [sorted(torch.nonzero(allowed[i]).flatten().tolist(), key=lambda j, r=rows: -float(r[i, j]))[:4]
                  for rows in (one, two)]
        overlap, chance = len(set(ranked[0]) & set(ranked[1])) / 4, 4 / int(allowed[i].sum())
        expected.append((overlap - chance) / (1 - chance))
    assert agreement(one, two, allowed, 4).item() == pytest.approx(np.mean(expected))
    assert agreement(one, one, allowed, 4).item() == pytest.approx(1)
    many = torch.randn(2, 400, 300)
    assert abs(agreement(*many, torch.ones(400, 300, dtype=torch.bool), 5).item()) < 0.02  # nothing in common


def test_instance_hits_by_loops():
    z1 = F.normalize(torch.randn(12, 4), dim=1)
    z2 = F.normalize(z1 + 0.7 * torch.randn(12, 4), dim=1)
    z = torch.cat([z1, z2])
    hits = []
    for i in range(24):
        others = sorted((j for j in range(24) if j != i), key=lambda j: -float(z[i] @ z[j]))
        hits.append(others[0] == (i + 12) % 24)
    assert health.instance_hits(z1, z2).tolist() == hits and 0 < sum(hits) < 24


def test_spread_and_rank():
    z = F.normalize(torch.randn(30, 6), dim=1)
    pairs = [1 - float(a @ b) for a in z for b in z]
    assert health.spread(z).item() == pytest.approx(np.mean(pairs), abs=1e-5)
    assert health.spread(z[:1].expand(9, -1)).item() == pytest.approx(0, abs=1e-6)
    shares = np.linalg.svd((z - z.mean(dim=0)).double().numpy(), compute_uv=False)**2
    shares /= shares.sum()
    assert health.effective_rank(z).item() == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert health.effective_rank(torch.randn(50, 1) * torch.ones(1, 6)).item() == pytest.approx(1)
    z[3, 2] = float("nan")
    assert math.isnan(health.effective_rank(z)) and math.isnan(health.spread(z))


def hits(videos: int, both: int = 0, one: int = 0) -> torch.Tensor:
    """Hits of so many videos' clips: of both clips of the first ones, of one clip of the next ones."""
    first, second = torch.zeros(videos, dtype=torch.bool), torch.zeros(videos, dtype=torch.bool)
    first[:both + one], second[:both] = True, True
    return torch.cat([first, second])


def test_the_sign_test_by_all_coin_throws():
    """Of n videos that differ, wins of one network: the probability by all 2^n throws, a tie counting half."""
    for n, wins in ((1, 1), (6, 5), (9, 9), (12, 7)):
        throws = [sum(throw) for throw in itertools.product((0, 1), repeat=n)]
        tail = sum(1.0 if heads > wins else 0.5 for heads in throws if heads >= wins) / len(throws)
        expected = NormalDist().inv_cdf(1 - tail)
        one, two = hits(40, one=wins), hits(40, one=n - wins).roll(20)
        assert health.sign_test(one, two) == pytest.approx(expected, abs=1e-9)
        assert health.sign_test(two, one) == pytest.approx(-expected, abs=1e-9)
        assert health.sign_test(one, one) == 0


def test_two_clips_of_a_video_are_one_piece_of_evidence():
    none = hits(256)
    assert health.sign_test(hits(256, both=3), none) == health.sign_test(hits(256, one=3), none) < CLEARLY_BETTER
    assert health.sign_test(hits(256, both=5), none) > CLEARLY_BETTER
    assert health.sign_test(hits(256, both=3), hits(256, one=3)) == health.sign_test(hits(256, one=3), none)


def lines(prefix: str) -> list[dict]:
    [path] = Path("ckpt/log-pretrain").glob(f"{prefix}*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_logs_its_mining_measures_and_prints_one_word(capsys):
    assert run(main_coclr, "--epochs 3 --cascade --stage 2 --health_freq 2") == 0
    mining = [line for line in lines("coclr") if line["kind"] == "mining"]
    assert [line["epoch"] for line in mining] == [1, 2]  # the queue is full after the first
    assert set(mining[0]["values"]) == {"cmr_median", "mined_videos", "most_mined", "spread_own", "rank_own",
                                        "spread_other", "rank_other"}
    seen = [line for line in lines("coclr") if line["kind"] == "health"]
    assert [line["epoch"] for line in seen] == [-1, 1, 2]
    assert {"second_own", "second_other", "second_random", "agreement"} <= set(seen[0]["values"])
    assert seen[0]["values"]["second_other"] == seen[2]["values"]["second_other"]  # the miner is frozen
    means = [line["values"] for line in lines("coclr") if line["kind"] == "epoch"]
    assert {"recall", "chance", "mining_r1", "stage1_hits", "stage2_hits", "agreement"} <= set(means[1])
    out = capsys.readouterr().out
    assert "the view that mines is not clearly better than a random network" in out  # it is one
    assert re.search(r"^health: the second clip of a video is nearest for \d+ % of 16 clips, in the view", out, re.M)
    assert re.findall(r"^train epoch (\d) \[1/.*top-1 \d+ %  (\w+)  data ", out, re.M) == [
        ("0", "filling"), ("1", "ok"), ("2", "collapsed" if mining[0]["values"]["rank_own"] < 1.5 else "ok")]


class Coded(noise.Noise):
    """Videos of noise, of which the first eight pixels are the video's own: too few for a network of random filters."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, item: tuple[int, int]) -> dict:
        sample = super().__getitem__(item)
        code = np.random.default_rng(item[1]).integers(0, 256, (8, 3), dtype=np.uint8)
        sample["clips"][:, :, :, 0, :8] = torch.from_numpy(code)
        return sample | {"source": item[1]}


class Reader(torch.nn.Module):
    """An encoder that knows eight pixels of a line of the first frame."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips[:, :, 0, self.line, :8].flatten(1)


@pytest.mark.parametrize("line, warned", [(0, False), (9, True)], ids=["the code", "noise"])
def test_a_good_miner_gives_no_warning(line, warned, capsys):
    model = torch.nn.Module()
    model.encoder_q, model.sampler, model.own_view, model.other_view = Reader(9), Reader(line), 0, 1
    probe = HealthProbe(Coded(2), 24, img_dim=32, batch_size=8, workers=0, seed=0, network="s3d", dim=8,
                        device=torch.device("cpu"))
    signs = probe.before(model)
    assert ("is not clearly better than a random" in capsys.readouterr().out) == warned
    assert (signs["better"] < CLEARLY_BETTER) == warned
    assert (signs["second_other"] == 1) != warned and signs["second_own"] < 0.2


def test_infonce_logs_the_spread_and_rank_of_its_queue_each_epoch():
    assert run(main_nce, "--epochs 3") == 0
    seen = [line for line in lines("infonce") if line["kind"] == "queue"]
    assert [line["epoch"] for line in seen] == [0, 1, 2]
    queue = weights("infonce")["queue"].T.double()
    shares = np.linalg.svd((queue - queue.mean(dim=0)).numpy(), compute_uv=False)**2
    shares = shares[shares > 0] / shares.sum()
    assert seen[2]["values"]["rank_own"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-3)
    assert seen[2]["values"]["spread_own"] == pytest.approx(1 - float(queue.mean(dim=0).square().sum()), abs=1e-4)


@pytest.mark.parametrize("collapsed", [True, False])
def test_a_collapsed_queue_warns(collapsed, capsys):
    queue = torch.randn(8, 64)
    queue[1:] *= 1e-3 if collapsed else 1
    monitors = Monitors(SimpleNamespace(queue=F.normalize(queue + 3, dim=0), dim=8), None, SimpleNamespace())
    monitors.end_epoch(0, SimpleNamespace(log=lambda *given: None))
    assert capsys.readouterr().out.count("nearly collapsed") == collapsed
    monitors.model.queue = F.normalize(torch.randn(8, 2), dim=0)  # keys that span one direction, whatever they are
    monitors.end_epoch(0, SimpleNamespace(log=lambda *given: None))
    assert not monitors.collapsed and not capsys.readouterr().out


def weights(prefix: str) -> dict:
    saved = checkpoint.load(newest(prefix, 2))
    return saved["state_dict"]


def test_neither_labels_nor_monitors_change_training(monkeypatch):
    assert run(main_coclr, "--epochs 3 --cascade --stage 2 --name_prefix one") == 0
    get = noise.Noise.__getitem__

    def permuted(self, item):
        return get(self, item) | {"label": (item[1] * 5 + 3) % 7 % 2}
    monkeypatch.setattr(noise.Noise, "__getitem__", permuted)
    assert run(main_coclr, "--epochs 3 --cascade --stage 2 --name_prefix two --health_clips 1") == 0
    assert run(main_coclr, "--epochs 3 --cascade --stage 2 --name_prefix three --health_clips 0") == 0
    one = weights("one")
    for prefix in ("two", "three"):
        assert all(torch.equal(value, weights(prefix)[key]) for key, value in one.items())
    recalls = [line["values"].get("recall") for prefix in ("one", "two") for line in lines(prefix)
               if line["kind"] == "epoch"]
    assert recalls[:3] != recalls[3:]  # they were other labels


def test_health_on_two_processes_equals_one(tmp_path):
    from interrupted import train  # forks, which must come before anything starts threads

    def main() -> int:
        return run(main_coclr, "--epochs 1 --batch_size 2 --moco-k 4")
    values = []
    for processes in (1, 2):
        assert train(main, processes=processes) == [0] * processes
        [path] = Path("ckpt").glob("*/*/metrics.jsonl")
        values.append(json.loads(path.read_text().splitlines()[0]))
        path.parent.rename(tmp_path / f"done{processes}")
    assert values[0]["kind"] == "health" and values[0]["values"] == pytest.approx(values[1]["values"], abs=1e-5)
