"""Names of videos from lists, folders and LMDBs that others made never lead out of the folder they are for."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import lmdb
import miniature
import msgpack
import numpy as np
import pytest

from dataset.errors import DataError
from dataset.lmdb_reader import LmdbReader
from dataset.split_files import read_rows, video_name
from process_data.src import convert_video_to_lmdb, errors, extract_ff, lmdb_file, names, prepare, write_csv
from process_data.src.errors import PrepareError

LEAVING = ("../evil", "A/..", "../../evil", "A/../../evil", "/OUT/evil", "/evil", "//evil", "A/", "/", "", ".",
           "./evil", "A/.", "A//evil", "A/B/evil", "evil")
UNFIT = ("A/ev\nil", "A/ev\ril", "A/ev\x00il", "A/\x1b[2Jevil", "A\x85/evil", "A/evil\u2028", "A/\x7f",
         "A/\udc80evil")
FIT = ("A/a", "Class name/v_é_g01_c01", "A/..a", "A/a..", "...A/a", "A\\B/c:d", "A/\u202eevil", "~/a", "$HOME/a",
       "-A/--a")


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def inner(tmp_path, monkeypatch):
    """A working directory whose surroundings are empty: what leaves it is seen."""
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return inner


def outside(inner: Path) -> list[str]:
    """What lies around the working directory, besides itself."""
    return [name for name in everything(inner.parents[2]) if not (name + "/").startswith("a/b/c/")][2:]


def ended(capsys, main: Callable[[], None], *words: str) -> str:
    """The line with which a script refuses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            errors.run(main)
    [line] = capsys.readouterr().err.split("\n")[:-1]
    assert exit_info.value.code == 2
    return line


def video(path: Path) -> Path:
    """A video of four frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter("made.avi", cv2.VideoWriter_fourcc(*"MJPG"), 15, (64, 48))
    for number in range(4):
        writer.write(miniature.frame("A/a", number))
    writer.release()
    return Path("made.avi").rename(path)


@pytest.mark.parametrize("name", [*LEAVING, *UNFIT])
def test_a_name_that_leads_elsewhere_or_fits_no_list_is_refused(tmp_path, name):
    with pytest.raises(PrepareError) as caught:
        names.below(tmp_path, name)
    assert "\n" not in str(caught.value) and "rename" in str(caught.value)


@pytest.mark.parametrize("name", FIT)
def test_unusual_names_that_stay_inside_are_taken(tmp_path, name):
    place = names.below(tmp_path, name)
    place.mkdir(parents=True)
    assert place.resolve().parent.parent == tmp_path.resolve()


@pytest.mark.parametrize("name", [*LEAVING[:5], *UNFIT[:5]])
def test_no_script_writes_for_such_a_name(inner, capsys, monkeypatch, name):
    """As if a folder could hold such a name: what finds videos and frames is replaced."""
    name = name.replace("/OUT", str(inner.parents[2]))
    found = {"A/good": video(inner / "videos/A/good.avi"), name: inner / "videos/A/good.avi"}
    for script in (extract_ff, prepare):
        monkeypatch.setattr(script, "find_videos", lambda folder: dict(found))
    common = ("--videos", "videos", "--workers", "1", "--flow", "dis")
    lines = [ended(capsys, extract_ff.main, *common, "--out", "frames")]
    lines += [ended(capsys, prepare.main, *common, "--name", "mine", "--data_root", "data", "--split_root", "splits")]
    frames = inner / "good"
    frames.mkdir()
    (frames / "image_00001.jpg").write_bytes(miniature.jpeg(miniature.frame("A/a", 0)))
    monkeypatch.setattr(convert_video_to_lmdb, "find_folders", lambda folder: {"A/good": frames, name: frames})
    lines += [ended(capsys, convert_video_to_lmdb.main, "--frames", "frames", "--out", "x.lmdb")]
    assert all(repr(name) in line for line in lines), lines
    assert outside(inner) == []
    assert not list(inner.rglob("evil*")) and not list(inner.rglob("*.jpg"))[1:] and not Path("x.lmdb").exists()
    assert not list(inner.rglob("*.msgpack"))


def test_the_writers_do_write_for_names_that_are_fit(inner, capsys, monkeypatch):
    video(inner / "videos/A/v_g01_c01.avi")
    video(inner / "videos/A/v_g02_c01.avi")
    monkeypatch.setattr(sys, "argv", ["", "--videos", "videos", "--out", "frames", "--workers", "1", "--flow", "dis"])
    errors.run(extract_ff.main)
    assert len(list(inner.rglob("image_*.jpg"))) == 8 and outside(inner) == []


def hostile_lmdb(path: Path, name: str, count: int = 2) -> Path:
    """An LMDB with one good video and one of a hostile name."""
    images = [miniature.jpeg(miniature.frame("A/a", number)) for number in range(count)]
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 22) as environment, \
            environment.begin(write=True) as transaction:
        entries = {b"__order__": ["A/a", name], b"__keys__": [b"000000000", b"000000001"], b"__vlen__": [count] * 2,
                   b"__len__": 2, b"000000000": images, b"000000001": images}
        for key, value in entries.items():
            transaction.put(key, msgpack.packb(value, unicode_errors="surrogatepass"))
    return path


@pytest.mark.parametrize("name", [*LEAVING, *UNFIT])
def test_nothing_is_written_from_an_lmdb_with_such_a_name(inner, capsys, name):
    hostile_lmdb(inner / "x.lmdb", name)
    before = everything(inner)
    ended(capsys, write_csv.main, "--name", "mine", "--data", "x.lmdb", "--split_root", "splits")
    with pytest.raises(PrepareError):
        lmdb_file.write_lmdb(inner / "y.lmdb", ["A/a", name], lambda _: lmdb_file.pack([b"x"]))
    assert everything(inner) == before and outside(inner) == []


@contextlib.contextmanager
def opened() -> Iterator[list[str]]:
    """The files that are opened, and the folders that are made or listed, meanwhile."""
    _watch[0] = found = []
    yield found
    _watch[0] = None


_watch: list[list[str] | None] = [None]


@sys.addaudithook
def _note(event: str, arguments: tuple) -> None:
    if _watch[0] is not None and event in ("open", "os.mkdir", "os.listdir", "os.scandir", "os.rename", "os.remove"):
        _watch[0].append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else "")


@pytest.mark.parametrize("name", [name for name in (*LEAVING, *UNFIT) if "\udc80" not in name])
def test_a_reader_opens_no_other_file_for_such_a_name(inner, name):
    path = hostile_lmdb(inner / "x.lmdb", name)
    reader = LmdbReader(path)
    with opened() as files:
        assert name in reader and reader.num_frames(name) == 2
        read = [reader.frames(video, [0, 1]) for video in (name, "A/a")]
        with pytest.raises(DataError, match="has no video"):
            reader.frames(name + "x", [0])
        with contextlib.suppress(OSError):
            open(inner / "seen").close()
    np.testing.assert_array_equal(*read)
    assert files[-1] == str(inner / "seen")  # the watch works
    assert {Path(file).name for file in files[:-1]} <= {"x.lmdb", "x.lmdb-ends.npy"} and outside(inner) == []


@pytest.mark.parametrize("path", [
    "/some/where/Class/v_Class_g01_c01", "Class/v_Class_g01_c01/", "../../Class/v_Class_g01_c01",
    "C:\\x\\../Class/v_Class_g01_c01"])
def test_the_paths_of_published_lists_stay_readable(tmp_path, path):
    (tmp_path / "x.csv").write_text(f"{path},20\n")
    [read], counts = read_rows(tmp_path / "x.csv")
    assert read == path and counts.tolist() == [20] and video_name(read) == "Class/v_Class_g01_c01"
