"""The packages that the project needs: declared as ranges, pinned for the tests, and the same for pip and conda."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from test_structure import imports

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [Requirement(each) for each in PROJECT["dependencies"]]
TESTED = [Requirement(each) for extra in PROJECT["optional-dependencies"].values() for each in extra]


def pins(file: str) -> dict[str, str]:
    """The pinned versions that a file lists."""
    return dict(re.findall(r"^[ -]*([\w.-]+)==(\S+)$", (ROOT / file).read_text(), flags=re.MULTILINE))


def test_pip_and_conda_install_the_same_tested_versions():
    pinned = pins("constraints.txt")
    assert set(pinned) == {each.name for each in NEEDED + TESTED} and pins("environment.yml") == pinned
    for each in NEEDED + TESTED:
        assert each.specifier.contains(pinned[each.name]) and "==" not in str(each.specifier), each


def test_what_runs_without_tests_imports_no_package_of_the_tests():
    """matplotlib, say, was once declared for tests alone, and needed by a script."""
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = {Path(file).parts[0].removesuffix(".py") for file in files.split()}
    imported = {module.split(".")[0] for file in files.split() if not file.startswith("tests/")
                for module in imports(ROOT / file)} - ours - set(sys.stdlib_module_names)
    packages = {module: set(map(normalised, names)) for module, names in metadata.packages_distributions().items()}
    declared = {normalised(each.name) for each in NEEDED} | {"markupsafe"}  # a part of jinja2's interface
    assert {"torch", "matplotlib", "cv2"} <= imported
    assert {module for module in imported if not declared & packages.get(module, {module})} == set()


def normalised(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
