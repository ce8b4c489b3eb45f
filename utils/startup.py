"""The block of lines at the start of a run: what will run, from where, on what, and where it is written."""

from collections.abc import Sequence

import torch

from utils.console import say_rows
from utils.precision import Precision


def announce(*, run: str, data: Sequence[str], start: Sequence[str], on: str, into: object, training: str = "") -> None:
    """Show the block.

    Args:
        run: the method. data: the videos and batches. start: where the weights come from. on: see :func:`machine`.
        into: folder that takes the results. training: the epochs and rates, "" where nothing is trained.
    """
    rows = {"run": [run], "data": data, "start": start, "training": [training], "on": [on], "into": [str(into)]}
    say_rows((name if number == 0 else "", line) for name, lines in rows.items() for number, line in enumerate(
        line for line in lines if line))


def machine(devices: Sequence[torch.device], precision: Precision, workers: int, processes: int = 1,
            asked_gpu: bool = False) -> str:
    """Devices, processes, arithmetic, threads and versions, in one line. asked_gpu: by a flag."""
    names = [f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
             for device in devices]
    if asked_gpu and devices[0].type == "cpu":
        names = ["cpu (no GPU found: running on the CPU)"]
    return (f"{', '.join(names)} in {precision.name}, {counted(processes, 'process', 'processes')} with "
            f"{counted(torch.get_num_threads(), 'thread', 'threads')} and "
            f"{counted(workers, 'loader worker', 'loader workers')}, PyTorch {torch.__version__}")


def counted(count: int, one: str, many: str) -> str:
    """1 thread, 2 threads."""
    return f"{count} {one if count == 1 else many}"
