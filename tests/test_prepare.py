"""Videos to data sets: what is written, stopped runs, broken videos, and wrong input."""

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import msgpack
import numpy as np
import pytest

from process_data.src.flow import flow_image, make_flow
from process_data.src.render_demo import Look, render
from process_data.src.video_io import find_videos, shrink

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "process_data" / "src"


def stored(path):
    """{"Class/video": [JPEG, ...]} of an LMDB, read by hand."""
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as txn:
        order = msgpack.unpackb(txn.get(b"__order__"))
        return {order[int(key)]: msgpack.unpackb(txn.get(key)) for key in msgpack.unpackb(txn.get(b"__keys__"))}


def decode(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def video_frames(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def script(name, *arguments):
    return subprocess.run([sys.executable, SOURCE / name, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes, three groups, a broken file, and one of another kind."""
    out = tmp_path_factory.mktemp("set") / "videos"
    render(out, ["Slide", "Spin"], Look(frames=6, size=(48, 32), seed=0), groups=3, clips=1)
    (out / "Slide" / "v_Slide_g01_c02.mp4").write_bytes(b"no video at all" * 50)
    (out / "Slide" / "notes.txt").write_text("not a video")
    return out


def arguments(videos, tmp_path, *more):
    return ("--videos", videos, "--name", "mine", "--data_root", tmp_path / "data", "--split_root", tmp_path / "splits",
            "--workers", 1, "--flow", "dis", *more)


@pytest.fixture(scope="module")
def prepared(videos, tmp_path_factory):
    home = tmp_path_factory.mktemp("prepared")
    done = script("prepare.py", *arguments(videos, home)[:-2], "--flow", "tvl1", "--workers", 2)
    assert done.returncode == 0, done.stderr
    return home, done


def test_frames_are_the_videos(videos, prepared):
    rgb = stored(prepared[0] / "data/mine/mine_frame.lmdb")
    assert len(rgb) == 6
    for name, jpegs in rgb.items():
        wanted = video_frames(videos / f"{name}.avi")
        assert len(jpegs) == len(wanted) == 6
        for jpeg, frame in zip(jpegs, wanted, strict=True):
            coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
            np.testing.assert_array_equal(decode(jpeg), decode(coded))


def test_flow_is_tvl1_by_formula(videos, prepared):
    flow = stored(prepared[0] / "data/mine/mine_tvl1_frame.lmdb")
    for name in ("Slide/v_Slide_g02_c01", "Spin/v_Spin_g01_c01"):
        assert len(flow[name]) == 5
        grey = [cv2.cvtColor(f, cv2.COLOR_BGR2GRAY) for f in video_frames(videos / f"{name}.avi")]
        estimated = cv2.optflow.DualTVL1OpticalFlow_create().calc(grey[3], grey[4], None)
        wanted = np.full((32, 48, 3), 128.0)
        wanted[..., :2] = np.round((np.clip(estimated, -20, 20) + 20) / 40 * 255)
        coded = cv2.imencode(".jpg", wanted.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
        np.testing.assert_array_equal(decode(flow[name][3]), decode(coded))


def test_splits_sources_and_report(prepared):
    home, done = prepared
    with open(home / "splits/mine/test_split01.csv", newline="") as file:
        assert list(csv.reader(file)) == [["Slide/v_Slide_g01_c01", "6"], ["Spin/v_Spin_g01_c01", "6"]]
    assert (home / "splits/mine/ClassInd.txt").read_text() == "Slide\nSpin\n"
    assert "v_Slide_g01_c02.mp4: does not decode" in done.stderr
    assert "1 left out: Slide/v_Slide_g01_c02" in done.stdout
    left = {path.name for path in (home / "data/mine").iterdir()}
    lmdbs = {f"mine_{stream}.lmdb{end}" for stream in ("frame", "tvl1_frame") for end in ("", "-order", "-ends.npy")}
    assert left == lmdbs | {"mine_prepare.json"}


def test_a_finished_set_is_left_alone(videos, prepared):
    home = prepared[0]
    before = (home / "data/mine/mine_frame.lmdb").stat().st_mtime_ns
    again = arguments(videos, home)[:-1]
    assert script("prepare.py", *again, "tvl1").returncode == 0
    other = script("prepare.py", *again, "dis")
    assert other.returncode == 2 and "flow (tvl1, now dis)" in other.stderr and other.stderr.count("\n") == 1
    assert (home / "data/mine/mine_frame.lmdb").stat().st_mtime_ns == before


def killed_after(script_name, function, calls, argv):
    """Run a script that is killed when `function` is called once more than `calls` times."""
    module = script_name.removesuffix(".py")
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from process_data.src import {module} as script
whole, called = script.{function}, []
def counted(*a, **k):
    called.append(1)
    if len(called) > {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*a, **k)
script.{function} = counted
sys.argv[1:] = {[str(a) for a in argv]!r}
script.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(("function", "calls"), [("pack_video", 3), ("write_bytes", 3), ("write_lmdb", 1),
                                                 ("write_files", 0)])
def test_a_killed_run_continues_to_the_same_result(videos, tmp_path, function, calls):
    command = arguments(videos, tmp_path)
    killed_after("prepare.py", function, calls, command)
    complete = list((tmp_path / "data/mine").glob("*.lmdb"))
    assert len(complete) == {"write_lmdb": 1, "write_files": 2}.get(function, 0)
    assert not list(tmp_path.glob("splits/mine/*.csv"))
    done = script("prepare.py", *command)
    assert done.returncode == 0, done.stderr
    if function == "pack_video":
        assert "are done already" in done.stdout
    elif function != "write_bytes":
        assert "frames and flow" not in done.stderr  # nothing was extracted again
    home = tmp_path / "straight"
    assert script("prepare.py", *arguments(videos, home)).returncode == 0
    for path in ("data/mine/mine_frame.lmdb", "data/mine/mine_tvl1_frame.lmdb"):
        assert stored(tmp_path / path) == stored(home / path)
    assert not list(tmp_path.rglob("*partial*"))


def without_flow(videos, home, *more):
    return (*arguments(videos, home)[:-1], "none", *more)


@pytest.mark.parametrize("calls", [None, 3])
def test_a_set_without_flow_has_the_same_frames_and_splits(videos, prepared, tmp_path, calls):
    """calls: whether the run is killed on the way."""
    command = without_flow(videos, tmp_path)
    if calls:
        killed_after("prepare.py", "pack_video", calls, command)
        assert not list(tmp_path.glob("data/mine/*.lmdb"))
    done = script("prepare.py", *command)
    assert done.returncode == 0, done.stderr
    assert ("are done already" in done.stdout) == bool(calls) and "frames and flow" not in done.stderr
    assert "none: train with --second_view residual" in done.stdout and "flow LMDB" not in done.stdout
    left = {path.name for path in (tmp_path / "data/mine").iterdir()}
    assert left == {"mine_prepare.json"} | {f"mine_frame.lmdb{end}" for end in ("", "-order", "-ends.npy")}
    assert stored(tmp_path / "data/mine/mine_frame.lmdb") == stored(prepared[0] / "data/mine/mine_frame.lmdb")
    for path in (prepared[0] / "splits/mine").iterdir():
        assert (tmp_path / "splits/mine" / path.name).read_text() == path.read_text()
    written = (tmp_path / "data/mine/mine_frame.lmdb").stat().st_mtime_ns
    assert script("prepare.py", *command).returncode == 0
    assert (tmp_path / "data/mine/mine_frame.lmdb").stat().st_mtime_ns == written


def test_from_flow_to_none_and_back(videos, tmp_path):
    """Flow of earlier frames is never left beside new ones, nor removed unasked."""
    assert script("prepare.py", *arguments(videos, tmp_path)).returncode == 0
    flow = tmp_path / "data/mine/mine_tvl1_frame.lmdb"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for more, words in (([], "flow (dis, now none)"), (["--overwrite"], f"{flow} is of another run")):
        done = script("prepare.py", *without_flow(videos, tmp_path, *more))
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    flow.unlink()
    assert script("prepare.py", *without_flow(videos, tmp_path, "--overwrite")).returncode == 0
    assert not flow.exists()
    done = script("prepare.py", *arguments(videos, tmp_path))
    assert done.returncode == 2 and "flow (none, now dis)" in done.stderr
    assert script("prepare.py", *arguments(videos, tmp_path, "--overwrite")).returncode == 0 and flow.is_file()


def test_a_damaged_lmdb_without_flow_is_told(videos, tmp_path):
    command = without_flow(videos, tmp_path)
    assert script("prepare.py", *command).returncode == 0
    path = tmp_path / "data/mine/mine_frame.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False) as env, env.begin(write=True) as txn:
        frames = msgpack.unpackb(txn.get(b"000000000"))
        txn.put(b"000000000", msgpack.packb([*frames[:-1], b"no image"]))
    done = script("prepare.py", *command)
    assert done.returncode == 2 and "does not decode" in done.stderr and done.stderr.count("error: ") == 1


def test_extract_ff_without_flow(videos, tmp_path):
    command = ("--videos", videos, "--out", tmp_path / "frames", "--workers", 1, "--flow")
    assert script("extract_ff.py", *command, "none").returncode == 0
    for folder in (tmp_path / "frames").glob("*/*"):
        assert sorted(path.name for path in folder.iterdir()) == [f"image_{i:05d}.jpg" for i in range(1, 7)]
    other = script("extract_ff.py", *command, "dis")
    assert other.returncode == 2 and "flow (none, now dis)" in other.stderr


def test_short_side_scales_large_frames_only():
    assert shrink(np.zeros((480, 640, 3), np.uint8), 240).shape == (240, 320, 3)
    assert shrink(np.zeros((640, 480, 3), np.uint8), 240).shape == (320, 240, 3)
    assert shrink(np.zeros((240, 320, 3), np.uint8), 240).shape == (240, 320, 3)
    assert shrink(np.zeros((480, 640, 3), np.uint8), 0).shape == (480, 640, 3)


def test_flow_image_by_table():
    flow = np.array([[[0, 0], [-20, 20], [-99, 99], [1, -1]]], np.float32)
    wanted = [[[128, 128, 128], [0, 255, 128], [0, 255, 128], [134, 121, 128]]]
    np.testing.assert_array_equal(flow_image(flow), wanted)


@pytest.mark.parametrize("method", ["tvl1", "dis"])
def test_flow_of_a_known_shift(method):
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (60, 80)).astype(np.uint8), (0, 0), 2)
    noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    first, second = noise[10:50, 10:60], noise[9:49, 8:58]  # the picture moves 2 to the right and 1 down
    flow = make_flow(method)(first.copy(), second.copy())[8:-8, 8:-8]
    np.testing.assert_allclose(np.median(flow, axis=(0, 1)), [2, 1], atol=0.3)


def test_official_lists_decide_and_must_exist(videos, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Spin\n2 Slide\n")
    (lists / "trainlist01.txt").write_text("Spin/v_Spin_g01_c01.avi 1\nSlide/v_Slide_g02_c01.avi 2\n"
                                           "Slide/v_Slide_g01_c02.mp4 2\n")
    (lists / "testlist01.txt").write_text("Spin/v_Spin_g03_c01.avi\n")
    done = script("prepare.py", *arguments(videos, tmp_path, "--splits", lists))
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "splits/mine/train_split01.csv", newline="") as file:
        assert list(csv.reader(file)) == [["Spin/v_Spin_g01_c01", "6"], ["Slide/v_Slide_g02_c01", "6"]]
    assert not (tmp_path / "splits/mine/train_split02.csv").exists()
    (lists / "testlist01.txt").write_text("Spin/v_Spin_g09_c01.avi\n")
    done = script("prepare.py", *arguments(videos, tmp_path / "b", "--splits", lists))
    assert done.returncode == 2 and "Spin/v_Spin_g09_c01" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_published_sets_get_their_own_file_names(videos, tmp_path):
    archery = tmp_path / "videos" / "Archery"
    archery.mkdir(parents=True)
    for group in (1, 8):
        shutil.copy(videos / "Slide/v_Slide_g01_c01.avi", archery / f"v_Archery_g{group:02d}_c01.avi")
    command = list(arguments(tmp_path / "videos", tmp_path))
    command[3] = "ucf101"
    done = script("prepare.py", *command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data/UCF101/ucf101_frame.lmdb").is_file()
    assert (tmp_path / "data/UCF101/ucf101_tvl1_frame.lmdb").is_file()
    assert (tmp_path / "splits/ucf101/test_split02.csv").read_text() == "Archery/v_Archery_g08_c01,6\n"
    assert len((tmp_path / "splits/ucf101/ClassInd.txt").read_text().splitlines()) == 101


def test_wrong_input_is_told_in_one_line_and_nothing_is_touched(videos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad/A").mkdir(parents=True)
    (tmp_path / "bad/A/x.avi").write_bytes(b"junk")
    (tmp_path / "twice/A").mkdir(parents=True)
    for suffix in ("avi", "mp4"):
        (tmp_path / f"twice/A/x.{suffix}").write_bytes(b"junk")
    (tmp_path / "data/mine").mkdir(parents=True)
    (tmp_path / "data/mine/mine_frame.lmdb").write_text("precious")
    cases = [
        (["--videos", tmp_path / "none"], "no folder"), (["--videos", tmp_path / "empty"], "no videos"),
        (["--videos", tmp_path / "twice"], "same name"), (["--name", "a/b"], "--name"), (["--name", ".."], "--name"),
        (["--name", "mine-f"], "--name"), (["--name", "k400"], "K400"), (["--name", "hmdb51"], "--splits"),
        (["--workers", 0], "--workers"), (["--short_side", -3], "--short_side"),
        (["--splits", tmp_path / "none"], "no folder"), (["--splits", tmp_path / "empty"], "no split lists"),
        ([], "exists"), (["--videos", tmp_path / "bad", "--name", "other"], "none of the 1 videos"),
    ]
    for more, words in cases:
        done = script("prepare.py", *arguments(videos, tmp_path, *more))
        assert done.returncode == 2, more
        assert words in done.stderr and sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert (tmp_path / "data/mine/mine_frame.lmdb").read_text() == "precious"


def test_classes_that_come_and_go_are_taken_over_with_overwrite(videos, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    command = arguments(tmp_path / "videos", tmp_path)
    assert script("prepare.py", *command).returncode == 0
    shutil.copytree(videos / "Spin", tmp_path / "videos/Extra")
    done = script("prepare.py", *command)
    assert done.returncode == 2 and "--overwrite" in done.stderr and done.stderr.count("\n") == 1
    for there in (["Extra", "Slide", "Spin"], ["Extra", "Spin"]):
        for folder in (tmp_path / "videos").iterdir():
            if folder.name not in there:
                shutil.rmtree(folder)
        done = script("prepare.py", *command, "--overwrite")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "splits/mine/ClassInd.txt").read_text().split() == there


@pytest.mark.parametrize(("name", "required"), [
    ("prepare.py", ["--videos", "x", "--name", "y"]), ("extract_ff.py", ["--videos", "x", "--out", "y"]),
    ("convert_video_to_lmdb.py", ["--frames", "x", "--out", "y"]), ("write_csv.py", ["--name", "x", "--data", "y"]),
    ("render_demo.py", ["--out", "y"]), ("check_demo.py", ["--videos", "x"]),
])
def test_wrong_options_are_one_line_and_abbreviations_are_none(tmp_path, name, required):
    wrong = {"prepare.py": ["--seed", "x"], "extract_ff.py": ["--workers", "x"], "write_csv.py": ["--seed", "x"],
             "convert_video_to_lmdb.py": ["--kind", "x"], "render_demo.py": ["--clips", "x"],
             "check_demo.py": ["--flow", "x"]}[name]
    abbreviated = [required[0][:-1], *required[1:]]
    for options in ([*required, *wrong], [], abbreviated, [*required, "--none"]):
        done = subprocess.run([sys.executable, SOURCE / name, *options], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("option", ["--data_root", "--split_root"])
def test_a_file_as_a_root_is_told_before_work(videos, tmp_path, option):
    (tmp_path / "file").write_text("mine")
    done = script("prepare.py", *arguments(videos, tmp_path, option, tmp_path / "file"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"{tmp_path}/file" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_the_place_of_an_lmdb_is_told_before_work(videos, tmp_path):
    (tmp_path / "data/mine/mine_tvl1_frame.lmdb").mkdir(parents=True)
    done = script("prepare.py", *arguments(videos, tmp_path, "--overwrite"))
    assert done.returncode == 2 and "frame.lmdb is a folder" in done.stderr and done.stderr.count("\n") == 1
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_disk_that_fills_up_in_a_worker_is_told_in_one_line(videos, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    for name, options in (("prepare.py", arguments(videos, tmp_path)),
                          ("extract_ff.py", ("--videos", videos, "--out", tmp_path / "f", "--flow", "dis"))):
        command = [sys.executable, SOURCE / name, *map(str, options), "--workers", "2"]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
        assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stderr
        assert "File too large" in done.stderr and "Traceback" not in done.stderr


def test_a_name_that_is_not_utf8_is_told_in_one_line(videos, tmp_path):
    (tmp_path / "v/A").mkdir(parents=True)
    shutil.copy(videos / "Slide/v_Slide_g01_c01.avi", os.fsencode(tmp_path / "v/A") + b"/caf\xe9.avi")
    done = script("prepare.py", *arguments(tmp_path / "v", tmp_path))
    assert done.returncode == 2 and "is not UTF-8" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    (tmp_path / "v/A" / os.fsdecode(b"caf\xe9.avi")).unlink()
    (tmp_path / "v/A" / os.fsdecode(b"caf\xe9")).mkdir()
    done = script("convert_video_to_lmdb.py", "--frames", tmp_path / "v", "--out", tmp_path / "x.lmdb")
    assert done.returncode == 2 and "is not UTF-8" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_extract_ff_writes_frame_files_and_continues(videos, tmp_path):
    command = ("--videos", videos, "--out", tmp_path / "frames", "--flow", "dis", "--workers", 1)
    killed_after("extract_ff.py", "extract", 2, command)
    (tmp_path / "frames/Spin/.v_Spin_g01_c01.partial").mkdir(parents=True)  # as a kill midway leaves it
    done = script("extract_ff.py", *command)
    assert done.returncode == 0 and "are done already" in done.stdout, done.stderr
    folders = {f"{p.parent.name}/{p.name}" for p in (tmp_path / "frames").glob("*/*")}
    assert folders == {name for name in find_videos(videos) if not name.endswith("c02")}
    for folder in folders:
        wanted = [f"flow_{i:05d}.jpg" for i in range(1, 6)] + [f"image_{i:05d}.jpg" for i in range(1, 7)]
        assert sorted(p.name for p in (tmp_path / "frames" / folder).iterdir()) == wanted
    other = script("extract_ff.py", *command[:-4], "--flow", "tvl1")
    assert other.returncode == 2 and "flow (dis, now tvl1)" in other.stderr


def test_frame_files_and_direct_way_give_the_same_lmdb(videos, tmp_path):
    frames, out = tmp_path / "frames", tmp_path / "two_steps.lmdb"
    assert script("extract_ff.py", "--videos", videos, "--out", frames, "--flow", "dis", "--workers", 1).returncode == 0
    assert script("convert_video_to_lmdb.py", "--frames", frames, "--kind", "flow", "--out", out).returncode == 0
    assert script("prepare.py", *arguments(videos, tmp_path)).returncode == 0
    assert stored(out) == stored(tmp_path / "data/mine/mine_tvl1_frame.lmdb")


def test_scripts_start_without_torch():
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from process_data.src import prepare, write_csv"
    program += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
