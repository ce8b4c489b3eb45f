"""The kNN monitor against plain loops: it leaves training as it was, refuses bad sets, runs on several processes."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import miniature
import noise
import pytest
import torch
from processes import fork, free_port, launched
from test_protocols import loop_mean, loop_recall, loop_unit, loop_votes
from torch import nn

import main_coclr
import main_nce
from dataset import catalog
from dataset.transforms.photometric import photometric
from dataset.transforms.presets import CropsTransform
from engine import checkpoint
from engine.config import DataConfig
from eval import knn
from eval.knn import KnnMonitor, query_and_gallery
from utils import distributed, launch
from utils.errors import DataError

CPU = torch.device("cpu")
CLASSES, SIDE, SEQ_LEN, NEAR = 7, 16, 4, 6
SIZES = {"seq_len": SEQ_LEN, "ds": 2, "img_dim": SIDE, "seed": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """14 test and 42 training videos of 20 to 25 frames."""
    return miniature.make(tmp_path_factory.mktemp("knn"), classes=CLASSES, seed=0)


@pytest.fixture
def own(made, tmp_path):
    """A copy of the roots that a test may damage."""
    for root in (made.data_root, made.split_root):
        shutil.copytree(root, tmp_path / root.name)
    return {"data_root": tmp_path / made.data_root.name, "split_root": tmp_path / made.split_root.name}


def backbone(seed: int = 0) -> nn.Sequential:
    """(B, 3, T, h, w) -> (B, 5, t, h', w'), with random BatchNorm statistics; one part of it is in evaluation mode."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv3d(3, 5, 3, stride=2), nn.BatchNorm3d(5), nn.ReLU(), nn.Dropout(0.5),
                        nn.Sequential(nn.BatchNorm3d(5), nn.Dropout(0.5)))
    for bn in (net[1], net[4][0]):
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    net[4][0].eval()
    return net


def monitor(roots: dict, workers: int = 0, **settings) -> KnnMonitor:
    query, gallery = query_and_gallery(DataConfig("ucf101-2clip", **roots, **SIZES))
    return KnnMonitor(query, gallery, **{"batch_size": 4, "workers": workers, "device": CPU, "k": NEAR} | settings)


@torch.no_grad()
def features(net: nn.Module, mode: str, roots: dict) -> tuple[list[list[float]], list[int]]:
    """Features and labels of a set, one video at a time."""
    dataset = catalog.build("ucf101", mode, transform=CropsTransform(SIDE, crops=1), seq_len=SEQ_LEN, ds=2, seed=3,
                            **roots)
    rows, labels = [], []
    for sample in (dataset[i] for i in range(len(dataset))):
        frames = photometric(sample["clips"], sample["photometric"])[0, 0]  # (3, F, h, w)
        [window] = sample["windows"]
        maps = net(torch.stack([frames[:, at] for at in window], dim=1)[None])[0]  # (F, t, h', w')
        rows.append([float(sum(channel.flatten().tolist())) / channel.numel() for channel in maps])
        labels.append(sample["label"])
    return rows, labels


def loop_scores(query, gallery, query_label, gallery_label):
    """The three shares, from lists."""
    sides = []
    for rows in (query, gallery):
        mean = loop_mean(rows)
        sides.append([loop_unit([x - m for x, m in zip(row, mean, strict=True)]) for row in rows])
    hits = {1: 0, 5: 0}
    for q, label in zip(sides[0], query_label, strict=True):
        votes = loop_votes([sum(a * b for a, b in zip(q, g, strict=True)) for g in sides[1]], gallery_label, NEAR, 0.07)
        for rank in hits:
            hits[rank] += label in sorted(votes, key=lambda c: -votes[c])[:rank]
    return {"knn_top1": hits[1] / len(query), "knn_top5": hits[5] / len(query),
            "r1": loop_recall(query, gallery, query_label, gallery_label, 1)}


def spy(replace=setattr) -> list[tuple]:
    """Record the arguments of neighbour_scores from now on."""
    compute, seen = knn.neighbour_scores, []

    def recording(*given):
        seen.append(given)
        return compute(*given)
    replace(knn, "neighbour_scores", recording)
    return seen


def test_measure_against_loops(made, monkeypatch):
    monkeypatch.setattr(knn, "QUERIES_AT_ONCE", 5)  # several blocks of queries
    seen = spy(monkeypatch.setattr)
    found = monitor(made.roots).measure(backbone())
    (query, query_label), (gallery, gallery_label) = (features(backbone().eval(), mode, made.roots)
                                                      for mode in ("query", "gallery"))
    assert len(query) == len(made.test) and len(gallery) == len(made.train)
    for given, rows in zip(seen[0], (query, gallery), strict=False):
        torch.testing.assert_close(given, torch.tensor(rows), rtol=1e-4, atol=1e-5)
    expected = loop_scores(query, gallery, query_label, gallery_label)
    assert found == pytest.approx(expected) and 0 < expected["knn_top5"] < 1


@pytest.mark.parametrize(("name", "reverse", "expected"), [
    ("ucf101-2clip", True, "ucf101"), ("ucf101-f-2clip", False, "ucf101-f"), ("ucf101-2stream-2clip", False, "ucf101"),
    ("ucf101-2stream-2clip", True, "ucf101-f"), ("my-f-videos-2clip", False, "my-f-videos")])
def test_the_trained_stream_is_measured(name, reverse, expected):
    assert DataConfig(name, "", "").single_stream(reverse) == expected
    spec = catalog.parse(expected)
    assert spec.clips == 1 and len(spec.streams) == 1 and spec.base == catalog.parse(name).base


@pytest.mark.parametrize(("content", "words"), [
    (None, "is missing"), ("/x/{0}/,3\n", "too short"), ("/x/{0}/,20\n", "a single video")])
def test_a_test_split_that_cannot_be_measured(made, own, content, words):
    path = own["split_root"] / "ucf101/test_split01.csv"
    if content is None:
        path.unlink()
    else:
        path.write_text(content.format(made.test[0]))
    with pytest.raises(DataError, match=words) as error:
        query_and_gallery(DataConfig("ucf101-2clip", **own, **SIZES))
    assert "--knn_freq" in str(error.value) and "\n" not in str(error.value)


# Two processes


def measure_13(roots: dict, net: nn.Module, after_video=lambda: None) -> dict[str, float]:
    """Measure with 13 queries, which two processes cannot share evenly."""
    query, gallery = query_and_gallery(DataConfig("ucf101-2clip", **roots, **SIZES))
    query.index = query.index.take(range(13))
    watched = KnnMonitor(query, gallery, batch_size=4, workers=0, device=CPU, k=NEAR)
    return watched.measure(net, after_video=after_video)


def worker(folder: Path, roots: dict) -> None:
    rank = distributed.init(backend="gloo").rank
    net, videos, seen = backbone(), [], spy()
    net[1].running_mean += rank  # each has its own statistics
    statistics = net[1].running_mean.clone()
    found = measure_13(roots, net, lambda: videos.append(1))
    torch.save((found, seen[0][:2], len(videos), torch.equal(net[1].running_mean, statistics)),
               folder / f"rank{rank}.pt")


def test_two_processes_find_what_one_finds(made, tmp_path, monkeypatch):
    port = free_port()
    forks = [fork(partial(worker, tmp_path, made.roots), f"{tmp_path}/{rank}", environment=launched(rank, port=port))
             for rank in range(2)]
    assert [each.end() for each in forks] == [0, 0], [each.err.read_text() for each in forks]
    seen = spy(monkeypatch.setattr)
    alone = measure_13(made.roots, backbone())
    for rank in range(2):
        found, features_of, videos, untouched = torch.load(tmp_path / f"rank{rank}.pt")
        assert found == pytest.approx(alone) and videos == 7 + 21 and untouched
        for here, there in zip(features_of, seen[0], strict=False):
            torch.testing.assert_close(here, there)


# The pretraining scripts


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script with a small network on a miniature set; returns its exit code."""
    noise.install_network(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    made = miniature.make(tmp_path)

    def call(script, *options: str) -> int:
        monkeypatch.setattr(launch, "_started", False)
        words = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "--moco-k", "8", "--moco-dim=8", "-j", "0"]
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *made.options, *words, *options])
        return launch.exit_code(script.main)
    return call


@pytest.mark.parametrize(("script", "options"), [
    (main_nce, "--dataset ucf101-2clip"),
    (main_coclr, "--dataset ucf101-2stream-2clip --reverse --topk 2 --health_clips 0 --second_view residual")])
def test_a_training_is_measured_and_not_changed(run, script, options, capsys):
    for freq in ("0", "2"):
        assert run(script, *options.split(), "--epochs", "3", "--knn_freq", freq, "--name_prefix", f"f{freq}") == 0
    folders = [next(Path("ckpt/log-pretrain").glob(f"f{freq}*")) for freq in (0, 2)]
    one, two = (checkpoint.load(folder / "model/epoch2.pth.tar")["state_dict"] for folder in folders)
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    lines = [json.loads(line) for line in (folders[1] / "metrics.jsonl").read_text().splitlines()]
    seen = [line for line in lines if line["kind"] == "knn"]
    assert [line["epoch"] for line in seen] == [1, 2] and set(seen[0]["values"]) == {"knn_top1", "knn_top5", "r1"}
    assert "knn" not in (folders[0] / "metrics.jsonl").read_text()
    assert capsys.readouterr().out.count("knn epoch") == 2
