"""What a pretraining of a given size needs: network, disk, memory, files and time, from costs of single units.

    python -m benchmarks.scaling                                      # K400 and ten times K400, as docs/scaling.md has it
    python -m benchmarks.scaling --videos 1000000 --processes 32 --samples_per_second 40

All is plain arithmetic over the units below, each of which says where it was measured. Bytes are decimal.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

import launch
from utils.console import say
from utils.options import Parser, positive_float, positive_int

FLOAT, INT = 4, 8  # bytes
MODELS = ("infonce", "ubernce", "coclr")
PARAMETERS = 9_130_000  # placeholder
DAY = 86_400


@dataclass(frozen=True)
class Run:
    """A training. W: processes, one GPU each. B: clips of a process and step. K, D: length and width of the queue.
    frames, side: of a clip. parameters: of one encoder with its head. buffers: floats of its BatchNorm."""

    model: str = "coclr"
    W: int = 8
    B: int = 16
    K: int = 16384
    D: int = 128
    frames: int = 32
    side: int = 128
    parameters: int = 0
    buffers: int = 0


def gradient_bytes(run: Run) -> float:
    """Sent by a process in a step: the ring's two rounds over its gradients, 2 (W-1)/W x 4 bytes a parameter."""
    return 2 * (run.W - 1) / run.W * FLOAT * run.parameters


def clip_bytes(run: Run) -> float:
    """Sent for shuffled BatchNorm: of B key clips, float32 (3, T, H, W), the share (W-1)/W goes to others, on average."""
    return run.B * (run.W - 1) / run.W * FLOAT * 3 * run.frames * run.side**2


def key_bytes(run: Run) -> float:
    """Sent so that all queues stay equal: B rows to each of W-1 processes.

    A row is a key of D floats; UberNCE's has a label, too, and CoCLR's the other view's key and a source.
    """
    row = {"infonce": FLOAT * run.D, "ubernce": FLOAT * run.D + INT, "coclr": 2 * FLOAT * run.D + INT}[run.model]
    return (run.W - 1) * run.B * row


def vote_bytes(run: Run) -> float:
    """Sent to agree on a stop: one number, two rounds of a ring."""
    return 2 * (run.W - 1) / run.W * INT


def network_bytes(run: Run) -> float:
    """Sent by a process in a step; it receives as much."""
    return sum(part(run) for part in (gradient_bytes, clip_bytes, key_bytes, vote_bytes))


def queue_bytes(run: Run) -> int:
    """GPU memory of the queue: D floats an entry; UberNCE has labels; CoCLR two keys, source, label, number, and the
    labels and sources that the mining recall is measured with."""
    entry = {"infonce": FLOAT * run.D, "ubernce": FLOAT * run.D + INT, "coclr": 2 * FLOAT * run.D + 5 * INT}[run.model]
    return run.K * entry


def checkpoint_bytes(run: Run) -> int:
    """Two encoders, or CoCLR's three, the queue, and Adam's two moments of the one that is trained."""
    encoders = 3 if run.model == "coclr" else 2
    return encoders * FLOAT * (run.parameters + run.buffers) + queue_bytes(run) + 2 * FLOAT * run.parameters


def storage_bytes(videos: int, frames: int, a_frame: float) -> float:
    """Of LMDBs with so many frames a video, and bytes a frame (of all streams)."""
    return videos * frames * a_frame


def steps_of_epoch(videos: int, run: Run) -> int:
    """Whole steps: what is left over waits for another epoch."""
    return videos // (run.W * run.B)


def training_seconds(videos: int, epochs: int, samples_per_second: float) -> float:
    """At a rate of all processes together."""
    return videos * epochs / samples_per_second
