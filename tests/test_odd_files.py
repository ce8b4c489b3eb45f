"""Named pipes, devices and links in place of files: nothing waits for ever, and no other file is written or packed."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import miniature
import pytest
from test_names import ended, video

from dataset import catalog
from dataset.errors import DataError
from process_data.src import convert_video_to_lmdb, errors, extract_ff, names, prepare, splits
from process_data.src.errors import PrepareError
from process_data.src.lmdb_file import open_lmdb
from utils import journal, provenance, run_folder
from utils.console import log_file, say
from utils.files import replace

COMMON = ("--workers", "1", "--flow", "dis")
PREPARE = ("--videos", "videos", "--name", "mine", "--data_root", "data", "--split_root", "splits", *COMMON)


@pytest.fixture(autouse=True)
def alarm():
    """What waits for ever fails."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def piped(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("file", ["splits/ucf101/ClassInd.txt", "splits/ucf101/train_split01.csv",
                                  "splits/ucf101/video_source.json", "data/UCF101/ucf101_frame.lmdb",
                                  "data/UCF101/ucf101_frame.lmdb-ends.npy"])
def test_a_pipe_in_a_dataset_is_refused(tmp_path, file):
    made = miniature.make(tmp_path)
    piped(tmp_path / file)
    with pytest.raises((DataError, OSError), match="not a regular file") as caught:
        catalog.build("ucf101", "train", transform=None, seq_len=8, ds=1, **made.roots)
    assert Path(file).name in str(caught.value)


@pytest.fixture
def run(tmp_path):
    """A run folder, and a file beside it."""
    (tmp_path / "victim").write_text("precious")
    return run_folder.make(tmp_path / "run")


def use(folder: Path) -> None:
    """Open all of a run folder's files as a run does."""
    with run_folder.hold(folder), log_file(folder / "img/train.log"):
        say("hello")
        provenance.write_run(folder, {})
        record = journal.open_journal(folder, 0, 0)
        record._line(epoch=0)
        record.close()


@pytest.mark.parametrize("name", [".lock", "img/train.log", "metrics.jsonl", "run.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_odd_files_in_a_run_folder(run, name, kind):
    if kind == "link":
        (run / name).symlink_to(run.parent / "victim")
    elif kind == "pipe":
        piped(run / name)
    else:
        (run / name).mkdir()
    if name == "run.json" and kind != "folder":
        use(run)  # another takes its place
        assert len(json.loads((run / name).read_text())["starts"]) == 1 and not (run / name).is_symlink()
    else:
        with pytest.raises(OSError) as caught:
            use(run)
        assert str(caught.value.filename) == str(run / name)
        assert kind != "link" or caught.value.strerror == "it is a link"
    assert (run.parent / "victim").read_text() == "precious"


def test_a_lock_is_not_emptied(run):
    (run / ".lock").write_text("kept")
    use(run)
    assert (run / ".lock").read_text() == "kept" and "hello" in (run / "img/train.log").read_text()


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError) as caught:
        replace(tmp_path / "x", b"")
    assert caught.value.filename == str(tmp_path / "x") and os.listdir(tmp_path) == ["x"]


@pytest.fixture
def frames(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("frames/A/v")
    folder.mkdir(parents=True)
    for number in (1, 2):
        (folder / f"image_{number:05d}.jpg").write_bytes(miniature.jpeg(miniature.frame("A/a", number)))
    Path("secret.txt").write_text("secret")
    return folder


@pytest.mark.parametrize("kind", ["device", "pipe", "secret", "empty", "huge"])
def test_a_frame_that_is_no_jpeg_is_refused(frames, capsys, kind):
    path = frames / "image_00002.jpg"
    path.unlink()
    if kind == "pipe":
        piped(path)
    elif kind in ("device", "secret"):
        path.symlink_to("/dev/zero" if kind == "device" else Path("secret.txt").absolute())
    else:
        path.touch()
        os.truncate(path, 1 << 40 if kind == "huge" else 0)
    line = ended(capsys, convert_video_to_lmdb.main, "--frames", "frames", "--out", "x.lmdb")
    assert "image_00002.jpg" in line and not Path("x.lmdb").exists()


def test_links_to_frames_are_taken(frames, monkeypatch):
    Path("linked/A").mkdir(parents=True)
    Path("linked/A/folder").symlink_to(frames.absolute())
    Path("linked/A/files").mkdir()
    for path in frames.iterdir():
        Path("linked/A/files", path.name).symlink_to(path.absolute())
    monkeypatch.setattr(sys, "argv", ["", "--frames", "linked", "--out", "x.lmdb"])
    errors.run(convert_video_to_lmdb.main)
    with open_lmdb(Path("x.lmdb")) as file:
        assert file.lengths == {"A/files": 2, "A/folder": 2}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A set that is prepared, and its record."""
    monkeypatch.chdir(tmp_path)
    for group in (1, 2):
        video(Path(f"videos/A/v_g0{group}_c01.avi"))
    monkeypatch.setattr(sys, "argv", ["", *PREPARE])
    errors.run(prepare.main)
    return Path("data/mine/mine_prepare.json")


def test_a_record_of_something_else_is_refused(prepared, capsys):
    good = json.loads(prepared.read_text())
    for odd in ({"settings": 5}, {"settings": [1]}, good | {"finished": 3}, good | {"finished": None},
                good | {"finished": "rgb"}, good | {"finished": ["flow"]}, good | {"finished": [[]]}):
        prepared.write_text(json.dumps(odd))
        assert "is no record of this command" in ended(capsys, prepare.main, *PREPARE), odd
    prepared.write_text(json.dumps({"settings": {"flow": "x" * 5000}, "finished": []}))
    assert len(ended(capsys, prepare.main, *PREPARE)) < 600
    shutil.rmtree("data")
    prepared.parent.mkdir(parents=True)
    piped(prepared)
    assert "not a regular file" in ended(capsys, prepare.main, *PREPARE)


def test_a_damaged_record_of_an_extraction_says_what_can_be_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    video(Path("videos/A/v.avi"))
    Path("frames").mkdir()
    Path("frames/extract.json").write_text("{")
    line = ended(capsys, extract_ff.main, "--videos", "videos", "--out", "frames", *COMMON)
    assert "--overwrite" not in line and "--out" in line
    piped(Path("frames/extract.json"))
    assert "extract.json" in ended(capsys, extract_ff.main, "--videos", "videos", "--out", "frames", *COMMON)


@pytest.mark.parametrize("lines", ["a.avi 1\na.avi 2\n", "a.avi 1\na.avi 1\n", "a.avi 1\na.avi 0\n"])
def test_a_video_that_an_hmdb51_list_has_twice_is_refused(tmp_path, lines):
    for split in (1, 2, 3):
        (tmp_path / f"A_test_split{split}.txt").write_text("b.avi 1\n" + lines)
    with pytest.raises(PrepareError, match="lists a twice"):
        splits.hmdb51_splits(tmp_path)


def test_a_video_that_an_official_list_has_twice_is_refused(tmp_path):
    (tmp_path / "trainlist01.txt").write_text("A/a.avi 1\nA/a.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("A/b.avi\n")
    with pytest.raises(PrepareError, match="lists A/a twice"):
        splits.official_splits(tmp_path)


@pytest.mark.parametrize("label", ["A ", " A", "A\u00a0", "\u3000A", " ", "\ufeffA"])
def test_a_class_that_its_list_would_change_is_refused(tmp_path, label):
    with pytest.raises(PrepareError, match="rename"):
        names.require_name(f"{label}/v", tmp_path)
    names.require_name("A b/v ", tmp_path)  # a video may be called so
