"""Stand-in for an experiment's steps; lightweight, because spawned processes import it again."""

import os
import time
from pathlib import Path

from utils.errors import TrainingError


def part(out: Path, steps: list) -> None:
    """Write the share of the cores into a file, or fail, as the file's name says."""
    while out.name == "fails" and not (out.parent / "goes on").exists():
        time.sleep(0.01)
    if out.name == "fails":
        raise TrainingError("a step failed")
    out.write_text(os.environ["OMP_NUM_THREADS"])
    time.sleep(0.1)
