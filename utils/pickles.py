"""The pickle in a checkpoint, looked through before PyTorch runs it, and the little that one may call.

PyTorch's own reader runs nothing that a file brings along, but a few bytes can still let it take any time or memory:
keys that are hashed for ever, buffers of any size, NumPy types made of pointers.
"""

import pickle
import pickletools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

DTYPE = re.compile(r"[<>|=]?[biuf][1248]?|[<>=]?f16|\?")  # of one number
LONGEST_NUMBER, LONGEST_CALL = 16, 10  # bytes, arguments
TENSOR, PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
ORDERED, DTYPE_NAME, ENCODE = "collections OrderedDict", "numpy dtype", "_codecs encode"
SCALARS = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar")  # as numpy 1 and 2 write them
STORAGE = re.compile(r"torch (BFloat16|Bool|Byte|Char|ComplexDouble|ComplexFloat|Double|Float|Half|Int|Long|Short)"
                     "Storage")
# What each may be called with, by kind; a call gives another kind.
CALLS: dict[str, tuple[list[tuple[str, ...]], str]] = {
    ORDERED: ([()], "odict"),
    TENSOR: ([("storage", whole, "tuple", "tuple", "bool", "odict") for whole in ("index", "number")], "tensor"),
    PARAMETER: ([("tensor", "bool", "odict")], "tensor"),
    DTYPE_NAME: ([("text", flag, flag) for flag in ("bool", "index")], "dtype"),
    ENCODE: ([("short", "latin1")], "bytes"),  # how a pickle of protocol 2 writes the bytes of a NumPy number
    **dict.fromkeys(SCALARS, ([("dtype", "bytes")], "number")),
}
PUSHED = {"NONE": "none", "NEWTRUE": "bool", "NEWFALSE": "bool", "EMPTY_LIST": "list", "EMPTY_DICT": "dict",
          "BININT": "index", "BININT1": "index", "BININT2": "index", "LONG1": "number", "BINFLOAT": "number"}
TEXTS = ("text", "short", "latin1")  # of which calls tell the last two, where it matters
OF_STORAGES = [("text", "type", "text", "text", whole, *view) for whole in ("index", "number")
               for view in ((), ("none",))]


class Kind:
    """Stands for a NumPy type in a pickle, of one number."""

    def __init__(self, spec: str, align: object = False, copy: object = True) -> None:
        if not isinstance(spec, str) or not DTYPE.fullmatch(spec):
            raise pickle.UnpicklingError("a numpy type that is no number's")
        self.spec = spec

    def __setstate__(self, state: tuple) -> None:
        """Take over the order of the bytes; a state of anything else is refused."""
        if len(state) != 8 or state[1] not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
            raise pickle.UnpicklingError("a numpy type that is no number's")
        self.spec = state[1] + self.spec.lstrip("<>|=")


def scalar(kind: Kind, data: bytes) -> float | int | bool:
    """A NumPy number as Python's. Published files hold some, for example in ``best_acc``."""
    if not isinstance(kind, Kind) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a numpy value that is no number")
    dtype = np.dtype(kind.spec)
    if len(data) != dtype.itemsize:
        raise pickle.UnpicklingError("a numpy number of another length")
    return np.frombuffer(data, dtype=dtype)[0].item()


CALLABLE: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (Kind, "numpy.dtype"), *((scalar, name.replace(" ", ".")) for name in SCALARS)]


@dataclass(frozen=True)
class _Value:
    """A value that a pickle would make. parts: of a tuple the kinds of its entries, of a type its name."""

    kind: str
    parts: tuple[str, ...] = ()

    def fits(self, allowed: Sequence[tuple[str, ...]]) -> bool:
        """Whether it is a tuple of one of some forms."""
        plain = tuple("text" if kind in TEXTS else kind for kind in self.parts[:LONGEST_CALL])
        return self.kind == "tuple" and (self.parts in allowed or (plain in allowed and len(plain) == len(self.parts)))


class _Reader:
    """Follows the operations of a pickle with the kinds of values in place of values."""

    def __init__(self, tuples: bool) -> None:
        self.stack: list[_Value] = []
        self.marked: list[list[_Value]] = []
        self.memo: dict[int, _Value] = {}
        self.tuples = tuples

    def follow(self, file: BinaryIO) -> None:
        argument: Any  # of the type that the operation has
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in PUSHED:
                self.stack.append(_Value(PUSHED[name]))
            elif name in ("BINUNICODE", "SHORT_BINSTRING"):
                short = "short" if len(argument) <= LONGEST_NUMBER else "text"
                self.stack.append(_Value("latin1" if argument == "latin1" else short))
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name == "GLOBAL":
                self._name(argument)
            elif name not in ("PROTO", "STOP"):
                self._combine(name)

    def _name(self, name: str) -> None:
        if name not in CALLS and not STORAGE.fullmatch(name):
            raise pickle.UnpicklingError(f"it names {name.replace(' ', '.')}")
        self.stack.append(_Value("type", (name,)))

    def _combine(self, name: str) -> None:
        if name == "MARK":
            self.marked.append(self.stack)
            self.stack = []
        elif name in ("APPEND", "APPENDS"):
            self._take(name == "APPENDS", 1)
            self._target("list")
        elif name in ("SETITEM", "SETITEMS"):
            for key in self._take(name == "SETITEMS", 2)[::2]:
                if key.kind not in (*TEXTS, "index"):
                    raise pickle.UnpicklingError("a dict's key is neither a string nor a small number")
            self._target("dict", "odict")
        elif name in ("TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3") and self.tuples:
            entries = self._take(name == "TUPLE", int(name[-1]) if name[-1].isdigit() else 0)
            self.stack.append(_Value("tuple", tuple(entry.kind for entry in entries)))
        elif name in ("REDUCE", "BUILD", "BINPERSID") and self.tuples:
            {"REDUCE": self._call, "BUILD": self._build, "BINPERSID": self._storage}[name]()
        else:
            raise pickle.UnpicklingError(f"operation {name}")

    def _take(self, marked: bool, count: int) -> list[_Value]:
        """Take the last values off: those behind the mark, or so many."""
        if marked:
            taken, self.stack = self.stack, self.marked.pop()
            return taken
        if count > len(self.stack):
            raise pickle.UnpicklingError("it takes more values than it has")
        taken = self.stack[len(self.stack) - count:]
        del self.stack[len(self.stack) - count:]
        return taken

    def _target(self, *kinds: str) -> None:
        if self.stack[-1].kind not in kinds:
            raise pickle.UnpicklingError(f"a {self.stack[-1].kind} is filled as a {kinds[0]}")

    def _call(self) -> None:
        called, given = self._take(False, 2)
        allowed, made = CALLS.get(called.parts[0], ([], "")) if called.kind == "type" else ([], "")
        if not given.fits(allowed):
            raise pickle.UnpicklingError(f"{called.parts[0].replace(' ', '.') if called.kind == 'type' else 'a value'} "
                                         "is called with something else than it takes")
        self.stack.append(_Value(made))

    def _build(self) -> None:
        state = self._take(False, 1)[0].kind
        if (self.stack[-1].kind, state) not in (("odict", "dict"), ("dtype", "tuple")):
            raise pickle.UnpicklingError(f"a {self.stack[-1].kind} gets a state")

    def _storage(self) -> None:
        given = self._take(False, 1)[0]
        if not given.fits(OF_STORAGES):
            raise pickle.UnpicklingError("a storage of another form")
        self.stack.append(_Value("storage"))


def refuse_harm(file: BinaryIO, tuples: bool = True) -> None:
    """Read a pickle to its end, and raise pickle.UnpicklingError where running it could do more than make plain data of
    its size: dicts with strings and small whole numbers as keys, lists, tuples, strings, numbers and tensors.

    Takes a time that grows with the file. A damaged file raises ValueError, LookupError or EOFError.

    Args:
        tuples: False for one that has no tuples, and calls nothing.
    """
    _Reader(tuples).follow(file)
