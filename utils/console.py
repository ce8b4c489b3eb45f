"""What the main process says: lines on the console and, once a log file is open, in that file too."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from utils.distributed import is_main, rank
from utils.files import naming, regular

_files: list[TextIO] = []


def say(line: str, *, terminal: bool = True) -> None:
    """Show a line and write it to the open log files; only the main process does.

    Args:
        terminal: False keeps the line off the console, where a progress bar already shows it.
    """
    if not is_main():
        return
    line = printable(line)
    if terminal:
        tqdm.write(line, file=sys.stdout)  # moves a progress bar out of the way
        sys.stdout.flush()
    for file in _files:
        with naming(file.name):
            file.write(line + "\n")
            file.flush()


def warn(line: str) -> None:
    """Show a line of this process, whichever it is: the main one as :func:`say` does, others on standard error."""
    if is_main():
        say(f"warning: {line}")
    else:
        print(f"warning (process {rank()}): {printable(line)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with what would steer a terminal, or turn its letters around, written as an escape sequence.

    Names of videos and classes come from files that others made.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, most: int = 200) -> str:
    """The beginning of a text, :func:`printable`, and with its line breaks and tabs escaped too."""
    shown = printable(text[:most]).replace("\n", "\\n").replace("\t", "\\t")
    return shown + ("..." if len(text) > most else "")


@contextmanager
def log_file(path: str | Path) -> Iterator[None]:
    """While open, everything said is appended to this file; other processes than the main one open nothing."""
    if not is_main():
        yield
        return
    with naming(path), open(path, "a", encoding="utf-8", opener=regular) as file:
        _files.append(file)
        try:
            yield
        finally:
            _files.remove(file)
