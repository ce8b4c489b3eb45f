"""Videos as people have them: unusual containers, damaged files, odd sizes and odd names."""

import os
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from preparing import call, refusal, stored, write_video

from process_data.src import convert_video_to_lmdb, extract_ff, prepare, video_io
from process_data.src.convert_video_to_lmdb import frame_counts
from process_data.src.video_io import Settings, Timing, VideoError, find_videos, read_frames, require_name
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
    assert "class 'all': 1, such as videos/loose.mp4" in shown
    assert list(find_videos(Path("videos/A/day1"))) == ["all/e", "all/f"] and not capsys.readouterr().out


@pytest.mark.parametrize(("script", "options"), [(extract_ff, EXTRACT), (prepare, PREPARE)])
def test_a_video_that_cannot_be_used_is_left_out_with_a_reason(monkeypatch, capsys, script, options):
    monkeypatch.setattr(video_io, "MAX_PIXELS", 4000)
    monkeypatch.setattr(prepare.to_lmdb, "MAX_VALUE", 100_000)
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
    assert "empty.avi: is empty\n" in shown and "text.avi: does not decode\n" in shown
    assert ("long.avi: its frames take more than the 4 GiB" in shown) == (script is prepare)
    assert shown.count("left out videos/") == (5 if script is prepare else 4)
    assert call(script.main, *options) == 0  # asked again, nothing has changed


def test_a_video_that_cannot_fit_is_left_out_before_its_flow_is_estimated(monkeypatch):
    write_video(Path("videos/A/v_g01_c01.avi"), frames=30)
    monkeypatch.setattr(prepare.to_lmdb, "MAX_VALUE", 20_000)
    monkeypatch.setattr(video_io, "flow_image", None)
    with pytest.raises(VideoError, match="cut it into several"):
        prepare.pack_video(Path("videos/A/v_g01_c01.avi"), [Path("rgb"), Path("flow")], Settings("dis", 0, False),
                           Timing())
    assert os.listdir() == ["videos"]


def test_memory_holds_a_window_of_frames(tmp_path, monkeypatch):
    frame = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    monkeypatch.setattr(video_io, "read_frames", lambda *args: (frame for _ in range(60)))
    tracemalloc.start()
    prepare.pack_video(tmp_path / "x", [tmp_path / "rgb"], Settings("none", 0, False), Timing())
    assert tracemalloc.get_traced_memory()[1] < 2_000_000 < 5_000_000 < (tmp_path / "rgb").stat().st_size
    tracemalloc.stop()


MP4 = b"\0\0\0\x18ftypisom" + bytes(12)


@pytest.mark.parametrize(("data", "words"), [
    (b"GIF89a" + bytes(20), "is a GIF of one picture"), (b"ID3\4" + bytes(20), "holds sound alone"),
    (cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tobytes(), "is a photo"),
    (b"\0\0\0\x1cftypheic" + bytes(20), "is a photo"), (b"RIFF\1\1\1\1WAVEfmt ", "holds sound alone"),
    (MP4 + bytes(1 << 23) + b"hdlr" + bytes(8) + b"soun", "holds sound alone"),
    (MP4 + b"hdlr" + bytes(8) + b"vide" + b"hdlr" + bytes(8) + b"soun", "does not decode"),
    (MP4 + b"hdlr" + bytes(8) + b"vide" + b"stsd" + bytes(12) + b"av01", "is AV1, for which"),
    (b"\x1a\x45\xdf\xa3" + bytes(30) + b"\x86\x86A_OPUS", "holds sound alone"),
    (b"\x1a\x45\xdf\xa3" + bytes(30) + b"\x86\x85V_AV1\x86\x86A_OPUS", "is AV1, for which")])
def test_what_is_no_video_is_called_by_its_kind(tmp_path, data, words):
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=words):
        prepare.pack_video(tmp_path / "x.mp4", [tmp_path / "rgb"], Settings("none", 0, False), Timing())


def timing(promised: float, rate: float, stamps) -> Timing:
    found = Timing()
    found.promised, found.rate, found.stamps = promised, rate, list(stamps)
    return found


STEADY = [40 * i for i in range(100)]
BROWSER = np.cumsum(np.random.default_rng(0).integers(20, 120, 100))  # 7 s in steps of whole milliseconds


@pytest.mark.parametrize(("found", "missing", "odd"), [
    (timing(100, 25, STEADY), "", ""), (timing(105, 25, STEADY), "", ""), (timing(-1e18, 25, [0] * 40), "", ""),
    (timing(106, 25, STEADY), "gives 100 of the 106 frames", ""),
    (timing(100, 25, STEADY[:30] + STEADY[60:]), "gives 70 of the 100 frames", ""),
    (timing(100, 25, [0] * 60), "gives 60 of the 100 frames", ""),
    (timing(100, 60, [16 * i + i // 3 for i in range(100)]), "", ""),  # 60 a second in whole milliseconds
    (timing(1000 * 7, 1000, BROWSER), "", "22 to 113 ms"),
    (timing(1000 * 14, 1000, BROWSER), "ends after 7.", "22 to 113 ms"),
    (timing(4000, 1000, STEADY), "", "claims 1000 frames a second, gives 25"),
    (timing(100, 30, [33 * i for i in range(50)] + [1650 + 42 * i for i in range(50)]), "", "33 to 42 ms"),  # a phone
    (timing(100, 0.2, [5000 * i for i in range(100)]), "", "0.2 frames a second")])
def test_missing_frames_and_odd_rates_by_table(found, missing, odd):
    assert (found.missing() == "") == (missing == "") and found.missing().startswith(missing)
    assert (found.odd_rate() == "") == (odd == "") and found.odd_rate().startswith(odd)


def test_a_video_whose_end_is_missing_keeps_the_frames_before(capsys):
    path = write_video(Path("videos/A/v_g01_c01.avi"), frames=20)
    whole = list(read_frames(path))
    os.truncate(path, path.stat().st_size // 2)
    for group in (2, 3):
        write_video(Path(f"videos/A/v_g0{group}_c01.avi"))
    found = list(read_frames(path))
    assert 1 < len(found) < 20
    np.testing.assert_array_equal(found[:-1], whole[:len(found) - 1])  # the last may be a part of a frame
    assert call(prepare.main, *PREPARE) == 0
    assert frame_counts(Path("data/mine/mine_frame.lmdb"))["A/v_g01_c01"] == len(found)
    assert f"warning: {path}: gives {len(found)} of the 20 frames that its file promises" in capsys.readouterr().out
    assert "strict (False, now True)" in refusal(capsys, prepare.main, *PREPARE, "--strict")
    for script, options in ((prepare, (*PREPARE, "--overwrite")), (extract_ff, EXTRACT)):
        assert call(script.main, *options, "--strict") == 0
        assert f"left out {path}: gives {len(found)} of the 20 frames" in capsys.readouterr().out
    assert set(frame_counts(Path("data/mine/mine_frame.lmdb"))) == {"A/v_g02_c01", "A/v_g03_c01"}


def test_an_odd_rate_is_reported_and_the_frames_kept_as_they_come(capsys):
    for group, rate in ((1, 15), (2, 1000)):
        write_video(Path(f"videos/A/v_g0{group}_c01.avi"), frames=8, rate=rate)
    assert call(prepare.main, *PREPARE) == 0
    assert ("1 of 2 videos have a frame rate that varies or is implausible, such as videos/A/v_g02_c01.avi (1e+03 "
            "frames a second); their frames are kept as they come") in capsys.readouterr().out
    assert frame_counts(Path("data/mine/mine_frame.lmdb")) == {"A/v_g01_c01": 8, "A/v_g02_c01": 8}


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
