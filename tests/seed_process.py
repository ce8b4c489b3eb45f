"""A process in place of a set and seed of the experiment; imports little, since spawned processes load it anew."""

import os
import signal
import sys
import time
from pathlib import Path

from utils.stop import EXIT_CODE


def part(plan: Path) -> None:
    """Do what the last part of the path says, after writing the share of the cores there."""
    if plan.name == "waits":  # listens before the others, which wait for its file, can end
        signal.signal(signal.SIGTERM, lambda *_: (plan.parent / "told").touch() or sys.exit(0))
    plan.write_text(os.environ["OMP_NUM_THREADS"])
    while plan.name == "waits" or (plan.name in ("fails", "is stopped") and not (plan.parent / "waits").exists()):
        time.sleep(0.01)
    sys.exit({"fails": 1, "is stopped": EXIT_CODE}.get(plan.name, 0))
