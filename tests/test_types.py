"""Annotations: mypy finds nothing in any module.

What mypy knows of torch is kept in the environment, beside torch: the first run takes a minute, later ones seconds.
"""

import subprocess
import sys

from documented import ROOT


def test_types_are_right_in_every_module():
    command = [sys.executable, "-m", "mypy", "--cache-dir", f"{sys.prefix}/mypy_cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
