"""No code of the project could run what is in a file: its calls are read, not trusted."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import checkpoint

ROOT = Path(__file__).parents[1]
PACKAGES = ("backbone", "benchmarks", "dataset", "eval", "experiments", "inspection", "model", "process_data",
            "report", "scripts", "utils")
MODULES = ("cloudpickle", "_pickle", "cPickle", "dill", "dbm", "joblib", "marshal", "shelve", "yaml")
CALLS = ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "pickle.load",
         "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter",
         "torch.serialization.add_safe_globals", "pandas.read_pickle", "numpy.lib.format.read_array")
# The list of safe_globals is tested below; of yaml, the file of options takes the tree of texts, and makes no objects.
ALLOWING = {"utils/checkpoint.py": ("torch.serialization.safe_globals",), "utils/config_file.py": ("yaml",)}
OF_YAML = {f"yaml.{name}" for name in ("compose", "BaseLoader", "Node", "ScalarNode", "SequenceNode", "MappingNode",
                                       "YAMLError", "MarkedYAMLError")}


def names(tree: ast.Module) -> dict[str, str]:
    """What is imported: the name it has in the file -> its whole name."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                      for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def whole_name(node: ast.expr, imported: dict[str, str]) -> str:
    """Of what is called: ``np.load`` is numpy.load; "" for what is no plain name."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        inner = whole_name(node.value, imported)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def keyword(call: ast.Call, name: str) -> object:
    """A keyword argument's constant; None where it is not given, the node where it is no constant."""
    value = next((entry.value for entry in call.keywords if entry.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else value


def careless(source: str, path: str = "") -> Iterator[str]:
    """What in a source could run the content of a file."""
    tree = ast.parse(source)
    imported = names(tree)
    for whole in imported.values():
        if (whole.split(".")[0] in MODULES and whole not in ALLOWING.get(path, ())) or whole in CALLS:
            yield f"import {whole}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and whole_name(node, imported) in CALLS:  # called or handed on
            yield whole_name(node, imported)
        if isinstance(node, ast.Attribute) and whole_name(node, imported).startswith("yaml.") and \
                whole_name(node, imported) not in OF_YAML:
            yield whole_name(node, imported)
        if not isinstance(node, ast.Call):
            continue
        called = whole_name(node.func, imported)
        if called == "torch.load" and keyword(node, "weights_only") is not True:
            yield "torch.load without weights_only=True"
        if called.startswith("numpy.") and keyword(node, "allow_pickle") not in (None, False):
            yield f"{called} with allow_pickle"
        if called == "numpy.load" and len(node.args) > 2:  # the third is allow_pickle
            yield "numpy.load with allow_pickle"
        if called == "torch.serialization.safe_globals" and called not in ALLOWING.get(path, ()):
            yield called
        if called.startswith("subprocess.") and keyword(node, "shell") not in (None, False):
            yield f"{called} with a shell"


def test_no_module_could_run_the_content_of_a_file():
    files = sorted([*ROOT.glob("*.py"), *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))])
    assert len(files) > 80
    found = [f"{file.relative_to(ROOT)}: {what}" for file in files
             for what in careless(file.read_text(), str(file.relative_to(ROOT)))]
    assert found == []


def test_every_package_is_looked_at():
    there = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert there <= set(PACKAGES)


@pytest.mark.parametrize("source", [
    "import pickle; pickle.load(file)", "from pickle import loads as read; read(data)", "from pickle import Unpickler",
    "import numpy as np; np.load(path, allow_pickle=True)", "import numpy as np; np.load(path, allow_pickle=flag)",
    "import numpy; numpy.load(path, None, True)", "from numpy import load; load(path, allow_pickle=True)",
    "import torch; torch.load(path)", "import torch; torch.load(path, weights_only=False)",
    "from torch import load; load(path)", "import torch; torch.load(path, **options)",
    "import torch; torch.hub.load(name)",
    "import torch\ndef f():\n    return torch.load(path, weights_only=flag)", "import yaml; yaml.load(text)",
    "from yaml import safe_load", "eval(text)", "exec(text)", "map(eval, lines)", "compile(text, '', 'exec')",
    "import marshal", "def f():\n    import shelve", "from marshal import loads", "import os; os.system(name)",
    "from torch.serialization import add_safe_globals; add_safe_globals([f])",
    "import torch\nwith torch.serialization.safe_globals([f]): pass",
    "import subprocess; subprocess.run(name, shell=True)", "__import__(name)"])
def test_the_check_finds_careless_calls(source):
    assert list(careless(source))


def test_yaml_is_read_as_texts_alone():
    path = "utils/config_file.py"
    assert not list(careless("import yaml; yaml.compose(text, Loader=yaml.BaseLoader)", path))
    for use in ("yaml.load(text, Loader=yaml.BaseLoader)", "yaml.safe_load(text)", "read = yaml.unsafe_load",
                "yaml.compose(text, yaml.UnsafeLoader)"):
        assert list(careless(f"import yaml; {use}", path)), use


@pytest.mark.parametrize("source", [
    "import torch; torch.load(path, weights_only=True)", "import numpy as np; np.load(path, allow_pickle=False)",
    "net.eval()", "net.compile()", "import pickle; pickle.dumps(1); pickle.UnpicklingError",
    "import json; json.load(file)",
    "from utils import checkpoint; checkpoint.load(path)", "import re; re.compile('a')",
    "import subprocess; subprocess.run(['git'])"])
def test_the_check_lets_careful_calls_pass(source):
    assert list(careless(source)) == []


def test_what_a_checkpoint_may_name_besides_tensors_is_a_short_list_of_numpy(tmp_path, monkeypatch):
    seen = []
    load = torch.load

    def spy(*args: object, **settings: object) -> object:
        seen.extend(torch.serialization.get_safe_globals())
        return load(*args, **settings)
    monkeypatch.setattr(checkpoint.torch, "load", spy)
    before = torch.serialization.get_safe_globals()
    torch.save({"state_dict": {}}, tmp_path / "x")
    checkpoint.load(tmp_path / "x")
    added = [entry for entry in seen if entry not in before]
    named = {entry[1] for entry in added if isinstance(entry, tuple)}
    assert named == {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"}
    assert {entry[0].__module__ for entry in added} == {"utils.pickles"}  # nothing of NumPy itself
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize("reduced", [
    np.array([{}], dtype=object).__reduce__(), (getattr, (torch.Tensor, "numpy")),
    (torch.load, ("other",)), (checkpoint.load, ("other",))])
def test_nothing_else_can_be_called_from_a_checkpoint(tmp_path, reduced):
    class Caller:
        def __reduce__(self) -> tuple:
            return reduced
    torch.save({"state_dict": {}, "x": Caller()}, tmp_path / "x")
    with pytest.raises(checkpoint.CheckpointError, match="more than plain data"):
        checkpoint.load(tmp_path / "x")
