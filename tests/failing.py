"""A pretraining script on noise that goes wrong: ``failing.py {start,training,none} main_nce OPTIONS``."""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import noise

from dataset import catalog
from utils import launch
from utils.errors import DataError


def fail(*given: object) -> None:
    """Raise what a file that cannot be read raises."""
    raise DataError("a broken disk")


if __name__ == "__main__":
    noise.install()
    moment, name = sys.argv[1:3]
    del sys.argv[1:3]
    if moment == "start":
        catalog.build = lambda *names, **settings: fail()
    if moment == "training":
        noise.Noise.__getitem__ = fail
    launch.run(importlib.import_module(name).main)
