"""Progressive training (CPR; not in the released code): phases of growing topk, each a training of its own.

Each phase starts the schedule, the optimizer and the queue anew, from the weights of the phase before; the view that
mines stays as it was. Phases have run folders of their own, which their topk tells apart.
"""

from argparse import Namespace
from functools import partial
from itertools import pairwise
from pathlib import Path

from utils import checkpoint, distributed, run_folder
from utils.console import say
from utils.errors import CheckpointError, OptionError
from utils.keeper import newest_complete
from utils.options import TOPK
from utils.resuming import refuse_changes


def check_progressive(args: Namespace) -> None:
    """Refuse phases that cannot be.

    Raises:
        OptionError: topk does not grow, or an option contradicts ``--progressive``.
    """
    topks = args.progressive
    if not topks:
        return
    given = " ".join(map(str, topks))
    if any(later <= earlier for earlier, later in pairwise(topks)):
        raise OptionError(f"--progressive {given} does not grow: each phase needs a larger topk than the one before")
    if args.topk not in (TOPK, topks[-1]):
        raise OptionError(f"--topk {args.topk} and --progressive {given} contradict each other: leave --topk out")
    if args.test or args.resume not in ("", run_folder.AUTO):
        raise OptionError(f"--progressive {given} trains several runs: {'--test' if args.test else '--resume'} takes "
                          "one of their checkpoints without it" + ("" if args.test else ", or --resume auto with it"))


def phases(args: Namespace) -> list[Namespace]:
    """The options of each phase; without ``--progressive`` just those given."""
    result, own = [], args.pretrain[0]
    for topk in args.progressive or [args.topk]:
        phase = Namespace(**{**vars(args), "topk": topk, "pretrain": [own, args.pretrain[1]]})
        result.append(phase)
        own = str(end_of(phase))
    return result


def end_of(phase: Namespace) -> Path:
    """The checkpoint that a phase ends with."""
    return run_folder.last_checkpoint(run_folder.coclr_folder(phase), phase.epochs)


def remaining(given: list[Namespace]) -> list[Namespace]:
    """The phases that are not done. All processes call it.

    Raises:
        OptionError: without ``--resume auto``, some phase's folder holds a run already: better now than days later.
        CheckpointError: with it, what a folder holds was made with other options, or started from other files.
    """
    if len(given) == 1:
        return given
    if given[0].resume != run_folder.AUTO:
        for phase in given:
            distributed.from_main(partial(run_folder.settle, "", run_folder.coclr_folder(phase),
                                          "--name_prefix or --prefix"))
        return given
    done = distributed.from_main(lambda: [is_done(phase) for phase in given])
    for phase, finished in zip(given, done, strict=True):
        if finished:
            say(f"phase of topk {phase.topk} is done: {end_of(phase)}")
    return [phase for phase, finished in zip(given, done, strict=True) if not finished]


def is_done(phase: Namespace) -> bool:
    """Whether a phase has left its last checkpoint.

    Raises:
        CheckpointError: what its folder holds was made with other options, or started from another file.
    """
    folder = run_folder.coclr_folder(phase) / "model"
    found = newest_complete(folder)
    if found is None or phase.accept_changes:
        return found == end_of(phase)
    saved = checkpoint.load(found)
    refuse_changes(saved, phase, {}, str(found))
    before = saved.get("options", {}).get("pretrain", phase.pretrain)
    if list(before) != phase.pretrain:
        raise CheckpointError(f"{found} was started from {' '.join(before)}, and not from {' '.join(phase.pretrain)}: "
                              f"take another --name_prefix, or remove {folder.parent}")
    return found == end_of(phase)
