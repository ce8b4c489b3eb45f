"""Videos of a single class: no number is measured by labels, and what cannot be measured without them is refused."""

import json
from pathlib import Path

import miniature
import noise
import pytest
import torch
from torch.nn.functional import normalize

import main_coclr
import main_nce
from dataset import catalog
from dataset.transforms.photometric import photometric
from dataset.transforms.presets import CropsTransform
from engine import checkpoint, health
from eval import feature_linear_probe, main_classifier, merge_2stream_prob, network
from utils import launch

SMALL = ["--seq_len", "8", "--img_dim", "32", "--batch_size", "4", "-j", "0"]
ROOTS = ["--data_root", "data", "--split_root", "splits"]
BY_LABEL = {"recall", "chance", "mining_r1", "stage1_hits", "stage2_hits", "cmr_median"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with 15 training and 5 test videos of one class, and a run of CoCLR on them."""
    folder = tmp_path_factory.mktemp("unlabelled")
    miniature.make(folder, "clips", class_names=["video"], groups=20, clips=1, frames=30)
    with pytest.MonkeyPatch.context() as patch:
        noise.install_network(patch.setattr)
        patch.chdir(folder)
        patch.setattr(launch, "_started", False)
        assert call(main_coclr, "--dataset clips-2stream-2clip --epochs 3 --moco-k 8 --topk 2 --cascade --stage 2") == 0
        yield folder


def call(script, words: str) -> int:
    argv = [*SMALL, *ROOTS, *words.split()]
    return launch.exit_code(lambda: script.work(script.parse(argv)))


def newest() -> Path:
    [path] = Path("ckpt/log-pretrain").glob("coclr*/model/epoch2.pth.tar")
    return path


def evaluate(words: str, main=main_classifier.main) -> int:
    common = ["-j", "0", *ROOTS] if main is main_classifier.main else []
    return launch.exit_code(lambda: main([*words.split(), *common]))


def test_monitors_measure_nothing_by_labels(place, capsys):
    lines = [json.loads(line) for line in (newest().parents[1] / "metrics.jsonl").read_text().splitlines()]
    measured = {name for line in lines for name in line["values"]}
    assert {"agreement", "mined_videos", "second_own"} <= measured and not BY_LABEL & measured
    assert call(main_coclr, f"--dataset clips-2stream-2clip --moco-k 8 --topk 2 --test {newest()}") == 0
    out = capsys.readouterr().out
    assert "agreement" in out and "recall" not in out


@torch.no_grad()
def test_retrieval_counts_second_clips(place, capsys):
    """The sizes of clips, and so the network's input, are the checkpoint's."""
    assert evaluate(f"--dataset clips --test {newest()} --retrieval --batch_size 3") == 0
    out = capsys.readouterr().out
    folder = newest().parent / "feature"
    assert "R@" not in out and "second clip nearest" in out and not list(folder.glob("*recall.json"))
    assert f"--net s3d --seq_len 8 --ds 1 --img_dim 32, as {newest()} was trained with" in out
    found = json.loads((folder / "clips_label_free.json").read_text())
    net = network.build(1, "s3d", "last").eval()
    network.load_backbone(net, newest())
    videos = catalog.build("clips", "test", transform=CropsTransform(32, p=0.0), seq_len=8, ds=1, data_root="data",
                           split_root="splits")
    rows = []
    for sample in videos:
        frames, at = photometric(sample["clips"], sample["photometric"])[0, 0], sample["windows"]
        rows += [net(frames[:, at[place]][None])[1][0] for place in (len(at) // 4, 3 * len(at) // 4)]
    z = torch.stack(rows)
    z = normalize(z - z.mean(dim=0), dim=1)
    near = [max((float(z[i] @ z[j]), j) for j in range(10) if j != i)[1] for i in range(10)]
    hits = sum(j == i ^ 1 for i, j in enumerate(near))
    assert (found["videos"], found["hits"], found["second_clip"]) == (5, hits, pytest.approx(10 * hits))
    assert found["effective_rank"] == pytest.approx(float(health.effective_rank(z)), rel=1e-3)
    assert {"second_clip_random", "effective_rank_random", "better"} <= set(found)
    assert evaluate(f"--dataset clips --test {newest()} --retrieval --seq_len 24") == 0  # of 30 frames: one window
    out = capsys.readouterr().out
    assert "only 0 of 5 held-out videos are long enough" in out and "--seq_len 8 but is used with --seq_len 24" in out
    assert evaluate("--dataset clips --test random --retrieval --seq_len 8 --img_dim 32") == 0
    assert "warning" not in capsys.readouterr().out
    [path] = Path("log-eval-linclr").glob("*random/model/feature/clips_label_free.json")
    assert (found := json.loads(path.read_text()))["second_clip"] == found["second_clip_random"]


def test_fusion_is_how_many_neighbours_the_streams_share(place, tmp_path):
    torch.manual_seed(0)
    query, gallery = ([torch.randn(n, 6) for _ in range(2)] for n in (4, 12))
    for name, stream in (("clips", 0), ("clips-f", 1)):
        for split, features in (("test", query[stream]), ("train", gallery[stream])):
            checkpoint.save(tmp_path / f"{name}_{split}_feature.pth.tar", features)
            checkpoint.save(tmp_path / f"{name}_{split}_label.pth.tar", torch.zeros(len(features), dtype=torch.long))
            names = [f"video/{i}" for i in range(len(features))]
            (tmp_path / f"{name}_{split}_vname.json").write_text(json.dumps(names))
    words = f"--mode s --dataset clips --prob1 {tmp_path} --prob2 {tmp_path} --output {tmp_path}/both.json"
    assert evaluate(words, merge_2stream_prob.main) == 0
    near = [[set(row.argsort(descending=True)[:5].tolist()) for row in normalize(q - q.mean(0), dim=1)
             @ normalize(g - g.mean(0), dim=1).T] for q, g in zip(query, gallery, strict=True)]
    expected = sum(len(one & two) for one, two in zip(*near, strict=True)) / 20
    assert json.loads((tmp_path / "both.json").read_text())["both"] == {
        "agreement": pytest.approx(100 * expected), "agreement_chance": pytest.approx(100 * 5 / 12)}


def test_what_needs_labels_is_refused(place, capsys):
    assert evaluate(f"--dataset clips --pretrain {newest()} --epochs 1 --batch_size 2") == 2
    assert evaluate(f"--dataset clips --test {newest()}") == 2
    assert evaluate(f"--dataset clips --test {newest()} --split_root splits", feature_linear_probe.main) == 2
    assert evaluate("--mode c --dataset clips --prob1 x --prob2 x --split_root splits", merge_2stream_prob.main) == 2
    assert call(main_nce, "--dataset clips-2clip --model ubernce --moco-k 8") == 2
    assert call(main_nce, "--dataset clips-2clip --moco-k 8 --knn_freq 1") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 6 and all("needs labels, but video is the only class" in line for line in errors[:5])
    assert "all of one class" in errors[5] and not list(Path("ckpt/log-pretrain").glob("*nce*"))
