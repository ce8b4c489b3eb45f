"""An index of video files: what it finds, how it is brought up to date, and what it refuses; with a small encoder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from searching import WIDTH, Colours, colours, write_checkpoint, write_video

from dataset.transforms.presets import CropsTransform
from process_data.src.video_io import read_frames
from tools.search import ClipSettings, VideoIndex, clips, describe, encoder
from tools.search import index as search_index
from tools.search.__main__ import main
from utils import launch
from utils.errors import CheckpointError, OptionError

NAMES = ["a.avi", "d.mp4", "deep/b.avi", "deep/er/c.avi"]
BROKEN = {"zero.mp4": b"", "text.mp4": b"I am no video\n" * 99, "<script>alert(1)<.avi": b"RIFF",
          "line\nbreak\x1b[2J.avi": b"RIFF____AVI LIST"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with four videos and a checkpoint; the encoder is replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Colours, "calls", 0)
    monkeypatch.setattr(Colours, "limit", 1000)
    monkeypatch.setattr(search_index, "load_encoder", lambda spec, batch_size: Colours())
    for seed, name in enumerate(NAMES):
        write_video(tmp_path / "videos" / name, 8, seed)
    write_checkpoint(tmp_path / "rgb.pth.tar")
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are decoded."""
    names: list[str] = []
    opened = clips.opened

    def note(path: Path):
        names.append(path.name)
        return opened(path)
    monkeypatch.setattr(clips, "opened", note)
    return names


def build(*places: str, out: str = "index", **options) -> VideoIndex:
    return VideoIndex.build("rgb.pth.tar", places, out, **options)


def run(*words: str) -> int:
    return launch.exit_code(lambda: main(words))


def features(index: VideoIndex) -> dict[str, np.ndarray]:
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
    assert sorted(path.name for path in (place / "index").iterdir()) == [".lock", "index.npz"]


def test_files_that_cannot_be_used_are_listed_and_read_again_only_when_they_change(place, read, capsys):
    for name, content in BROKEN.items():
        (place / "videos" / name).write_bytes(content)
    (place / "videos/lost.avi").symlink_to("nowhere")
    (place / "videos/one.avi").write_bytes(write_video(place / "made/one.avi", 1).read_bytes())
    (place / "videos/notes.txt").write_text("no video, and none that is meant as one")
    assert run("index", "rgb.pth.tar", "videos", "--out", "index", "-j", "0") == 0
    said = capsys.readouterr().out
    assert said.count("left out /") == 6 and "\x1b" not in said and "line\\nbreak\\x1b[2J.avi: does not decode" in said
    assert "one.avi: only one frame decodes" in said and "lost.avi: cannot be opened (No such file" in said
    read.clear()
    assert build().left_out.keys() == {str(place / "videos" / name) for name in (*BROKEN, "lost.avi", "one.avi")}
    assert read == [] and capsys.readouterr().out.count("left out /") == 6
    write_video(place / "videos/zero.mp4", 8, 3)
    assert len(build()) == 5 and read == ["zero.mp4"]


def test_an_index_is_never_mixed_with_another_checkpoint_or_other_options(place, capsys):
    build("videos")
    before = (place / "index/index.npz").read_bytes()
    write_checkpoint(place / "other.pth.tar", seed=1, dataset="mine-f-2clip")
    capsys.readouterr()
    for words in ("other.pth.tar", "rgb.pth.tar --clip_seconds 3", "rgb.pth.tar --ds 2",
                  "rgb.pth.tar --two_stream other.pth.tar", "rgb.pth.tar --two_stream rgb.pth.tar",
                  "rgb.pth.tar --short_side 3", "rgb.pth.tar videos/none"):
        assert run("index", *words.split(), "--out", "index") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert (place / "index/index.npz").read_bytes() == before
    shutil.move("rgb.pth.tar", "moved.pth.tar")
    VideoIndex.build("moved.pth.tar", [], "index")  # the same bytes
    write_video(place / "query.avi", 8)
    shutil.copy("other.pth.tar", "moved.pth.tar")
    with pytest.raises(CheckpointError, match="is not the checkpoint"):
        VideoIndex.open("index").search("query.avi")
    with pytest.raises(OptionError, match="has 1 streams"):
        VideoIndex.open("index", ["a", "b"])


@pytest.mark.parametrize("first", [True, False])
def test_an_interruption_keeps_what_was_embedded(place, read, first, monkeypatch):
    """Of a first run and of an update."""
    monkeypatch.setattr(encoder, "GROUP", 1)
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


def test_two_streams_are_side_by_side_and_their_similarities_added(place):
    write_checkpoint(place / "flow.pth.tar", dataset="mine-f-2clip", second_view="residual")
    settings = ClipSettings((describe("rgb.pth.tar"), describe("flow.pth.tar")))
    index = VideoIndex.build(settings, ["videos"], "index")
    assert all(rows.shape == (1, 2 * WIDTH) for rows in features(index).values())
    answer = index.search("videos/a.avi")
    for hit in answer.hits:
        assert set(hit.by_stream) == {"rgb", "residual"}
        assert hit.similarity == pytest.approx(sum(hit.by_stream.values()), abs=1e-5)
    assert "residual" in answer.table()
    moved = shutil.move("flow.pth.tar", "there.pth.tar")
    opened = VideoIndex.open("index", ["rgb.pth.tar", moved])
    opened.settings.require_same(settings)
    assert len(opened.encoders) == 2


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


def test_a_damaged_index_is_refused(place):
    build("videos")
    path = place / "index/index.npz"
    for content in (path.read_bytes()[:-20], b"\0" * 999, b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"index.npz is damaged"):
            VideoIndex.open("index")


def test_what_cannot_be_searched_is_refused(place):
    index = build("videos")
    (place / "text.mp4").write_text("no video")
    for video, reason in (("text.mp4", "does not decode"), ("none.mp4", "No such file"), ("videos", "cannot be")):
        with pytest.raises(OptionError, match=reason):
            index.search(video)
    with pytest.raises(OptionError, match="there is no index"):
        VideoIndex.open("nothing")
