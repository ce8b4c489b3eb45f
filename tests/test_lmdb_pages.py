"""Looking values up in the file, against py-lmdb."""

import shutil
import struct
from pathlib import Path

import lmdb
import pytest

from dataset.lmdb_pages import DamagedError, PageReader


def write(path, values, *, folder=False):
    env = lmdb.open(str(path), subdir=folder, map_size=1 << 26, lock=False)
    for part in (dict(list(values.items())[::2]), dict(list(values.items())[1::2])):  # two transactions, two roots
        with env.begin(write=True) as transaction:
            for key, value in part.items():
                transaction.put(key, value)
    env.close()
    return path


def stored(path, folder=False):
    with lmdb.open(str(path), subdir=folder, readonly=True, lock=False) as env, env.begin() as transaction:
        return {bytes(key): bytes(value) for key, value in transaction.cursor()}


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("count", [1, 7, 300, 20_000])
def test_every_value_is_the_one_of_lmdb(tmp_path, count, folder):
    """Trees of one to three levels; values in the tree's pages and in pages of their own, empty ones too."""
    values = {b"%09d" % i: bytes([i % 251]) * ((i * 37) % 2000 if i % 50 else 9000 + i % 5000) for i in range(count)}
    values[b"__order__"] = b"names"
    path = write(tmp_path / "file.lmdb", values, folder=folder)
    reader = PageReader(path)
    expected = stored(path, folder)
    assert len(expected) == len(values)
    assert all(reader.value(key).view == value for key, value in expected.items())
    for absent in (b"", b"%09d" % count, b"00000000", b"~", b"0000000000", b"__len__"):
        assert reader.value(absent) is None


def test_replaced_and_deleted_values(tmp_path):
    path = write(tmp_path / "file.lmdb", {b"%09d" % i: b"old" * 3000 for i in range(500)})
    env = lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False)
    with env.begin(write=True) as transaction:
        for i in range(0, 500, 3):
            transaction.put(b"%09d" % i, b"new" * i)
        for i in range(1, 500, 3):
            transaction.delete(b"%09d" % i)
    env.close()
    reader = PageReader(path)
    assert all(reader.value(key).view == value for key, value in stored(path).items())
    assert all(reader.value(b"%09d" % i) is None for i in range(1, 500, 3))


def test_an_empty_file_of_lmdb_has_no_values(tmp_path):
    path = tmp_path / "file.lmdb"
    lmdb.open(str(path), subdir=False, lock=False).close()
    with lmdb.open(str(path), subdir=False, lock=False) as env, env.begin(write=True) as transaction:
        transaction.put(b"a", b"b")
        transaction.delete(b"a")
    assert PageReader(path).value(b"a") is None


def test_other_files_are_refused(tmp_path):
    (tmp_path / "zeros").write_bytes(bytes(1 << 14))
    with pytest.raises(DamagedError, match="none of format 1"):
        PageReader(tmp_path / "zeros")


def test_a_cut_file(tmp_path):
    path = write(tmp_path / "file.lmdb", {b"%09d" % i: b"value" * 100 for i in range(2000)})
    with open(path, "r+b") as file:
        file.truncate(3 * 4096)
    with pytest.raises(DamagedError, match="is cut short: 12288 of "):
        PageReader(path)


def damaged(path: Path, page: int, offset: int, value: bytes) -> PageReader:
    with open(path, "r+b") as file:
        file.seek(page * 4096 + offset)
        file.write(value)
    return PageReader(path)


def test_damaged_pages(tmp_path):
    path = write(tmp_path / "file.lmdb", {b"%09d" % i: b"value" * 100 for i in range(2000)})
    root = PageReader(path)._root
    shutil.copy(path, tmp_path / "copy.lmdb")
    page = path.read_bytes()[root * 4096:(root + 1) * 4096]
    lower = struct.unpack_from("<H", page, 12)[0]
    for node in struct.unpack_from(f"<{(lower - 16) // 2}H", page, 16):
        circle = damaged(path, root, node, struct.pack("<HHH", root & 0xFFFF, root >> 16, 0))
    with pytest.raises(DamagedError, match="in a circle"):
        circle.value(b"000000001")
    with pytest.raises(DamagedError, match="lead nowhere"):
        damaged(tmp_path / "copy.lmdb", root, 12, struct.pack("<H", 16)).value(b"000000001")
