"""What a co-training needs of disks, network, processors and memory: ``python -m benchmarks.needs --days 3``.

From costs of one unit, measured by ``python -m benchmarks`` (docs/performance.md), to those of a whole training; the
formulas are in docs/scaling.md and in the properties below.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import launch
from utils.console import say
from utils.options import Parser, positive_float, positive_int

DAY = 86_400  # seconds


@dataclass(frozen=True)
class Costs:
    """Of one unit. rgb_frame, flow_frame: bytes of a stored frame at 320x240. sample: seconds of one processor core for
    a sample of two clips of two streams. forward: operations of S3D on a clip of 32x128x128. parameters: of an encoder.
    checkpoint: bytes of its tensors but for the queue, the optimizer's moments included. train_rate, test_rate:
    operations a second of 2 cores, in a training step in float32 and in an evaluation, decoding included."""

    rgb_frame: float = 12e3
    flow_frame: float = 8e3
    sample: float = 0.032
    forward: float = 23.5e9
    parameters: int = 9_090_848
    checkpoint: float = 204.6e6 + 2 * 4 * 9_090_848
    train_rate: float = 95e9
    test_rate: float = 88e9


@dataclass(frozen=True)
class Job:
    """A CoCLR training. videos, video_frames: of the set. batch: B, clips of a process and step. processes: W. frames,
    side: T and the side of a clip. dim, queue: D and K. passes: forward passes that a sample's operations are worth:
    the query's forward 1 and backward 2, the key's 1 and the other view's 1."""

    videos: int = 240_000
    video_frames: int = 300
    epochs: int = 50
    batch: int = 16
    processes: int = 8
    frames: int = 32
    side: int = 128
    dim: int = 128
    queue: int = 16_384
    days: float = 3.0
    passes: float = 5.0
    costs: Costs = Costs()

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * (self.videos // (self.batch * self.processes))

    @property
    def samples(self) -> int:
        """Samples of the whole training, all processes together."""
        return self.steps * self.batch * self.processes

    @property
    def samples_a_second(self) -> float:
        """Samples that must pass each second, all processes together."""
        return self.epochs * self.videos / (self.days * DAY)

    @property
    def storage(self) -> float:
        """Bytes of both LMDBs."""
        return self.videos * self.video_frames * (self.costs.rgb_frame + self.costs.flow_frame)

    @property
    def disk(self) -> float:
        """Bytes a second, of two clips whose frames are all distinct."""
        return self.samples_a_second * 2 * self.frames * (self.costs.rgb_frame + self.costs.flow_frame)

    @property
    def cores(self) -> float:
        """Processor cores that load."""
        return self.samples_a_second * self.costs.sample

    @property
    def operations(self) -> float:
        """Operations a second that the encoders must sustain."""
        return self.samples_a_second * self.sample_operations

    @property
    def sample_operations(self) -> float:
        """Operations of a sample."""
        return self.passes * self.costs.forward * (self.frames / 32) * (self.side / 128) ** 2

    @property
    def network(self) -> dict[str, float]:
        """Bytes that a process sends in a step, by what they are."""
        W, B = self.processes, self.batch
        return {"gradients": 2 * (W - 1) / W * 4 * self.costs.parameters,
                "clips": (W - 1) / W * B * 4 * 3 * self.frames * self.side ** 2,
                "keys": (W - 1) * B * (2 * 4 * self.dim + 2 * 8)}

    @property
    def network_rate(self) -> float:
        """Bytes a second that a process sends."""
        return sum(self.network.values()) * self.samples_a_second / (self.batch * self.processes)

    @property
    def queue_memory(self) -> int:
        """Bytes of the queues of a process: both views' features, sources and labels."""
        return self.queue * (2 * 4 * self.dim + 2 * 8)

    @property
    def checkpoint(self) -> float:
        """Bytes of a checkpoint."""
        return self.costs.checkpoint + self.queue_memory


def rows(job: Job) -> dict[str, str]:
    """What a job needs, as text."""
    network = job.network
    return {"steps": f"{job.steps:,}", "samples a second": f"{job.samples_a_second:.0f}",
            "both LMDBs": f"{job.storage / 1e12:.2f} TB", "disk": f"{job.disk / 1e6:.0f} MB/s",
            "loading": f"{job.cores:.1f} cores", "encoders": f"{job.operations / 1e12:.1f} TFLOP/s",
            "sent a step and process": f"{sum(network.values()) / 1e6:.0f} MB",
            **{f"- {name}": f"{value / 1e6:.3g} MB" for name, value in network.items()},
            "sent a second and process": f"{job.network_rate / 1e6:.0f} MB/s",
            "queue, a process": f"{job.queue_memory / 1e6:.1f} MB", "checkpoint": f"{job.checkpoint / 1e6:.0f} MB"}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, of the set and of one ten times as large."""
    parser = Parser(description=__doc__)
    for name, kind in (("videos", positive_int), ("video_frames", positive_int), ("epochs", positive_int),
                       ("batch", positive_int), ("processes", positive_int), ("queue", positive_int),
                       ("days", positive_float)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Job, name), help="see Job in this file")
    job = Job(**vars(parser.parse_args(argv)))
    large = rows(replace(job, videos=10 * job.videos, processes=8 * job.processes))
    say(f"{'':<28}{f'{job.videos:,} videos, W={job.processes}':>28}"
        f"{f'{10 * job.videos:,} videos, W={8 * job.processes}':>32}")
    for name, value in rows(job).items():
        say(f"{name:<28}{value:>28}{large[name]:>32}")
    return 0


if __name__ == "__main__":
    launch.run(main)
