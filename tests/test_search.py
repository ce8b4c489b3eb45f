"""An index of video files: what it finds, how it is brought up to date, and what it refuses; with a small encoder."""

import os
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
from searching import WIDTH, Colours, colours, normalised, write_checkpoint, write_video

import launch
from eval.search import Settings, VideoIndex, index, update
from eval.search.__main__ import main
from eval.search.clips import VideoClips
from process_data.src.video_io import read_frames
from utils.errors import CheckpointError, OptionError
from utils.presets import CropsTransform

NAMES = ["a.avi", "deep/b.avi", "deep/er/c.avi", "d.mp4"]
HOSTILE = {"zero.mp4": b"", "text.mp4": b"I am no video\n" * 99, "<script>alert(1)<.avi": b"RIFF",
           "line\nbreak\x1b[2J.avi": b"RIFF____AVI LIST"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with four videos and a checkpoint; encoders are replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Colours, "asked", [])
    monkeypatch.setattr(Colours, "fail_after", 1000)
    for module in (update, index):
        monkeypatch.setattr(module, "Encoders", Colours)
    for seed, name in enumerate(NAMES):
        write_video(tmp_path / "videos" / name, 8, seed)
    write_checkpoint(tmp_path / "rgb.pth.tar")
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read."""
    names: list[str] = []
    before = VideoClips.__init__

    def note(self, paths, recipe) -> None:
        names.extend(path.name for path in paths)
        before(self, paths, recipe)
    monkeypatch.setattr(VideoClips, "__init__", note)
    return names


def build(*places: str, out: str = "index", **settings) -> VideoIndex:
    return VideoIndex.build("rgb.pth.tar", places, out, Settings(**settings))


def feature(path: Path) -> np.ndarray:
    """What `Colours` makes of a video that is a single clip, from its frames."""
    images = np.ascontiguousarray(np.stack(list(read_frames(path, 240)))[..., ::-1])
    return colours(CropsTransform(8).cut(images)[0][:7])  # the windows of 4 in 8 frames: 0-3, 1-4, ..., 4-7


def stored(found: VideoIndex) -> dict[str, np.ndarray]:
    rows = found._contents.searched.rows
    return {found.files[number]: rows.features[row] for row, number in enumerate(rows.file_of) if number >= 0}


def test_an_answer_is_what_brute_force_finds(place):
    found = build("videos")
    assert len(found) == 4 and found.files == sorted(str(place / "videos" / name) for name in NAMES)
    query = write_video(place / "query.avi", 8, 77)
    answer = found.search("query.avi", k=3)
    rows = np.stack([stored(found)[path] for path in found.files]).astype(np.float64)
    asked = index.VideoIndex._features(found, str(query), np.zeros(4, bool))[0]
    sims = normalised(rows, rows.mean(axis=0)) @ normalised(asked, rows.mean(axis=0))[0]
    order = np.argsort(-sims)[:3]
    assert [hit.path for hit in answer.hits] == [found.files[i] for i in order]
    np.testing.assert_allclose([hit.similarity for hit in answer.hits], sims[order], atol=1e-5)
    assert [hit.rank for hit in answer.hits] == [1, 2, 3] and not any(hit.is_query for hit in answer.hits)
    names = {hit.name for hit in found.search("query.avi", k=99).hits}
    assert names == {f"videos/{name}" for name in NAMES}
    assert answer.table().count("\n") == 4 and answer.hits[0].name in answer.table()


def test_a_query_of_the_index_is_marked_or_left_out_and_not_read_again(place, read):
    found = build("videos")
    read.clear()
    [first, *others] = found.search("videos/d.mp4", k=4).hits
    assert first.name == "videos/d.mp4" and first.is_query and first.similarity == pytest.approx(1, abs=1e-5)
    assert read == [] and not any(hit.is_query for hit in others)
    left = found.search("videos/d.mp4", k=4, exclude_self=True).hits
    assert [hit.path for hit in left] == [hit.path for hit in others] and [hit.rank for hit in left] == [1, 2, 3]
    write_video(place / "videos/d.mp4", 9, 5)  # another video under the same name
    assert found.search("videos/d.mp4", k=4).hits[0].path and read == ["d.mp4"]


def test_only_new_and_changed_files_are_read_and_those_that_are_gone_dropped(place, read):
    build("videos")
    assert sorted(read) == ["a.avi", "b.avi", "c.avi", "d.mp4"]
    read.clear()
    before = (place / "index/index.json").read_bytes()
    build()
    assert read == [] and (place / "index/index.json").read_bytes() == before
    write_video(place / "videos/new.avi", 8, 9)
    write_video(place / "videos/a.avi", 12, 10)
    (place / "videos/deep/b.avi").unlink()
    found = build("videos")
    assert sorted(read) == ["a.avi", "new.avi"] and len(found) == 4
    once = build("videos", out="other")
    assert stored(found).keys() == stored(once).keys()
    for path, row in stored(once).items():
        np.testing.assert_array_equal(row, stored(found)[path])
    for seed in (70, 71):
        write_video(place / "query.avi", 8, seed)
        one, two = ([(hit.path, round(hit.similarity, 4)) for hit in each.search("query.avi").hits]
                    for each in (found, VideoIndex.open("other")))
        assert one == two
    assert len(list((place / "index").iterdir())) == 5  # .lock, index.json and three files of one generation


def test_files_that_cannot_be_used_are_listed_and_read_again_only_when_they_change(place, read, capsys):
    for name, content in HOSTILE.items():
        (place / "videos" / name).write_bytes(content)
    os.mkfifo(place / "videos/pipe.avi")
    (place / "videos/lost.avi").symlink_to("nowhere")
    (place / "videos/one.avi").write_bytes(write_video(place / "made/one.avi", 1).read_bytes())
    (place / "videos/notes.txt").write_text("no video, and none that is meant as one")
    assert launch.exit_code(lambda: main(["index", "rgb.pth.tar", "videos", "--out", "index", "-j", "0"])) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith("left out ")]
    assert len(lines) == 7 and "\x1b" not in shown and "line\\nbreak\\x1b[2J.avi: does not decode" in shown
    assert "only one frame decodes" in shown and "pipe.avi: cannot be opened (not a regular file)" in shown
    assert "lost.avi: cannot be opened (No such file" in shown and "7 left out" in shown
    read.clear()
    assert set(build().left_out) == {str(place / "videos" / name) for name in
                                     (*HOSTILE, "pipe.avi", "lost.avi", "one.avi")}
    assert read == [] and capsys.readouterr().out.count("left out ") == 8
    write_video(place / "videos/zero.mp4", 8, 3)
    found = build()
    assert read == ["zero.mp4"] and len(found.left_out) == 6 and len(found) == 5


def test_an_index_is_never_mixed_with_another_model_or_other_options(place, capsys):
    build("videos")
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in (place / "index").iterdir()}
    write_checkpoint(place / "other.pth.tar", seed=1)
    (place / "videos/a.avi").unlink()
    words = (["other.pth.tar"], ["rgb.pth.tar", "--clip_seconds", "3"], ["rgb.pth.tar", "--ds", "2"],
             ["rgb.pth.tar", "--two_stream", "other.pth.tar"])
    for extra in words:
        assert launch.exit_code(lambda extra=extra: main(["index", *extra, "--out", "index"])) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in (place / "index").iterdir()}
    write_video(place / "videos/a.avi", 8)
    shutil.move("rgb.pth.tar", "moved.pth.tar")
    VideoIndex.build("moved.pth.tar", [], "index")  # the same bytes
    shutil.copy("other.pth.tar", "moved.pth.tar")
    write_video(place / "query.avi", 8)
    with pytest.raises(CheckpointError, match="is not the checkpoint"):
        VideoIndex.open("index").search("query.avi")


@pytest.mark.parametrize("stopped", ["reading", "writing"])
def test_an_interrupted_update_keeps_the_old_index_and_what_was_done(place, read, monkeypatch, stopped):
    build("videos")
    before = {path.name: path.read_bytes() for path in (place / "index").iterdir()}
    for seed in range(20, 24):
        write_video(place / f"videos/new{seed}.avi", 8, seed)
    if stopped == "reading":
        Colours.fail_after = len(Colours.asked) + 2
        with pytest.raises(KeyboardInterrupt):
            build(batch_size=1)
        Colours.fail_after = 1000
    else:
        with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
            patch.setattr(faiss, "write_index", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
            build()
    now = {path.name: path.read_bytes() for path in (place / "index").iterdir() if path.is_file()}
    assert before.items() <= now.items() and len(VideoIndex.open("index")) == 4
    read.clear()
    assert len(build()) == 8
    assert len(read) == (2 if stopped == "reading" else 0) and not (place / "index/pending").exists()
    assert len(list((place / "index").iterdir())) == 5


def test_a_graph_is_used_from_enough_clips_on_and_drops_what_is_gone(place, capsys):
    for seed in range(20, 60):
        write_video(place / f"videos/v{seed}.avi", 4, seed)
    found = build("videos", hnsw_from=40)
    assert "HNSW, recall@10 " in capsys.readouterr().out and "HNSW search, recall@10" in found.about
    (place / "videos/v20.avi").unlink()
    write_video(place / "videos/w.avi", 4, 61)
    found = build(hnsw_from=40)
    assert len(found) == 44 and len(found._contents.searched.rows) == 45  # appended to
    found = VideoIndex.open("index")
    paths = [hit.path for hit in found.search("videos/w.avi", k=99).hits]
    assert len(paths) == len(set(paths)) == 44 and str(place / "videos/v20.avi") not in paths
    assert paths[0] == str(place / "videos/w.avi")
    assert "flat" in repr(build()) or "exact search" in repr(build())  # the default is far from reached


def test_two_streams_are_side_by_side_and_their_similarities_added(place):
    write_checkpoint(place / "flow.pth.tar", dataset="mine-f-2clip", second_view="residual")
    found = build("videos", two_stream="flow.pth.tar")
    assert next(iter(stored(found).values())).shape == (2 * WIDTH,)
    for hit in found.search("videos/a.avi").hits:
        assert set(hit.by_stream) == {"rgb", "residual"}
        assert hit.similarity == pytest.approx(sum(hit.by_stream.values()), abs=1e-5)
    assert "residual" in found.search("videos/a.avi").table()
    build()  # the second checkpoint is remembered
    with pytest.raises(OptionError, match="are both for rgb"):
        build("videos", out="other", two_stream="rgb.pth.tar")


def test_each_clip_is_compared_with_the_piece_of_the_query_that_is_most_like_it(place):
    long = write_video(place / "long.avi", 30, 1)
    found = build("videos", clip_seconds=1.0)
    answer = found.search(long)
    assert answer.query_clips == 2 and "time in query" in answer.table()
    asked = found._features(str(long), np.zeros(4, bool))[0]
    rows = np.stack([stored(found)[hit.path] for hit in answer.hits])
    sims = normalised(rows, np.stack(list(stored(found).values())).mean(axis=0)) @ normalised(
        asked, np.stack(list(stored(found).values())).mean(axis=0)).T
    np.testing.assert_allclose([hit.similarity for hit in answer.hits], sims.max(axis=1), atol=1e-5)
    assert [hit.query_start for hit in answer.hits] == pytest.approx(sims.argmax(axis=1).tolist())


def test_folders_are_added_missed_and_forgotten(place):
    write_video(place / "more/x.avi", 8, 8)
    build("videos")
    assert len(build("more")) == 5
    shutil.move("more", "away")
    with pytest.raises(OptionError, match="--forget"):
        build()  # a disk that is not there: its clips are not dropped
    assert len(build(forget=("more",))) == 4
    with pytest.raises(OptionError, match="the index is not of that"):
        build(forget=("more",))
    shutil.rmtree("videos")
    (place / "videos").mkdir()
    with pytest.raises(OptionError, match="nothing to search"):
        build()
    assert len(VideoIndex.open("index")) == 4


@pytest.mark.parametrize("name", ["index.json", "features-1.npy", "clips-1.npz", "vectors-1.faiss"])
@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_a_damaged_index_is_refused_in_one_line(place, name, damage):
    build("videos")
    path = place / "index" / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-20] if damage == "cut" else b"\0" * len(content))
    with pytest.raises((OptionError, CheckpointError)) as caught:
        VideoIndex.open("index")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_searched_or_indexed_is_refused(place):
    found = build("videos")
    (place / "text.mp4").write_text("no video")
    for video, word in (("text.mp4", "not decode"), ("none.mp4", "No such file"), ("videos", "not a regular file")):
        with pytest.raises(OptionError, match=word):
            found.search(video)
    with pytest.raises(OptionError, match="1 clip or more"):
        found.search("videos/a.avi", k=0)
    with pytest.raises(OptionError, match="there is no index"):
        VideoIndex.open("nothing")
    with pytest.raises(OptionError, match="holds files, and no index"):
        build("videos", out="videos")
    for settings in ({"short_side": 3}, {"clip_seconds": float("nan")}, {"flow": "none"}):
        with pytest.raises(OptionError):
            build("videos", out="other", **settings)
    assert not (place / "other").exists()
