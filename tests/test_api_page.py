"""Every block of docs/api.md runs on miniature data, in order, and gives what it says; three lines are enough.

A further block needs nothing here: a comment behind an expression is what its value must look like.
"""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from miniature import make
from searching import write_video

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r".*?  # (.+)")
MOST_LINES = 3  # besides imports and values that are shown
SETTING = re.compile(r"roots = ")  # where the data lies, which a command line would say as well


def blocks(text: str) -> list[str]:
    return BLOCK.findall(text)


def shown(block: str, statement: ast.stmt) -> str:
    """What the page says that an expression gives, "" where it says nothing."""
    found = SHOWN.fullmatch(block.splitlines()[(statement.end_lineno or 0) - 1])
    return found[1] if found and isinstance(statement, ast.Expr) else ""


def run(block: str, names: dict[str, Any]) -> int:
    """Run a block, and compare what it shows; how many of its values were compared."""
    compared = 0
    for statement in ast.parse(block).body:
        code = ast.unparse(statement)
        if expected := shown(block, statement):
            value = repr(eval(code, names))
            assert value == expected, f"{code} gives {value}, the page says {expected}"
            compared += 1
        else:
            exec(code, names)
    return compared


def test_the_page_gives_what_it_says(tmp_path, monkeypatch):
    make(tmp_path, "mine")
    for seed, name in enumerate("abcd"):
        write_video(tmp_path / "videos" / f"{name}.avi", 8, seed)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = blocks(PAGE.read_text())
    assert len(found) >= 5
    assert sum(run(block, names) for block in found) >= len(found)


def test_three_lines_are_enough():
    for block in blocks(PAGE.read_text()):
        lines = [ast.unparse(statement) for statement in ast.parse(block).body
                 if not isinstance(statement, ast.Import | ast.ImportFrom) and not shown(block, statement)]
        lines = [line for line in lines if not SETTING.match(line)]
        assert len(lines) <= MOST_LINES, block


def test_another_value_than_the_page_says_is_noticed():
    text = "Words.\n\n```python\nx = 1 + 1\nx + 1  # 3\n```\n\n```python\nx  # 3\n```\n"
    names: dict[str, Any] = {}
    right, wrong = blocks(text)
    assert run(right, names) == 1
    with pytest.raises(AssertionError, match="x gives 2, the page says 3"):
        run(wrong, names)
