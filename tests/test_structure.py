"""Rules for the code base: imports point down, code lints, run outputs stay out of git."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("main_nce", "main_coclr")
# Floors of the house: a package imports from floors below its own, and utils from everywhere.
FLOORS = [{"utils", "backbone"}, {"model", "dataset"}, {"engine", "process_data"}, {"eval"}, {*SCRIPTS, "tools"},
          {"cotrain"}, {"experiments"}, {"scripts"}]
FLOOR = {package: number for number, packages in enumerate(FLOORS) for package in packages}
ALONE = {"backbone", "utils"}  # import nothing else of ours
ONLY_BY = {"tools": {"cotrain", "experiments", "scripts"}, **{script: {"cotrain", "experiments"} for script in SCRIPTS}}
PLACES = (ROOT.glob("*.py"), *((ROOT / package).rglob("*.py") for package in FLOOR))
MODULES = sorted(path.relative_to(ROOT) for place in PLACES for path in place)


def package_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too; ``from a import b`` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_allowed(package: str, imported: str) -> bool:
    if imported == package or imported not in FLOOR:
        return True
    if package in ALONE or package not in ONLY_BY.get(imported, {package}):
        return False
    return imported == "utils" or FLOOR[imported] < FLOOR[package]


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def test_every_module_has_a_floor():
    assert len(MODULES) > 70 and {package_of(path) for path in MODULES} <= set(FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_down(path):
    for module in imports(path):
        assert not module.startswith(("importlib.import_module", "importlib.util")) and module != "importlib", path
        assert is_allowed(package_of(path), module.split(".")[0]), f"{path} imports {module}"


def test_modules_import_each_other_in_no_circle():
    names = {module_name(path) for path in MODULES}
    needs = {module_name(path): {name for module in imports(path) for name in (module, module.rpartition(".")[0])
                                 if name in names} - {module_name(path)} for path in MODULES}
    left = dict(needs)
    while free := [name for name, wanted in left.items() if not wanted & set(left)]:
        for name in free:
            del left[name]
    assert not left


@pytest.mark.parametrize("path", [path for path in MODULES if len(path.parts) > 1 and path.parts[0] != "scripts"],
                         ids=str)
def test_below_the_scripts_no_function_takes_the_options(path):
    """Entry scripts inside packages, which have a main, may hand their own options to their own functions."""
    tree = ast.parse((ROOT / path).read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    if any(node.name == "main" for node in functions) or path.name == "parser.py":  # argparse names it so
        return
    assert not [node.name for node in functions for each in node.args.args if each.arg == "args"]


@pytest.mark.parametrize("words", [["ruff", "check", "."], ["mypy", "--cache-dir", f"{sys.prefix}/mypy_cache"]])
def test_ruff_and_mypy_find_nothing(words):
    """What mypy knows of torch is kept in the environment: the first run takes a minute, later ones seconds."""
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_that_runs_leave_is_in_git():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    leftovers = re.compile(r"\.(pth\.tar|lmdb|avi|mp4|pyc|ipynb)$|/video_source\.json$|_split.*\.csv$|events\.out")
    assert [f for f in files if leftovers.search(f)] == []


@pytest.mark.parametrize(("old", "new"), [
    ("report", "tools.report"), ("benchmarks", "tools.benchmarks"), ("eval.search", "tools.search"),
    ("dataset.inspect", "tools.inspect_dataset"), ("experiments.verify", "tools.verify"),
    ("scripts.draw_cascade", "tools.figures cascade")])
def test_commands_that_moved_name_the_new_one(old, new):
    done = subprocess.run([sys.executable, "-m", old, "x"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == f"error: this command has moved: python -m {new}\n"
