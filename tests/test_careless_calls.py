"""Nothing executes the content of a file: neither our code, nor loading a checkpoint."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import checkpoint

ROOT = Path(__file__).parents[1]
# (A text for the user begins with a quote.) exec, pickle, marshal, eval, yaml.load, a shell: rules of ruff
RULES = ["check", "--isolated", "--select", "S102,S301,S302,S307,S506,S602,S604,S605", "--output-format", "concise"]
LOADING = re.compile(r"(?<!\")torch\.load\((?!.*weights_only=True)|allow_pickle=(?!False)")


def careless(*paths: Path) -> list[str]:
    """Return what ruff finds, and calls that load more than numbers."""
    done = subprocess.run([sys.executable, "-m", "ruff", *RULES, *paths], capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if ".py:" in line]
    return found + [f"{path}: {call}" for path in paths for call in LOADING.findall(path.read_text())]


def test_no_module_could_run_the_content_of_a_file(tmp_path):
    sources = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in ("tests", ".venv")]
    assert len(sources) > 60 and careless(*sources) == []
    bad = tmp_path / "bad.py"
    bad.write_text("import os, pickle, subprocess, yaml\npickle.load(x)\neval(x)\nexec(x)\nyaml.load(x)\nos.system(x)\n"
                   "subprocess.run(x, shell=True)\ntorch.load(x)\nnp.load(x, allow_pickle=True)\n")
    assert len(careless(bad)) == 8


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
