"""What the log of a plan's step says: its last lines, and why it failed."""

import signal
from collections.abc import Iterable
from pathlib import Path

from utils.console import NEXT, printable, say
from utils.errors import TrainingError

LINES_OF_FAILURE = 20
WIDTH = 150  # of a shown line


def show(lines: Iterable[str]) -> None:
    """Print lines of a log, cut to a width."""
    for line in lines:
        say(f"  {line[:WIDTH]}")


def failure(name: str, code: int, log: Path) -> TrainingError:
    """What to raise for a step that failed, after showing its last lines: one line with the reason it gave."""
    lines = last_lines(log, LINES_OF_FAILURE)
    show(lines)
    reasons = [line for line in lines if line.startswith("error")] or lines[-1:] or ["it said nothing"]
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    return TrainingError(f"step {name!r} {how}: {reasons[-1]} (its log: {log}; once that is mended, the same "
                         "command goes on with this step)")


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log's last run that are not empty, without what its first line says."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [printable(line) for line in text.splitlines() if line.strip()]
    start = max((i for i, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    lines = lines[start + 1:]
    if NEXT in lines:  # the plan itself knows what comes next
        lines = lines[:lines.index(NEXT)]
    return lines[-count:] if count else []
