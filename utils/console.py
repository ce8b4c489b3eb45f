"""What the main process says: lines on the console and, once a log file is open, in that file too."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from utils.distributed import is_main

_files: list[TextIO] = []


def say(line: str, *, terminal: bool = True) -> None:
    """Show a line and write it to the open log files; only the main process does.

    Args:
        terminal: False keeps the line off the console, where a progress bar already shows it.
    """
    if not is_main():
        return
    if terminal:
        tqdm.write(line, file=sys.stdout)  # moves a progress bar out of the way
        sys.stdout.flush()
    for file in _files:
        file.write(line + "\n")
        file.flush()


@contextmanager
def log_file(path: str | Path) -> Iterator[None]:
    """While open, everything said is appended to this file; other processes than the main one open nothing."""
    if not is_main():
        yield
        return
    with open(path, "a", encoding="utf-8") as file:
        _files.append(file)
        try:
            yield
        finally:
            _files.remove(file)
