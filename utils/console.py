"""Console output of the main process: lines, tables, log files, and on a terminal colours and progress bars.

Imports no torch, so that data preparation starts fast; :mod:`utils.distributed` sets the rank.
"""

import errno
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

from tqdm import tqdm

from utils.files import naming

T = TypeVar("T")
COLUMN = 10  # width of the first column of `say_block`
PERIOD = 30.0  # seconds between progress lines where there is no bar
STYLES = {"title": "1", "best": "1;32", "warning": "33", "error": "31"}  # ANSI: bold, bold green, yellow, red
BEST = re.compile(r"[\d.]+\*")  # a number that `mark_best` marked
_files: list[TextIO] = []
_rank = 0


def set_rank(rank: int) -> None:
    """Set the rank of this process; from now on all but rank 0 only print warnings and errors."""
    global _rank
    _rank = rank


def is_main() -> bool:
    return _rank == 0


class _Console(io.TextIOWrapper):
    """Standard output or error that escapes unencodable characters, and survives a closed pipe or a full disk."""

    def write(self, text: str) -> int:
        with self._unread():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._unread():
            super().flush()

    @contextmanager
    def _unread(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO):  # a reader that is gone, as after ``| head``, or a terminal
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            elif error.errno not in (errno.ENOSPC, errno.EDQUOT):  # `launch.run` reports these at the end
                raise


def protect_streams() -> None:
    """Keep print from ending the program, be it by an unencodable character or by a closed pipe."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by >&-
            stream = io.TextIOWrapper(io.FileIO(os.devnull, "w"), "utf-8")
        if type(stream) is io.TextIOWrapper:
            settings = {key: getattr(stream, key) for key in ("encoding", "line_buffering", "write_through")}
            setattr(sys, name, _Console(stream.detach(), errors="backslashreplace", **settings))


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
    if is_main():
        say(f"warning: {inline(line)}", paint=painter("warning"))
    else:
        say_error(line, "warning")


def say_error(message: str, style: str = "error") -> None:
    """Print an error as one line on standard error, with the rank of a process that is not the main one."""
    text = inline(f"{style}{f' (process {_rank})' if _rank else ''}: {message}")
    print(painter(style)(text) if has_colours(sys.stderr) else text, file=sys.stderr, flush=True)


def say_progress(line: str, over: bool = False) -> None:
    """Print a line on standard error; ``over``: overwrite the last such line (an empty one clears it)."""
    text, end = (f"\r{printable(line)}\x1b[K", "") if over else (printable(line), "\n")
    print(text, end=end, file=sys.stderr, flush=True)


def say_block(block: Mapping[str, str | Sequence[str]]) -> None:
    """Print names and texts in two columns, each text on a line of its own; empty texts are skipped."""
    title = painter("title")
    for name, texts in block.items():
        lines = [text for text in ([texts] if isinstance(texts, str) else texts) if text]
        for number, text in enumerate(lines):
            say(f"{'' if number else name:{COLUMN}}{text}", paint=lambda line: title(line[:COLUMN]) + line[COLUMN:])


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


def track(items: Iterable[T], total: int, title: str, unit: str = "video") -> Iterator[T]:
    """Yield items, and show the progress: a bar on a terminal, else a line every half minute."""
    start, done, ended, plain = time.monotonic(), 0, threading.Event(), not shows_bars()

    def print_lines() -> None:
        while not ended.wait(PERIOD):
            now, seconds = done, time.monotonic() - start
            eta = f", about {duration(seconds / now * (total - now))} left" if now else ""
            say_progress(f"{title}: {now} of {total} {unit}s{eta}")
    if plain and is_main():
        threading.Thread(target=print_lines, daemon=True).start()  # in time even if one item takes long
    try:
        with tqdm(total=total, desc=printable(title), unit=unit, smoothing=0.05, disable=plain, leave=False,
                  dynamic_ncols=True) as bar:
            for item in items:
                yield item
                done += 1
                bar.update()
    finally:
        ended.set()


def shows_bars() -> bool:
    """Return whether to draw progress bars: on the main process, if standard error is a terminal with a size."""
    return is_main() and _is_terminal(sys.stderr) and min(os.get_terminal_size(sys.stderr.fileno())) > 0


def has_colours(stream: TextIO) -> bool:
    """Return whether to colour text: on terminals, unless NO_COLOR or FORCE_COLOR says otherwise (no-color.org)."""
    return not os.environ.get("NO_COLOR") and (bool(os.environ.get("FORCE_COLOR")) or _is_terminal(stream))


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def painter(style: str) -> Callable[[str], str]:
    """Return a function that wraps text in the ANSI codes of one of `STYLES`."""
    return lambda text: f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def printable(text: str) -> str:
    """Escape control and direction characters, which the names of videos and classes may contain."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def inline(text: str) -> str:
    """Escape line breaks as well."""
    return printable(text).replace("\n", "\\n")


def one_line(text: str, most: int = 200) -> str:
    """Return the beginning of a text as one printable line."""
    return inline(text[:most]).replace("\t", "\\t") + ("..." if len(text) > most else "")


def duration(seconds: float) -> str:
    """Format seconds for people: 42 s, 12 min, 3 h 20 min, 2 days 4 h."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if minutes < 60:
        return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def percent(share: float, digits: int = 2) -> str:
    """Format a share: 0.5173 -> "51.73"."""
    return f"{100 * share:.{digits}f}"


def percentages(shares: Mapping[int, float]) -> dict[str, float]:
    """Turn shares into percentages for JSON: {1: 0.125, 5: 0.5} -> {"1": 12.5, "5": 50.0}."""
    return {str(k): round(100 * share, 4) for k, share in shares.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a text table, its first column flush left, the others flush right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def paint_table(text: str) -> str:
    header, *rest = text.split("\n")
    best = painter("best")
    return "\n".join([painter("title")(header), *(BEST.sub(lambda found: best(found[0]), line) for line in rest)])


def mark_best(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Mark the highest number of each column but the first with a star, if there are several rows."""
    if len(rows) < 2:
        return [list(row) for row in rows]
    first, *columns = zip(*rows, strict=True)
    best = [max((float(cell) for cell in column if cell != "-"), default=None) for column in columns]
    marked = [[f"{cell}*" if cell != "-" and float(cell) == top else f"{cell} " for cell in column]
              for column, top in zip(columns, best, strict=True)]
    return [list(row) for row in zip(first, *marked, strict=True)]
