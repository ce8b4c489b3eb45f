"""The house rules that a machine can check: import direction, one list of packages, a clean tree."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"backbone", "model", "dataset", "utils", "eval", "process_data", "benchmarks", "experiments", "inspection",
        "report"}
# What each package may import of ours, itself left out.
ALLOWED = {
    "backbone": set(),
    "model": {"backbone", "utils.distributed"},
    "dataset": set(),
    "utils": set(),
    "process_data": {"dataset.lmdb_reader", "dataset.errors", "dataset.frame_ends", "dataset.lmdb_pages",
                     "dataset.msgpack_list", "dataset.jpeg", "dataset.regular", "utils.parser", "utils.terminal"},
    "inspection": {"dataset", "utils", "eval.report"},
}
# An entry script like those of the root, which import everything; it lies in the package since its command is
# `python -m dataset.inspect`. What it does lies outside, in `inspection`, and nothing may import it.
SCRIPT_INSIDE = ROOT / "dataset" / "inspect.py"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, ``from a import b`` as both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_allowed(module: str, package: str) -> bool:
    top = module.split(".")[0]
    inside = top == package or top not in OURS
    return inside or any(module == a or module.startswith(a + ".") for a in ALLOWED[package])


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package):
    files = sorted(set((ROOT / package).rglob("*.py")) - {SCRIPT_INSIDE})
    assert files
    scripts = {path.stem for path in ROOT.glob("*.py")}
    for path in files:
        for module in imports(path):
            assert is_allowed(module, package), f"{path.relative_to(ROOT)} imports {module}"
            assert module.split(".")[0] not in scripts, f"{path.relative_to(ROOT)} imports a script, {module}"


def test_nothing_imports_the_script_in_a_package():
    assert SCRIPT_INSIDE.is_file()
    module = ".".join(SCRIPT_INSIDE.relative_to(ROOT).with_suffix("").parts)
    files = [*ROOT.glob("*.py"), *(path for package in OURS | {"scripts"} for path in (ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    for path in files:
        assert not any(f"{found}.".startswith(f"{module}.") for found in imports(path)), path.relative_to(ROOT)


def test_the_check_of_imports_can_fail():
    assert not is_allowed("dataset.catalog.build", "model")
    assert not is_allowed("utils.metrics.Meters", "model")
    assert is_allowed("utils.distributed.rank", "model")


def test_conda_and_pip_install_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip = set(project["dependencies"]) | {p for extra in project["optional-dependencies"].values() for p in extra}
    conda = set(re.findall(r"^      - (\S+)$", (ROOT / "environment.yml").read_text(), flags=re.MULTILINE))
    assert conda == pip
    assert all("==" in p for p in pip)


def test_code_lints():
    command = [sys.executable, "-m", "ruff", "check", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_that_runs_leave_is_in_git():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    leftovers = re.compile(r"\.(pth\.tar|lmdb|avi|mp4|pyc|ipynb)$|/video_source\.json$|_split.*\.csv$|events\.out")
    assert [f for f in files if leftovers.search(f)] == []
