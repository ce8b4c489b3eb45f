"""The LMDB writer against the format read by hand; an interrupted file never looks complete."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import lmdb
import msgpack
import numpy as np
import pytest

from process_data.src import lmdb_file, progress
from process_data.src.errors import PrepareError
from process_data.src.lmdb_file import open_lmdb, pack, write_lmdb

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "process_data/src/convert_video_to_lmdb.py"
LENGTHS = {"Run/v_Run_g01_c01": 3, "Jump up/v_Jump_g01_c01": 2, "Run/v_Run_g02_c01": 20, "Walk/v_é": 1, "Run/b": 4}


def jpeg(number: int) -> bytes:
    return cv2.imencode(".jpg", np.full((8, 10, 3), number, np.uint8))[1].tobytes()


def entries(path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as txn:
        return dict(txn.cursor())


@pytest.fixture
def frames(tmp_path):
    for name, length in LENGTHS.items():
        (tmp_path / "frames" / name).mkdir(parents=True)
        for i in range(1, length + 1):
            (tmp_path / "frames" / name / f"image_{i:05d}.jpg").write_bytes(jpeg(10 * i))
            (tmp_path / "frames" / name / f"flow_{i:05d}.jpg").write_bytes(jpeg(10 * i + 1))
    return tmp_path / "frames"


def convert(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_the_file_is_in_the_published_format(frames, tmp_path):
    done = convert("--frames", frames, "--out", tmp_path / "x.lmdb")
    assert done.returncode == 0, done.stderr
    stored = entries(tmp_path / "x.lmdb")
    order = sorted(LENGTHS)
    random.seed(0)
    random.shuffle(order)
    assert msgpack.unpackb(stored.pop(b"__order__")) == order
    assert (tmp_path / "x.lmdb-order").read_text().splitlines() == order
    keys = msgpack.unpackb(stored.pop(b"__keys__"))
    assert keys == [b"%09d" % order.index(name) for name in sorted(LENGTHS)]
    assert msgpack.unpackb(stored.pop(b"__vlen__")) == [LENGTHS[order[int(key)]] for key in keys]
    assert msgpack.unpackb(stored.pop(b"__len__")) == len(LENGTHS)
    assert sorted(stored) == sorted(keys)
    for key in keys:
        wanted = [jpeg(10 * i) for i in range(1, LENGTHS[order[int(key)]] + 1)]
        assert msgpack.unpackb(stored[key]) == wanted


def test_flow_frames_go_into_their_own_file(frames, tmp_path):
    assert convert("--frames", frames, "--kind", "flow", "--out", tmp_path / "f.lmdb").returncode == 0
    with open_lmdb(tmp_path / "f.lmdb") as file:
        assert file.lengths == LENGTHS
        assert file.jpegs("Run/v_Run_g01_c01") == [jpeg(11), jpeg(21), jpeg(31)]


def test_the_map_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_file, "FIRST_MAP", 1 << 16)
    values = {f"a/{i}": pack([bytes([i]) * 300_000]) for i in range(5)}
    write_lmdb(tmp_path / "x.lmdb", values, values.__getitem__)
    with open_lmdb(tmp_path / "x.lmdb") as file:
        assert {name: pack(file.jpegs(name)) for name in file.lengths} == values


@pytest.mark.parametrize("raw", [False, True])
def test_both_msgpack_string_types_read(tmp_path, raw):
    entry = {b"000000000": [b"\xff\xd8x"], b"__keys__": [b"000000000"], b"__order__": ["A/b"], b"__vlen__": [1]}
    with lmdb.open(str(tmp_path / "x"), subdir=False) as env, env.begin(write=True) as txn:
        for key, value in entry.items():
            txn.put(key, msgpack.packb(value, use_bin_type=not raw))
    with open_lmdb(tmp_path / "x") as file:
        assert file.lengths == {"A/b": 1} and file.jpegs("A/b") == [b"\xff\xd8x"]
    with open_lmdb(tmp_path / "x") as file:
        assert lmdb_file.count(file.value("A/b")) == 1


def test_a_converter_killed_midway_leaves_nothing_that_looks_complete(frames, tmp_path):
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from process_data.src import convert_video_to_lmdb as convert
whole, calls = convert.pack_folder, []
def pack_folder(folder, kind):
    calls.append(folder)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(folder, kind)
convert.pack_folder = pack_folder
sys.argv[1:] = ["--frames", {str(frames)!r}, "--out", {str(tmp_path / "x.lmdb")!r}]
convert.main()
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "x.lmdb").exists() and not (tmp_path / "x.lmdb-order").exists()
    assert (tmp_path / "x.lmdb.partial").exists()
    assert convert("--frames", frames, "--out", tmp_path / "x.lmdb").returncode == 0
    with open_lmdb(tmp_path / "x.lmdb") as file:
        assert file.lengths == LENGTHS
    assert not (tmp_path / "x.lmdb.partial").exists()


def test_a_missing_frame_and_wrong_paths_are_told_in_one_line(frames, tmp_path):
    (frames / "Run/v_Run_g02_c01/image_00007.jpg").unlink()
    out = tmp_path / "x.lmdb"
    for arguments, words in (
        (("--frames", frames, "--out", out), "image_00007.jpg"),
        (("--frames", tmp_path / "none", "--out", out), "no folder"),
        (("--frames", frames / "Walk", "--out", out), "no frame folders"),
        (("--frames", frames, "--out", frames), "exists"),
    ):
        done = convert(*arguments)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not out.exists()


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))  # ten seconds between any two looks
    write_lmdb(tmp_path / "x.lmdb", LENGTHS, lambda name: pack([jpeg(1)] * LENGTHS[name]))
    assert capsys.readouterr().err == "write x.lmdb: 3 of 5 videos\nwrite x.lmdb: 5 of 5 videos\n"


def test_progress_is_a_bar_on_a_terminal(tmp_path):
    shown, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    command = [sys.executable, SCRIPT, "--frames", tmp_path / "frames", "--out", tmp_path / "x.lmdb"]
    (tmp_path / "frames/A/b").mkdir(parents=True)
    (tmp_path / "frames/A/b/image_00001.jpg").write_bytes(jpeg(1))
    subprocess.run(command, stderr=terminal, stdout=subprocess.PIPE, check=True)
    os.write(terminal, b"END")
    seen = b""
    while b"END" not in seen:
        seen += os.read(shown, 10_000)
    assert b"write x.lmdb: 100%" in seen
    os.close(shown)
    os.close(terminal)


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_that_is_cut_short_is_told(tmp_path, folder):
    write_lmdb(tmp_path / "x", LENGTHS, lambda name: pack([jpeg(1)] * LENGTHS[name]))
    path = tmp_path / "x"
    if folder:
        (tmp_path / "y").mkdir()
        path = (tmp_path / "x").rename(tmp_path / "y/data.mdb").parent
    with open_lmdb(path) as file:
        assert file.lengths == LENGTHS
    data = path / "data.mdb" if folder else path
    whole = data.stat().st_size
    os.truncate(data, whole - 1)
    wanted = f"{path} is cut short: {whole - 1} of {whole} bytes; copy or download it again"
    with pytest.raises(PrepareError, match=re.escape(wanted)), open_lmdb(path):
        pass


def test_a_folder_as_out_is_refused_before_work(frames, tmp_path):
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.iterdir())
    done = convert("--frames", frames, "--out", tmp_path / "there", "--overwrite")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "there is a folder" in done.stderr, done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_where_a_folder_should_be_is_told_in_one_line(frames, tmp_path):
    (tmp_path / "file").write_text("mine")
    done = convert("--frames", frames, "--out", tmp_path / "file/deep/x.lmdb")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"{tmp_path}/file" in done.stderr, done.stderr


def test_a_full_disk_is_told_in_one_line_and_the_unfinished_file_goes(frames, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, SCRIPT, "--frames", frames, "--out", tmp_path / "x.lmdb"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr, done.stderr
    assert "x.lmdb.partial" in done.stderr and [path.name for path in tmp_path.iterdir()] == ["frames"]


def test_reading_something_else_is_told(tmp_path):
    (tmp_path / "x").write_text("nonsense" * 1000)
    with pytest.raises(PrepareError, match="no LMDB"), open_lmdb(tmp_path / "x"):
        pass
    with pytest.raises(PrepareError, match="no LMDB"), open_lmdb(tmp_path / "y"):
        pass
