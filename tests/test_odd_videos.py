"""Videos as people have them: unusual containers, damaged files, odd sizes and odd names."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from preparing import call, refusal, stored, write_video

from process_data.src import convert_video_to_lmdb, extract_ff, prepare, video_io
from process_data.src.lmdb_file import frame_counts
from process_data.src.video_io import find_videos, read_frames, require_name
from utils.errors import DataError

COMMON = ("--videos", "videos", "--workers", "1", "--flow", "dis")
EXTRACT = (*COMMON, "--out", "frames")
PREPARE = (*COMMON, "--name", "mine", "--data_root", "data", "--split_root", "splits")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "code"), [("x.avi", "XVID"), ("x.mp4", "mp4v"), ("x.mkv", "FFV1"), ("x.mov", "mp4v"),
                                            ("x.webm", "VP80"), ("x.mpg", "PIM1"), ("x.flv", "FLV1")])
def test_the_usual_containers_are_read(tmp_path, name, code):
    assert len(list(read_frames(write_video(tmp_path / name, 5, (48, 64), code)))) == 5


def test_what_looks_like_a_video_is_tried_and_the_rest_is_named(tmp_path, capsys):
    names = ["A/a.M2TS", "A/b.ts", "A/c.vob", "A/d.gif", "A/day1/e.ogv", "A/day1/f.mp4", "A/day2/f.mp4", "A/f.mts",
             "loose.mp4", "B/deep/er/g.3g2", "A/notes.txt", "A/h", "A/._b.ts", ".hidden/A/i.mp4", "A/broken.mp4"]
    for name in names[:-1]:
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).touch()
    (tmp_path / "videos/A/broken.mp4").symlink_to("nowhere")
    (tmp_path / "videos/A/circle").symlink_to("..")
    (tmp_path / "videos/Linked").symlink_to("A/day1")
    found = find_videos(Path("videos"))
    assert {name: str(path) for name, path in found.items()} == {
        "A/a": "videos/A/a.M2TS", "A/b": "videos/A/b.ts", "A/c": "videos/A/c.vob", "A/d": "videos/A/d.gif",
        "A/e": "videos/A/day1/e.ogv", "A/day1_f": "videos/A/day1/f.mp4", "A/day2_f": "videos/A/day2/f.mp4",
        "A/f": "videos/A/f.mts", "B/g": "videos/B/deep/er/g.3g2", "all/loose": "videos/loose.mp4",
        "Linked/e": "videos/Linked/e.ogv", "Linked/f": "videos/Linked/f.mp4"}
    shown = capsys.readouterr().out
    examples = "videos/A/._b.ts, videos/A/broken.mp4, videos/A/h, videos/A/notes.txt"
    assert f"files passed over: 4, such as {examples}\n" in shown
    assert "class 'all': 1, such as videos/loose.mp4" in shown and "uppermost" not in shown
    assert list(find_videos(Path("videos/A/day1"))) == ["all/e", "all/f"] and not capsys.readouterr().out
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip/UCF-101").symlink_to("../videos")
    for name in ("loose.mp4", "A/broken.mp4", "A/notes.txt", "A/h", "A/._b.ts"):
        (tmp_path / "videos" / name).unlink()
    find_videos(Path("zip"))
    assert "the class of zip/UCF-101/A/a.M2TS is the uppermost folder, 'UCF-101'" in capsys.readouterr().out


@pytest.mark.parametrize(("script", "options"), [(extract_ff, EXTRACT), (prepare, PREPARE)])
def test_a_video_that_cannot_be_used_is_left_out_with_a_reason(monkeypatch, capsys, script, options):
    monkeypatch.setattr(video_io, "MAX_PIXELS", 4000)
    monkeypatch.setattr(prepare, "MAX_BYTES", 100_000)
    for group in (1, 2):
        write_video(Path(f"videos/A/v_g0{group}_c01.avi"))
    write_video(Path("videos/A/huge.avi"), size=(32, 128), code="FFV1")
    write_video(Path("videos/A/one.avi"), frames=1)
    write_video(Path("videos/A/long.avi"), frames=80)
    Path("videos/A/empty.avi").touch()
    Path("videos/A/text.avi").write_text("not a video")
    assert call(script.main, *options) == 0
    shown = capsys.readouterr().out
    assert "left out videos/A/huge.avi: has frames of 128 x 32 pixels, more than 4000 in all\n" in shown
    assert "left out videos/A/one.avi: only one frame decodes\n" in shown
    assert "empty.avi: does not decode\n" in shown and "text.avi: does not decode\n" in shown
    assert ("long.avi: its frames take more than 0.0001 GB" in shown) == (script is prepare)
    assert shown.count("left out videos/") == (5 if script is prepare else 4)
    assert call(script.main, *options) == 0  # asked again, nothing has changed


def test_a_video_whose_end_is_missing_keeps_the_frames_before():
    path = write_video(Path("videos/A/v_g01_c01.avi"), frames=20)
    whole = list(read_frames(path))
    os.truncate(path, path.stat().st_size // 2)
    write_video(Path("videos/A/v_g02_c01.avi"))
    found = list(read_frames(path))
    assert 1 < len(found) < 20
    np.testing.assert_array_equal(found[:-1], whole[:len(found) - 1])  # the last may be a part of a frame
    assert call(prepare.main, *PREPARE) == 0
    assert frame_counts(Path("data/mine/mine_frame.lmdb"))["A/v_g01_c01"] == len(found)


def test_a_frame_that_the_flow_cannot_take_leaves_the_video_out(monkeypatch, capsys):
    """Phones and browsers record videos whose frames change size."""
    for group in (1, 2, 3):
        write_video(Path(f"videos/A/v_g0{group}_c01.avi"))
    original, seen = video_io.shrink, []

    def shrink(frame, short_side):
        seen.append(frame)
        return cv2.resize(frame, (24, 16)) if len(seen) == 3 else original(frame, short_side)
    monkeypatch.setattr(video_io, "shrink", shrink)
    assert call(prepare.main, *PREPARE) == 0
    assert "left out videos/A/v_g01_c01.avi: frame 3 fails" in capsys.readouterr().out
    assert sorted(stored(Path("data/mine/mine_frame.lmdb"))) == ["A/v_g02_c01", "A/v_g03_c01"]


def test_videos_of_long_names_are_taken():
    names = [letter * 251 for letter in "ab"]  # with .avi 255 bytes, the most that file systems allow
    for name in names:
        write_video(Path(f"videos/A/{name}.avi"))
    assert call(extract_ff.main, *EXTRACT) == 0
    assert sorted(path.name for path in Path("frames/A").iterdir()) == names
    assert call(prepare.main, *PREPARE) == 0
    assert sorted(frame_counts(Path("data/mine/mine_frame.lmdb"))) == [f"A/{name}" for name in names]


@pytest.mark.parametrize("name", ["A/ev\nil", "A/ev\x00il", "A/\x1b[2Jevil", "A\x85/evil", "A/evil\u2028", "A/\x7f",
                                  "A/\udc80evil", "A /v", " A/v", "A\u00a0/v", "\ufeffA/v", "A/", "/v", "v", "A/B/v"])
def test_a_name_that_lists_could_not_keep_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="rename it"):
        require_name(name, tmp_path)


def test_unusual_names_are_taken():
    for name in ("A/a", "Class name/v_é_g01_c01", "A b/v ", "...A/a", "A\\B/c:d", "~/a", "-A/--a"):
        require_name(name, "x")


@pytest.mark.parametrize("video", [b"caf\xe9.avi", b"two\nlines.avi"])
def test_a_file_whose_name_cannot_be_used_is_named(tmp_path, capsys, video):
    write_video(Path("videos/A/a.avi"))
    os.rename(b"videos/A/a.avi", b"videos/A/" + video)
    for script, options in ((prepare, PREPARE), (extract_ff, EXTRACT)):
        assert "rename it" in refusal(capsys, script.main, *options)
    os.mkdir(b"videos/A/frames " + video)
    assert "rename it" in refusal(capsys, convert_video_to_lmdb.main, "--frames", "videos", "--out", "x.lmdb")
    assert os.listdir(tmp_path) == ["videos"]
