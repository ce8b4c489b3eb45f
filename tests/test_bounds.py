"""What a few bytes promise is bounded before memory or time is given to it; real data stay below."""

import io
import shutil
import struct
import sys
import tracemalloc
from pathlib import Path

import cv2
import lmdb
import miniature
import msgpack
import numpy as np
import pytest
from fuzz_inputs import png_sized
from miniature import frame, jpeg, write_lmdb
from PIL import Image
from test_data_faults import NAME, change_video, put, without_frames
from test_names import ended, video

from dataset import catalog, clip_sampler, stand_ins
from dataset import jpeg as jpegs
from dataset.errors import DataError
from dataset.lmdb_pages import DamagedError, PageReader
from dataset.lmdb_reader import LmdbReader
from process_data.src import errors, prepare

MOST = (1 << 31) - 1


def progressive(size: int, scans: int, mode: str = "L") -> bytes:
    """A progressive JPEG whose last scan is there so many times."""
    file = io.BytesIO()
    Image.new(mode, (size, size), 128 if mode == "L" else (9, 99, 200)).save(file, "JPEG", progressive=True, quality=50)
    data = file.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


@pytest.mark.parametrize(("size", "scans"), [(64, 200), (64, 5000), (4096, 80)])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(size, scans, monkeypatch):
    data = progressive(size, scans)
    monkeypatch.setattr(jpegs.simplejpeg, "decode_jpeg", None)
    with pytest.raises(jpegs.FrameError, match="scans"):
        jpegs.decode([memoryview(data)])


def test_usual_progressive_jpegs_are_read():
    for mode, scans in (("L", 1), ("RGB", 1), ("RGB", 8)):
        data = progressive(200, scans, mode)
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert (jpegs.decode([memoryview(data)])[0] == expected).all()
    assert jpegs.checked_size(progressive(5792, 1)) == (5792, 5792)  # the largest one


def test_what_looks_like_scans_in_a_thumbnail_or_after_the_end_does_not_count():
    sound = jpeg(frame(NAME, 0))
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 5 * 1000) + b"\xff\xda\0\x08\x03" * 1000
    for data in (sound[:2] + thumbnail + sound[2:], sound + b"\xff\xda\0\x08\x03" * 1000):
        assert (jpegs.decode([memoryview(data)]) == jpegs.decode([memoryview(sound)])).all()
    png = cv2.imencode(".png", frame(NAME, 0))[1].tobytes()
    assert jpegs.checked_size(png + b"\xff\xda\0\x08\x03" * 1000) == miniature.SIZE


def test_the_frames_of_a_sample_have_a_bound_together(tmp_path, monkeypatch):
    images = [jpeg(frame(NAME, number)) for number in range(6)]
    path = write_lmdb(tmp_path / "a.lmdb", {NAME: images})
    size = 3 * miniature.SIZE[0] * miniature.SIZE[1]
    monkeypatch.setattr(jpegs, "MAX_BYTES", 4 * size)
    assert len(LmdbReader(path).frames(NAME, range(4))) == 4
    for replaced in (None, []):
        with pytest.raises(DataError, match=f"video {NAME}: its frames take .* GiB in one sample"):
            LmdbReader(path).clips(NAME, np.arange(5)[None], replaced)
    change_video(path, NAME, without_frames(2))  # also where one is damaged
    with pytest.raises(DataError, match="its frames take"):
        LmdbReader(path).clips(NAME, np.arange(6)[None], [])
    change_video(path, NAME, without_frames(0, 1, 2, 3, 4))  # or all but one
    with pytest.raises(DataError, match="its frames take"):
        LmdbReader(path).clips(NAME, np.arange(6)[None], [])
    assert jpegs.MAX_BYTES < 18_000 * 3 * 240 * 320 < 1 << 32  # ten minutes of UCF101's frames


def counted(path: Path, name: str, count: int) -> None:
    """Let `__vlen__` give a video another number of frames."""
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        names = msgpack.unpackb(bytes(transaction.get(b"__order__")))
    place = sorted(names).index(name)  # keys are in the order of sorted names

    def change(value: bytes) -> bytes:
        counts = msgpack.unpackb(value)
        counts[place] = count
        return msgpack.packb(counts)
    put(path, b"__vlen__", change)


def test_more_frames_than_a_file_has_room_for_are_refused(tmp_path):
    path = write_lmdb(tmp_path / "a.lmdb", {NAME: [jpeg(frame(NAME, 0))] * 3})
    counted(path, NAME, 4)
    room = path.stat().st_size // 64
    counted(path, NAME, room)
    assert LmdbReader(path).num_frames(NAME) == room
    for count in (2 * room, MOST):
        counted(path, NAME, count)
        with pytest.raises(DataError, match="__vlen__ says that it holds"):
            assert LmdbReader(path).names


def test_windows_of_an_endless_video_are_refused():
    assert len(clip_sampler.windows(1 << 20, 32, 4)) > 16_000
    with pytest.raises(DataError, match="too long for windows"):
        clip_sampler.windows(MOST, 8, 1)


def test_a_huge_count_with_a_damaged_frame_is_refused_within_bounds(tmp_path):
    """K400 and flow go by the LMDB's count alone."""
    made = miniature.make(tmp_path, frames=20)
    path = made.data_root / "UCF101/ucf101_tvl1_frame.lmdb"
    change_video(path, made.test[0], without_frames(3))
    counted(path, made.test[0], path.stat().st_size // 64 - 500)
    tracemalloc.start()
    dataset = catalog.build("ucf101-f", "test", transform=None, seq_len=8, ds=1, **made.roots)
    replaced: list[int] = []
    clips = dataset.readers[0].clips(made.test[0], np.array([[2, 3, 4, 18]]), replaced)
    assert len(clips[0]) == 4 and replaced == [3]
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_stand_ins_look_at_each_frame_once():
    looked: list[int] = []

    def jpeg_of(number: int) -> memoryview:
        looked.append(number)
        return memoryview(b"no" if number else jpeg(frame(NAME, 0)))
    images, lost = stand_ins.decode(jpeg_of, range(5000), 3000)
    assert len(images) == 5000 and lost == list(range(1, 5000)) and sorted(looked) == list(range(3000))


@pytest.mark.parametrize("number", [1 << 51, 1 << 62, (1 << 64) - 2, 1 << 40])
def test_a_root_page_that_cannot_be_leads_nowhere(tmp_path, number):
    path = write_lmdb(tmp_path / "a.lmdb", {NAME: [jpeg(frame(NAME, 0))]})
    data = bytearray(path.read_bytes())
    for page in (0, 1):
        struct.pack_into("<Q", data, page * 4096 + 16 + 112, number)
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="lead nowhere"):
        PageReader(path).value(b"__order__")
    with pytest.raises(DataError, match="lead nowhere"):
        assert LmdbReader(path).names


@pytest.mark.parametrize("kind", ["empty", "huge", "none"])
def test_a_prepared_lmdb_with_an_odd_frame_is_refused(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    for group in (1, 2):
        video(Path(f"videos/A/v_g0{group}_c01.avi"))
    words = ["--videos", "videos", "--name", "mine", "--data_root", "data", "--split_root", "splits", "--workers", "1",
             "--flow", "dis"]
    monkeypatch.setattr(sys, "argv", ["", *words])
    errors.run(prepare.main)
    png = cv2.imencode(".png", frame(NAME, 0))[1].tobytes()
    odd = {"empty": [b""], "huge": [png_sized(png, 60_000, 60_000)], "none": []}[kind]
    for stream, count in (("frame", 1), ("tvl1_frame", 0)) if kind == "none" else ():
        path = Path(f"data/mine/mine_{stream}.lmdb")
        Path(f"{path}-ends.npy").unlink()
        counted(path, "A/v_g01_c01", count)
        change_video(path, "A/v_g01_c01", lambda value, count=count: msgpack.packb(msgpack.unpackb(value)[:count]))
    if odd:
        change_video(Path("data/mine/mine_frame.lmdb"), "A/v_g01_c01",
                     lambda value: msgpack.packb(odd + msgpack.unpackb(value)[1:]))
    words = {"empty": "does not decode", "huge": "says that it has 60000 x 60000", "none": "holds no frame"}
    shutil.rmtree("splits")
    assert words[kind] in ended(capsys, prepare.main, *sys.argv[1:])
