"""Checkpoints of ill will: hostile pickles of many sizes, and values that no run writes in the place of others."""

import hostile
from fuzz_inputs import saved
from hypothesis import strategies as st

SIZES = st.sampled_from([2, 3, 10, 40, 60, 100, 255])
DTYPES = st.sampled_from(["f8", "<f4", "?", "O8", "V8", "S8", "U2", "M8[s]", "(2,)f4", "f4,f4", ">i2", "c16", "g", "p"])


def _deep(opener: bytes, inner: bytes, closer: bytes, levels: int) -> bytes:
    return opener * levels + inner + closer * levels


def _number_of_type(spec: str, name: str, order: str, data: str, encoding: str) -> bytes:
    """A NumPy number with a state; a type stands where usually there is none."""
    state = (b"(K\x03" + hostile.text(order) + (hostile.dtype(name) + b")\x86" if name else b"N") + b"NN"
             + 2 * hostile.NEGATIVE + b"K\x00t")
    held = b"c_codecs\nencode\n" + hostile.text(data) + hostile.text(encoding) + b"\x86R"
    return b"cnumpy._core.multiarray\nscalar\n" + hostile.dtype(spec) + state + b"b" + held + b"\x86R"


def _as_key(value: bytes) -> bytes:
    return b"}" + value + b"K\x00s"


NUMBERS = st.builds(hostile.number, st.sampled_from([-1, 1 << 31, 1 << 62, (1 << 61) - 1, 1 << 64, 10**30, -10**400]))
NAMED = st.sampled_from([b"c__builtin__\nbytearray\n", b"c__builtin__\nset\n", b"c__builtin__\ncomplex\n",
                         b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n", b"ctorch\nSize\n",
                         b"ctorch\nTensor\n", b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
                         b"cnumpy\ndtype\n"])
VALUES = st.one_of(
    st.sampled_from(list(hostile.PICKLES.values())).map(lambda make: make()), NUMBERS,
    st.builds(hostile.doubled_key, SIZES), st.builds(hostile.laughs, st.integers(1, 20)),
    st.builds(hostile.colliding_keys, st.sampled_from([2, 100, 3000])),
    st.builds(_deep, st.sampled_from([b"]", b"}X\x00\x00\x00\x00", b"("]), st.just(b"]"),
              st.sampled_from([b"a", b"s", b"t"]), SIZES),
    st.builds(_number_of_type, DTYPES, DTYPES | st.just(""), st.sampled_from("<>|=!x"),
              st.text(max_size=20) | st.just("A" * 8), st.sampled_from(["latin1", "idna", "utf8", "unicode_escape"])),
    st.builds(lambda name, value: name + value + b"\x85R", NAMED, NUMBERS | st.just(b"]") | st.just(b")")),
    st.just(hostile.shadowed()))
NAMES = st.sampled_from(["state_dict", "epoch", "best_acc", "options", "optimizer", "hostile"])


def hostile_inputs(legacy: bool) -> st.SearchStrategy[bytes]:
    """Checkpoints with a hostile value, also as a key."""
    return st.builds(lambda value, name: hostile.whole(value, legacy, name), VALUES | VALUES.map(_as_key), NAMES)


def _replaced(value: object, path: list[int], new: object) -> object:
    """The value with another one at a place; which place the numbers say, level by level."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    at = path[0] % len(value)
    if isinstance(value, dict):
        key = list(value)[at]
        return {**value, key: _replaced(value[key], path[1:], new)}
    return [*value[:at], _replaced(value[at], path[1:], new), *value[at + 1:]]


def odd_checkpoints(good: object) -> st.SearchStrategy[bytes]:
    """A checkpoint in which some entries are what no run writes there."""
    changes = st.lists(st.tuples(st.lists(st.integers(0, 11), min_size=1, max_size=4),
                                 st.sampled_from(hostile.odd_values())), min_size=1, max_size=2)

    def change(changes: list, legacy: bool) -> bytes:
        value = good
        for path, new in changes:
            value = _replaced(value, path, new)
        return saved(value, legacy)
    return st.builds(change, changes, st.booleans())


