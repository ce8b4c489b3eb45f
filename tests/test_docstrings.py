"""Docstrings of the public API: every parameter, every error that is raised, and the shape of every array."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = [
    "backbone/select_backbone.py", "model/pretrain.py", "model/cascade.py", "model/momentum.py", "model/loss.py",
    "model/classifier.py", "dataset/catalog.py", "dataset/video_dataset.py", "dataset/video_index.py",
    "dataset/lmdb_reader.py", "dataset/clip_sampler.py", "eval/protocols.py", "eval/retrieval.py", "eval/knn.py",
    "eval/network.py", "utils/augmentation.py", "utils/presets.py"]
ARRAYS = re.compile(r"\b(Tensor|ndarray|FeatureSet)\b")
SHAPE = re.compile(r"\((\.\.\., |[\w+*/]+, ?)+([\w+*/]+|\.\.\.)?\)|\b0-d\b")  # (B, K), (N,), 0-d
Definition = ast.FunctionDef | ast.ClassDef


def definitions(tree: ast.AST, prefix: str = "") -> dict[str, Definition]:
    """Public functions, classes and methods by name."""
    found = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition) and not node.name.startswith("_"):
            found[prefix + node.name] = node
            if isinstance(node, ast.ClassDef):
                found |= definitions(node, f"{prefix}{node.name}.")
    return found


def function_of(node: Definition) -> ast.FunctionDef | None:
    """The function that a docstring is about: of a class its __init__."""
    if isinstance(node, ast.FunctionDef):
        return node
    return next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)


def parameters(node: Definition) -> list[str]:
    """Parameters; of a dataclass its fields."""
    function = function_of(node)
    if function is not None:
        given = function.args
        each = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        return [one.arg for one in each if one is not None and one.arg not in ("self", "cls")]
    if any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
        return [field.target.id for field in node.body if isinstance(field, ast.AnnAssign)
                and not field.target.id.startswith("_")]
    return []


def section(text: str, title: str) -> str:
    """The lines below a title, up to the next one."""
    found = re.search(rf"^\s*{title}:\n(.*?)(?=^\s*(?:Args|Returns|Yields|Raises|Attributes):\n|\Z)", text,
                      flags=re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def named(text: str) -> set[str]:
    """What stands before a colon, alone or in a list: "a, b: both. c: another"."""
    found = re.findall(r"(?:^|\s)((?:\w+, )*\w+):(?=\s)", text)
    return {name for names in found for name in names.split(", ")}


def raised(node: Definition) -> set[str]:
    """Types of the errors that a function itself makes."""
    function = function_of(node)
    calls = [one.exc for one in ast.walk(function) if isinstance(one, ast.Raise)] if function is not None else []
    names = [ast.unparse(call.func if isinstance(call, ast.Call) else call) for call in calls if call is not None]
    return {name for name in names if name[:1].isupper()}


def faults(path: str, name: str, node: Definition) -> list[str]:
    """What the docstring lacks."""
    text = ast.get_docstring(node) or ""
    if not text:
        return [f"{path}: {name} has no docstring"]
    wanted = parameters(node)
    lacking = [one for one in wanted if one not in named(section(text, "Args") + section(text, "Attributes"))]
    found = [f"{path}: {name} does not tell of {', '.join(lacking)} in Args"] if lacking else []
    silent = raised(node) - named(section(text, "Raises"))
    found += [f"{path}: {name} raises {', '.join(sorted(silent))}, which is not in Raises"] if silent else []
    function = function_of(node)
    if function is not None and not SHAPE.search(text):
        given = [one.annotation for one in [*function.args.args, *function.args.kwonlyargs]]
        if any(one is not None and ARRAYS.search(ast.unparse(one)) for one in [*given, function.returns]):
            found.append(f"{path}: {name} takes or returns arrays, and gives no shape")
    return found


@pytest.mark.parametrize("path", PUBLIC)
def test_public_docstrings_are_complete(path):
    tree = ast.parse((ROOT / path).read_text())
    assert ast.get_docstring(tree)
    public = definitions(tree)
    assert public
    found = [fault for name, node in public.items() for fault in faults(path, name, node)]
    assert not found, "\n".join(found)


def test_what_is_lacking_is_found():
    text = '''
def cascade(rows: Tensor, keep: int, *, first: str) -> Tensor:
    """Keep some.

    Args:
        rows, keep: what and how many.
    """
    if keep < 1:
        raise ModelError("too few")
    try:
        return rows
    except KeyError as error:
        raise error

class Job:
    """Where."""
    def __init__(self, folder): ...
    def run(self): ...
'''
    found = [fault for name, node in definitions(ast.parse(text)).items() for fault in faults("x", name, node)]
    assert found == ["x: cascade does not tell of first in Args",
                     "x: cascade raises ModelError, which is not in Raises",
                     "x: cascade takes or returns arrays, and gives no shape", "x: Job does not tell of folder in Args",
                     "x: Job.run has no docstring"]


def test_shapes_are_known_from_words():
    shapes = ("(B, K)", "(N,)", "(W*B, D)", "(B, 1+K)", "(..., D)", "0-d")
    assert all(SHAPE.search(text) for text in shapes)
    assert not any(SHAPE.search(text) for text in ("(see above)", "(MoCo, as released)", "(B)"))
