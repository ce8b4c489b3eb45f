"""Pretrain one stream with positives mined in the other: CoCLR (arXiv 2010.09709) with cascade positive retrieval (CPR,
arXiv 2201.07989).

One cycle on UCF101 with two GPUs: first the RGB encoder, with positives mined in flow, then the flow encoder
(``--reverse``), with positives mined by the new RGB encoder. Both start from InfoNCE (main_nce.py):

    torchrun --nproc_per_node=2 main_coclr.py --net s3d --topk 5 --moco-k 2048 \\
        --dataset ucf101-2stream-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 100 --schedule 80 \\
        --name_prefix Cycle1-FlowMining_ -j 8 --pretrain RGB_INFONCE.pth.tar FLOW_INFONCE.pth.tar \\
        --cascade --stage 7 --ratio 0.5
    torchrun --nproc_per_node=2 main_coclr.py --net s3d --topk 5 --moco-k 2048 --reverse \\
        --dataset ucf101-2stream-2clip --seq_len 32 --ds 1 --batch_size 16 --epochs 100 --schedule 80 \\
        --name_prefix Cycle1-RGBMining_ -j 8 --pretrain FLOW_INFONCE.pth.tar RGB_CYCLE1.pth.tar \\
        --cascade --stage 7 --ratio 0.5

``--progressive 1 2 5`` trains in phases of increasing topk, each starting from the previous one's weights (CPR).

A small run on one GPU or a CPU: ``python main_coclr.py --dataset NAME-2stream-2clip --seq_len 8 --img_dim 32
--batch_size 4 --moco-k 16 --topk 2 -j 0 --epochs 1 --pretrain random random``.
``python -m torch.distributed.launch`` and ``srun`` work as well.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine import checkpoint, device, pretraining, run_folder
from engine.checkpoint import first_keys, load_state, renamed
from engine.config import check_inputs, configs_of
from engine.options import TOPK, add_mining, pretraining_parser
from engine.steps import coclr_step, draw_self_mask
from engine.trainer import Trainer
from eval.knn import knn_monitor
from model.pretrain import CoCLR, check_mining
from utils import distributed, launch
from utils.console import say
from utils.errors import CheckpointError, OptionError
from utils.metrics import Values
from utils.parser import Parser

ENCODERS = ("encoder_q.", "encoder_k.", "sampler.")
FROZEN = "frozen_own_view"  # checkpoint key next to "state_dict": {"encoder": state dict, "queue": (D, K)}


class CoclrTask(pretraining.PretrainTask):
    model: CoCLR

    def step(self, batch: Any, epoch: int, iteration: int) -> Values:
        assert self.monitors.mining is not None
        full = self.model.queue_is_full
        values = coclr_step(self.network, batch, self.device, self.monitors.mining,
                            without_self=draw_self_mask(self.train.seed, epoch, iteration, self.train.self_mask),
                            dtype=self.use_precision(iteration), generator=self.generator)
        if not full and self.model.queue_is_full:
            say(f"the queue is full after step {iteration + 1}: mining and training begin")
        return values

    def start(self, trainer: Trainer) -> None:
        """Freeze the own view under ``--own_view frozen``, unless the resumed checkpoint has restored it."""
        if self.model.own_view_is_frozen and not self.model.frozen_own_view():
            self.model.freeze_own_view()
        super().start(trainer)

    def state_dict(self) -> dict[str, Any]:
        frozen = self.model.frozen_own_view()
        return super().state_dict() | ({FROZEN: frozen} if frozen else {})

    def load(self, saved: Mapping[str, Any], path: str) -> None:
        super().load(saved, path)
        if self.model.own_view_is_frozen:
            if not isinstance(saved.get(FROZEN), Mapping):
                raise CheckpointError(f"{path} has no {FROZEN}: it was not trained with --own_view frozen")
            self.model.freeze_own_view(saved[FROZEN])

    def load_pretrained(self, *paths: str) -> None:
        """Initialise both streams from the encoder_q of two pretraining checkpoints.

        Args:
            paths: checkpoint of the trained stream (to encoder_q and encoder_k), and of the miner (to the sampler);
                "random" keeps random weights.
        """
        for path, reverse, targets in zip(paths, (False, True), (("encoder_q.", "encoder_k."), ("sampler.",)),
                                          strict=True):
            if path == "random":
                continue
            saved = checkpoint.load(path)
            self.check(saved, path, reverse=reverse)
            weights = {key.removeprefix("encoder_q."): value for key, value in renamed(saved["state_dict"]).items()
                       if key.startswith("encoder_q.")}
            if not weights:
                raise CheckpointError(f"{path} has {first_keys(saved['state_dict'])}, but no encoder_q.*: --pretrain "
                                      "takes checkpoints of main_nce.py or main_coclr.py")
            state = {target + key: value for target in targets for key, value in weights.items()}
            rest = (*(encoder for encoder in ENCODERS if encoder not in targets), "queue", "memory_index_record")
            self.origin.append(f"{path} into {' and '.join(target.rstrip('.') for target in targets)}: "
                               f"{load_state(self.model, state, may_miss=rest)}")


def make_parser() -> Parser:
    parser = pretraining_parser(__doc__, dataset="ucf101-2stream-2clip", models=["coclr"],
                                main="moco_k topk cascade stage ratio reverse")
    add_mining(parser)
    parser.topic("checkpoints")("--pretrain", nargs=2, default=["random", "random"], metavar=("CKPT_A", "CKPT_B"),
                                help="initialise the trained encoder from A, the miner from B; 'random': from no file")
    return parser


def parse(argv: Sequence[str] | None = None, planned: bool = False) -> Namespace:
    """Parse and check the options; with ``planned``, the checkpoints they name need not exist yet."""
    args = make_parser().parse_args(argv)
    check_inputs(vars(args), 2, 2, [] if planned else [args.test, *args.pretrain])
    check_progressive(args)
    for phase in phases(args):
        model, _, _ = configs_of(vars(phase))
        check_mining(model.moco_k, model.topk, model.ratio, model.stage, model.rule, model.cascade_anchor,
                     model.cascade_first, model.own_view)
    return args


def check_progressive(args: Namespace) -> None:
    """Raise OptionError unless ``--progressive`` increases and no other option contradicts it."""
    topks, given = args.progressive, " ".join(map(str, args.progressive))
    if not topks:
        return
    if any(later <= earlier for earlier, later in pairwise(topks)):
        raise OptionError(f"--progressive {given} does not increase: each phase needs a larger topk than the last")
    if args.topk not in (TOPK, topks[-1]):
        raise OptionError(f"--topk {args.topk} and --progressive {given} contradict each other: omit --topk")
    if args.test or args.resume not in ("", run_folder.AUTO):
        raise OptionError(f"--progressive {given} trains several runs: omit it to use --test or --resume with one of "
                          "their checkpoints, or give --resume auto")


def phases(args: Namespace) -> list[Namespace]:
    """Return the options of each phase of ``--progressive``, or of the only one (CPR).

    A phase starts from the last weights of the phase before, with a new run folder, schedule, optimizer and queue; the
    miner stays the same.
    """
    result, start = [], args.pretrain[0]
    for topk in args.progressive or [args.topk]:
        phase = Namespace(**{**vars(args), "topk": topk, "pretrain": [start, args.pretrain[1]]})
        result.append(phase)
        start = str(run_folder.last_checkpoint(run_folder_of(vars(phase)), phase.epochs))
    return result


def run_folder_of(given: Mapping[str, Any]) -> Path:
    model, data, train = configs_of(given)
    published = model.rule in ("topk", "cascade")  # whose folders have one name
    start = (f"{given['name_prefix']}{model.model}-top{model.topk}{'-R' if model.reverse else ''}"
             f"{'' if published else f'-{model.rule}'}{'-frozen' if model.own_view == 'frozen' else ''}")
    return run_folder.pretraining_folder(model, data, train, prefix=given["prefix"], start=start)


def check_folders(all_phases: list[Namespace]) -> None:
    """Raise UserError if a phase's folder holds a run; with ``--resume auto``, one started from other checkpoints."""
    for phase in all_phases:
        folder = run_folder_of(vars(phase))
        if phase.resume != run_folder.AUTO:
            run_folder.refuse_present(folder, run_folder.FOLDER_OPTIONS)
        elif found := run_folder.newest_complete(folder / "model"):
            before = checkpoint.load(found)["options"]["pretrain"]
            if before != phase.pretrain:
                raise CheckpointError(f"{found} was started from {' '.join(before)}, not from "
                                      f"{' '.join(phase.pretrain)}: choose another --name_prefix, or remove {folder}")


def work(args: Namespace) -> None:
    dist = device.init_process(vars(args))
    all_phases = phases(args)
    if args.progressive:  # check them all before the first one starts
        distributed.from_main(lambda: check_folders(all_phases))
    for phase in all_phases:
        pretraining.run(CoclrTask, vars(phase), run_folder_of(vars(phase)), phase.pretrain, dist, knn_monitor)


def main() -> int:
    return launch.begin(work, parse())


if __name__ == "__main__":
    launch.run(main)
