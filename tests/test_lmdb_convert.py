"""The LMDB writer against the format read by hand; an interrupted file never looks complete."""

import random
import resource
import signal
import tracemalloc

import cv2
import lmdb
import msgpack
import numpy as np
import pytest
from preparing import call, killed_after, refusal, script, stored

from process_data.src import convert_video_to_lmdb
from process_data.src.convert_video_to_lmdb import frame_counts, pack, write_lmdb

LENGTHS = {"Run/v_Run_g01_c01": 3, "Jump up/v_Jump_g01_c01": 2, "Run/v_Run_g02_c01": 20, "Walk/v_é": 1, "Run/b": 4}


def jpeg(number: int) -> bytes:
    return cv2.imencode(".jpg", np.full((8, 10, 3), number, np.uint8))[1].tobytes()


@pytest.fixture
def frames(tmp_path):
    for name, length in LENGTHS.items():
        (tmp_path / "frames" / name).mkdir(parents=True)
        for i in range(1, length + 1):
            (tmp_path / "frames" / name / f"image_{i:05d}.jpg").write_bytes(jpeg(10 * i))
            (tmp_path / "frames" / name / f"flow_{i:05d}.jpg").write_bytes(jpeg(10 * i + 1))
    return tmp_path / "frames"


def convert(*words) -> int:
    return call(convert_video_to_lmdb.main, *words)


def test_the_file_has_the_published_format(frames, tmp_path):
    assert convert("--frames", frames, "--out", tmp_path / "x.lmdb") == 0
    with lmdb.open(str(tmp_path / "x.lmdb"), subdir=False, readonly=True, lock=False) as environment, \
            environment.begin() as transaction:
        values = dict(transaction.cursor())
    order = sorted(LENGTHS)
    random.seed(0)
    random.shuffle(order)
    assert msgpack.unpackb(values.pop(b"__order__")) == order
    assert (tmp_path / "x.lmdb-order").read_text().splitlines() == order
    keys = msgpack.unpackb(values.pop(b"__keys__"))
    assert keys == [b"%09d" % order.index(name) for name in sorted(LENGTHS)]
    assert msgpack.unpackb(values.pop(b"__vlen__")) == [LENGTHS[order[int(key)]] for key in keys]
    assert msgpack.unpackb(values.pop(b"__len__")) == len(LENGTHS)
    assert sorted(values) == sorted(keys)
    for key in keys:
        expected = [jpeg(10 * i) for i in range(1, LENGTHS[order[int(key)]] + 1)]
        assert msgpack.unpackb(values[key]) == expected


def test_flow_frames_go_into_their_own_file_and_links_are_followed(frames, tmp_path):
    assert convert("--frames", frames, "--kind", "flow", "--out", tmp_path / "f.lmdb") == 0
    assert stored(tmp_path / "f.lmdb")["Run/v_Run_g01_c01"] == [jpeg(11), jpeg(21), jpeg(31)]
    (tmp_path / "linked/A").mkdir(parents=True)
    (tmp_path / "linked/A/b").symlink_to(frames / "Run/b")
    assert convert("--frames", tmp_path / "linked", "--out", tmp_path / "x.lmdb") == 0
    assert frame_counts(tmp_path / "x.lmdb") == {"A/b": 4}


def grey(number: int, kind: str = ".jpg") -> bytes:
    return cv2.imencode(kind, np.full((8, 10), number, np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


@pytest.mark.parametrize(("pattern", "first"), [
    ("img_%05d.jpg", 1), ("frame%06d.jpg", 1), ("%05d.jpg", 1), ("%d.jpg", 1), ("image_%05d.jpg", 0),
    ("image_%05d.JPG", 1), ("image_%05d.jpeg", 1), ("frame_%04d.png", 0), ("v_Run_g01_c01_%03d.jpg", 1),
    ("rgb/%05d.jpg", 1)])
def test_frames_of_other_tools_are_read_and_what_is_no_frame_is_named(tmp_path, capsys, pattern, first):
    files = [tmp_path / "f/A/v" / (pattern % number) for number in range(first, first + 12)]
    files[0].parent.mkdir(parents=True)
    coded = [grey(20 * i, files[0].suffix.lower()) for i in range(12)]
    for path, data in zip(files, coded, strict=True):
        path.write_bytes(data)
    for name in ("Thumbs.db", f"._{files[0].name}", f"{files[0].stem} (1).jpg", f"{files[0].stem} 2.jpg"):
        (files[0].parent / name).write_bytes(grey(1))
    assert convert("--frames", tmp_path / "f", "--out", tmp_path / "x.lmdb") == 0
    assert stored(tmp_path / "x.lmdb") == {"A/v": coded}
    assert f"files passed over: 4, such as {files[0].parent}/" in capsys.readouterr().out
    files[4].write_bytes(coded[4][:-20])  # a copy that was cut short
    line = refusal(capsys, convert_video_to_lmdb.main, "--frames", tmp_path / "f", "--out", tmp_path / "y.lmdb")
    assert f"{files[4]} is not a whole JPEG or PNG: " in line
    files[4].unlink()
    line = refusal(capsys, convert_video_to_lmdb.main, "--frames", tmp_path / "f", "--out", tmp_path / "y.lmdb")
    assert f"{files[4].parent} lacks {files[4].name}: " in line


@pytest.mark.parametrize(("x", "y"), [("flow_x_%05d.jpg", "flow_y_%05d.jpg"), ("x_%05d.png", "y_%05d.png"),
                                      ("u/frame%06d.jpg", "v/frame%06d.jpg"), ("flow_x/%05d.jpg", "flow_y/%05d.jpg")])
def test_flow_in_two_grey_images_becomes_one(tmp_path, capsys, x, y):
    for number in range(1, 4):
        for pattern, value in ((x, 20 * number), (y, 200 + number), ("img_%05d.jpg", 3)):
            path = tmp_path / "f/A/v_1" / (pattern % number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(grey(value, path.suffix))
    words = ("--frames", tmp_path / "f", "--kind", "flow", "--out")
    assert convert(*words, tmp_path / "x.lmdb") == 0 and "passed over" not in capsys.readouterr().out
    for number, data in enumerate(stored(tmp_path / "x.lmdb")["A/v_1"], 1):
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[4, 5]  # as prepare.py has it: x, y, 128
        assert abs(image.astype(int) - [20 * number, 200 + number, 128]).max() <= 2
    assert convert("--frames", tmp_path / "f", "--out", tmp_path / "r.lmdb") == 0
    assert stored(tmp_path / "r.lmdb") == {"A/v_1": [grey(3)] * 3}
    missing = tmp_path / "f/A/v_1" / (y % 2)
    missing.unlink()
    assert f"lacks {missing.name}" in refusal(capsys, convert_video_to_lmdb.main, *words, tmp_path / "y.lmdb")
    for number in (1, 3):
        (tmp_path / "f/A/v_1" / (y % number)).unlink()
    assert "two directions" in refusal(capsys, convert_video_to_lmdb.main, *words, tmp_path / "y.lmdb")


@pytest.mark.parametrize(("names", "words"), [
    (["a_1.jpg", "b_1.jpg"], "a_1.jpg and b_1.jpg: leave one"), (["img_1.jpg", "img_01.png"], "the same number"),
    (["x.webp"], "holds no frames such as image_00001.jpg"), (["img_2.jpg"], "lacks img_1.jpg")])
def test_frames_that_could_be_meant_in_two_ways_are_refused(tmp_path, capsys, names, words):
    (tmp_path / "f/A/v").mkdir(parents=True)
    for name in names:
        (tmp_path / "f/A/v" / name).write_bytes(grey(1))
    assert words in refusal(capsys, convert_video_to_lmdb.main, "--frames", tmp_path / "f", "--out", tmp_path / "x")


@pytest.mark.parametrize("count", [1, 12, 300])
def test_the_map_grows_and_the_file_ends_with_its_last_page(tmp_path, monkeypatch, count):
    monkeypatch.setattr(convert_video_to_lmdb, "SPARE", 1 << 16)
    values = {f"a/{i}": [bytes([i % 256]) * (4076 + i)] * (i % 3 + 1) for i in range(count)}
    write_lmdb(tmp_path / "x.lmdb", values, lambda name: pack(len(values[name]), values[name]))
    assert stored(tmp_path / "x.lmdb") == values
    with lmdb.open(str(tmp_path / "x.lmdb"), subdir=False, lock=False, readonly=True) as environment:
        size = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    assert (tmp_path / "x.lmdb").stat().st_size == size


def test_memory_holds_a_piece_of_a_value_not_the_video(tmp_path):
    tracemalloc.start()
    write_lmdb(tmp_path / "x.lmdb", ["a/long"], lambda name: pack(200, (bytes(300_000) for _ in range(200))))
    assert tracemalloc.get_traced_memory()[1] < 3_000_000 < 60_000_000 < (tmp_path / "x.lmdb").stat().st_size
    tracemalloc.stop()


def test_a_folder_beyond_what_a_value_holds_is_left_out(frames, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert_video_to_lmdb, "MAX_VALUE", 5 * 21 + sum(len(jpeg(10 * i)) for i in range(1, 21)) - 1)
    assert convert("--frames", frames, "--out", tmp_path / "x.lmdb") == 0
    assert set(frame_counts(tmp_path / "x.lmdb")) == set(LENGTHS) - {"Run/v_Run_g02_c01"}
    assert f"left out {frames}/Run/v_Run_g02_c01: its frames take more" in capsys.readouterr().out


def test_a_converter_killed_midway_leaves_nothing_that_looks_complete(frames, tmp_path):
    words = ("--frames", frames, "--out", tmp_path / "x.lmdb")
    killed_after("convert_video_to_lmdb.py", "pack", 3, words)
    assert not (tmp_path / "x.lmdb").exists() and not (tmp_path / "x.lmdb-order").exists()
    assert (tmp_path / "x.lmdb.partial").exists()
    assert convert(*words) == 0 and frame_counts(tmp_path / "x.lmdb") == LENGTHS
    assert not (tmp_path / "x.lmdb.partial").exists()


def test_wrong_input_is_one_line_before_work(frames, tmp_path, capsys):
    (frames / "Run/v_Run_g02_c01/image_00007.jpg").unlink()
    (frames / "Run/b/flow_00002.jpg").write_bytes(b"text")
    (tmp_path / "file").write_text("mine")
    for words, expected in (
        (("--frames", frames, "--out", tmp_path / "x.lmdb"), "image_00007.jpg"),
        (("--frames", frames, "--out", tmp_path / "x.lmdb", "--kind", "flow"), "flow_00002.jpg"),
        (("--frames", tmp_path / "none", "--out", tmp_path / "x.lmdb"), "no folder"),
        (("--frames", frames / "Walk", "--out", tmp_path / "x.lmdb"), "no frame folders"),
        (("--frames", frames, "--out", frames), "exists"),
        (("--frames", frames, "--out", frames, "--overwrite"), "is a folder"),
        (("--frames", frames, "--out", tmp_path / "file/deep/x.lmdb"), f"{tmp_path}/file"),
    ):
        assert expected in refusal(capsys, convert_video_to_lmdb.main, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "frames"]


def test_a_full_disk_is_one_line_and_the_unfinished_file_goes(frames, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = script("convert_video_to_lmdb.py", "--frames", frames, "--out", tmp_path / "x.lmdb", preexec_fn=limit)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
    assert "x.lmdb.partial" in done.stderr and [path.name for path in tmp_path.iterdir()] == ["frames"]
