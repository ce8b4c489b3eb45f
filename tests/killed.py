"""A pretraining script on noise that loses a process: ``killed.py {kill-STEPS,freeze-STEPS,none} main_nce OPTIONS``.

After that many steps the process gets a SIGKILL, or a SIGSTOP, after which it neither works nor ends. Under torchrun
only rank 1 gets it, and only on its first start.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import interrupted
import noise
from interrupted import Stop

from utils import launch

if __name__ == "__main__":
    noise.install()
    fault, name = sys.argv[1:3]
    del sys.argv[1:3]
    chosen = os.environ.get("RANK", "1") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if fault != "none" and chosen:
        interrupted.SIGNALS["freeze"] = signal.SIGSTOP
        how, steps = fault.split("-")
        Stop(how, int(steps)).install()
    launch.run(importlib.import_module(name).main)
