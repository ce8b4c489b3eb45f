"""What a terminal is given and a file is not: colours and bars."""

import os
import re
from collections.abc import Callable
from typing import TextIO

STYLES = {"title": "1", "best": "1;32", "warning": "33", "error": "31"}  # of ANSI: bold, bold green, yellow, red
BEST = re.compile(r"[\d.]+\*")  # see eval.report.mark_best


def has_colours(stream: TextIO) -> bool:
    """Whether text for a stream is coloured: NO_COLOR says no, else FORCE_COLOR yes, else a terminal that is not dumb.

    Both count if they are not empty (https://no-color.org, https://force-color.org).
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _is_terminal(stream)


def has_bars(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can draw a bar over itself; not where its size is 0, as some say."""
    return _is_terminal(stream) and min(_size(stream)) > 0


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _size(stream: TextIO) -> tuple[int, int]:
    return os.get_terminal_size(stream.fileno())


def painter(style: str) -> Callable[[str], str]:
    """What colours a text. style: one of STYLES."""
    return lambda text: f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def painted(text: str, style: str, stream: TextIO) -> str:
    """A text for a stream, coloured where that has colours; it must be printable already."""
    return painter(style)(text) if has_colours(stream) else text


def paint_table(text: str) -> str:
    """A table with its head bold and its best numbers, which a star follows, green."""
    head, *rest = text.split("\n")
    best = painter("best")
    return "\n".join([painter("title")(head), *(BEST.sub(lambda found: best(found[0]), line) for line in rest)])
