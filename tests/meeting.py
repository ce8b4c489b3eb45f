"""A program that joins a process group, then exits or waits for a stop signal: ``meeting.py LAUNCH_OPTIONS``."""

import sys
import time
from argparse import Namespace
from pathlib import Path

if __name__ != "meeting":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import main_nce
from engine import device
from utils import distributed, launch, stop
from utils.console import say


def work(options: Namespace) -> None:
    """Join the process group as main_nce.py does; if a file "wait" exists, wait for a stop signal."""
    dist = device.init_process(vars(options))
    launch.started()
    ranks = distributed.all_gather(torch.tensor([dist.rank])).tolist()
    Path(f"met{dist.rank}").write_text(f"rank {dist.rank}, {dist.local_rank} here, of {dist.world_size}: {ranks}")
    say("only the first speaks")
    flag = stop.StopFlag()
    with stop.catch_signals():
        while Path("wait").exists():
            Path(f"waiting{dist.rank}").touch()
            if flag.poll():
                raise stop.StopRequested
            time.sleep(0.01)


if __name__ == "__main__":
    launch.run(lambda: launch.begin(work, main_nce.parse()))
