"""Checkpoint files of others: what is refused before, and after, PyTorch has read one."""

import io
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from utils.pickles import refuse_harm

DIRECTORY = 0x10  # in the attributes of a part, which PyTorch then takes for empty and leaves its tensor unset
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # first bytes of checkpoints, and of those of PyTorch before 1.6
LONGEST_NAME = 1000  # characters, of a class in a pickle
DEEPEST = 50  # levels of lists and dicts in each other
MOST_SHARED = 1_000_000  # values that are there because a list or dict is in several places
# What reading a damaged file raises.
BROKEN = (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
          NotImplementedError, zipfile.BadZipFile, struct.error, OverflowError, MemoryError)


def opened(path: Path) -> Path | BinaryIO:
    """What to give to torch.load. Raises one of BROKEN for a damaged file, pickle.UnpicklingError for a harmful one.

    Files of PyTorch before 1.6 come from memory, where a string that says it has 4 GB takes what there is; from a file,
    4 GB are set aside for it.
    """
    with open(path, "rb") as file:
        start = file.read(len(ZIP))
        if start == ZIP:  # as PyTorch tells them apart
            _refuse_damage(path)
            return path
        if start[:1] != PICKLE:
            raise ValueError("it is of no format of PyTorch")
        content = start + file.read()
    pickles = _Lines(content)
    for _ in ("magic number", "version", "system", "content"):
        refuse_harm(pickles)
    refuse_harm(pickles, tuples=False)  # the keys of the storages, which are looked up
    return io.BytesIO(content)


def _refuse_damage(path: Path) -> None:
    """Raise zipfile.BadZipFile for a file whose parts do not have their checksums: PyTorch does not look at them.

    Parts are stored as they are; packed ones could unfold to any size.
    """
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise zipfile.BadZipFile("a part is compressed")
        if any(part.external_attr & DIRECTORY for part in parts):
            raise zipfile.BadZipFile("a part is marked as a directory")
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts are larger than the file")
        damaged = file.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
    # By PyTorch's own reader of archives: two readers could find two pickles in one file.
    refuse_harm(_Lines(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))


class _Lines(io.BytesIO):
    """Bytes whose lines, which are names in a pickle, have a limit."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        _refuse_long_name(line)
        return line


def _refuse_long_name(name: bytes | str) -> None:
    """PyTorch searches its own message about a name for words, in a time that grows with the square of the length."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name of {len(name)} characters")


class Plain:
    """Looks through what a file held, in a time that grows with its size.

    Args:
        size: of the file, bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._seen: dict[int, tuple[int, int] | None] = {}  # by identity; None: being looked through
        self._shared = 0

    def check(self, value: object, level: int = 0) -> tuple[int, int]:
        """How many values there are in a value, and levels of them.

        Tensors are cut off from gradients, and attributes of dicts, which could stand for their methods, are removed.

        Raises:
            ValueError: it is too deep, holds itself, or shares its parts so often that printing it would not end; a
                whole number is beyond 64 bits; a tensor is none of plain numbers, has one in several places, or is
                larger than its file: a few bytes can promise any size, which would be filled once it is used.
        """
        if isinstance(value, Tensor):
            self._check_tensor(value)
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise ValueError("a whole number beyond 64 bits")
        if not isinstance(value, Mapping | list | tuple):
            return 1, level
        if id(value) in self._seen:
            return self._again(value, level)
        if level == DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels of lists and dicts")
        if isinstance(value, OrderedDict):
            vars(value).clear()
        self._seen[id(value)] = None
        count, height = 1, 0
        for entry in value.values() if isinstance(value, Mapping) else value:
            inside, deepest = (1, level + 1) if type(entry) is float else self.check(entry, level + 1)
            count, height = count + inside, max(height, deepest - level)
        self._seen[id(value)] = count, height
        return count, level + height

    def _again(self, value: object, level: int) -> tuple[int, int]:
        found = self._seen[id(value)]
        if found is None:
            raise ValueError("a list or dict that holds itself")
        count, height = found
        self._shared += count
        if self._shared > MOST_SHARED or level + height > DEEPEST:
            raise ValueError("lists or dicts that hold others again and again")
        return count, level + height

    def _check_tensor(self, value: Tensor) -> None:
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise ValueError("a tensor of another kind than plain numbers")
        if _overlaps(value):
            raise ValueError("a tensor with one number in several places")
        if value.numel() * value.element_size() > self.size:
            raise ValueError(f"a tensor of {value.numel()} numbers is larger than the file")
        value.requires_grad_(False)


def _overlaps(value: Tensor) -> bool:
    """Whether steps along an axis stay within what the axes of smaller steps span."""
    span = 1
    for step, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size > 1 and step < span:
            return True
        span += max(0, size - 1) * step
    return False
