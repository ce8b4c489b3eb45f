"""Pretrain one stream by InfoNCE (MoCo on clips, arXiv 1911.05722) or, with labels, UberNCE (CoCLR, arXiv 2010.09709).

InfoNCE on RGB, two GPUs, and on flow; 300 epochs as in CoCLR:

    torchrun --nproc_per_node=2 main_nce.py --net s3d --model infonce --moco-k 2048 \\
        --dataset ucf101-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 300 --schedule 250 280 -j 8
    torchrun --nproc_per_node=2 main_nce.py --net s3d --model infonce --moco-k 2048 \\
        --dataset ucf101-f-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 300 --schedule 250 280 -j 8

UberNCE:

    torchrun --nproc_per_node=2 main_nce.py --net s3d --model ubernce --moco-k 2048 \\
        --dataset ucf101-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 300 --schedule 240 -j 8

One process, GPU or CPU: ``python main_nce.py ...``. ``python -m torch.distributed.launch`` and ``srun`` work as well.
Go on with ``--resume CKPT``; measure a checkpoint with ``--test CKPT``; start from one with ``--pretrain CKPT``.
"""

from argparse import Namespace
from collections.abc import Container, Sequence

import launch
from model.momentum import MomentumContrast
from model.pretrain import InfoNCE, UberNCE
from pretrain_script import build_run, carry_out, check_options, join, prepare
from pretrain_steps import infonce_steps, ubernce_steps
from utils import checkpoint
from utils.checkpoint import load_state
from utils.options import pretraining_parser
from utils.parser import Parser
from utils.resuming import refuse_other_view
from utils.run_folder import nce_folder

MODELS = {"infonce": (InfoNCE, infonce_steps), "ubernce": (UberNCE, ubernce_steps)}
# Buffers that another model's file may lack or have on top: labels of the queue, and CoCLR's second encoder and queues.
OTHER_MODELS = ("queue_label", "queue_second", "queue_vname", "memory_index_record", "sampler.")


def make_parser() -> Parser:
    """The options."""
    parser = pretraining_parser(__doc__, dataset="ucf101-2clip", models=list(MODELS))
    parser.topic("checkpoints")("--pretrain", default="", metavar="CKPT", help="start from this file: both encoders "
                                "and the queue; 'random' means none")
    return parser


def parse(argv: Sequence[str] | None = None, later: Container[str] = ()) -> Namespace:
    """The options, checked. later: files that need not be there yet."""
    args = make_parser().parse_args(argv)
    check_options(args, streams=1, later=later)
    return args


def build(args: Namespace) -> MomentumContrast:
    """A new model."""
    return MODELS[args.model][0](args.net, args.moco_dim, args.moco_k, args.moco_m, args.moco_t)


def work(args: Namespace) -> None:
    """Train or test, as one of the processes."""
    here = join(args)
    choice = prepare(args, nce_folder(args), here)
    model, origin = build(args), []
    if args.pretrain not in ("", "random") and not (args.resume or args.test):
        content = checkpoint.load(args.pretrain)
        if args.dataset.endswith("-f-2clip"):
            refuse_other_view(content, args.second_view, args.pretrain)
        saved = content["state_dict"]
        origin = [f"{args.pretrain}: {load_state(model, saved, may_miss=('queue_label',), may_have=OTHER_MODELS)}"]
    run = build_run(model, args, here)
    run.origin = origin
    carry_out(args, here, run, MODELS[args.model][1], choice)


def main() -> int:
    """Run in this process, or in one per GPU."""
    return launch.begin(work, parse())


if __name__ == "__main__":
    launch.run(main)
