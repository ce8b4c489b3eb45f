"""Annotations: mypy finds nothing in any module, and refuses what is not annotated.

What mypy knows of torch is kept in the environment, beside torch: the first run takes a minute, later ones seconds.
"""

import subprocess
import sys
from pathlib import Path

from documented import ROOT


def mypy(*options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mypy", "--cache-dir", f"{sys.prefix}/mypy_cache", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_types_are_right_in_every_module():
    done = mypy()
    assert done.returncode == 0, done.stdout + done.stderr


def test_missing_annotations_are_refused(tmp_path: Path):
    text = "def f(x):\n    return x\n\ndef g(x: int = None) -> str:\n    return x\n\ng(1)  # type: ignore\n"
    (tmp_path / "bad.py").write_text(text)
    done = mypy("--config-file", "pyproject.toml", str(tmp_path / "bad.py"))
    assert done.returncode == 1
    for code in ("no-untyped-def", "assignment", "return-value", "unused-ignore"):
        assert f"[{code}]" in done.stdout, done.stdout
