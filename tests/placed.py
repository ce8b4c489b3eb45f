"""A pretraining script on noise that writes its ranks to place.json: ``placed.py {wait,go} main_nce OPTIONS``.

With "wait" it pauses after its fifth step until it is asked to stop; a file waiting-RANK tells that it does.
"""

import importlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import noise

from engine.trainer import EpochLog
from utils import distributed, launch, stop

STEPS, PATIENCE = 5, 60.0  # seconds


def note_place() -> None:
    """Write down the ranks once they are known."""
    init = distributed.init

    def noted(*given: object) -> distributed.DistInfo:
        dist = init(*given)
        about = {"rank": dist.rank, "local_rank": dist.local_rank, "world_size": dist.world_size}
        Path("place.json").write_text(json.dumps(about))
        return dist
    distributed.init = noted


def wait() -> None:
    """Make the training wait for the signal."""
    add, left = EpochLog.add, [STEPS]

    def waited(log: EpochLog, *given: object) -> bool:
        left[0] -= 1
        if left[0] == 0:
            Path(f"waiting-{distributed.rank()}").touch()
            end = time.monotonic() + PATIENCE
            while not stop._received and time.monotonic() < end:
                time.sleep(0.02)
        return add(log, *given)
    EpochLog.add = waited


if __name__ == "__main__":
    noise.install()
    how, name = sys.argv[1:3]
    del sys.argv[1:3]
    note_place()
    if how == "wait":
        wait()
    launch.run(importlib.import_module(name).main)
