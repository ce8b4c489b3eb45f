"""Pretrain one stream by InfoNCE (MoCo on clips, arXiv 1911.05722) or, with labels, UberNCE (CoCLR, arXiv 2010.09709).

InfoNCE on RGB and on flow, two GPUs; 300 epochs as in CoCLR:

    torchrun --nproc_per_node=2 main_nce.py --net s3d --model infonce --moco-k 2048 \\
        --dataset ucf101-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 300 --schedule 250 280 -j 8
    torchrun --nproc_per_node=2 main_nce.py --net s3d --model infonce --moco-k 2048 \\
        --dataset ucf101-f-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 300 --schedule 250 280 -j 8

UberNCE:

    torchrun --nproc_per_node=2 main_nce.py --net s3d --model ubernce --moco-k 2048 \\
        --dataset ucf101-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 300 --schedule 240 -j 8

On one GPU or a CPU: ``python main_nce.py ...``. ``python -m torch.distributed.launch`` and ``srun`` work as well.
``--resume CKPT`` continues a run, ``--pretrain CKPT`` starts from its weights, ``--test CKPT`` evaluates it.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import checkpoint, device, pretraining
from engine.checkpoint import load_state
from engine.config import check_inputs, configs_of
from engine.options import pretraining_parser
from engine.run_folder import pretraining_folder, started_from
from engine.steps import infonce_step, ubernce_step
from eval.knn import knn_monitor
from utils import launch
from utils.metrics import Values
from utils.parser import Parser

STEPS = {"infonce": infonce_step, "ubernce": ubernce_step}
# Checkpoint entries that only other models have: the queue's labels, CoCLR's sampler and its queues.
OTHER_MODELS = ("queue_label", "queue_second", "queue_vname", "memory_index_record", "sampler.")


class NceTask(pretraining.PretrainTask):
    def step(self, batch: Any, epoch: int, iteration: int) -> Values:
        return STEPS[self.config.model](self.network, batch, self.device, dtype=self.use_precision(iteration),
                                        generator=self.generator)

    def load_pretrained(self, *paths: str) -> None:
        """Initialise both encoders and the queue from a checkpoint; "random" or "" keeps random weights."""
        [path] = paths
        if path in ("", "random"):
            return
        saved = checkpoint.load(path)
        self.check(saved, path)
        report = load_state(self.model, saved["state_dict"], may_miss=("queue_label",), may_have=OTHER_MODELS)
        self.origin = [f"{path}: {report}"]


def make_parser() -> Parser:
    parser = pretraining_parser(__doc__, dataset="ucf101-2clip", models=list(STEPS), main="model moco_k")
    parser.topic("checkpoints")("--pretrain", default="", metavar="CKPT",
                                help="start from its encoders and queue; 'random': from none")
    return parser


def parse(argv: Sequence[str] | None = None, planned: bool = False) -> Namespace:
    """Parse and check the options; with ``planned``, the checkpoints they name need not exist yet."""
    args = make_parser().parse_args(argv)
    check_inputs(vars(args), 2, 1, [] if planned else [args.test, args.pretrain])
    return args


def run_folder_of(given: Mapping[str, Any]) -> Path:
    model, data, train = configs_of(given)
    return pretraining_folder(model, data, train, prefix=given["prefix"], end=started_from(given["pretrain"]),
                              start=f"{given['name_prefix']}{model.model}")


def work(args: Namespace) -> None:
    dist, options = device.init_process(vars(args)), vars(args)
    pretraining.run(NceTask, options, run_folder_of(options), [args.pretrain], dist, knn_monitor)


def main() -> int:
    return launch.begin(work, parse())


if __name__ == "__main__":
    launch.run(main)
