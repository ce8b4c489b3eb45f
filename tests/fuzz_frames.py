"""Fuzz targets: LMDBs of frames (values, ends, metadata, pages) and JPEGs."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import lmdb
import msgpack
import numpy as np
from fuzz_inputs import MSGPACK, edits, many_scans, other_pages, png_sized
from fuzz_targets import Target, given
from hypothesis import strategies as st
from miniature import frame, jpeg, write_lmdb
from PIL import Image

from dataset import jpeg as jpegs
from dataset.clip_sampler import windows
from dataset.frame_ends import path_beside
from dataset.lmdb_reader import LmdbReader
from process_data.src.lmdb_file import open_lmdb, pack
from process_data.src.lmdb_file import write_lmdb as write_own

SIZE = (16, 24)
VIDEOS = {name: [jpeg(frame(name, number, SIZE)) for number in range(count)]
          for name, count in (("A/a", 4), ("A/c", 17), ("B/b", 1))}
PIXELS = {name: np.stack([cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) for data in images])
          for name, images in VIDEOS.items()}
PLACES = {"A/a": [[0, 1], [3, 2]], "A/c": [[16, 3], [3, 3]], "B/b": [[0, 0], [0, 0]]}


class Changing:
    """An LMDB with one value replaced."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self.key = path, key
        self.sound = path.read_bytes()
        with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
            self.value = bytes(transaction.get(key))

    def put(self, value: bytes) -> None:
        self.path.unlink()
        self.path.write_bytes(self.sound)
        with (lmdb.open(str(self.path), subdir=False, lock=False, sync=False, map_size=1 << 23) as env,
              env.begin(write=True) as transaction):
            transaction.put(self.key, value)


def unpacked(value: bytes) -> object:
    """What msgpack makes of a value, None where it is damaged."""
    try:
        return msgpack.unpackb(value, raw=True)
    except (ValueError, msgpack.UnpackException):
        return None


def value_target(folder: Path, name: str, *, ends: bool) -> Target:
    path = folder / f"{'ends' if ends else 'walk'}.lmdb"
    write_own(path, VIDEOS, lambda each: pack(VIDEOS[each]))
    file = Changing(path, b"%09d" % LmdbReader(path).names.index(name))

    def read(value: bytes) -> int:
        file.put(value)
        reader, elements = LmdbReader(path, walk=not ends), unpacked(value)

        def plain() -> None:
            check(reader.clips(name, np.array(PLACES[name])), [])

        def with_others() -> None:
            lost: list[int] = []
            check(reader.clips(name, np.array(PLACES[name]), lost), lost)

        def check(clips: list[np.ndarray], lost: list[int]) -> None:
            assert set(lost) <= set(np.ravel(PLACES[name]))
            for clip, wanted in zip(clips, PLACES[name], strict=True):
                assert clip.dtype == np.uint8 and clip.ndim == 4 and len(clip) == len(wanted) and clip.shape[3] == 3
                for image, number in zip(clip, wanted, strict=True):
                    sound = isinstance(elements, list) and len(elements) > number and number not in lost
                    if sound and elements[number] == VIDEOS[name][number]:
                        assert (image == PIXELS[name][number]).all()

        def find_ends() -> None:
            found = reader.frame_ends(name)
            assert found.dtype == np.uint32 and found.shape == (len(VIDEOS[name]),)
            assert (np.diff(found.astype(np.int64)) > 0).all() and found[-1] <= len(value)
        results = given(plain, with_others, find_ends, lambda: reader.frames("B/b", [0]))
        assert value != file.value or results == 4
        return results - 1  # the last one is of a sound value
    packed = [file.value, msgpack.packb(VIDEOS[name], use_bin_type=False),
              msgpack.packb([*VIDEOS[name][:1], b"", *VIDEOS[name][2:]])]
    return Target(f"LMDB values, {'with' if ends else 'without'} ends", packed, read, MSGPACK | edits(packed))


def ends_target(folder: Path) -> Target:
    path = folder / "of.lmdb"
    write_own(path, VIDEOS, lambda each: pack(VIDEOS[each]))
    beside = path_beside(path)
    sound = beside.read_bytes()

    def read(data: bytes) -> int:
        beside.unlink()
        beside.write_bytes(data)
        reader = LmdbReader(path)

        def frames(name: str) -> Callable[[], None]:
            def check() -> None:
                images = reader.frames(name, range(len(VIDEOS[name])))
                assert (images == PIXELS[name]).all()
            return check
        results = given(*map(frames, VIDEOS))
        assert data != sound or results == 3
        return results
    arrays = []
    for array in (np.zeros(0, np.uint32), np.zeros(22, ">u4"), np.zeros((2, 11), np.uint32), np.zeros(22, "V4")):
        file = io.BytesIO()
        np.save(file, array)
        arrays.append(file.getvalue())
    file = io.BytesIO()
    np.savez(file, np.zeros(22, np.uint32))
    seeds = [sound, sound, sound, *arrays, file.getvalue()]
    return Target("ends of frames", seeds, read, edits(seeds) | st.text(max_size=100).map(_npy))


def _npy(header: str) -> bytes:
    data = ("{'descr': '<u4', 'fortran_order': False, 'shape': (22,), " + header).encode("utf-8", "replace") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data


def metadata_target(folder: Path, key: str) -> Target:
    path = write_lmdb(folder / f"{key}.lmdb", VIDEOS)
    parts = {each: Changing(path, each.encode()).value for each in ("__order__", "__keys__", "__vlen__")}
    file = Changing(path, key.encode())

    def read(value: bytes) -> int:
        file.put(value)
        order, keys, lengths = (unpacked(value if each == key else sound) for each, sound in parts.items())

        def contents() -> None:
            reader = LmdbReader(path)
            found = {name: reader.num_frames(name) for name in reader.names}
            check(found)
            for name, count in found.items():
                given(lambda name=name, count=count: reader.clips(name, windows(max(count, 1), 8, 1), []))
            assert all(name in reader for name in reader.names)

        def check(found: dict[str, int]) -> None:
            assert all(type(count) is int and count >= 0 for count in found.values())
            names = [name.decode() for name in order]
            assert sorted(found) == sorted(names)
            assert found == {names[int(key)]: int(count) for key, count in zip(keys, lengths, strict=True)}

        def prepared() -> None:
            with open_lmdb(path) as opened:
                check(opened.lengths)
        results = given(contents, prepared)
        assert value != file.value or results == 2
        return results
    counts = st.lists(st.sampled_from([0, 1, 4, 17, (1 << 31) - 1]) | st.integers(0, 1 << 31), min_size=3, max_size=3)
    return Target(f"LMDB {key}", [file.value, parts["__order__"], parts["__vlen__"]], read,
                  MSGPACK | edits([file.value]) | counts.map(msgpack.packb))


def pages_target(folder: Path) -> Target:
    """The whole file: the smallest one with a tree of two levels and values in pages of their own."""
    videos = {f"A/{number:03d}": VIDEOS["B/b"] for number in range(60)} | VIDEOS
    path = write_lmdb(folder / "pages.lmdb", videos)
    sound = path.read_bytes()

    def read(data: bytes) -> int:
        path.unlink()
        path.write_bytes(data)
        reader = LmdbReader(path)

        def frames(name: str) -> Callable[[], None]:
            def check() -> None:
                images = reader.frames(name, [0])
                assert images.dtype == np.uint8 and images.ndim == 4 and len(images) == 1
                if data == sound:
                    assert (images[0] == PIXELS.get(name, PIXELS["B/b"])[0]).all()
            return check

        def prepared() -> None:
            with open_lmdb(path) as file:
                assert all(type(count) is int for count in file.lengths.values())
                for name in VIDEOS:
                    if name in file.lengths:
                        assert all(isinstance(image, bytes) for image in file.jpegs(name))
        results = given(lambda: reader.names, *map(frames, [*VIDEOS, "A/000", "A/059"]), prepared)
        assert data != sound or results == 7
        return results
    used = [sound[:os.path.getsize(path)]]
    heads = [page * 4096 + place for page in range(len(sound) // 4096) for place in range(0, 140, 2)]

    def with_heads(changes: list[tuple[int, int]]) -> bytes:
        data = bytearray(sound)
        for place, number in changes:
            data[place:place + 2] = number.to_bytes(2, "little")
        return bytes(data)
    odd = st.lists(st.tuples(st.sampled_from(heads), st.integers(0, 70) | st.integers(0, 65535)), min_size=1,
                   max_size=5).map(with_heads)
    return Target("LMDB pages", used, read, odd | other_pages(sound) | edits(used), weight=2)


def saved(form: str, mode: str = "RGB", **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame("A/a", 0, (33, 50))).convert(mode).save(file, form, **settings)
    return file.getvalue()


def jpeg_target() -> Target:
    good = saved("JPEG")
    png = saved("PNG")
    seeds = [good, saved("JPEG", subsampling=0), saved("JPEG", subsampling=2, restart_marker_rows=1),
             saved("JPEG", progressive=True), saved("JPEG", "L"), saved("JPEG", "CMYK"), png, saved("PNG", "L"),
             png_sized(png, 20_000, 20_000), saved("BMP"), saved("WEBP"), saved("TIFF"), saved("GIF"), saved("PPM"),
             saved("JPEG2000"), b"P6\n30000 30000 255\n" + bytes(99)]

    def read(data: bytes) -> int:
        def alone() -> None:
            found = jpegs.decode([memoryview(data)])
            assert found.dtype == np.uint8 and found.ndim == 4 and found.shape[0] == 1 and found.shape[3] == 3
            expected = cv2.imdecode(np.frombuffer(data, np.uint8), jpegs.DECODE_FLAGS)
            assert expected is not None and (found[0] == expected).all()

        def among_others() -> None:
            assert jpegs.decode([memoryview(each) for each in (data, good, good, good)]).shape == (4, 33, 50, 3)
        results = given(alone, among_others)
        assert data != good or results == 2
        return results
    odd = many_scans(saved("JPEG", "L", progressive=True))
    return Target("JPEGs", seeds, read, edits(seeds[:9]) | st.binary(max_size=200) | odd, weight=2)


def targets(folder: Path) -> list[Target]:
    return [value_target(folder, "A/a", ends=False), value_target(folder, "A/c", ends=True), ends_target(folder),
            *(metadata_target(folder, key) for key in ("__order__", "__keys__", "__vlen__")), pages_target(folder),
            jpeg_target()]
