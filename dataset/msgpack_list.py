"""Where the elements of a msgpack list of byte strings lie, found without unpacking it.

The msgpack format (github.com/msgpack/msgpack/blob/master/spec.md), as far as a list of byte strings needs it: a
header with the number of elements, then a header with its length before each string. Strings of the old raw type
(msgpack up to 0.6) carry the headers that str has today; newer files use bin. Lengths are big-endian.
"""

from collections.abc import Sequence

import numpy as np

# first byte of a header -> bytes of the length that follows it
ARRAY_HEADERS = {0xDC: 2, 0xDD: 4}
STRING_HEADERS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
FIX_ARRAY, FIX_STRING = range(0x90, 0xA0), range(0xA0, 0xC0)  # the length is in the low bits


class CutValueError(ValueError):
    """A value that ends too early, or is no list of byte strings."""


def element_spans(value: memoryview, wanted: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """(start, end) of the elements `wanted` of a msgpack list of byte strings, and the number of its elements.

    Args:
        value: the packed list. wanted: distinct element numbers, ascending; those beyond the end are left out of the
            answer. Headers are walked up to the last of them, no further, and no string is touched.

    Raises:
        CutValueError: the value ends before a wanted element does, or something else than a byte string is in it.
    """
    try:
        count, place = _header(value, 0, ARRAY_HEADERS, FIX_ARRAY)
        spans: list[tuple[int, int]] = []
        if not wanted or wanted[0] >= count:
            return count, spans
        if wanted[0] < 0:
            raise CutValueError(f"there is no frame {wanted[0]}")
        for element in range(min(count, wanted[-1] + 1)):
            length, place = _header(value, place, STRING_HEADERS, FIX_STRING)
            if element == wanted[len(spans)]:
                spans.append((place, place + length))
            place += length
    except IndexError:
        place = len(value) + 1
    if place > len(value):
        raise CutValueError(f"its value is cut after {len(value)} bytes")
    return count, spans


def readable_spans(value: memoryview, most: int) -> list[tuple[int, int]]:
    """The spans of a damaged list, at most so many, up to the first element that ends too late or is no byte string."""
    spans: list[tuple[int, int]] = []
    try:
        count, place = _header(value, 0, ARRAY_HEADERS, FIX_ARRAY)
        for _ in range(min(count, most)):
            length, place = _header(value, place, STRING_HEADERS, FIX_STRING)
            if place + length > len(value):
                break
            spans.append((place, place + length))
            place += length
    except (IndexError, CutValueError):
        pass
    return spans


def indexed_spans(value: memoryview, wanted: Sequence[int], ends: Sequence[int] | np.ndarray
                  ) -> list[tuple[int, int]]:
    """The same spans, from ends that are known: nothing is read but the wanted elements' own headers.

    Args:
        value: the packed list. wanted: distinct element numbers. ends: of all elements, as :func:`element_spans` gives
            them.

    Raises:
        CutValueError: the ends are not those of this list.
    """
    spans = []
    for element in wanted:
        try:
            place = int(ends[element - 1]) if element else _header(value, 0, ARRAY_HEADERS, FIX_ARRAY)[1]
            length, start = _header(value, place, STRING_HEADERS, FIX_STRING)
        except IndexError:
            raise CutValueError(f"element {element} lies past the value's {len(value)} bytes") from None
        if start + length != ends[element] or start + length > len(value):
            raise CutValueError(f"element {element} ends at {start + length}, not at {ends[element]}")
        spans.append((start, start + length))
    return spans


def _header(value: memoryview, place: int, sizes: dict[int, int], fixed: range) -> tuple[int, int]:
    """The length that a header at `place` gives, and where what it is of begins."""
    first = value[place]
    size = sizes.get(first)
    if size is not None:
        end = place + 1 + size
        if end > len(value):
            raise IndexError(end)
        return int.from_bytes(value[place + 1:end]), end
    if first in fixed:
        return first - fixed.start, place + 1
    raise CutValueError(f"byte {first:#x} at {place} is not what a list of frames has there")
