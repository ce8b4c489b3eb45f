"""Every block of docs/api.md runs on miniature data, in order, and gives what it says.

A comment behind an expression is the value that the page promises.
"""

import ast
import re
from typing import Any

from documented import ROOT
from miniature import make

PAGE = (ROOT / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def promised(block: str, statement: ast.stmt) -> str:
    """Return what the page says that an expression gives, "" where it says nothing."""
    found = re.fullmatch(r".*?  # (.+)", block.splitlines()[(statement.end_lineno or 0) - 1])
    return found[1] if found and isinstance(statement, ast.Expr) else ""


def test_the_page_gives_what_it_says(tmp_path, monkeypatch):
    make(tmp_path, "mine")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    compared = 0
    for block in BLOCKS:
        for statement in ast.parse(block).body:
            code = ast.unparse(statement)
            if value := promised(block, statement):
                assert repr(eval(code, names)) == value, code
                compared += 1
            else:
                exec(code, names)
    assert compared >= len(BLOCKS) >= 5
