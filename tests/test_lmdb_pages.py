"""Look up values in a file against py-lmdb, and strings in a list against msgpack."""

from itertools import accumulate

import lmdb
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.lmdb_pages import DamagedError, PageReader, frame_spans


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


@pytest.mark.parametrize(("count", "folder"), [(1, False), (7, True), (300, False), (20_000, False)])
def test_every_value_is_that_of_lmdb(tmp_path, count, folder):
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


strings = st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 70000).map(bytes)), max_size=40)


@given(strings, st.booleans(), st.data())
def test_spans_are_where_msgpack_finds_the_strings(elements, raw, data):
    packed = memoryview(msgpack.packb(elements, use_bin_type=not raw))
    wanted = sorted(data.draw(st.sets(st.integers(0, max(0, len(elements) - 1))))) if elements else []
    count, spans = frame_spans(packed, wanted)
    assert count == len(elements)
    assert [packed[start:end] for start, end in spans] == [elements[i] for i in wanted]


@given(strings.filter(bool), st.booleans(), st.data())
def test_a_cut_list_has_the_strings_before_the_cut(elements, raw, data):
    packed = msgpack.packb(elements, use_bin_type=not raw)
    sizes = [len(msgpack.packb(each, use_bin_type=not raw)) for each in elements]
    ends = list(accumulate(sizes, initial=len(packed) - sum(sizes)))  # of the list's header, then of each string
    cut = data.draw(st.integers(ends[0], len(packed) - 1))
    count, spans = frame_spans(memoryview(packed[:cut]), range(len(elements)))
    assert count == len(elements) and [end for _, end in spans] == [end for end in ends[1:] if end <= cut]


@pytest.mark.parametrize("value", [msgpack.packb({}), b"\xc1", b"", b"\xdc\x00"])
def test_something_else_than_a_list(value):
    with pytest.raises(DamagedError):
        frame_spans(memoryview(value), [0, 1])
