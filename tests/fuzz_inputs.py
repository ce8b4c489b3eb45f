"""Damaged and odd input: a seeded mutator of valid bytes, and Hypothesis strategies of what a file may be made of."""

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Sequence

import msgpack
import torch
from hypothesis import strategies as st

EXTREMES = (0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 1023, 4095, 4096, 32767, 32768, 65535, 1 << 20, (1 << 31) - 1,
            1 << 31, (1 << 32) - 1, (1 << 40) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
WORDS = (b"\0", b"\n", b"\r", b'"', b",", b"/", b"..", b"-1", b"nan", b"inf", b"1e999", b"null", b"true", b"{}", b"[]",
         b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b"9" * 12, b"\xff\xfe", b"\xed\xa0\x80", b"\xc2\x85",
         "\u2028".encode(), "\u202e".encode(), b"a" * 140_000, b"%s%n", b"\xff\xd8\xff", b"PK\x03\x04", b"\x93NUMPY",
         b"\xc1", b"\x91" * 2000, b"cos\nsystem\n")
MOST = 400_000  # bytes of an input


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, changed in one to some places; now and then as it is."""
    data = rng.choice(seeds)
    if rng.random() < 0.02:
        return data
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4, 8))):
        data = rng.choice(CHANGES)(rng, data, seeds)
    return data[:MOST]


def _place(rng: random.Random, data: bytes) -> int:
    """A place in the data; half the time near its beginning or end, where headers and directories are."""
    spread = rng.choice((len(data), len(data), 64, 300, -64))
    if spread < 0:
        return max(0, len(data) - rng.randrange(-spread) - 1)
    return rng.randrange(max(1, min(spread, len(data))))


def _chunk(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    return start, start + min(rng.choice((1, 2, 4, 8, 16, 100, 1000, 4096)), rng.randrange(1, 5000))


def flip_bit(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    place = _place(rng, data)
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1:] if data else data


def set_byte(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    place = _place(rng, data)
    return data[:place] + bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))]) + data[place + 1:]


def truncate(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[:_place(rng, data)]


def splice(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[:_place(rng, data)] + other[_place(rng, other):]


def edit_number(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Another number in place of one, in any of the usual widths: lengths, counts, page numbers, sizes."""
    form = rng.choice("BHIQ")
    order = rng.choice("<>")
    width = struct.calcsize(order + form)
    place = min(_place(rng, data), len(data) - width)
    if place < 0:
        return data
    before = struct.unpack_from(order + form, data, place)[0]
    number = rng.choice((rng.choice(EXTREMES), before + rng.choice((-16, -2, -1, 1, 2, 16)), before * 2))
    return data[:place] + struct.pack(order + form, number % (1 << 8 * width)) + data[place + width:]


def remove(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _chunk(rng, data)
    return data[:start] + data[end:]


def double(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _chunk(rng, data)
    return data[:start] + data[start:end] * rng.choice((2, 2, 3, 50)) + data[end:]


def move(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A part written over another."""
    (start, end), place = _chunk(rng, data), _place(rng, data)
    part = data[start:end]
    return data[:place] + part + data[place + len(part):]


def insert_word(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    place = _place(rng, data)
    return data[:place] + rng.choice(WORDS) + data[place:]


def insert_noise(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    place = _place(rng, data)
    return data[:place] + rng.randbytes(rng.choice((1, 4, 100))) + data[place:]


CHANGES = (flip_bit, flip_bit, set_byte, set_byte, truncate, splice, edit_number, edit_number, edit_number, remove,
           double, move, insert_word, insert_noise)


def edits(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """A seed with numbers of a given width written to some places."""
    change = st.tuples(st.integers(0, 1 << 16), st.sampled_from(["<B", "<H", ">H", "<I", ">I", "<Q"]),
                       st.sampled_from(EXTREMES) | st.integers(0, 300))

    def apply(seed: bytes, changes: list) -> bytes:
        data = bytearray(seed)
        for place, form, number in changes:
            width = struct.calcsize(form)
            if len(data) >= width:
                struct.pack_into(form, data, place % (len(data) - width + 1), number % (1 << 8 * width))
        return bytes(data)
    return st.builds(apply, st.sampled_from(list(seeds)), st.lists(change, max_size=6))


NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.sampled_from(EXTREMES)
NAMES = st.sampled_from(["A/a", "B/b", "A/c", "A", "B", "a", "", "/", "A/", "A/a/", "x/A/a", "../A/a", "A/\n", "\u202e",
                         "A/a_c01", "A/a_c02"]) | st.text(max_size=12)
PLAIN = st.none() | st.booleans() | NUMBERS | NAMES | st.binary(max_size=12)
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
                      max_leaves=12)
MSGPACK = (st.lists(NAMES | st.integers(0, 5) | st.sampled_from([b"000000000", b"000000001", b"7"]), max_size=4)
           | NESTED).map(lambda value: msgpack.packb(value, use_bin_type=True, unicode_errors="surrogatepass"))


def _dumped(value: object) -> bytes:
    return json.dumps(value, default=lambda given: given.decode("latin1")).encode("utf-8", "surrogatepass")


JSON = NESTED.map(_dumped)
NUMBER_ROWS = st.lists(st.floats() | st.floats(0, 1), max_size=4)
PROBABILITIES = st.dictionaries(NAMES, NUMBER_ROWS | st.lists(NUMBER_ROWS, max_size=2)
                                | st.fixed_dictionaries({"mean_prob": NUMBER_ROWS}), max_size=4).map(_dumped)
FIELD = NAMES | st.sampled_from(["1", "30", "-1", "1.5", "²", "٣", "99999999999", "9" * 5000, '"', "'", "1,2"])
TEXT = st.lists(st.lists(FIELD, max_size=4).map(",".join) | st.lists(FIELD, max_size=3).map(" ".join), max_size=6).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))


def repacked(pickled: bytes, whole: bytes) -> bytes:
    """A checkpoint of PyTorch with another pickle in it, and sound checksums."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(result, "w") as new:
        for part in old.namelist():
            new.writestr(part, pickled if part.endswith("data.pkl") else old.read(part))
    return result.getvalue()


def pickle_of(whole: bytes) -> bytes:
    """The pickle in a checkpoint."""
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        return file.read(next(part for part in file.namelist() if part.endswith("data.pkl")))


def saved(value: object, legacy: bool = False) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def png_sized(data: bytes, width: int, height: int) -> bytes:
    """A PNG that says it has another size, with a sound checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def many_scans(data: bytes) -> st.SearchStrategy[bytes]:
    """A progressive JPEG whose last scan is there many times, and which may say that it is large."""
    last = data.rfind(b"\xff\xda")
    place = data.index(b"\xff\xc2") + 5

    def build(size: int | None, count: int) -> bytes:
        head = data if size is None else data[:place] + size.to_bytes(2, "big") * 2 + data[place + 4:]
        return head[:last] + data[last:-2] * count + b"\xff\xd9"
    return st.builds(build, st.none() | st.sampled_from([100, 2500]), st.integers(0, 150) | st.integers(0, 9000))


def other_pages(data: bytes) -> st.SearchStrategy[bytes]:
    """An LMDB file with other numbers of its root and last pages, in both of its first pages."""
    numbers = st.sampled_from([1 << bit for bit in range(64)]) | st.integers(0, (1 << 64) - 1)

    def build(place: int, number: int) -> bytes:
        for start in (place, place + 4096):
            changed[start:start + 8] = number.to_bytes(8, "little")
        result = bytes(changed)
        changed[:] = data
        return result
    changed = bytearray(data)
    return st.builds(build, st.sampled_from([128, 136]), numbers)


def _tensor(kind: torch.dtype, shape: list[int], form: str) -> torch.Tensor:
    whole = torch.zeros(shape).to(kind)
    if form == "expanded":
        return torch.zeros(1).to(kind).expand(1 << 20)
    if form == "meta":
        return whole.to("meta")
    return whole.to_sparse() if form == "sparse" else whole


TENSORS = st.builds(
    _tensor, st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool,
                              torch.uint8, torch.complex64]),
    st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["", "", "", "expanded", "meta", "sparse"]))
OBJECTS = st.recursive(PLAIN | TENSORS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    NAMES | st.integers(0, 3), inner, max_size=3), max_leaves=6)


def checkpoints(good: dict) -> st.SearchStrategy[bytes]:
    """A checkpoint in which some entries, at any depth, are something else; in either format of PyTorch."""
    def changed(value: object) -> st.SearchStrategy:
        if isinstance(value, dict) and value:
            keys = st.sampled_from(list(value))
            return keys.flatmap(lambda key: changed(value[key]).map(lambda new: {**value, key: new})) | OBJECTS
        return OBJECTS

    def save(value: object, legacy: bool) -> bytes:
        try:
            return saved(value, legacy)
        except (UnicodeEncodeError, NotImplementedError):
            return b""
    return st.builds(save, changed(good), st.booleans())
