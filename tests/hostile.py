"""Checkpoints of which PyTorch alone would hang, crash, or take any memory: written by hand, operation by operation."""

import io
import struct
from collections.abc import Callable

import torch
from fuzz_inputs import repacked, saved

NEGATIVE, LAST = b"J\xff\xff\xff\xff", "hostile"
Rows = list[list]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    size = (value.bit_length() + 8) // 8
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def dtype(spec: str) -> bytes:
    return b"cnumpy\ndtype\n" + text(spec) + b"K\x00K\x01\x87R"


def pointer() -> bytes:
    """A NumPy number whose type becomes a pointer to an object, at an address of the file's choice."""
    state = b"(K\x03" + text("<") + dtype("O8") + b")\x86NN" + NEGATIVE + NEGATIVE + b"K\x00t"
    address = b"c_codecs\nencode\n" + text("A" * 8) + text("latin1") + b"\x86R"
    return b"cnumpy.core.multiarray\nscalar\n" + dtype("f8") + state + b"b" + address + b"\x86R"


def doubled_key(levels: int = 60) -> bytes:
    """A dict's key of which each level holds the one below twice: its hash takes 2^levels steps."""
    found = b"}K\x01q\x00h\x00\x86q\x01"
    for level in range(2, levels):
        found += b"h%c\x86q%c" % (level - 1, level)
    return found + b"K\x01s"


def colliding_keys(count: int = 30_000) -> bytes:
    """Whole numbers of one hash."""
    return b"}(" + b"".join(number(i * ((1 << 61) - 1)) + b"K\x00" for i in range(1, count)) + b"u"


def laughs(levels: int = 12) -> bytes:
    """Lists of ten times the list before: 10^levels numbers in print."""
    found = b"}" + text("0") + b"]q\x00(" + b"K\x01" * 10 + b"es"
    for level in range(1, levels):
        found += text(str(level)) + b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 10 + b"es"
    return found


def shadowed() -> bytes:
    """A dict whose own attribute stands where its method was."""
    return b"ccollections\nOrderedDict\n)R}" + text("items") + b"K\x01sb"


# What each puts into a checkpoint. Those of HARM do harm to torch.load with what it may call for published files.
HARM: dict[str, Callable[[], bytes]] = {
    "pointer": pointer, "doubled key": doubled_key,
    "bytearray": lambda: b"c__builtin__\nbytearray\n" + number(6 * 10**9) + b"\x85R"}
PICKLES: dict[str, Callable[[], bytes]] = HARM | {
    "key of tuples": lambda: b"})" + b"\x85" * 200_000 + b"K\x00s", "colliding keys": colliding_keys, "laughs": laughs,
    "large number": lambda: number(10**400), "deep list": lambda: b"]" * 100_000 + b"a" * 99_999,
    "deep tuple": lambda: b")" + b"\x85" * 100_000, "type of parts": lambda: dtype("(,)f4"),
    "type of many": lambda: dtype(",".join(["f4"] * 10_000)), "set": lambda: b"c__builtin__\nset\n]K\x01a\x85R",
    "complex": lambda: b"c__builtin__\ncomplex\nK\x01K\x01\x86R", "list in itself": lambda: b"]q\x00h\x00a",
    "number as key": lambda: b"}G" + struct.pack(">d", 1e300) + b"K\x00s",
    "long bytes": lambda: b"c_codecs\nencode\n" + text("A" * 99) + text("latin1") + b"\x86R",
    "other encoding": lambda: b"c_codecs\nencode\n" + text("A") + text("idna") + b"\x86R",
    "key of a storage": lambda: b"(" + text("storage") + b"ctorch\nFloatStorage\n)\x85\x85" + text("cpu") + b"K\x01tQ",
    "new object": lambda: b"ccollections\nOrderedDict\n)\x81"}


def whole(entry: bytes, legacy: bool, name: str = LAST) -> bytes:
    """A checkpoint with one entry more, in either format of PyTorch."""
    pickled = b"\x80\x02}" + text("state_dict") + b"}s" + text(name) + entry + b"s."
    sound = saved({"state_dict": {}}, legacy)
    if not legacy:
        return repacked(pickled, sound)
    file = io.BytesIO(sound)
    for _ in range(3):
        torch.serialization.pickle.load(file)
    return sound[:file.tell()] + pickled + b"\x80\x02]."


def shared(width: int = 10, levels: int = 12) -> Rows:
    """As :func:`laughs`, as a value."""
    value: Rows = [[1] * width]
    for _ in range(levels):
        value = [value] * width
    return value


def deep(levels: int = 300) -> Rows:
    value: Rows = []
    for _ in range(levels):
        value = [value]
    return value


def odd_values() -> list:
    """Of entries of checkpoints."""
    return [10**30, -10**400, 1 << 64, -1, -3, float("nan"), float("inf"), -0.5, 1e308, complex(1, 2), shared(), deep(),
            {1, 2}, frozenset("a"), bytearray(9), {(1, 2): 3}, {1 << 62: 1}, {0.5: 1}, torch.tensor([1j]),
            torch.tensor(float("nan")), [torch.ones(2)] * 2, torch.zeros(3), torch.zeros(3, dtype=torch.uint8),
            torch.ones(2, requires_grad=True), "x\nerror: all is well", {"rows": 3}, True]
