"""Pretrain one stream with positives mined in the other: CoCLR (arXiv 2010.09709) with cascade positive retrieval (CPR,
arXiv 2201.07989).

One cycle on UCF101, two GPUs: the RGB encoder with positives mined in flow, then the flow encoder (``--reverse``) with
positives mined by the new RGB encoder. Both start from InfoNCE (main_nce.py):

    torchrun --nproc_per_node=2 main_coclr.py --net s3d --topk 5 --moco-k 2048 \\
        --dataset ucf101-2stream-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 100 --schedule 80 \\
        --name_prefix Cycle1-FlowMining_ -j 8 --pretrain RGB_INFONCE.pth.tar FLOW_INFONCE.pth.tar \\
        --cascade --stage 7 --ratio 0.5
    torchrun --nproc_per_node=2 main_coclr.py --net s3d --topk 5 --moco-k 2048 --reverse \\
        --dataset ucf101-2stream-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 100 --schedule 80 \\
        --name_prefix Cycle1-RGBMining_ -j 8 --pretrain FLOW_INFONCE.pth.tar RGB_CYCLE1.pth.tar \\
        --cascade --stage 7 --ratio 0.5

``--progressive 1 2 5`` trains in phases of growing topk, each from the weights of the one before (CPR).

One process, GPU or CPU, small: ``python main_coclr.py --dataset NAME-2stream-2clip --seq_len 8 --img_dim 32
--batch_size 4 --moco-k 16 --topk 2 -j 0 --epochs 1 --pretrain random random``.
``python -m torch.distributed.launch`` and ``srun`` work as well.
"""

from argparse import Namespace
from collections.abc import Container, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

import launch
from model.pretrain import CoCLR, check_mining
from pretrain_phases import check_progressive, phases, remaining
from pretrain_script import build_run, carry_out, check_options, join, prepare
from pretrain_steps import CoclrSteps, StepOfEpoch
from utils import checkpoint
from utils.checkpoint import load_state, renamed
from utils.distributed import Launch
from utils.errors import CheckpointError
from utils.options import add_mining, pretraining_parser
from utils.parser import Parser
from utils.resuming import refuse_other_view
from utils.run_folder import coclr_folder

ENCODERS = ("encoder_q.", "encoder_k.", "sampler.")


def make_parser() -> Parser:
    """The options."""
    parser = pretraining_parser(__doc__, dataset="ucf101-2stream-2clip", models=["coclr"])
    add_mining(parser)
    parser.topic("checkpoints")("--pretrain", nargs=2, default=["random", "random"], metavar=("CKPT_A", "CKPT_B"),
                                help="A starts the trained encoder, B the one that mines; 'random' means none")
    return parser


def parse(argv: Sequence[str] | None = None, later: Container[str] = ()) -> Namespace:
    """The options, checked. later: files that need not be there yet."""
    args = make_parser().parse_args(argv)
    check_options(args, streams=2, later=later)
    check_progressive(args)
    for phase in phases(args):
        check_mining(phase.moco_k, phase.topk, phase.ratio, phase.stage, phase.cascade, phase.cascade_anchor,
                     phase.cascade_first)
    return args


def build(args: Namespace) -> CoCLR:
    """A new model."""
    return CoCLR(args.net, args.moco_dim, args.moco_k, args.moco_m, args.moco_t, args.topk, args.ratio, args.stage,
                 args.reverse, args.cascade, anchor=args.cascade_anchor, first=args.cascade_first)


def load_pretrained(model: CoCLR, own: str, other: str, second_view: str = "flow") -> list[str]:
    """Start encoder_q and encoder_k from one file's encoder_q, and the sampler from another's; 'random' means none.

    Returns:
        What was loaded, in words.
    """
    loaded = []
    for path, view, targets in ((own, model.own_view, ("encoder_q.", "encoder_k.")),
                                (other, model.other_view, ("sampler.",))):
        if path == "random":
            continue
        saved = checkpoint.load(path)
        if view == 1:
            refuse_other_view(saved, second_view, path)
        weights = query_encoder(saved["state_dict"], path)
        state = {target + key: value for target in targets for key, value in weights.items()}
        rest = (*(encoder for encoder in ENCODERS if encoder not in targets), "queue", "memory_index_record")
        loaded.append(f"{path} into {' and '.join(target.rstrip('.') for target in targets)}: "
                      f"{load_state(model, state, may_miss=rest)}")
    return loaded


def query_encoder(state_dict: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """The weights of encoder_q, without that prefix."""
    prefix = "encoder_q."
    weights = {key.removeprefix(prefix): value for key, value in renamed(state_dict, {}).items()
               if key.startswith(prefix)}
    if not weights:
        raise CheckpointError(f"{path} has no {prefix}*: --pretrain takes files of main_nce.py or main_coclr.py")
    return weights


def work(args: Namespace) -> None:
    """Train or test, as one of the processes; with ``--progressive`` phase by phase."""
    here = join(args)
    for phase in remaining(phases(args)):
        co_train(phase, here)


def co_train(args: Namespace, here: Launch) -> None:
    """One training or test."""
    choice = prepare(args, coclr_folder(args), here)
    model = build(args)
    origin = []
    if not (args.resume or args.test):
        own, other = args.pretrain
        origin = load_pretrained(model, own, other, args.second_view)
    run = build_run(model, args, here)
    run.origin = origin

    def steps(network: nn.Module, **settings: Any) -> StepOfEpoch:
        assert run.monitor is not None  # since this model mines
        return CoclrSteps(network, model, monitor=run.monitor, seed=args.seed, self_mask=args.self_mask, **settings)
    carry_out(args, here, run, steps, choice)


def main() -> int:
    """Run in this process, or in one per GPU."""
    return launch.begin(work, parse())


if __name__ == "__main__":
    launch.run(main)
