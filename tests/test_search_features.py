"""Features of video files are those that retrieval makes of an LMDB with the same frames; and how videos are cut."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import miniature
import numpy as np
import pytest
import torch
from searching import RATE, write_video
from test_classifier_script import pretrained_state

import launch
from dataset import catalog
from eval import network, retrieval
from eval.search import encoders
from eval.search.__main__ import main
from eval.search.clips import Recipe, View, video_clips
from process_data.src.errors import VideoError
from process_data.src.flow import flow_images
from process_data.src.video_io import read_frames
from utils.errors import CheckpointError, OptionError
from utils.presets import CropsTransform

CPU = torch.device("cpu")
SEQ_LEN, DS, SIDE = 8, 2, 32
LENGTH = RATE  # frames of a clip of one second


def png(image: np.ndarray) -> bytes:
    """Of a BGR image, without loss."""
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
    torch.save({"epoch": 5, "state_dict": pretrained_state()}, root / "rgb.pth.tar")
    return root


def of_retrieval(place: Path, dataset: str, second_view: str = "flow") -> torch.Tensor:
    """What `main_classifier.py --retrieval` makes of the test videos, but for the jitter that some names draw."""
    videos = catalog.build(dataset, "test", transform=CropsTransform(SIDE, crops=1, p=0.0), seq_len=SEQ_LEN, ds=DS,
                           data_root=place / "data", split_root=place / "splits", second_view=second_view)
    net = network.build(1, "s3d", "last").eval()
    network.load_backbone(net, place / "rgb.pth.tar")
    job = retrieval.FeatureJob(folder=place / second_view, dataset=dataset, made_from={}, gallery="windows",
                               normalise=True, batch_size=4, workers=0, device=CPU)
    return retrieval.split_features(net, "test", videos, job).features


def test_features_are_those_of_retrieval_on_the_same_frames(place):
    given = {"seq_len": SEQ_LEN, "ds": DS, "img_dim": SIDE}
    views = ("rgb", "flow", "residual")
    streams = [encoders.describe(place / "rgb.pth.tar", given, view) for view in views]
    recipe = Recipe(24, 1.0, "dis", tuple(stream.seen for stream in streams))
    clips = [clip for name in ("long.avi", "short.avi") for clip in video_clips(place / name, recipe)]
    assert [clip.frames for clip in clips] == [15, 15, 22]
    nets = encoders.Encoders(streams, [place / "rgb.pth.tar"] * 3, CPU, batch_size=5)
    found = torch.from_numpy(nets.features(clips)).chunk(3, dim=1)
    expected = [of_retrieval(place, "mine"), of_retrieval(place, "mine-f"), of_retrieval(place, "mine-f", "residual")]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-2) and not torch.allclose(found[1], found[2], atol=1e-3)
    assert torch.pdist(found[0]).min() > 1e-3  # the features tell clips apart


@pytest.mark.parametrize("frames", [2, 3, 22, 23, 37, 38, 60])
def test_clips_share_out_the_frames_of_a_video(tmp_path, frames):
    path = write_video(tmp_path / "x.avi", frames)
    recipe = Recipe(0, 1.0, "dis", (View("rgb", 4, 1, 8), View("residual", 4, 1, 8)))
    clips = list(video_clips(path, recipe))
    counts, left = [], frames
    while left >= 1.5 * LENGTH:  # the next clip would leave at least half of one
        counts.append(LENGTH)
        left -= LENGTH
    assert [clip.frames for clip in clips] == [*counts, left]
    edges = np.cumsum([0, *counts, left]) / RATE
    np.testing.assert_allclose([clip.start for clip in clips], edges[:-1], atol=1e-6)
    np.testing.assert_allclose([clip.end for clip in clips], edges[1:], atol=1e-6)
    images = np.stack(list(read_frames(path)))[..., ::-1]
    crops = CropsTransform(8).cut(np.ascontiguousarray(images))[0]
    for clip, start in zip(clips, np.cumsum([0, *counts]), strict=True):
        rgb, residual = clip.samples
        for sample, first, last in ((rgb, start, start + clip.frames), (residual, start, start + clip.frames - 1)):
            assert sample["windows"].max() < sample["clips"].shape[2] <= last - first
        np.testing.assert_array_equal(rgb["clips"][0, 0, 0].numpy(), crops[start])


def test_a_video_of_one_frame_or_none_is_refused(tmp_path):
    recipe = Recipe(0, 1.0, "dis", (View("rgb", 4, 1, 8),))
    with pytest.raises(VideoError, match="only one frame"):
        list(video_clips(write_video(tmp_path / "x.avi", 1), recipe))
    (tmp_path / "y.avi").write_bytes(b"")
    with pytest.raises(VideoError, match="does not decode"):
        list(video_clips(tmp_path / "y.avi", recipe))


@pytest.mark.parametrize(("options", "given", "view", "word"), [
    ({"seq_len": 10**9}, {}, "", "--seq_len 1000000000 cannot be"), ({"img_dim": "x"}, {}, "", "--img_dim x cannot be"),
    ({"dataset": "mine-f-2clip"}, {}, "rgb", "trained on flow, and not on rgb"),
    ({"dataset": "mine-f-2clip", "second_view": "evil"}, {}, "", "trained on evil")])
def test_what_a_checkpoint_cannot_be_is_refused(tmp_path, options, given, view, word):
    torch.save({"state_dict": {}, "options": options}, tmp_path / "x.pth.tar")
    with pytest.raises(OptionError, match=word):
        encoders.describe(tmp_path / "x.pth.tar", given, view)


def test_a_checkpoint_says_what_it_was_trained_with(tmp_path):
    said = {"net": "r50", "seq_len": 16, "ds": 3, "img_dim": 64, "dataset": "mine-2stream-2clip", "reverse": True,
            "second_view": "residual"}
    torch.save({"state_dict": {}, "options": said}, tmp_path / "x.pth.tar")
    found = encoders.describe(tmp_path / "x.pth.tar", {"ds": 2})
    assert (found.net, found.seq_len, found.ds, found.img_dim, found.view) == ("r50", 16, 2, 64, "residual")
    torch.save({"state_dict": {}}, tmp_path / "y.pth.tar")
    found = encoders.describe(tmp_path / "y.pth.tar", {}, usual_view="flow")
    assert (found.net, found.seq_len, found.ds, found.img_dim, found.view) == ("s3d", 32, 1, 128, "flow")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        encoders.describe(tmp_path / "z.pth.tar", {})


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
    assert "3 new clips of 52 frames" in said and "clips/s" in said and "flat, which is exact" in said
    said = run("search", "index", "short.avi", "-k", "2", "--json", "answer.json")
    [first] = [line for line in said.splitlines() if line.startswith("1 ")]
    assert "videos/short.avi (the query)" in first and "1.0000" in first
    assert "data:image/jpeg" in Path("index/search.html").read_text()
    hits = json.loads(Path("answer.json").read_text())["hits"]
    assert [hit["name"] for hit in hits][:1] == ["videos/short.avi"] and len(hits) == 2
    assert hits[0]["end"] == pytest.approx(22 / RATE)
    assert run("search", "index", "long.avi", "--exclude_self", "--html", "x.html").count("long.avi") == 0


def test_the_module_refuses_in_one_line(tmp_path):
    command = [sys.executable, "-m", "eval.search", "index", str(tmp_path / "none"), str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], text=True, capture_output=True, timeout=200,
                          check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: there is no checkpoint")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "video_index").exists()
