"""Text tables and percentages."""

import math
import re
from collections.abc import Mapping, Sequence

from utils.console import painter

BEST = re.compile(r"[\d.]+\*")  # a number that `mark_best` marked


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a text table, its first column flush left, the others flush right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def paint_table(text: str) -> str:
    """Colour a table: header bold, best numbers green."""
    header, *rest = text.split("\n")
    best = painter("best")
    return "\n".join([painter("title")(header), *(BEST.sub(lambda found: best(found[0]), line) for line in rest)])


def mark_best(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Mark the highest number of each column but the first with a star, if there are several rows."""
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
        return -math.inf  # not measured


def percent(share: float) -> str:
    """Format a share: 0.5173 -> "51.73"."""
    return f"{100 * share:.2f}"


def percentages(shares: Mapping[int, float]) -> dict[str, float]:
    """Turn shares into percentages for JSON: {1: 0.125, 5: 0.5} -> {"1": 12.5, "5": 50.0}."""
    return {str(k): round(100 * share, 4) for k, share in shares.items()}
