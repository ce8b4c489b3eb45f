"""Checkpoint files of others: what is refused before, and after, PyTorch has read one."""

import io
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

DIRECTORY = 0x10  # in the attributes of a part, which PyTorch then takes for empty and leaves its tensor unset
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # first bytes of checkpoints, and of those of PyTorch before 1.6
LONGEST_NAME = 1000  # characters, of a class in a pickle
# What reading a damaged file raises.
BROKEN = (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
          NotImplementedError, zipfile.BadZipFile, struct.error, OverflowError, MemoryError)


def opened(path: Path) -> Path | BinaryIO:
    """What to give to torch.load. Raises one of BROKEN for a damaged file.

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
        return _Lines(start + file.read())


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
        for part in parts:
            if part.filename.endswith("data.pkl"):
                _refuse_long_names(file.read(part))


class _Lines(io.BytesIO):
    """Bytes whose lines, which are names in a pickle, have a limit."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        _refuse_long_name(line)
        return line


def _refuse_long_names(pickled: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "GLOBAL":
            _refuse_long_name(argument)


def _refuse_long_name(name: bytes | str) -> None:
    """PyTorch searches its own message about a name for words, in a time that grows with the square of the length."""
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name of {len(name)} characters")


def refuse_odd_tensors(content: object, size: int) -> None:
    """Raise ValueError where a tensor is of no plain numbers, has one in several places, or is larger than its file: a
    few bytes can promise any size, which would be filled once the tensor is used."""
    todo, seen = [content], set()
    while todo:  # no recursion: a file can hold lists in lists without end, also in themselves
        value = todo.pop()
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.is_meta or value.is_quantized:
                raise ValueError("a tensor of another kind than plain numbers")
            if _overlaps(value):
                raise ValueError("a tensor with one number in several places")
            if value.numel() * value.element_size() > size:
                raise ValueError(f"a tensor of {value.numel()} numbers is larger than the file")
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, Mapping) else value


def _overlaps(value: Tensor) -> bool:
    """Whether steps along an axis stay within what the axes of smaller steps span."""
    span = 1
    for step, size in sorted(zip(value.stride(), value.shape, strict=True)):
        if size > 1 and step < span:
            return True
        span += max(0, size - 1) * step
    return False
