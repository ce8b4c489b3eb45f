"""HTML pages that need no other file: one head and one style for all of them, names only ever as text."""

import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.files import write_bytes


def number(value: float) -> str:
    """Write a number with three digits: 0.294, 12.6, 1200, 1e-05."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}"


def percent(share: float) -> str:
    """Write a share (0-1) in percent, without the sign."""
    return f"{100 * share:.1f}"


def render(template: str, **content: Any) -> str:
    """Fill in a template of this folder; all content is escaped, unless it is marked as markup."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"number": number, "percent": percent, "shell": shlex.join}
    return environment.get_template(template).render(content)


def write(path: Path, template: str, **content: Any) -> int:
    """Write a page, in place of a file of that name, and return its size in bytes."""
    page = render(template, **content).encode("utf-8", "backslashreplace")  # names of files need not be UTF-8
    write_bytes(path, page)
    return len(page)
