"""A pretraining script on noise that notes its place: ``placed.py {wait,go} main_nce OPTIONS``.

It leaves place.json, with its ranks, in its working directory. With "wait" it does not go on after its fifth step
before it is asked to stop; it leaves a file waiting-RANK meanwhile.
"""

import importlib
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import noise

import launch
import pretrain_script
from utils import distributed, stop
from utils.training import Training

STEPS, PATIENCE = 5, 60.0  # seconds


def note_place() -> None:
    """Write down where the process stands once it knows."""
    start = distributed.start

    def noted(*given: object) -> distributed.Launch:
        here = start(*given)
        about = {"rank": here.rank, "local_rank": here.local_rank, "world_size": here.world_size}
        Path("place.json").write_text(json.dumps(about))
        return here
    pretrain_script.distributed.start = noted


def wait() -> None:
    """Have the training wait for the signal."""
    after_step, left = Training._after_step, [STEPS]

    def waited(training: Training, *given: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            Path(f"waiting-{distributed.rank()}").touch()
            end = time.monotonic() + PATIENCE
            while not stop._received and time.monotonic() < end:
                time.sleep(0.02)
        after_step(training, *given)
    Training._after_step = waited


if __name__ == "__main__":
    noise.install()
    how, name = sys.argv[1:3]
    del sys.argv[1:3]
    note_place()
    if how == "wait":
        wait()
    launch.run(importlib.import_module(name).main)
