"""Features, crop probabilities and recall of a small network against one forward per window; files and their reuse."""

import json
from types import SimpleNamespace

import miniature
import pytest
import torch
from torch import nn

from dataset import catalog, jpeg, video_dataset
from dataset.transforms.photometric import photometric
from dataset.transforms.presets import CropsTransform
from eval import retrieval, windows
from eval.retrieval import FeatureSet, save_features
from eval.windows import packed

CLASSES, SEQ_LEN, SIDE = 3, 4, 6
CPU = torch.device("cpu")


class TinyNet(nn.Module):
    """(B, 3, T, h, w) -> (logits (B, 3), features (B, 5)), with a BatchNorm that must be in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv3d(3, 5, 3), nn.BatchNorm3d(5), nn.Linear(5, CLASSES)
        self.bn.running_mean.normal_()
        self.batches: list[int] = []

    def forward(self, clips, dtype=None):
        self.batches.append(len(clips))
        feature = self.bn(self.conv(clips)).relu().mean(dim=(2, 3, 4))
        return self.fc(feature), feature


class Videos(torch.utils.data.Dataset):
    """Random videos of different lengths as evaluation samples; jitter differs per video and crop."""

    def __init__(self, lengths: list[int], num_crops: int = 1) -> None:
        self.lengths, self.num_crops = lengths, num_crops
        self.index = SimpleNamespace(paths=[f"root/C{i % CLASSES}/v{i}" for i in range(len(lengths))],
                                     labels=[i % CLASSES for i in range(len(lengths))], num_frames=lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> dict:
        rng = torch.Generator().manual_seed(i)
        frames, C = self.lengths[i], self.num_crops
        photo = {"order": torch.stack([torch.randperm(4, generator=rng) for _ in range(C)]),
                 "factor": torch.stack([torch.tensor([1.1, 0.9, 1.2, 0.05]) * (1 + 0.1 * c) for c in range(C)]),
                 "jitter": torch.arange(C) % 2 == i % 2, "channel": torch.full((C, 1, frames), -1),
                 "sigma": torch.zeros(C)}
        starts = torch.arange(0, frames - SEQ_LEN + 1, 2)
        return {"clips": torch.randint(0, 256, (C, 1, frames, SIDE, SIDE, 3), generator=rng, dtype=torch.uint8),
                "photometric": photo, "windows": starts[:, None] + torch.arange(SEQ_LEN), "label": i % CLASSES,
                "source": 0, "index": i, "damaged": torch.zeros(2, dtype=torch.int64)}


@pytest.fixture
def net():
    return TinyNet().eval()


def job(folder, **changes) -> retrieval.FeatureJob:
    """Settings of a feature run in `folder`."""
    return retrieval.FeatureJob(**{"folder": folder, "dataset": "mini", "made_from": {"checkpoint": "abc"},
                                   "normalise": False, "batch_size": 4, "workers": 0, "device": CPU} | changes)


@torch.no_grad()
def by_window(net, videos: Videos, part: int) -> list[list[list[torch.Tensor]]]:
    """[video][crop][window]: output `part` of one forward a window, each window jittered by itself."""
    result = []
    for sample in (videos[i] for i in range(len(videos))):
        rows = []
        for c in range(videos.num_crops):
            photo = {name: value[c:c + 1] for name, value in sample["photometric"].items()}
            clips = [photometric(sample["clips"][c:c + 1][:, :, at], photo | {"channel": photo["channel"][..., at]})
                     for at in sample["windows"]]
            rows.append([net(clip[:, 0])[part][0] for clip in clips])
        result.append(rows)
    return result


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_batches_have_one_size_and_lose_nothing(size):
    pieces = [torch.randn(n, 2) for n in (3, 1, 9, 0, 2, 8)]
    keys, batches = zip(*packed((((i, 0), piece) for i, piece in enumerate(pieces)), size), strict=True)
    assert torch.equal(torch.cat(batches), torch.cat(pieces))
    assert [key for each in keys for key, _ in each] == [0] * 3 + [1] + [2] * 9 + [4] * 2 + [5] * 8
    assert {len(batch) for batch in batches[:-1]} <= {size} and 0 < len(batches[-1]) <= size


@pytest.mark.parametrize("normalise", [False, True])
def test_features_are_means_over_windows(net, normalise):
    videos = Videos([4, 9, 30, 5])
    expected = []
    for (rows,) in by_window(net, videos, part=1):
        expected.append(sum(row / row.norm() if normalise else row for row in rows) / len(rows))
    net.batches.clear()
    found = retrieval.video_features(net, (videos[i] for i in range(4)), batch_size=4, device=CPU, normalise=normalise)
    torch.testing.assert_close(found, torch.stack(expected))
    assert set(net.batches[:-1]) == {4}  # full batches though the first videos have one and three windows


def test_crop_probabilities_average_windows_then_crops(net, tmp_path):
    videos = Videos([4, 9, 12], num_crops=10)
    prob = windows.crop_probabilities(net, (videos[i] for i in range(3)), 7, CPU)
    expected = [[sum(row.softmax(dim=0) for row in rows) / len(rows) for rows in video]
                for video in by_window(net, videos, part=0)]
    torch.testing.assert_close(prob, torch.stack([torch.stack(video) for video in expected]))
    results = windows.report_crops(prob, torch.tensor(videos.index.labels))
    assert list(results) == ["center", "five", "ten"]
    path = windows.write_results(tmp_path / "x.pth.tar", videos.index.paths, prob, results)
    assert path.name == "x.pth.tar-prob-ten.json"
    written = json.loads(path.read_text())
    assert list(written) == videos.index.paths
    for row, video in zip(written.values(), expected, strict=True):
        torch.testing.assert_close(torch.tensor(row["mean_prob"]), (sum(video) / 10)[None])


@pytest.mark.parametrize("bound", ["MOST_FRAMES", "MOST_BYTES"])
@pytest.mark.parametrize("second_view", ["flow", "residual"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_long_video_is_read_in_parts_and_gives_the_same(tmp_path, net, monkeypatch, bound, second_view, workers):
    made = miniature.make(tmp_path, "mine", groups=2, clips=1, frames=40)  # two test videos, of 13 windows
    reads, decode = [], jpeg.decode
    monkeypatch.setattr(jpeg, "decode", lambda jpegs: reads.append(len(jpegs)) or decode(jpegs))

    def outputs() -> list[torch.Tensor]:
        videos = catalog.build("mine-f" if second_view == "residual" else "mine", "test", seq_len=SEQ_LEN, ds=2,
                               transform=CropsTransform(SIDE, crops=5), second_view=second_view, **made.roots)
        samples = (windows.read_samples(videos, workers=workers, device=CPU, title="") for _ in range(2))
        return [windows.crop_probabilities(net, next(samples), 8, CPU),
                retrieval.video_features(net, next(samples), batch_size=3, device=CPU)]
    whole = outputs()
    monkeypatch.setattr(video_dataset, bound, 12 if bound == "MOST_FRAMES" else
                        12 * 3 * 48 * 64 * (2 if second_view == "residual" else 1))
    reads.clear()
    for one, two in zip(outputs(), whole, strict=True):
        torch.testing.assert_close(one, two)
    assert len(reads) > 4 and max(reads) <= 13  # a residual frame takes two


def test_files_are_reused_only_for_the_same_checkpoint_options_and_videos(net, tmp_path, capsys):
    videos = Videos([4, 9, 30])
    first = retrieval.split_features(net, "test", videos, job(tmp_path))
    names = {f"mini_test_{kind}" for kind in ("feature.pth.tar", "label.pth.tar", "vname.json", "made_from.json")}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert torch.equal(torch.load(tmp_path / "mini_test_feature.pth.tar", weights_only=True), first.features)
    assert torch.load(tmp_path / "mini_test_label.pth.tar", weights_only=True).tolist() == [0, 1, 2]
    assert json.loads((tmp_path / "mini_test_vname.json").read_text()) == videos.index.paths

    def computed(videos, work) -> bool:
        net.batches.clear()
        retrieval.split_features(net, "test", videos, work)
        return bool(net.batches)

    assert not computed(videos, job(tmp_path))
    assert computed(videos, job(tmp_path, made_from={"checkpoint": "other"}))
    assert computed(videos, job(tmp_path)) and not computed(videos, job(tmp_path))
    assert computed(Videos([4, 9, 28]), job(tmp_path))
    (tmp_path / "mini_test_feature.pth.tar").write_bytes(b"cut short")
    assert computed(Videos([4, 9, 28]), job(tmp_path))
    (tmp_path / "mini_test_made_from.json").write_text("{")
    assert computed(Videos([4, 9, 28]), job(tmp_path))
    assert "recomputing features" in capsys.readouterr().out


def test_report_writes_similarities_of_centred_features(tmp_path, capsys):
    rows = torch.randn(5, 4) + 3, torch.randn(8, 4) - 2
    query, gallery = (FeatureSet(x, torch.arange(len(x)) % CLASSES, [f"v{i}" for i in range(len(x))]) for x in rows)
    save_features(tmp_path, "mini", "test", query, {})
    retrieval.report(job(tmp_path), query, gallery)
    sim = torch.load(tmp_path / "mini_sim.pth.tar", weights_only=True)
    q, g = (x - x.mean(dim=0) for x in rows)
    for i in range(5):
        for j in range(8):
            assert sim[i, j].item() == pytest.approx((q[i] @ g[j] / (q[i].norm() * g[j].norm())).item(), abs=1e-5)
    out = capsys.readouterr().out
    assert "R@1" in out and "R@10, R@20, R@50 cover all of it" in out
