"""What the main process says: lines on the console and, once a log file is open, in that file too."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from utils.distributed import is_main, rank
from utils.files import naming, regular
from utils.terminal import has_bars, has_colours, painted, painter

NAMES = 10  # width of the first column
NEXT = "next:"  # the line before the commands that can follow a run
_files: list[TextIO] = []


def say(line: str, *, terminal: bool = True, paint: Callable[[str], str] | None = None) -> None:
    """Show a line and write it to the open log files; only the main process does.

    Args:
        terminal: False keeps the line off the console, where a progress bar already shows it.
        paint: what colours the line, which is printable by then, on a console that has colours; files get none.
    """
    if not is_main():
        return
    line = printable(line)
    if terminal:
        shown = paint(line) if paint and has_colours(sys.stdout) else line
        tqdm.write(shown, file=sys.stdout)  # moves a progress bar out of the way
        sys.stdout.flush()
    for file in _files:
        with naming(file.name):
            file.write(line + "\n")
            file.flush()


def warn(line: str) -> None:
    """Show a line of this process, whichever it is: the main one as :func:`say` does, others on standard error."""
    line = inline(line)
    if is_main():
        say(f"warning: {line}", paint=painter("warning"))
    else:
        print(painted(f"warning (process {rank()}): {line}", "warning", sys.stderr), file=sys.stderr, flush=True)


def say_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Show names and what they are, one under the other; a name "" goes on with the one before."""
    title = painter("title")
    for name, text in rows:
        say(f"{name:{NAMES}}{text}", paint=lambda line: title(line[:NAMES]) + line[NAMES:])


def shows_bars() -> bool:
    """Whether this process draws progress bars, on standard error; elsewhere there are plain lines."""
    return is_main() and has_bars(sys.stderr)


def printable(text: str) -> str:
    """The text with what would steer a terminal, or turn its letters around, written as an escape sequence.

    Names of videos and classes come from files that others made.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def inline(text: str) -> str:
    """The same for what is to stay one line: no name in it makes lines of its own."""
    return printable(text).replace("\n", "\\n")


def one_line(text: str, most: int = 200) -> str:
    """The beginning of a text, :func:`inline`, with its tabs escaped too."""
    return inline(text[:most]).replace("\t", "\\t") + ("..." if len(text) > most else "")


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
