"""Videos to datasets: the content of the LMDBs and splits, stopped runs, and wrong input."""

import csv
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from preparing import SOURCE, call, decoded, killed_after, refusal, script, stored, write_video

from dataset import catalog
from dataset.video_index import read_classes, source_of
from process_data.src import convert_video_to_lmdb, extract_ff, prepare
from process_data.src.splits import plan_splits
from process_data.src.video_io import find_videos, flow_image, shrink
from utils import files


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes, three groups, a broken file, and one of another kind."""
    out = tmp_path_factory.mktemp("set") / "videos"
    for label in ("Slide", "Spin"):
        for group in (1, 2, 3):
            write_video(out / label / f"v_{label}_g{group:02d}_c01.avi")
    (out / "Slide" / "v_Slide_g01_c02.mp4").write_bytes(b"no video at all" * 50)
    (out / "Slide" / "notes.txt").write_text("not a video")
    return out


def arguments(videos, home, *more, flow="dis"):
    return ("--videos", videos, "--name", "mine", "--data_root", home / "data", "--split_root", home / "splits",
            "--workers", 1, "--flow", flow, *more)


def file_contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def prepared(videos, tmp_path_factory):
    """A dataset with TV-L1 flow, made by two workers."""
    home = tmp_path_factory.mktemp("prepared")
    done = script("prepare.py", *arguments(videos, home, "--workers", 2, flow="tvl1"))
    assert done.returncode == 0, done.stderr
    return home, done


@pytest.fixture(scope="module")
def with_dis(videos, tmp_path_factory):
    home = tmp_path_factory.mktemp("dis")
    assert call(prepare.main, *arguments(videos, home)) == 0
    return home


def image(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def coded(frame):
    return image(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 100])[1])


def test_frames_are_the_videos(videos, prepared):
    rgb = stored(prepared[0] / "data/mine/mine_frame.lmdb")
    assert len(rgb) == 6
    for name, jpegs in rgb.items():
        frames = decoded(videos / f"{name}.avi")
        assert len(jpegs) == len(frames) == 4
        for jpeg, frame in zip(jpegs, frames, strict=True):
            np.testing.assert_array_equal(image(jpeg), coded(frame))


def test_flow_is_tvl1_by_formula(videos, prepared):
    flow = stored(prepared[0] / "data/mine/mine_tvl1_frame.lmdb")
    for name in ("Slide/v_Slide_g02_c01", "Spin/v_Spin_g01_c01"):
        assert len(flow[name]) == 3
        grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in decoded(videos / f"{name}.avi")]
        estimated = cv2.optflow.DualTVL1OpticalFlow_create().calc(grey[2], grey[3], None)
        expected = np.full((32, 48, 3), 128.0)
        expected[..., :2] = np.round((np.clip(estimated, -20, 20) + 20) / 40 * 255)
        np.testing.assert_array_equal(image(flow[name][2]), coded(expected.astype(np.uint8)))


def test_splits_and_report(prepared):
    home, done = prepared
    assert rows(home / "splits/mine/test_split01.csv") == [["Slide/v_Slide_g01_c01", "4"], ["Spin/v_Spin_g01_c01", "4"]]
    assert (home / "splits/mine/ClassInd.txt").read_text() == "Slide\nSpin\n"
    assert "TV-L1 flow of some 28 frames, " in done.stdout and "on 2 processes; --flow dis" in done.stdout
    assert "v_Slide_g01_c02.mp4: does not decode" in done.stdout and "1 left out: Slide/v_Slide_g01_c02" in done.stdout
    lmdbs = {f"mine_{stream}.lmdb{end}" for stream in ("frame", "tvl1_frame") for end in ("", "-order")}
    assert {path.name for path in (home / "data/mine").iterdir()} == lmdbs | {".lock", "mine_prepare.json"}


@pytest.mark.parametrize(("files", "classes"), [
    ("A/1 A/2 B/1 B/2 C/1", "A B C"), ("1 2 3 4", "all"), ("A/1 A/2 B/1", "all"), ("A/1 A/2 B/1 B/2 3", "all"),
    ("A/x/1 A/x/2 B/x/1 B/x/2", "all"), ("A/1 A/2", "all")])
def test_folders_are_classes_where_each_video_lies_in_one(tmp_path, capsys, files, classes):
    for name in files.split():
        (tmp_path / f"{name}.avi").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.avi").touch()
    found = find_videos(tmp_path, "auto")
    assert {name.split("/")[0] for name in found} == set(classes.split()) and len(found) == len(files.split())
    assert capsys.readouterr().out.startswith("no labels: all videos" if classes == "all" else "labels: the folders")
    assert {name.split("/")[0] for name in find_videos(tmp_path, "none")} == {"all"}


def test_without_labels_a_tenth_is_held_out_whole_source_by_source(capsys):
    for videos, held in ((59, 0), (60, 20), (160, 20), (300, 30)):
        [(train, test)] = plan_splits("mine", [f"all/{i:03d}" for i in range(videos)], None)
        assert len(test) == held and len(train) == videos - held and len({*train, *test}) == videos
        assert ("are held out" if held else "that takes 60 videos, and there are 59") in capsys.readouterr().out
    [(train, test)] = plan_splits("mine", [f"all/v_{i // 3}_c{i % 3}" for i in range(90)], None, seed=1)
    assert 18 <= len(test) <= 20 and not {source_of(name) for name in train} & {source_of(name) for name in test}


def test_a_finished_dataset_stays_as_it_is(videos, prepared, capsys):
    home = prepared[0]
    before = (home / "data/mine/mine_frame.lmdb").stat().st_mtime_ns
    assert call(prepare.main, *arguments(videos, home, flow="tvl1")) == 0
    assert "flow (tvl1, now dis)" in refusal(capsys, prepare.main, *arguments(videos, home))
    assert (home / "data/mine/mine_frame.lmdb").stat().st_mtime_ns == before


@pytest.mark.parametrize(("function", "calls"), [("pack_video", 3), ("to_lmdb.write_lmdb", 1),
                                                 ("write_csv.write_files", 0)])
def test_a_killed_run_continues_to_the_same_result(videos, with_dis, tmp_path, capsys, function, calls):
    killed_after("prepare.py", function, calls, arguments(videos, tmp_path))
    complete = list((tmp_path / "data/mine").glob("*.lmdb"))
    assert len(complete) == {"to_lmdb.write_lmdb": 1, "write_csv.write_files": 2}.get(function, 0)
    assert not list(tmp_path.glob("splits/mine/*.csv"))
    assert call(prepare.main, *arguments(videos, tmp_path)) == 0
    done = {"pack_video": "2 of 7 videos are done", "to_lmdb.write_lmdb": "6 of 7 videos are done"}.get(function, "")
    assert done in capsys.readouterr().out
    for path in ("data/mine/mine_frame.lmdb", "data/mine/mine_tvl1_frame.lmdb"):
        assert stored(tmp_path / path) == stored(with_dis / path)
    assert not list(tmp_path.rglob("*partial*"))


def test_without_flow_frames_and_splits_are_the_same(videos, with_dis, tmp_path, capsys):
    assert call(prepare.main, *arguments(videos, tmp_path, flow="none")) == 0
    shown = capsys.readouterr()
    assert "frames and flow" not in shown.err
    assert "none: train with --second_view residual" in shown.out
    left = {path.name for path in (tmp_path / "data/mine").iterdir()}
    assert left == {".lock", "mine_prepare.json", "mine_frame.lmdb", "mine_frame.lmdb-order"}
    assert stored(tmp_path / "data/mine/mine_frame.lmdb") == stored(with_dis / "data/mine/mine_frame.lmdb")
    for path in (with_dis / "splits/mine").iterdir():
        assert (tmp_path / "splits/mine" / path.name).read_text() == path.read_text()


def test_flow_never_stays_beside_frames_that_it_does_not_fit(videos, with_dis, tmp_path, capsys):
    shutil.copytree(with_dis, tmp_path, dirs_exist_ok=True)
    flow = tmp_path / "data/mine/mine_tvl1_frame.lmdb"
    before = file_contents(tmp_path)
    for more, words in (([], "flow (dis, now none)"), (["--overwrite"], f"{flow} exists")):
        assert words in refusal(capsys, prepare.main, *arguments(videos, tmp_path, *more, flow="none"))
        assert file_contents(tmp_path) == before
    flow.unlink()
    assert call(prepare.main, *arguments(videos, tmp_path, "--overwrite", flow="none")) == 0
    assert not flow.exists()
    assert "flow (none, now dis)" in refusal(capsys, prepare.main, *arguments(videos, tmp_path))
    assert call(prepare.main, *arguments(videos, tmp_path, "--overwrite")) == 0 and flow.is_file()


@pytest.mark.parametrize(("size", "side", "scaled"), [((480, 640), 240, (240, 320)), ((640, 480), 240, (320, 240)),
                                                      ((240, 320), 240, (240, 320)), ((480, 640), 0, (480, 640))])
def test_short_side_scales_large_frames_only(size, side, scaled):
    assert shrink(np.zeros((*size, 3), np.uint8), side).shape == (*scaled, 3)


def test_flow_image_by_table():
    flow = np.array([[[0, 0], [-20, 20], [-99, 99], [1, -1]]], np.float32)
    expected = [[[128, 128, 128], [0, 255, 128], [0, 255, 128], [134, 121, 128]]]
    np.testing.assert_array_equal(flow_image(flow), expected)


def test_official_lists_of_more_classes_than_there_are(videos, tmp_path, capsys):
    """As a student has them: two of 101 classes, one in another case, the lists in the folder that the zip makes."""
    for name in ("HandStandPushups", "Archery"):
        for group in (1, 8):
            write_video(tmp_path / "videos" / name / f"v_{name}_g{group:02d}_c01.avi")
    lists = tmp_path / "zip/ucfTrainTestlist"
    lists.mkdir(parents=True)
    rows_of = [f"{c}/v_{v}_g{{}}_c01.avi" for c, v in (("HandstandPushups", "HandStandPushups"), ("Archery", "Archery"),
                                                       ("YoYo", "YoYo"))]
    (lists / "trainlist01.txt").write_text("".join(f"{row.format('08')} 1\r\n" for row in rows_of))
    (lists / "testlist01.txt").write_text("".join(f"{row.format('01')}\r\n" for row in rows_of))
    command = arguments(tmp_path / "videos", tmp_path, "--name", "ucf101", "--splits", tmp_path / "zip", flow="none")
    assert "--allow_missing" in refusal(capsys, prepare.main, *command)
    assert call(prepare.main, *command, "--allow_missing") == 0
    assert "2 of the 6 listed videos do not exist: " in capsys.readouterr().out
    assert rows(tmp_path / "splits/ucf101/train_split01.csv") == [
        ["Archery/v_Archery_g08_c01", "4"], ["HandStandPushups/v_HandStandPushups_g08_c01", "4"]]
    classes = read_classes(tmp_path / "splits/ucf101/ClassInd.txt")
    found = catalog.build("ucf101", "gallery", transform=None, data_root=tmp_path / "data",
                          split_root=tmp_path / "splits", seq_len=2, ds=1).index
    assert len(classes) == 101 and [classes[label] for label in found.labels] == ["Archery", "HandstandPushups"]


def test_wrong_input_is_one_line_and_nothing_is_touched(videos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad/A").mkdir(parents=True)
    (tmp_path / "bad/A/x.avi").write_bytes(b"junk")
    (tmp_path / "twice/A").mkdir(parents=True)
    for suffix in ("avi", "mp4"):
        (tmp_path / f"twice/A/x.{suffix}").write_bytes(b"junk")
    (tmp_path / "data/mine").mkdir(parents=True)
    (tmp_path / "data/mine/mine_frame.lmdb").write_text("precious")
    (tmp_path / "data/taken/taken_tvl1_frame.lmdb").mkdir(parents=True)
    before = file_contents(tmp_path)
    for more, words in [
        (["--videos", tmp_path / "none"], "no folder"), (["--videos", tmp_path / "empty"], "no videos"),
        (["--videos", tmp_path / "twice"], "only in their suffix"), (["--name", "a/b"], "--name"),
        (["--name", "mine-f"], "--name"), (["--name", "k400"], "K400"), (["--name", "hmdb51"], "--splits"),
        (["--workers", "x"], "--workers"), (["--seed", "x"], "--seed"),
        (["--splits", tmp_path / "none"], "no folder"), (["--splits", tmp_path / "empty"], "no split lists"),
        (["--data_root", tmp_path / "bad/A/x.avi"], "x.avi is a file"),
        (["--split_root", tmp_path / "bad/A/x.avi"], "x.avi is a file"),
        (["--name", "taken", "--overwrite"], "taken_tvl1_frame.lmdb is a folder"), ([], "exists"),
    ]:
        assert words in refusal(capsys, prepare.main, *arguments(videos, tmp_path, *more))
    assert file_contents(tmp_path) == before
    assert "none of the 1 videos" in refusal(
        capsys, prepare.main, *arguments(videos, tmp_path, "--videos", tmp_path / "bad", "--name", "other"))


def grow(folder):
    """Add a class, add, remove, rename and replace a video; return the names of those that have to be decoded."""
    write_video(folder / "Extra/v_Extra_g01_c01.avi")
    write_video(folder / "Slide/v_Slide_g04_c01.avi")
    (folder / "Slide/v_Slide_g02_c01.avi").unlink()
    (folder / "Slide/v_Slide_g03_c01.avi").rename(folder / "Slide/v_Slide_g05_c01.avi")
    write_video(folder / "new.avi", frames=5).replace(folder / "Spin/v_Spin_g01_c01.avi")
    return ["Extra/v_Extra_g01_c01", "Slide/v_Slide_g04_c01", "Spin/v_Spin_g01_c01", "Slide/v_Slide_g01_c02"]


@pytest.mark.parametrize("interrupted", [None, ("pack_video", 1), ("to_lmdb.write_lmdb", 1)])
def test_a_folder_that_grows_keeps_what_was_made_of_other_videos(videos, with_dis, tmp_path, monkeypatch, interrupted):
    shutil.copytree(videos, tmp_path / "videos")
    shutil.copytree(with_dis, tmp_path, dirs_exist_ok=True)
    command = arguments(tmp_path / "videos", tmp_path)
    new = grow(tmp_path / "videos")
    if interrupted:
        killed_after("prepare.py", *interrupted, command)
    original, decoded_again = prepare.pack_video, []

    def pack_video(video, *args):
        decoded_again.append(f"{video.parent.name}/{video.stem}")
        return original(video, *args)
    monkeypatch.setattr(prepare, "pack_video", pack_video)
    assert call(prepare.main, *command) == 0
    expected = {None: new, ("pack_video", 1): new[1:], ("to_lmdb.write_lmdb", 1): new[-1:]}[interrupted]
    assert sorted(decoded_again) == sorted(expected)
    assert call(prepare.main, *arguments(tmp_path / "videos", tmp_path / "fresh")) == 0
    for stream in ("frame", "tvl1_frame"):
        path = f"data/mine/mine_{stream}.lmdb"
        assert stored(tmp_path / path) == stored(tmp_path / "fresh" / path)
    grown, fresh = ({path.name: path.read_bytes() for path in (home / "splits/mine").iterdir()}
                    for home in (tmp_path, tmp_path / "fresh"))
    assert grown == fresh
    assert not list(tmp_path.rglob("*partial*"))


def test_lists_that_others_wrote_are_not_replaced_when_a_folder_grows(videos, with_dis, tmp_path, capsys):
    shutil.copytree(videos, tmp_path / "videos")
    shutil.copytree(with_dis, tmp_path, dirs_exist_ok=True)
    command = arguments(tmp_path / "videos", tmp_path)
    write_video(tmp_path / "videos/Spin/v_Spin_g04_c01.avi")
    path = tmp_path / "splits/mine/train_split01.csv"
    path.write_text(path.read_text().upper())
    assert f"{path} exists with other content" in refusal(capsys, prepare.main, *command)
    assert path.read_text() == path.read_text().upper()
    assert call(prepare.main, *command, "--overwrite") == 0 and "v_Spin_g04" in path.read_text()
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Spin/v_Spin_g01_c01.avi\n")
    (lists / "testlist01.txt").write_text("Spin/v_Spin_g03_c01.avi\n")
    assert "exists with other content" in refusal(capsys, prepare.main, *command, "--splits", lists)


def test_a_second_preparation_at_once_is_one_line(videos, with_dis, capsys):
    child = os.fork()
    if child == 0:  # locks belong to processes: another one has to hold it
        with files.lock(with_dis / "data/mine"):
            (with_dis / "held").touch()
            time.sleep(60)
        os._exit(0)
    try:
        while not (with_dis / "held").exists():
            time.sleep(0.01)
        assert f"another process is preparing in {with_dis}/data/mine" in refusal(
            capsys, prepare.main, *arguments(videos, with_dis))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        (with_dis / "held").unlink()
    assert call(prepare.main, *arguments(videos, with_dis)) == 0


def test_a_full_disk_in_a_worker_is_one_line(videos, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = script("prepare.py", *arguments(videos, tmp_path), "--workers", 2, preexec_fn=limit)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stderr
    assert "File too large" in done.stderr and "Traceback" not in done.stderr


def test_extract_ff_continues_and_writes_the_frames_of_prepare(videos, with_dis, tmp_path, capsys):
    frames, out = tmp_path / "frames", tmp_path / "two_steps.lmdb"
    command = ("--videos", videos, "--out", frames, "--workers", 1, "--flow")
    killed_after("extract_ff.py", "extract", 2, (*command, "dis"))
    name = hashlib.sha256(b"v_Spin_g01_c01").hexdigest()
    (frames / f"Spin/.{name}.partial").mkdir(parents=True)  # as a kill midway leaves it
    assert call(extract_ff.main, *command, "dis") == 0
    assert "are done already" in capsys.readouterr().out
    assert {f"{path.parent.name}/{path.name}" for path in frames.glob("*/*")} == {
        name for name in find_videos(videos) if not name.endswith("c02")}
    for folder in frames.glob("*/*"):
        expected = [f"flow_{i:05d}.jpg" for i in range(1, 4)] + [f"image_{i:05d}.jpg" for i in range(1, 5)]
        assert sorted(path.name for path in folder.iterdir()) == expected
    assert "flow (dis, now tvl1)" in refusal(capsys, extract_ff.main, *command, "tvl1")
    assert call(convert_video_to_lmdb.main, "--frames", frames, "--kind", "flow", "--out", out) == 0
    assert stored(out) == stored(with_dis / "data/mine/mine_tvl1_frame.lmdb")
    assert "holds other files" in refusal(capsys, extract_ff.main, *command[:2], "--out", out.parent)


@pytest.fixture
def parts(videos, tmp_path):
    """Four shards at once, in processes of their own; the first is killed and started again."""
    command = arguments(videos, tmp_path)
    killed_after("prepare.py", "pack_video", 1, (*command, "--shard", "1/4"))
    running = [subprocess.Popen([sys.executable, SOURCE / "prepare.py", *map(str, command), "--shard", f"{i}/4"],
                                stdout=subprocess.PIPE, text=True) for i in (1, 2, 3, 4)]
    shown = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert "1 of 2 videos are done already" in shown[0] and "part 4 of 4: 1 videos in " in shown[3]
    return command, tmp_path / "data/mine/prepare.parts"


def test_shards_merged_are_what_one_process_makes(parts, with_dis, tmp_path):
    killed_after("prepare.py", "to_lmdb.write_lmdb", 1, (*parts[0], "--merge"))
    assert call(prepare.main, *parts[0], "--merge") == 0
    for path in ("data/mine/mine_frame.lmdb", "data/mine/mine_tvl1_frame.lmdb"):
        assert stored(tmp_path / path) == stored(with_dis / path)
    for path in (with_dis / "splits/mine").iterdir():
        assert (tmp_path / "splits/mine" / path.name).read_text() == path.read_text()
    assert not parts[1].exists() and not list(tmp_path.rglob("*partial*"))
    assert call(prepare.main, *parts[0]) == 0


def test_a_part_that_is_missing_or_differs_is_named(parts, videos, tmp_path, capsys):
    command, folder = parts
    before = file_contents(tmp_path)
    third = folder / "3"
    assert f"{folder}/1 was made with other settings: short_side (240, now 16)" in refusal(
        capsys, prepare.main, *command, "--merge", "--short_side", 16)
    assert f"{folder}/2 was made with other settings: shards (4, now 5)" in refusal(
        capsys, prepare.main, *command, "--shard", "2/5")
    third.rename(tmp_path / "away")
    assert f"part {third} is missing or not finished: run --shard 3/4 again" in refusal(
        capsys, prepare.main, *command, "--merge")
    (tmp_path / "away").rename(third)
    assert file_contents(tmp_path) == before
    shutil.copytree(videos, tmp_path / "more")
    write_video(tmp_path / "more/Zap/v_Zap_g01_c01.avi")
    assert "part" in (line := refusal(capsys, prepare.main, *command, "--videos", tmp_path / "more", "--merge"))
    assert "/4 was made of other videos: run --shard 4/4 again" in line
    assert "no parts in" in refusal(capsys, prepare.main, *command, "--name", "other", "--merge")
    assert "without --shard" in refusal(capsys, prepare.main, *command, "--merge", "--shard", "1/4")
    assert "--shard" in refusal(capsys, prepare.main, *command, "--shard", "5/4")


def test_extract_ff_in_shards_fills_one_folder(videos, tmp_path):
    command = ("--videos", videos, "--out", tmp_path / "frames", "--workers", 1, "--flow", "none")
    for number in (1, 2):
        assert call(extract_ff.main, *command, "--shard", f"{number}/2") == 0
    assert len(convert_video_to_lmdb.find_folders(tmp_path / "frames")) == 6
