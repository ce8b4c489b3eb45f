"""Console output of the main process: lines, log files, and on a terminal colours and progress bars.

Imports no torch, so that data preparation starts fast; :mod:`utils.distributed` sets the rank.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from utils.files import naming

COLUMN = 10  # width of the first column of `say_block`
PERIOD = 30.0  # seconds between progress lines where there is no bar
STYLES = {"title": "1", "best": "1;32", "warning": "33", "error": "31"}  # ANSI: bold, bold green, yellow, red
_files: list[TextIO] = []
_rank = 0


def set_rank(rank: int) -> None:
    """Set the rank of this process; from now on all but rank 0 only print warnings and errors."""
    global _rank
    _rank = rank


def is_main() -> bool:
    """Return whether this is the process that prints."""
    return _rank == 0


def say(line: str, *, terminal: bool = True, paint: Callable[[str], str] | None = None) -> None:
    """Print a line and append it to the open log files; the main process only."""
    if not is_main():
        return
    line = printable(line)
    if terminal:
        tqdm.write(paint(line) if paint and has_colours(sys.stdout) else line, file=sys.stdout)  # above a progress bar
        sys.stdout.flush()
    for file in _files:
        with naming(file.name):
            file.write(line + "\n")
            file.flush()


def warn(line: str) -> None:
    """Print a warning: the main process like :func:`say`, others on standard error with their rank."""
    line = inline(line)
    if is_main():
        say(f"warning: {line}", paint=painter("warning"))
    else:
        print(painted(f"warning (process {_rank}): {line}", "warning", sys.stderr), file=sys.stderr, flush=True)


def say_note(message: str) -> None:
    """Print a line on standard error, and in no log file."""
    print(inline(message), file=sys.stderr, flush=True)


def say_error(message: str) -> None:
    """Print an error as one line on standard error."""
    who = f" (process {_rank})" if _rank else ""
    print(painted(inline(f"error{who}: {message}"), "error", sys.stderr), file=sys.stderr, flush=True)


def say_block(block: Mapping[str, str | Sequence[str]]) -> None:
    """Print names and texts in two columns, each text on a line of its own; empty texts are skipped."""
    title = painter("title")
    for name, texts in block.items():
        lines = [text for text in ([texts] if isinstance(texts, str) else texts) if text]
        for number, text in enumerate(lines):
            say(f"{'' if number else name:{COLUMN}}{text}", paint=lambda line: title(line[:COLUMN]) + line[COLUMN:])


class Progress:
    """Progress over items: a bar on a terminal, else a line every half minute."""

    def __init__(self, total: int, title: str, unit: str = "video") -> None:
        self._total, self._title, self._unit, self._done = total, title, unit, 0
        self._start = self._told = time.monotonic()
        self._plain = not shows_bars()
        self._bar = tqdm(total=total, desc=printable(title), unit=unit, smoothing=0.05, disable=self._plain,
                         dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self) -> None:
        """Count one more item."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._plain and is_main() and (self._done == self._total or now - self._told >= PERIOD):
            self._told = now
            left = (now - self._start) / self._done * (self._total - self._done)
            eta = f", about {duration(left)} left" if self._done < self._total else ""
            print(printable(f"{self._title}: {self._done} of {self._total} {self._unit}s{eta}"), file=sys.stderr,
                  flush=True)


def duration(seconds: float) -> str:
    """Format seconds for people: 42 s, 12 min, 3 h 20 min, 2 days 4 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{hours // 24} days {hours % 24} h"


def shows_bars() -> bool:
    """Return whether to draw progress bars: on the main process, if standard error is a terminal with a size."""
    return is_main() and _is_terminal(sys.stderr) and min(os.get_terminal_size(sys.stderr.fileno())) > 0


def has_colours(stream: TextIO) -> bool:
    """Return whether to colour text on a stream: NO_COLOR and FORCE_COLOR (https://no-color.org,
    https://force-color.org) decide, else a terminal that is not dumb.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _is_terminal(stream)


def painter(style: str) -> Callable[[str], str]:
    """Return a function that wraps text in the ANSI codes of one of `STYLES`."""
    return lambda text: f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def painted(text: str, style: str, stream: TextIO) -> str:
    """Colour printable text if the stream has colours."""
    return painter(style)(text) if has_colours(stream) else text


def printable(text: str) -> str:
    """Escape control and direction characters, which the names of videos and classes may contain."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def inline(text: str) -> str:
    """Escape line breaks as well."""
    return printable(text).replace("\n", "\\n")


def one_line(text: str, most: int = 200) -> str:
    """Return the beginning of a text as one printable line."""
    return inline(text[:most]).replace("\t", "\\t") + ("..." if len(text) > most else "")


@contextmanager
def log_file(path: str | Path) -> Iterator[None]:
    """Append everything said to a file while the context is open; the main process only."""
    if not is_main():
        yield
        return
    with naming(path), open(path, "a", encoding="utf-8") as file:
        _files.append(file)
        try:
            yield
        finally:
            _files.remove(file)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"
