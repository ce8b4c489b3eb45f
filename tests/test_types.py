"""Annotations: mypy finds nothing, over every module, at a level that an unannotated one does not reach."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False)


def files(*patterns: str) -> list[Path]:
    """What is or will be in git, relative to the root."""
    command = ["git", "ls-files", "-co", "--exclude-standard", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    if not listed:
        pytest.skip("not a git checkout")
    return [Path(name) for name in listed if (ROOT / name).is_file()]


def test_types_are_right_in_every_module():
    done = run("mypy")
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(path.parts[0] != "tests" for path in files("*.py"))
    assert f"no issues found in {count} source files" in done.stdout


def test_what_is_not_annotated_is_refused(tmp_path):
    text = "def f(x):\n    return x\n\ndef g(x: int = None) -> str:\n    return x\n\ng(1)  # type: ignore\n"
    (tmp_path / "bad.py").write_text(text)
    done = run("mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache"),
               str(tmp_path / "bad.py"))
    assert done.returncode == 1
    for code in ("no-untyped-def", "assignment", "return-value", "unused-ignore"):
        assert f"[{code}]" in done.stdout, done.stdout


def test_a_wheel_tells_that_every_package_is_typed(tmp_path):
    source = tmp_path / "source"
    for path in files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    done = run("pip", "wheel", "--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--wheel-dir",
               str(tmp_path), ".", cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for package in packages:
        assert f"{package.replace('.', '/')}/__init__.py" in held
        assert f"{package.split('.')[0]}/py.typed" in held
