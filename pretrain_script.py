"""What main_nce.py and main_coclr.py share: building the parts from options, checkpoints in and out, the epochs."""

from argparse import Namespace
from collections.abc import Callable, Container, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import launch
import pretrain_report
from dataset import catalog
from model.momentum import MomentumContrast, check_queue, make_encoder
from model.pretrain import CoCLR
from pretrain_monitors import build_monitors
from pretrain_steps import StepOfEpoch
from pretrain_subject import Pretraining, Run, check_arithmetic, exact_at_first
from utils import checkpoint, distributed, run_folder
from utils.checkpoint import load_state
from utils.clip_check import check_clips
from utils.console import log_file, say
from utils.conv_check import check_convolutions
from utils.conv_forms import use_2d_where_faster
from utils.distributed import Launch
from utils.engine import run_epoch
from utils.errors import CheckpointError, OptionError
from utils.keeper import Keeper
from utils.loader import make_loader
from utils.memory import keep_freed_memory, move
from utils.mining import MiningMonitor
from utils.optimizer import RunOptimizer, resumed_lr
from utils.options import check_shared
from utils.precision import choose, use_deterministic_kernels
from utils.presets import PretrainTransform
from utils.provenance import code_version
from utils.resuming import refuse_changes
from utils.run_folder import Choice
from utils.run_start import open_run
from utils.schedule import lr_factor
from utils.stop import listening
from utils.training import Place, Plan, Training, place_of


def check_options(args: Namespace, streams: int, later: Container[str] = ()) -> None:
    """Checks before anything is read or built: options, dataset's form, named files.

    Args:
        streams: of the script's datasets. later: files that need not be there yet.

    Raises:
        OptionError, CheckpointError, DataError: with what is wrong and what to do.
    """
    check_shared(args, num_seq=2)
    spec = catalog.parse(args.dataset, args.second_view)
    if spec.clips != 2 or len(spec.streams) != streams:
        raise OptionError(f"--dataset {args.dataset} does not fit this script, which needs two clips of "
                          f"{'one stream (NAME-2clip, NAME-f-2clip)' if streams == 1 else 'NAME-2stream-2clip'}")
    named = [args.pretrain] if isinstance(args.pretrain, str) else args.pretrain
    for path in [args.test, *named]:
        if path and path != "random" and path not in later and not Path(path).is_file():
            raise CheckpointError(f"there is no checkpoint {path}: check the path (only the word random means none)")


def prepare(args: Namespace, folder: Path, here: Launch) -> Choice:
    """Seed this process, and refuse what cannot work before anything is built or written.

    Args:
        folder: of a new run.

    Returns:
        The run folder to train in, with the checkpoint to go on from.

    Raises:
        OptionError, ModelError: the run folder is in use, or queue or network cannot take these batches.
    """
    torch.manual_seed(args.seed)
    check_sizes(args, here.world_size)
    if args.test:
        return Choice(folder, "", ())
    if args.resume == run_folder.AUTO:
        run_folder.refuse_strays(folder)
    choice = distributed.from_main(lambda: run_folder.choose(args.resume, folder, "--name_prefix or --prefix"))
    args.resume = choice.resume
    return choice


def check_sizes(args: Namespace, processes: int) -> None:
    """Refuse a queue or a network that cannot take these batches; no memory is used. Raises as `prepare` does."""
    check_queue(args.moco_k, args.batch_size, processes, args.accumulate)
    with torch.device("meta"):
        encoder = make_encoder(args.net, args.moco_dim)
    check_clips(encoder.train(not args.test), args)


def join(args: Namespace) -> Launch:
    """Join the other processes; where this one stands."""
    if args.deterministic:
        use_deterministic_kernels()
    here = distributed.start(args.local_rank, args.gpu, args.dist_backend, args.dist_url, args.world_size, args.rank,
                             args.dist_timeout)
    if here.device.type == "cpu":
        keep_freed_memory()
    return here


def build_loader(args: Namespace, here: Launch) -> DataLoader:
    """The loader of the training split, or with ``--test`` of the validation split."""
    dataset = catalog.build(args.dataset, "val" if args.test else "train", transform=PretrainTransform(args.img_dim),
                            data_root=args.data_root, split_root=args.split_root, seq_len=args.seq_len, ds=args.ds,
                            seed=args.seed, second_view=args.second_view)
    return make_loader(dataset, batch_size=args.batch_size * args.accumulate, workers=args.workers,
                       train=not args.test, seed=args.seed, rank=here.rank, world_size=here.world_size,
                       device=here.device)


def build_run(model: MomentumContrast, args: Namespace, here: Launch) -> Run:
    """Move a model to its device, and give it an optimizer."""
    precision = choose(args.precision, here.device)
    move(model, here.device)
    model.dtype, model.accumulate = precision.dtype, args.accumulate
    if precision.name == "fp32" or args.fp32_steps:
        use_2d_where_faster(model.encoders(), here.device)
    if args.compile:
        for encoder in model.encoders():
            encoder.compile()
    optimizer = RunOptimizer(model.named_parameters(), lr=args.lr, wd=args.wd, scaler=precision.scaler())
    return Run(model, optimizer, precision)


def averaged(model: nn.Module, here: Launch) -> nn.Module:
    """The model, wrapped where several processes train so that their gradients are averaged.

    Buffers are not exchanged: each process has BatchNorm statistics of its own, and the queues are equal anyway.
    """
    if here.world_size == 1:
        return model
    devices = [here.device.index] if here.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False, gradient_as_bucket_view=True)


def read_resumed(args: Namespace) -> dict:
    """The checkpoint ``--resume``, which the main process reads for all: other machines need not have it, nor its like.

    Nothing that may fail in one process alone comes before this, or the main one would wait for that process.
    """
    return distributed.from_main(lambda: checkpoint.load(args.resume, require=("state_dict", "optimizer", "epoch")))


def resume(run: Run, args: Namespace, loader: DataLoader, saved: dict) -> tuple[Place, Mapping[str, Any] | None]:
    """Take everything over from a checkpoint; where it stands, see :meth:`Training.stand_at`."""
    if not args.accept_changes:
        refuse_changes(saved, args, made_with(run, loader), args.resume)
    _restore(run, saved, args.resume)
    run.optimizer.load_state_dict(saved["optimizer"])
    run.optimizer.load_scaler(saved.get("scaler"))
    epoch = int(saved["epoch"])
    if not args.reset_lr:
        factor = lr_factor(epoch, schedule=args.schedule, cos=args.cos, epochs=args.epochs)
        run.optimizer.base_lr = resumed_lr(saved["optimizer"], factor, args.lr)
    return place_of(saved, loader)


def made_with(run: Run, loader: DataLoader) -> dict[str, Any]:
    """What results depend on besides the options."""
    return {"processes": distributed.world_size(), "precision": run.precision.name,
            "training set": getattr(loader.dataset, "fingerprint", "unknown")}


def _restore(run: Run, saved: dict, path: str) -> None:
    run.origin = [f"{path}: {load_state(run.model, saved['state_dict'])}"]
    if run.monitor is not None and "label_ring" in saved:
        run.monitor.load_state_dict(saved["label_ring"])
    elif run.monitor is not None:  # a published file: recall is known again once the queue has been rewritten
        run.monitor.ring.align(int(run.model.queue_ptr))


def carry_out(args: Namespace, here: Launch, run: Run, make_steps: Callable[..., StepOfEpoch], choice: Choice) -> None:
    """Train, or with ``--test`` measure. make_steps: makes steps from the network to call, see pretrain_steps."""
    steps = partial(make_steps, optimizer=None if args.test else run.optimizer, device=here.device,
                    parts=args.accumulate)
    if args.test:
        measure(args, here, run, steps)
    else:
        pretrain(args, here, run, steps, choice)


def pretrain(args: Namespace, here: Launch, run: Run, steps: Callable[[nn.Module], StepOfEpoch],
             choice: Choice) -> None:
    """Train to the last epoch, with logs and checkpoints in the run folder.

    Args:
        steps: makes the steps of an epoch from the network to call. choice: of the run folder.
    """
    with listening():
        saved = read_resumed(args) if args.resume else None
        loader = build_loader(args, here)
        monitors = build_monitors(run.model, args, loader, here.device)
        run.monitor = monitors.mining
        place, inside = resume(run, args, loader, saved) if saved else (Place(epoch=args.start_epoch), None)
        del saved  # hundreds of megabytes
        keeper = Keeper(choice.folder / "model", keep_all="k400" in args.dataset, resumed=args.resume)
        with open_run(choice, args, place, made_with(run, loader)) as journal:
            launch.started()
            pretrain_report.begin(args, here, loader, run, choice.folder, place)
            check_arithmetic(args, run)
            subject = Pretraining(args, run, exact_at_first(steps(averaged(run.model, here)), run, args.fp32_steps),
                                  monitors)
            training = Training(
                subject, loader, Plan(args.epochs, args.save_freq, args.save_steps, args.print_freq,
                                      warm_up(args, run, here, place)), keeper, journal, here.device,
                {"options": vars(args), "made_with": made_with(run, loader), "code": code_version()})
            training.stand_at(place, inside)
            if place.iteration == 0:
                monitors.before(training.record)
            training.run()
            pretrain_report.end(args, training, choice.folder, here.world_size)
            distributed.barrier()  # no process leaves while the first one still writes


def warm_up(args: Namespace, run: Run, here: Launch, place: Place) -> int:
    """First steps that tell nothing of the others: a network's very first, those in float32, those that fill a queue
    before any training."""
    filling = 0
    if isinstance(run.model, CoCLR) and not run.model.queue_is_full:
        filling = args.moco_k // (args.batch_size * args.accumulate * here.world_size)
    return 1 + max(filling, args.fp32_steps - place.iteration, 0)


def measure(args: Namespace, here: Launch, run: Run, steps: Callable[[nn.Module], StepOfEpoch]) -> None:
    """Pretext metrics of the checkpoint ``--test`` over the validation split; the log goes beside the checkpoint."""
    saved = checkpoint.load(args.test)
    run.monitor = MiningMonitor(args.moco_k, device=here.device) if isinstance(run.model, CoCLR) else None
    _restore(run, saved, args.test)
    loader = build_loader(args, here)
    run.model.eval()
    path = Path(args.test)
    with torch.no_grad(), log_file(path.with_name(path.name.removesuffix(".pth.tar") + "-test.log")):
        launch.started()
        pretrain_report.begin(args, here, loader, run, path.parent, Place())
        say(check_convolutions(run.model.encoders(), (args.seq_len, args.img_dim, args.img_dim), run.precision))
        epoch = int(saved.get("epoch", 0))
        run_epoch(loader, steps(run.model)(epoch), title="test", epoch=epoch, print_freq=args.print_freq,
                  device=here.device)
