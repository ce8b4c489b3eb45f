"""Features of video files are those that retrieval makes of an LMDB with the same frames; and how videos are cut."""

import json
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import cv2
import miniature
import numpy as np
import pytest
import torch
from noise import pretrained_state
from searching import RATE, write_checkpoint, write_video

from dataset import catalog
from dataset.transforms.presets import CropsTransform
from eval import network, retrieval
from process_data.src.video_io import flow_images, read_frames
from tools.search import ClipSettings, VideoIndex, describe
from tools.search.__main__ import main
from tools.search.check import LEAST, check_encoders, verdict
from tools.search.clips import EncoderSpec, video_clips
from utils import launch
from utils.errors import CheckpointError, OptionError

CPU = torch.device("cpu")
SEQ_LEN, DS, SIDE = 8, 2, 32
LENGTH = RATE  # frames of a clip of one second


def png(image: np.ndarray) -> bytes:
    """Encode a BGR image without loss."""
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A video of two clips and one of a single clip, and LMDBs of frames and DIS flow of these three pieces."""
    root = tmp_path_factory.mktemp("features")
    long, short = write_video(root / "long.avi", 30, 1), write_video(root / "short.avi", 22, 2)
    frames = list(read_frames(long, 24))
    pieces = {"A/long1": frames[:LENGTH], "A/long2": frames[LENGTH:], "A/short": list(read_frames(short, 24))}
    pairs = {name: list(flow_images(piece, "dis")) for name, piece in pieces.items()}
    miniature.write_lmdb(root / "data/mine/mine_frame.lmdb",
                         {name: [png(frame) for frame, _ in made] for name, made in pairs.items()})
    miniature.write_lmdb(root / "data/mine/mine_tvl1_frame.lmdb",
                         {name: [png(flow) for _, flow in made[1:]] for name, made in pairs.items()})
    miniature._write_splits(miniature.Miniature("mine", root / "data", root / "splits", ["A"], list(pieces),
                                                list(pieces), {name: len(made) for name, made in pairs.items()}))
    published = {f"module.{key}": value for key, value in pretrained_state().items()}  # as by PyTorch 1.4, in DDP
    torch.save({"epoch": 5, "state_dict": published, "best_acc": np.float64(0.5)}, root / "rgb.pth.tar",
               _use_new_zipfile_serialization=False)
    return root


def of_retrieval(place: Path, dataset: str, second_view: str = "flow") -> torch.Tensor:
    """What `main_classifier.py --retrieval` makes of the test videos, but for the jitter that some names draw."""
    videos = catalog.build(dataset, "test", transform=CropsTransform(SIDE, crops=1, p=0.0), seq_len=SEQ_LEN, ds=DS,
                           data_root=place / "data", split_root=place / "splits", second_view=second_view)
    net = network.build(1, "s3d", "last").eval()
    network.load_backbone(net, place / "rgb.pth.tar")
    job = retrieval.FeatureJob(folder=place / second_view, dataset=dataset, made_from={}, normalise=True,
                               batch_size=4, workers=0, device=CPU)
    return retrieval.split_features(net, "test", videos, job).features


def test_features_are_those_of_retrieval_on_the_same_frames(place):
    specs = tuple(describe(place / "rgb.pth.tar", view=view, seq_len=SEQ_LEN, ds=DS, img_dim=SIDE)
                  for view in ("rgb", "flow", "residual"))
    settings = ClipSettings(specs, short_side=24, clip_seconds=1.0)
    clips = [clip for name in ("long.avi", "short.avi") for clip in video_clips(place / name, settings)]
    assert [round((clip.end - clip.start) * RATE) for clip in clips] == [15, 15, 22]
    found = [network.load_encoder(spec.path, 5, seq_len=SEQ_LEN, ds=DS, img_dim=SIDE)(
        [clip.frames[i] for clip in clips], unit=False) for i, spec in enumerate(specs)]
    expected = [of_retrieval(place, "mine"), of_retrieval(place, "mine-f"), of_retrieval(place, "mine-f", "residual")]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-2) and not torch.allclose(found[1], found[2], atol=1e-3)
    assert torch.pdist(found[0]).min() > 1e-3  # the features tell clips apart
    frames = [np.stack(list(read_frames(place / name, 24)))[..., ::-1] for name in ("long.avi", "short.avi")]
    rows = network.load_encoder(place / "rgb.pth.tar", seq_len=SEQ_LEN, ds=DS, img_dim=SIDE)(
        [frames[0][:LENGTH], frames[0][LENGTH:], frames[1]])
    torch.testing.assert_close(rows, torch.nn.functional.normalize(expected[0]), rtol=1e-4, atol=1e-5)


def test_an_encoder_is_compared_with_random_weights(tmp_path):
    """One that knows the video, one that knows nothing; both see the same ends of the videos."""
    paths = [str(write_video(tmp_path / f"{seed}.avi", 12, seed)) for seed in range(LEAST + 1)]
    Path(paths[0]).write_text("no video")
    settings = ClipSettings((EncoderSpec("", "", "rgb", "s3d_small", 8, 1, 32),))
    shapes: list[tuple[int, ...]] = []

    def perfect(clips: Iterable[np.ndarray], unit: bool) -> torch.Tensor:
        shapes.extend(clip.shape for clip in clips)
        return torch.eye(LEAST).repeat(2, 1)

    def blind(clips: Iterable[np.ndarray], unit: bool) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.random.default_rng(len(clip) + int(clip.sum())).normal(size=8)
                                          for clip in clips]))
    perfect.batch_size = blind.batch_size = 4

    [(text, bad)] = check_encoders(paths, settings, [perfect])
    assert not bad and f"of {LEAST} videos, the other end is nearest for 100 %" in text
    assert shapes == [(6, 32, 32, 3)] * 2 * LEAST
    [(text, bad)] = check_encoders(paths, settings, [blind])
    assert bad and text.startswith("the rgb encoder is hardly better than random weights")
    assert check_encoders(paths[1:-1], settings, [perfect]) == []  # too few to tell


def test_a_check_that_cannot_tell_blames_the_videos():
    hits = torch.ones(2 * LEAST, dtype=torch.bool)
    text, bad = verdict("rgb", hits, hits)
    assert not bad and text.startswith("these videos do not tell a good rgb encoder from a bad one")


@pytest.mark.parametrize("frames", [2, 22, 23, 37, 38, 60])
def test_clips_share_out_the_frames_of_a_video(tmp_path, frames):
    path = write_video(tmp_path / "x.avi", frames)
    specs = tuple(EncoderSpec("", "", view, "s3d", 4, 1, 8) for view in ("rgb", "residual"))
    clips = list(video_clips(path, ClipSettings(specs, short_side=0, clip_seconds=1.0)))
    counts, left = [], frames
    while left >= 1.5 * LENGTH:  # the next clip would leave at least half of one
        counts.append(LENGTH)
        left -= LENGTH
    counts.append(left)
    edges = np.cumsum([0, *counts]) / RATE
    np.testing.assert_allclose([clip.start for clip in clips], edges[:-1], atol=1e-6)
    np.testing.assert_allclose([clip.end for clip in clips], edges[1:], atol=1e-6)
    images = np.ascontiguousarray(np.stack(list(read_frames(path)))[..., ::-1])
    crops = CropsTransform(8).cut(images)[0]
    for clip, start, count in zip(clips, np.cumsum([0, *counts]), counts, strict=False):
        rgb, residual = clip.frames
        np.testing.assert_array_equal(rgb, crops[start:start + count])
        assert len(residual) == count - 1


class Recording:
    """Takes the place of a file: a rate that it claims, and the time in seconds of each frame."""

    def __init__(self, rate: float, times: list[float]) -> None:
        self.rate, self.times, self.read_frames = rate, times, 0

    def get(self, what: int) -> float:
        return self.rate if what == cv2.CAP_PROP_FPS else 1000 * self.times[self.read_frames - 1]

    def read(self) -> tuple[bool, np.ndarray]:
        self.read_frames += 1
        return self.read_frames <= len(self.times), np.zeros((8, 8, 3), np.uint8)


JITTER = np.random.default_rng(0).uniform(0, 0.025, 900)  # seconds
REGULAR = np.arange(900) / 15


@pytest.mark.parametrize(("rate", "times", "clips"), [
    (15, REGULAR, 6), (1000, REGULAR + JITTER, 6),  # a browser's
    (30, np.concatenate([np.arange(0, 30, 1 / 30), np.arange(30, 60, 1 / 12)]), 6),  # a phone's, as it gets dark
    (30, np.concatenate([REGULAR[:300], REGULAR[600:]]), 4),  # a pause: nothing of 20 to 40 s
    (15, np.zeros(900), 6), (15, np.full(900, np.nan), 6), (15, REGULAR % 30, 6),  # no times, or they start again
    (90_000, np.zeros(1500), 6)])  # no plausible rate either: 25
def test_videos_are_cut_by_the_times_of_their_frames(rate, times, clips, monkeypatch):
    @contextmanager
    def opened(path: Path):
        yield Recording(rate, times.tolist())
    monkeypatch.setattr("tools.search.clips.opened", opened)
    settings = ClipSettings((EncoderSpec("x", "0", "rgb", "s3d", 4, 1, 8),), clip_seconds=10.0)
    found = [(clip.start, clip.end) for clip in video_clips(Path("x"), settings)]
    assert len(found) == clips and found[-1][1] == pytest.approx(60, abs=0.1)
    assert [start for start, _ in found[1:]] == [end for _, end in found[:-1]]
    expected = [start for start in range(0, 60, 10) if clips == 6 or not 20 <= start < 40]
    assert [start for start, _ in found] == pytest.approx(expected, abs=0.1)


def test_a_checkpoint_says_what_it_was_trained_with(place, tmp_path):
    path = write_checkpoint(tmp_path / "x.pth.tar", net="r50", seq_len=16, ds=3, img_dim=64, reverse=True,
                            dataset="mine-2stream-2clip", second_view="residual")
    spec = describe(path, ds=2, view="rgb")
    assert (spec.net, spec.seq_len, spec.ds, spec.img_dim, spec.view) == ("r50", 16, 2, 64, "residual")
    for options in (None, "lr 0.1", ["adam"], {"net": "resnet50", "dataset": "ucf101"}, {"dataset": "a-2clip"}):
        torch.save({"state_dict": {}, "options": options}, path)  # of other software, or published
        spec = describe(path, view="flow")
        assert (spec.net, spec.seq_len, spec.ds, spec.img_dim, spec.view) == ("s3d", 32, 1, 128, "flow")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        describe(tmp_path / "z.pth.tar")
    with pytest.raises(OptionError, match="--img_dim 4"):  # too small for the network
        network.load_encoder(place / "rgb.pth.tar", img_dim=4)


def test_the_command_line_from_videos_to_an_answer(place, capsys, monkeypatch):
    """With the true encoder, and a process that decodes."""
    monkeypatch.chdir(place)

    def run(*words: str) -> str:
        assert launch.exit_code(lambda: main(words)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    Path("videos").mkdir()
    for name in ("long.avi", "short.avi"):
        Path("videos", name).symlink_to(place / name)
    said = run("index", "rgb.pth.tar", "videos", "--out", "index", "-j", "1", "--seq_len", "8", "--img_dim", "32",
               "--clip_seconds", "1")
    assert "3 new clips" in said and "clips/s" in said and "3 clips of 2 videos" in said
    said = run("search", "index", "short.avi", "-k", "2", "--json", "answer.json")
    [first] = [line for line in said.splitlines() if line.startswith("1 ")]
    assert "videos/short.avi (the query)" in first and "1.0000" in first
    assert "data:image/jpeg" in Path("index/search.html").read_text()
    hits = json.loads(Path("answer.json").read_text())["hits"]
    assert hits[0]["name"] == "videos/short.avi" and len(hits) == 2 and hits[0]["end"] == pytest.approx(22 / RATE)
    run("export", "index", "clips.npz")
    exported, index = np.load("clips.npz"), VideoIndex.open("index")
    assert [Path(file).name for file in exported["file"]] == ["long.avi", "long.avi", "short.avi"]
    for name, own in (("feature", "features"), ("seconds", "seconds")):
        np.testing.assert_array_equal(exported[name], np.concatenate([getattr(each, own) for each in index.videos]))
    assert exported["feature"].dtype == np.float32 and exported["seconds"].dtype == np.float64
    assert run("search", "index", "long.avi", "--exclude_self", "--html", "x.html").count("long.avi") == 0
