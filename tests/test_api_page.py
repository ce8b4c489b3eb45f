"""Every python block of README and docs/ runs on miniature data, in order, and gives what it says.

A comment behind an expression is the value that the page promises.
"""

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from documented import ROOT
from miniature import make


def blocks(*pages: str) -> list[str]:
    text = "".join((ROOT / page).read_text() for page in pages)
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


BLOCKS = blocks("docs/how_it_works.md", "docs/evaluation.md")


def promised(block: str, statement: ast.stmt) -> str:
    """Return what the page says that an expression gives, "" where it says nothing."""
    found = re.fullmatch(r".*?  # (.+)", block.splitlines()[(statement.end_lineno or 0) - 1])
    return found[1] if found and isinstance(statement, ast.Expr) else ""


def test_the_pages_give_what_they_say(tmp_path, monkeypatch):
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

    [readme] = blocks("README.md")
    [name] = re.findall(r'load_encoder\("(.*)"\)', readme)
    shutil.copy(Path("coclr.pth.tar"), name)  # weights alone, as published
    names["clips"] = np.zeros((1, 32, 128, 128, 3), np.uint8)
    exec(readme, names)
    assert names["features"].shape == (1, 1024)
