"""Videos from anywhere: FFmpeg reads their file and no other, and one that cannot be used is left out with a reason."""

import os
import socket
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_names import ended, video

from process_data.src import check_demo, errors, extract_ff, prepare, video_io
from process_data.src.errors import VideoError
from process_data.src.video_io import read_frames

COMMON = ("--workers", "1", "--flow", "dis")


def frames_read(path: Path) -> int:
    return len(list(read_frames(path)))


def extracted(monkeypatch, capsys, videos: str = "videos") -> str:
    """What is said of the videos that are left out; the others are extracted."""
    monkeypatch.setattr(sys, "argv", ["", "--videos", videos, "--out", "frames", *COMMON])
    errors.run(extract_ff.main)
    return capsys.readouterr().err


@pytest.fixture
def server():
    """A port of this machine, and what comes in there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        heard: list[bytes] = []

        def answer() -> None:
            while True:
                try:
                    asking, _ = listening.accept()
                except OSError:
                    return
                with asking:
                    heard.append(asking.recv(200))
        threading.Thread(target=answer, daemon=True).start()
        yield listening.getsockname()[1], heard
        listening.shutdown(socket.SHUT_RDWR)


def test_a_path_like_an_address_is_a_file(tmp_path, monkeypatch, capsys, server):
    monkeypatch.chdir(tmp_path)
    port, heard = server
    cv2.VideoCapture(f"http:/127.0.0.1:{port}.avi").release()  # the fault happens
    assert len(heard) > 0
    heard.clear()
    video(Path("A/y.avi"))
    for name in ("http:/", "file:/", "pipe:/"):
        Path(name).mkdir()
    Path(f"http:/127.0.0.1:{port}.avi").write_bytes(b"x")
    video(Path("file:/y.avi"))
    Path("pipe:/0.avi").write_bytes(b"x")
    shown = extracted(monkeypatch, capsys, ".")
    assert heard == []
    assert f"left out http:/127.0.0.1:{port}.avi: does not decode" in shown and "left out pipe:/0.avi" in shown
    assert len(list(Path("frames/file:/y").glob("image_*"))) == 4 == len(list(Path("frames/A/y").glob("image_*")))


def test_a_playlist_gives_no_frame_of_another_file(tmp_path, monkeypatch, server):
    monkeypatch.chdir(tmp_path)
    port, heard = server
    video(Path("A/sub/in.avi"))
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
    lists = {"concat": "ffconcat version 1.0\nfile sub/in.avi\n", "local": hls.format(tmp_path / "A/sub/in.avi"),
             "remote": hls.format(f"http://127.0.0.1:{port}/x.ts"),
             "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>'}
    for name, text in lists.items():
        Path(f"A/{name}.avi").write_text(text)
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")
    assert cv2.VideoCapture("A/concat.avi").read()[0]  # the fault happens
    assert {name: frames_read(Path(f"A/{name}.avi")) for name in lists} == dict.fromkeys(lists, 0)
    for number in (1, 2):
        cv2.imwrite(f"A/i{number:02d}.png", np.zeros((8, 8, 3), np.uint8))
        Path(f"A/i{number:02d}.png").rename(f"A/i{number:02d}.avi")
    Path("A/i%02d.avi").write_bytes(b"nonsense")
    assert frames_read(Path("A/i%02d.avi")) == 0 and heard == []


@pytest.mark.parametrize(("name", "code"), [("x.avi", "MJPG"), ("x.avi", "XVID"), ("x.mp4", "mp4v"), ("x.mkv", "FFV1"),
                                            ("x.mov", "mp4v"), ("x.webm", "VP80"), ("x.mpg", "PIM1"), ("x.flv", "FLV1"),
                                            ("x.wmv", "WMV2"), ("x.m4v", "mp4v"), ("x.3gp", "mp4v")])
def test_the_usual_containers_are_read(tmp_path, name, code):
    writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter_fourcc(*code), 25, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {name} with {code}")
    for number in range(5):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    assert frames_read(tmp_path / name) == 5


def test_a_pipe_in_place_of_a_video_is_no_video(tmp_path):
    os.mkfifo(tmp_path / "x.avi")
    with pytest.raises(VideoError, match="not a regular file"):
        frames_read(tmp_path / "x.avi")


@pytest.fixture
def few_pixels(monkeypatch):
    """As if the largest frames had a million pixels."""
    assert video_io.MAX_PIXELS > 7680 * 4320
    monkeypatch.setattr(video_io, "MAX_PIXELS", 1 << 20)


def large(path: Path, size: tuple[int, int]) -> None:
    """A video of two black frames of that width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, size)
    assert writer.isOpened()
    for _ in range(2):
        writer.write(np.zeros((*size[::-1], 3), np.uint8))
    writer.release()


@pytest.mark.parametrize("script", [extract_ff, prepare])
def test_pictures_and_frames_of_odd_sizes_are_left_out_with_a_reason(tmp_path, monkeypatch, capsys, few_pixels,
                                                                             script):
    monkeypatch.chdir(tmp_path)
    for group in (1, 2):
        video(Path(f"videos/A/v_g0{group}_c01.avi"))
    large(Path("videos/A/wide.avi"), (65520, 16))
    large(Path("videos/A/huge.avi"), (1024, 1200))
    Path("videos/A/picture.avi").write_bytes(cv2.imencode(".png", np.zeros((16, 70000, 3), np.uint8))[1].tobytes())
    places = (["--out", "frames"] if script is extract_ff else
              ["--name", "mine", "--data_root", "data", "--split_root", "splits"])
    monkeypatch.setattr(sys, "argv", ["", "--videos", "videos", *COMMON, *places])
    errors.run(script.main)
    shown = capsys.readouterr().err
    assert "wide.avi: a frame of 65520 x 16 pixels does not go into a JPEG\n" in shown
    assert "huge.avi: says that its frames have 1024 x 1200 pixels" in shown
    assert "picture.avi: does not decode\n" in shown and shown.count("left out") == 3


@pytest.mark.parametrize("length", [240, 251])
def test_videos_of_long_names_are_taken(tmp_path, monkeypatch, capsys, length):
    monkeypatch.chdir(tmp_path)
    names = [letter * length for letter in "ab"]
    for name in names:
        video(Path(f"videos/A/{name}.avi"))
    assert "left out" not in extracted(monkeypatch, capsys)
    assert sorted(path.name for path in Path("frames/A").iterdir()) == names
    monkeypatch.setattr(sys, "argv", ["", "--videos", "videos", *COMMON, "--name", "mine", "--data_root", "data",
                                      "--split_root", "splits"])
    errors.run(prepare.main)
    assert sorted(Path("data/mine/mine_frame.lmdb-order").read_text().split()) == [f"A/{name}" for name in names]


def test_the_check_of_the_demo_names_a_video_that_does_not_decode(tmp_path, monkeypatch, capsys, few_pixels):
    monkeypatch.chdir(tmp_path)
    Path("videos/A").mkdir(parents=True)
    Path("videos/A/v_g01_c01.avi").write_bytes(b"no")
    assert "v_g01_c01.avi: the check needs decodable videos" in ended(capsys, check_demo.main, "--videos", "videos")
    Path("videos/A/v_g01_c01.avi").unlink()
    large(Path("videos/A/v_g01_c01.avi"), (1024, 1200))
    assert "v_g01_c01.avi says that its frames" in ended(capsys, check_demo.main, "--videos", "videos")
