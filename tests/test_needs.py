"""benchmarks.needs against figures worked out by hand, and its unit costs against the code."""

from dataclasses import replace

import pytest
import torch

from benchmarks.needs import Costs, Job, main
from model.pretrain import CoCLR

UNITS = Costs(rgb_frame=10, flow_frame=6, sample=0.5, forward=100, parameters=1000, checkpoint=5000)
JOB = Job(videos=86_400, video_frames=100, epochs=2, batch=4, processes=2, frames=32, side=128, dim=8, queue=64, days=2,
          costs=UNITS)


def test_needs_worked_out_by_hand():
    assert JOB.samples_a_second == 1.0 and JOB.steps == 2 * 10_800
    assert JOB.storage == 86_400 * 100 * 16 and JOB.disk == 2 * 32 * 16 and JOB.cores == 0.5
    assert JOB.operations == 500 and replace(JOB, passes=3, side=64).operations == 75
    assert JOB.samples == 2 * 86_400 and replace(JOB, videos=15).samples == 2 * 8
    assert JOB.network == {"gradients": 4000, "clips": 2 * 4 * 3 * 32 * 128 * 128, "keys": 4 * (64 + 16)}
    assert JOB.network_rate == pytest.approx((4000 + 12_582_912 + 320) / 8)
    assert JOB.queue_memory == 64 * 80 and JOB.checkpoint == 5000 + 64 * 80


def test_the_unit_costs_are_those_of_the_model():
    with torch.device("meta"):
        model = CoCLR("s3d", 128, 16_384)
    costs, job = Costs(), Job()
    assert sum(parameter.numel() for parameter in model.encoder_q.parameters()) == costs.parameters
    queues = [value for key, value in model.state_dict().items() if key.startswith("queue") and value.dim()]
    assert sum(value.nbytes for value in queues if value.numel() > 1) == job.queue_memory
    everything = sum(value.nbytes for value in model.state_dict().values())
    moments = 2 * 4 * costs.parameters
    assert everything + moments == pytest.approx(job.checkpoint, rel=0.001)


def test_the_command_prints_both_sizes(capsys):
    assert main(["--days", "6"]) == 0
    output = capsys.readouterr().out
    assert "2,400,000 videos, W=64" in output and "23 " in output and "queue, a process" in output
