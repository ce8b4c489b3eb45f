"""No module of the project uses a function that could run the content of a file, and a checkpoint runs nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import checkpoint

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ("tests", ".venv"))
MODULES = ("cloudpickle", "_pickle", "dill", "joblib", "marshal", "shelve", "yaml")
CALLS = ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "pickle.load",
         "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.hub.load", "pandas.read_pickle",
         "torch.serialization.add_safe_globals", "torch.serialization.safe_globals")
# A test below bounds what safe_globals allows. yaml.compose gives a tree of texts, and makes no objects of them.
ALLOWED = {"engine/checkpoint.py": {"torch.serialization.safe_globals"},
           "utils/parser.py": {f"yaml.{name}" for name in ("compose", "BaseLoader", "YAMLError", "Node", "ScalarNode",
                                                           "SequenceNode", "MappingNode")} | {"yaml"}}


def imports(tree: ast.Module) -> dict[str, str]:
    """Return what a file imports: {name in the file: whole name}."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                      for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def whole_name(node: ast.expr, imported: dict[str, str]) -> str:
    """Return the whole name of an expression: numpy.load for ``np.load``; "" if it is not a name."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, node.id) if isinstance(node.ctx, ast.Load) else ""
    inner = whole_name(node.value, imported) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner else ""


def careless(source: str, allowed: set[str] = frozenset()) -> Iterator[str]:
    """Yield what could run the content of a file."""
    tree = ast.parse(source)
    imported = imports(tree)
    used = {whole_name(node, imported) for node in ast.walk(tree)}  # called, or handed on
    for whole in (used | set(imported.values())) - allowed:
        if whole in CALLS or whole.split(".")[0] in MODULES:
            yield whole
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = whole_name(call.func, imported)
        given = {k.arg: k.value.value if isinstance(k.value, ast.Constant) else k.value for k in call.keywords}
        if called == "torch.load" and given.get("weights_only") is not True:
            yield "torch.load without weights_only=True"
        if called == "numpy.load" and (given.get("allow_pickle", False) is not False or len(call.args) > 2):
            yield "numpy.load with allow_pickle"
        if called.startswith("subprocess.") and given.get("shell", False) is not False:
            yield f"{called} with a shell"


def test_no_module_could_run_the_content_of_a_file():
    assert len(SOURCES) > 60
    assert [f"{path}: {what}" for path in (str(file.relative_to(ROOT)) for file in SOURCES)
            for what in careless((ROOT / path).read_text(), ALLOWED.get(path, set()))] == []


@pytest.mark.parametrize("source", [
    "import pickle; pickle.load(file)", "from pickle import loads as read; read(data)", "from pickle import Unpickler",
    "import numpy as np; np.load(path, allow_pickle=flag)", "import numpy; numpy.load(path, None, True)",
    "import torch; torch.load(path)", "from torch import load; load(path, weights_only=False)",
    "import torch; torch.load(path, **options)", "import yaml; yaml.load(text)", "from yaml import safe_load",
    "eval(text)", "map(eval, lines)", "def f():\n    import shelve", "import os; os.system(name)",
    "import torch\nwith torch.serialization.safe_globals([f]): pass",
    "import subprocess as s; s.run(name, shell=True)"])
def test_the_check_finds_careless_calls(source):
    assert list(careless(source))


@pytest.mark.parametrize("source", [
    "import torch; torch.load(path, weights_only=True)", "import numpy as np; np.load(path, allow_pickle=False)",
    "net.eval()", "compile: bool = False", "import pickle; pickle.dumps(1)", "import re; re.compile('a')",
    "import subprocess; subprocess.run(['git'])"])
def test_the_check_lets_careful_calls_pass(source):
    assert list(careless(source)) == []


def test_yaml_is_read_as_texts_alone():
    allowed = ALLOWED["utils/parser.py"]
    assert not list(careless("import yaml; yaml.compose(text, Loader=yaml.BaseLoader)", allowed))
    for use in ("yaml.load(text, Loader=yaml.BaseLoader)", "yaml.safe_load(text)", "yaml.compose(t, yaml.Loader)"):
        assert list(careless(f"import yaml; {use}", allowed)), use


def test_a_checkpoint_may_name_numbers_of_numpy_and_nothing_else():
    named = {entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"
             for entry in checkpoint.ALLOWED}
    assert {name for name in named if not name.startswith("numpy.dtypes.")} == {
        "numpy.dtype", "_codecs.encode", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"}


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
