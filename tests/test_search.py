"""An index of video files: what it finds, how it is brought up to date, what it refuses, and what a search answers."""

import json
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from pages import Page
from searching import WIDTH, Colours, colours, write_checkpoint, write_video

from dataset.transforms.presets import CropsTransform
from eval import protocols
from process_data.src.video_io import read_frames
from tools import search
from tools.pictures import clip_strip
from tools.search import Answer, ClipSettings, Hit, Video, VideoIndex, clips, describe, time_span
from tools.search.__main__ import main
from tools.search.clips import EncoderSpec
from utils import launch
from utils.errors import CheckpointError, OptionError

NAMES = ["a.avi", "d.mp4", "deep/b.avi", "deep/er/c.avi"]
BROKEN = {"zero.mp4": b"", "text.mp4": b"I am no video\n" * 99, "line\nbreak\x1b[2J.avi": b"RIFF____AVI LIST"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with four videos and a checkpoint; the encoder is replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Colours, "calls", 0)
    monkeypatch.setattr(Colours, "limit", 1000)
    monkeypatch.setattr(search, "load_encoder", lambda path, batch_size, **sizes: Colours())
    for seed, name in enumerate(NAMES):
        write_video(tmp_path / "videos" / name, 8, seed)
    write_checkpoint(tmp_path / "rgb.pth.tar")
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are decoded."""
    names: list[str] = []
    opened = clips.opened
    monkeypatch.setattr(clips, "opened", lambda path: names.append(path.name) or opened(path))
    return names


def build(*places: str, out: str = "index") -> VideoIndex:
    return VideoIndex.build("rgb.pth.tar", places, out)


def run(*words: str) -> int:
    return launch.exit_code(lambda: main(words))


def features(index: VideoIndex) -> dict[str, torch.Tensor]:
    return {video.path: video.features for video in index.videos}


def test_features_are_those_of_the_files_own_frames(place):
    found = features(build("videos"))
    assert list(found) == [str(place / "videos" / name) for name in NAMES]
    for path, rows in found.items():
        images = np.ascontiguousarray(np.stack(list(read_frames(Path(path), 240)))[..., ::-1])
        expected = colours(CropsTransform(8).cut(images)[0])  # the windows hold all frames: 0-3, 1-4, ..., 4-7
        np.testing.assert_allclose(rows, expected[None], rtol=1e-6)


def test_a_query_of_the_index_is_marked_and_only_decoded_again_when_it_has_changed(place, read):
    index = build("videos")
    assert {hit.name for hit in index.search("videos/d.mp4", k=99).hits} == {f"videos/{name}" for name in NAMES}
    (place / "link.mp4").symlink_to("videos/d.mp4")
    read.clear()
    for query in ("videos/d.mp4", "link.mp4"):
        [first, *_] = index.search(query).hits
        assert first.name == "videos/d.mp4" and first.is_query and first.similarity == pytest.approx(1, abs=1e-5)
    assert read == []
    write_video(place / "videos/d.mp4", 9, 5)  # another video of that name
    assert sum(hit.is_query for hit in index.search("videos/d.mp4").hits) == 1 and read == ["d.mp4"]


def test_only_new_and_changed_files_are_read_and_those_that_are_gone_dropped(place, read):
    build("videos")
    assert sorted(read) == ["a.avi", "b.avi", "c.avi", "d.mp4"]
    read.clear()
    build()
    assert read == []
    write_video(place / "videos/new.avi", 8, 9)
    write_video(place / "videos/a.avi", 12, 10)
    (place / "videos/deep/b.avi").unlink()
    index = build("videos")
    assert sorted(read) == ["a.avi", "new.avi"] and len(index) == 4
    at_once, updated = features(build("videos", out="other")), features(VideoIndex.open("index"))
    assert list(at_once) == list(updated)
    for path, rows in at_once.items():
        np.testing.assert_array_equal(rows, updated[path])
    assert sorted(path.name for path in (place / "index").iterdir()) == [".lock", "index.pt"]


def test_files_that_cannot_be_used_are_listed(place, capsys):
    for name, content in BROKEN.items():
        (place / "videos" / name).write_bytes(content)
    (place / "videos/lost.avi").symlink_to("nowhere")
    (place / "videos/one.avi").write_bytes(write_video(place / "made/one.avi", 1).read_bytes())
    (place / "videos/notes.txt").write_text("no video, and none that is meant as one")
    assert run("index", "rgb.pth.tar", "videos", "--out", "index", "-j", "0") == 0
    said = capsys.readouterr().out
    assert said.count("left out /") == 5 and "\x1b" not in said and "line\\nbreak\\x1b[2J.avi: does not decode" in said
    assert "one.avi: only one frame decodes" in said and "lost.avi: cannot be opened (No such file" in said
    write_video(place / "videos/zero.mp4", 8, 3)
    assert len(build()) == 5 and capsys.readouterr().out.count("left out /") == 4


def test_an_index_is_never_mixed_with_another_checkpoint_or_other_options(place, capsys):
    build("videos")
    before = (place / "index/index.pt").read_bytes()
    write_checkpoint(place / "other.pth.tar", seed=1, dataset="mine-f-2clip")
    for words in ("other.pth.tar", "rgb.pth.tar --clip_seconds 3", "rgb.pth.tar --ds 2",
                  "rgb.pth.tar --two_stream other.pth.tar", "rgb.pth.tar --two_stream rgb.pth.tar",
                  "rgb.pth.tar --short_side 3", "rgb.pth.tar videos/none"):
        capsys.readouterr()
        assert run("index", *words.split(), "--out", "index") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert (place / "index/index.pt").read_bytes() == before
    write_video(place / "query.avi", 8)
    shutil.move("rgb.pth.tar", "moved.pth.tar")
    with pytest.raises(CheckpointError, match="is gone, or is not the checkpoint"):
        VideoIndex.open("index").search("query.avi")
    VideoIndex.build("moved.pth.tar", [], "index")  # the same bytes
    assert len(VideoIndex.open("index").search("query.avi").hits) == 4
    shutil.copy("other.pth.tar", "moved.pth.tar")
    with pytest.raises(CheckpointError, match="is gone, or is not the checkpoint"):
        VideoIndex.open("index").search("query.avi")


@pytest.mark.parametrize("first", [True, False])
def test_an_interruption_keeps_what_was_embedded(place, read, first, monkeypatch):
    """Of a first run and of an update."""
    monkeypatch.setattr(clips, "AT_ONCE", 2)  # one clip, and the end of its video
    if not first:
        build("videos")
        for seed in range(20, 24):
            write_video(place / f"videos/new{seed}.avi", 8, seed)
    read.clear()
    Colours.limit = Colours.calls + 3
    with pytest.raises(KeyboardInterrupt):
        build("videos")
    assert len(read) == 4 and len(VideoIndex.open("index")) == (3 if first else 7)
    Colours.limit = 1000
    read.clear()
    assert len(build("videos")) == (4 if first else 8) and len(read) == 1


def test_what_is_known_of_the_encoder_is_kept_and_shown(place, monkeypatch, capsys):
    checked: list[int] = []
    notes = [("weak", True)]
    monkeypatch.setattr(search, "check_encoders", lambda paths, *_: checked.append(len(paths)) or notes)
    build("videos"), build()
    assert checked == [4] and capsys.readouterr().out.count("warning: weak") == 2
    write_video(place / "videos/new.avi", 8, 9)
    build()
    assert checked == [4, 5]
    answer = VideoIndex.open("index").search("videos/a.avi")
    assert "Warning: weak" in Page(answer.gallery("page.html").read_text()).shown
    [(meaning, _), _] = answer.notes
    rows = unit(np.concatenate(list(features(build()).values())))
    middle = np.median((rows @ rows.T)[~np.eye(5, dtype=bool)])
    assert float(meaning.split("above ")[1].split(",")[0]) == pytest.approx(middle, abs=0.1)  # of random pairs


def test_two_streams_are_side_by_side(place):
    write_checkpoint(place / "flow.pth.tar", dataset="mine-f-2clip", second_view="residual")
    settings = ClipSettings((describe("rgb.pth.tar"), describe("flow.pth.tar")))
    index = VideoIndex.build(settings, ["videos"], "index")
    assert all(rows.shape == (1, 2 * WIDTH) for rows in features(index).values())
    answer = index.search("videos/a.avi")
    assert set(answer.hits[0].by_stream) == {"rgb", "residual"} and "residual" in answer.table()


def test_folders_are_added_and_missed(place):
    write_video(place / "more/x.avi", 8, 8)
    build("videos")
    assert len(build("more/x.avi")) == 5 == len(build("more"))
    shutil.move("more", "away")
    with pytest.raises(OptionError, match=r"there is no .*more"):
        build()  # a disk that is not there: its clips are not dropped
    shutil.move("away", "more")
    shutil.rmtree("videos")
    (place / "videos").mkdir()
    assert len(build()) == 1
    (place / "more/x.avi").unlink()
    with pytest.raises(OptionError, match="nothing to search"):
        build()
    assert len(VideoIndex.open("index")) == 1


def test_what_cannot_be_opened_or_searched_for_is_refused(place):
    index = build("videos")
    (place / "text.mp4").write_text("no video")
    for video, reason in (("text.mp4", "does not decode"), ("none.mp4", "No such file"), ("videos", "cannot be")):
        with pytest.raises(OptionError, match=reason):
            index.search(video)
    with pytest.raises(OptionError, match="there is no index"):
        VideoIndex.open("nothing")
    path = place / "index/index.pt"
    for content in (path.read_bytes()[:-20], b"\0" * 999, b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"index.pt cannot be read"):
            VideoIndex.open("index")


def rows_of(n: int = 60, width: int = 24) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 1, (n, width)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows (N, D) less their mean, of length 1, in float64."""
    away = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    return away / np.linalg.norm(away, axis=1, keepdims=True)


def index_of(rows: np.ndarray, clips: int = 1, streams: int = 1) -> VideoIndex:
    """An index of videos of so many clips each, whose files are not there, so that a query is not read again."""
    specs = tuple(EncoderSpec("", "", view, "s3d", 4, 1, 8) for view in ("rgb", "flow")[:streams])
    seconds = torch.stack([torch.arange(clips), torch.arange(1, clips + 1)], dim=1).double()
    videos = [Video(f"/v/{i:04d}", (-1, 0), part, seconds)
              for i, part in enumerate(torch.from_numpy(rows).split(clips))]
    return VideoIndex(Path("none"), ClipSettings(specs), ["/v"], videos)


@pytest.mark.parametrize("query", [0, 17])
def test_clips_are_ranked_as_by_all_products(query):
    rows = rows_of()
    index, sims = index_of(rows), unit(rows) @ unit(rows)[query]
    order = np.argsort(-sims)
    hits = index.search(f"/v/{query:04d}", k=9).hits
    assert [hit.path for hit in hits] == [f"/v/{i:04d}" for i in order[:9]]
    np.testing.assert_allclose([hit.similarity for hit in hits], sims[order[:9]], atol=1e-5)
    assert [hit.is_query for hit in hits] == [True] + [False] * 8
    others = index.search(f"/v/{query:04d}", k=9, exclude_self=True).hits
    assert [hit.path for hit in others] == [f"/v/{i:04d}" for i in order[1:10]]
    assert [hit.rank for hit in others] == list(range(1, 10))
    assert len(index.search("/v/0000", k=10**4).hits) == len(rows)
    assert index_of(rows_of(1)).search("/v/0000").hits[0].similarity == pytest.approx(1)  # one clip has a direction


def test_similarities_are_those_of_retrieval_and_its_fusion_of_two_streams():
    """With the whole index as queries both sets have one mean, as `protocols.similarity` centres each by its own."""
    rows = rows_of()
    parts = [protocols.similarity(stream, stream)[3].numpy() for stream in torch.from_numpy(rows).chunk(2, dim=1)]
    for hit in index_of(rows, streams=2).search("/v/0003", k=60).hits:
        rgb, flow = (float(part[int(hit.path[3:])]) for part in parts)
        assert hit.similarity == pytest.approx(rgb + flow, abs=1e-5)
        assert hit.by_stream == {"rgb": pytest.approx(rgb, abs=1e-5), "flow": pytest.approx(flow, abs=1e-5)}


def test_an_encoder_that_gives_every_clip_the_same_feature_is_named():
    """Centred, such features are rounding errors, whose cosines may be anything."""
    rows = rows_of()
    rows[:, 12:] = 0.3 + 1e-8 * rows[:, 12:]
    [(text, bad), _] = index_of(rows, streams=2).search("/v/0003").notes
    assert bad and text.startswith("the flow encoder gives every clip the same feature")
    assert not [bad for _, bad in index_of(rows_of(), streams=2).search("/v/0003").notes if bad]
    assert index_of(rows_of(1)).search("/v/0000").notes == []


def test_each_clip_is_compared_with_the_piece_of_the_query_that_is_most_like_it():
    rows = rows_of()
    sims = unit(rows) @ unit(rows)[6:9].T  # to the clips of video 2
    answer = index_of(rows, clips=3).search("/v/0002", k=60)
    assert answer.query_clips == 3 and "time in query" in answer.table()
    found = {int(hit.path[3:]) * 3 + int(hit.start): hit for hit in answer.hits}
    assert sorted(list(found)[:3]) == [6, 7, 8] and list(found)[3:] == np.argsort(-sims.max(axis=1))[3:].tolist()
    for row, hit in found.items():
        assert hit.similarity == pytest.approx(sims[row].max(), abs=1e-5)
        assert (hit.query_start, hit.query_end) == (sims[row].argmax(), sims[row].argmax() + 1)


EVIL, BREAK, SCRIPT = "<script>alert('x')<.avi", "a\x1b[2J \"'&\udc80.avi", "<img src=x onerror=alert(1)>"


def answer_of(folder: Path) -> Answer:
    """An answer of three hits: the query itself, one with an evil name, and one that is gone."""
    paths = [write_video(folder / name, 30, seed, (48, 64)) for seed, name in enumerate(("query.avi", EVIL))]
    hits = [Hit(rank, 0.9 / rank, {"rgb": 0.5, "flow": 0.5}, str(path), f"{SCRIPT}/{path.name}", 0.0, 2.0, 0.0, 2.0,
                path == paths[0]) for rank, path in enumerate([*paths, folder / BREAK], start=1)]
    return Answer(str(paths[0]), 2, hits, f"3 clips {SCRIPT}")


def test_on_the_page_names_are_text_and_nothing_is_loaded(tmp_path):
    page = Page(answer_of(tmp_path).gallery(tmp_path / "page.html").read_text())
    assert [tag for tag, _ in page.tags].count("script") == 1 and not page.all("img")
    strips, videos, links = ([attrs[name] for attrs in page.all(tag)] for tag, name in (
        ("video", "poster"), ("video", "src"), ("a", "href")))
    assert len(strips) == 3 and all(source.startswith("data:image/jpeg;base64,") for source in strips)
    assert links == [*videos, quote(BREAK.encode("utf-8", "surrogateescape")) + "#t=0.00,2.00"]
    assert videos == [f"query.avi{time}" for time in ("#t=0.00,2.00",) * 2] + [f"{quote(EVIL)}#t=0.00,2.00"]
    assert EVIL in page.shown and SCRIPT in page.shown and '[2J "\'&\\udc80.avi' in page.shown
    assert page.shown.count("cannot be read any more") == 1 and page.shown.count("(the query)") == 1


def test_the_table_and_the_json_say_the_same(tmp_path):
    found = answer_of(tmp_path)
    lines = found.table().splitlines()
    assert lines[0].split() == ["video", "similarity", "rgb", "flow", "time", "time", "in", "query"]
    assert len(lines) == 5 and "\x1b" not in found.table() and "(the query)" in lines[2]
    read = json.loads(json.dumps(found.as_json()))
    assert [hit["path"] for hit in read["hits"]] == [hit.path for hit in found.hits]
    assert read["hits"][0]["by_stream"] == {"rgb": 0.5, "flow": 0.5} and read["hits"][0]["end"] == 2.0
    assert [time_span(*span) for span in ((0, 9.96), (59.99, 61.25), (3599, 3725.5))] == [
        "0:00.0-0:10.0", "1:00.0-1:01.2", "59:59.0-62:05.5"]


def test_film_strips_are_of_the_clips_own_frames(tmp_path):
    path = write_video(tmp_path / "x.avi", 30, 1)
    assert clip_strip(str(path), 1.0, 2.0) != clip_strip(str(path), 0.0, 1.0)
    (tmp_path / "text.avi").write_text("no video")
    assert not any(clip_strip(str(tmp_path / name), 0.0, 1.0) for name in ("none.avi", "text.avi"))
