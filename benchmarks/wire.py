"""Bytes that leave a machine in a training step, against the formula: ``python -m benchmarks.wire``.

Trains InfoNCE with S3D on generated videos, one process on each of two machines (network namespaces; root, Linux), for
one epoch and for four, and divides the difference of what the network cards counted by the steps between them. The
card counts the headers of TCP and IP as well.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import launch
from benchmarks.data import NAME, make_set
from benchmarks.machines import meeting_on, start, two_machines
from benchmarks.needs import Job
from benchmarks.sizes import Sizes
from utils.console import say
from utils.errors import TrainingError
from utils.options import ROOT, Parser

BATCH, FRAMES, SIDE, VIDEOS = 2, 8, 32, 16
EPOCHS = (1, 4)
STEPS = VIDEOS // (2 * BATCH)  # of an epoch


def sent(folder: Path, epochs: int) -> list[int]:
    """Bytes that each machine sends in a run of so many epochs."""
    words = [str(ROOT / "main_nce.py"), "--dataset", f"{NAME}-2clip", "--seq_len", str(FRAMES), "--img_dim", str(SIDE),
             "--batch_size", str(BATCH), "--moco-k", str(2 * BATCH), "--epochs", str(epochs), "-j", "0",
             "--save_freq", "100", "--data_root", str(folder / "data"), "--split_root", str(folder / "splits")]
    with two_machines() as machines:
        if not machines[0].namespace:
            raise TrainingError("no network namespaces can be made here: run it as root on Linux, with iproute2")
        meeting = meeting_on(machines[0])
        runs = [start(machine, machine.agent(meeting, *words), folder / f"{epochs}-{number}")
                for number, machine in enumerate(machines)]
        outputs = [run.communicate() for run in runs]
        if any(run.returncode for run in runs):
            raise TrainingError(f"the training failed: {outputs[0][1][-500:]}")
        return [machine.sent() for machine in machines]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and compare."""
    Parser(description=__doc__).parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_set(folder, Sizes(height=120, width=160), [20] * VIDEOS)
        short, long = (sent(folder, epochs) for epochs in EPOCHS)
    measured = [(b - a) / (STEPS * (EPOCHS[1] - EPOCHS[0])) for a, b in zip(short, long, strict=True)]
    expected = Job(batch=BATCH, processes=2, frames=FRAMES, side=SIDE).network
    expected["keys"] /= 2  # about: InfoNCE sends one view's keys, CoCLR two
    total = sum(expected.values())
    say(f"by the formula {total / 1e6:.2f} MB a step and process; sent by the two machines: "
        + ", ".join(f"{each / 1e6:.2f} MB ({each / total - 1:+.1%})" for each in measured))
    return 0


if __name__ == "__main__":
    launch.run(main)
