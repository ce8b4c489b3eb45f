"""Read frames from LMDBs of both msgpack string types, in any process; errors of damaged files."""

import os
from pathlib import Path

import cv2
import lmdb
import msgpack
import numpy as np
import pytest
import simplejpeg
from damage import damaged, refused
from miniature import frame, jpeg, write_lmdb

from dataset.lmdb_reader import LmdbReader
from utils.errors import DataError

NAMES = ["Alpha/v_Alpha_g01_c01", "Beta two/b", "Beta two/ü"]


def video(name: str, count: int) -> list[bytes]:
    return [jpeg(frame(name, number)) for number in range(count)]


@pytest.fixture
def reader(tmp_path):
    return LmdbReader(write_lmdb(tmp_path / "a.lmdb", {name: video(name, 3 + i) for i, name in enumerate(NAMES)}))


def put(path, key: bytes, value: bytes | None) -> None:
    with lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 24) as env, env.begin(write=True) as transaction:
        transaction.put(key, value) if value is not None else transaction.delete(key)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("folder", [True, False])
def test_round_trip(tmp_path, raw, folder):
    videos = {name: video(name, count) for name, count in zip(NAMES, (3, 20, 40), strict=True)}
    reader = LmdbReader(write_lmdb(tmp_path / "a.lmdb", videos, raw=raw, folder=folder))
    assert sorted(reader.names) == sorted(NAMES)
    assert NAMES[0] in reader and "Alpha/other" not in reader
    for name, jpegs in videos.items():
        assert reader.num_frames(name) == len(jpegs)
        wanted = [2, 0, 0, len(jpegs) - 1, 2]
        frames = reader.frames(name, wanted)
        assert frames.dtype == np.uint8 and frames.shape == (5, 48, 64, 3)
        for got, number in zip(frames, wanted, strict=True):
            expected = cv2.imdecode(np.frombuffer(jpegs[number], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            assert (got == expected).all()


def test_flow_is_read_as_128_y_x(tmp_path):
    """x flow lies in the first channel as OpenCV stores an image, which is the last of RGB."""
    stored = np.full((16, 16, 3), (40, 200, 128), np.uint8)  # as OpenCV has it: x, y, 128
    data = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    frames = LmdbReader(write_lmdb(tmp_path / "a.lmdb", {"A/a": [data]})).frames("A/a", [0])
    assert np.abs(frames[0, 8, 8].astype(int) - (128, 200, 40)).max() <= 3


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows with each JPEG that is decoded."""
    calls = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *given, **named: calls.append(1) or decode(*given, **named))
    return calls


def test_each_frame_is_decoded_once(reader, decoded):
    whole = reader.frames(NAMES[2], [*range(5), 2])
    assert len(decoded) == 5
    decoded.clear()
    clips = reader.clips(NAMES[2], np.array([[0, 1, 2], [4, 2, 1], [2, 3, 4]]))
    assert len(decoded) == 5
    rows = [0, 1, 2], [4, 2, 1], [2, 3, 4]
    assert [(clip == whole[list(row)]).all() for clip, row in zip(clips, rows, strict=True)] == [True] * 3


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"there is no LMDB .*none\.lmdb"):
        LmdbReader(tmp_path / "none.lmdb").frames("A/a", [0])


@pytest.mark.parametrize("content", [b"", b"this is no database" * 1000])
def test_a_file_that_is_no_lmdb(tmp_path, content):
    (tmp_path / "a.lmdb").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.lmdb"):
        _ = LmdbReader(tmp_path / "a.lmdb").names


@pytest.mark.parametrize("key", [b"__order__", b"__keys__", b"__vlen__"])
@pytest.mark.parametrize("value", [None, b"\xdc\x00", b"\x01", msgpack.packb(["x", 2])])
def test_broken_metadata(reader, key, value):
    put(reader.path, key, value)
    with pytest.raises(DataError, match=r"are missing, damaged or inconsistent .*: it was not written") as error:
        _ = reader.names
    assert "a.lmdb" in str(error.value) and "\n" not in str(error.value)


def key_of(reader: LmdbReader, name: str) -> bytes:
    return b"%09d" % LmdbReader(reader.path).names.index(name)  # the other reader has not seen the file yet


def test_a_missing_value_and_an_unknown_video(reader):
    put(reader.path, key_of(reader, NAMES[0]), None)
    with pytest.raises(DataError, match=f"video {NAMES[0]}"):
        reader.frames(NAMES[0], [0])
    with pytest.raises(DataError, match=r"has no video A/\.\./b"):
        reader.frames("A/../b", [0])


@pytest.mark.parametrize(("frames", "wrong"), [([0, 7, 9], 7), ([-1, 0], -1)])
def test_frames_that_a_video_does_not_have(reader, frames, wrong):
    for collected in (None, []):
        with pytest.raises(DataError, match=rf"video {NAMES[0]}: frame {wrong} requested, but the video has 3"):
            reader.clips(NAMES[0], np.array([frames]), collected)


@pytest.mark.parametrize("folder", [True, False])
def test_a_truncated_file_is_an_error_and_not_the_end_of_the_process(tmp_path, folder):
    path = write_lmdb(tmp_path / "a.lmdb", {"A/a": video("A/a", 20)}, folder=folder)
    data = path / "data.mdb" if folder else path
    size = data.stat().st_size
    os.truncate(data, size - 4096)
    with pytest.raises(DataError, match=rf"a.lmdb is cut short: {size - 4096} of {size} bytes; copy or download it"):
        _ = LmdbReader(path).names


def refusals(path: Path) -> int:
    """Read all that an LMDB has of our videos; return how many readings were refused."""
    reader = LmdbReader(path)

    def frames(name: str) -> None:
        found = reader.frames(name, [0, 2])
        assert found.dtype == np.uint8 and found.ndim == 4 and found.shape[::3] == (2, 3)

    def lengths() -> None:
        assert reader.names and all(reader.num_frames(name) >= 0 for name in reader.names)
    return sum(refused(lambda name=name: frames(name)) for name in NAMES) + refused(lengths)


def test_damage_anywhere_is_read_or_refused(reader, tmp_path):
    path, sound = tmp_path / "x.lmdb", Path(reader.path).read_bytes()
    path.write_bytes(sound)
    assert refusals(path) == 0
    found = []
    for data in damaged(sound, 300):
        path.write_bytes(data)
        found.append(refusals(path))
    assert 0 < sum(each > 0 for each in found) < 300
