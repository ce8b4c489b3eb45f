"""What an evaluation leaves for people: tables for the console and the log, JSON files."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.console import one_line
from utils.errors import CheckpointError


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A text table: first column flush left, the others flush right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def mark_best(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The rows with a star after the highest number of each column but the first, where there are several rows."""
    columns = list(zip(*rows, strict=True))
    if len(rows) < 2:
        return [list(row) for row in rows]
    marked = [[f"{cell}*" if _number(cell) == max(map(_number, column)) else f"{cell} " for cell in column]
              for column in columns[1:]]
    return [list(row) for row in zip(columns[0], *marked, strict=True)]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return -math.inf  # nothing was measured


def percent(share: float) -> str:
    """0.5173 -> "51.73"."""
    return f"{100 * share:.2f}"


def percentages(shares: Mapping[int, float]) -> dict[str, float]:
    """{1: 0.125, 5: 0.5} -> {"1": 12.5, "5": 50.0}, for a file."""
    return {str(k): round(100 * share, 4) for k, share in shares.items()}


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all: under a temporary name first, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.replace(temporary, path)


class _TwiceError(ValueError):
    """A key that a JSON object has twice, of which readers take the last."""


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(key)
        found[key] = value
    return found


def read_json(path: Path) -> Any:
    """Content of a JSON file; CheckpointError in one line where it is missing, not JSON, or has a key twice."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except _TwiceError as error:
        raise CheckpointError(f"{path} has {one_line(str(error))} twice: leave one of them") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON file: it may be cut short, write it again") from error
