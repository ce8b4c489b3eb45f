"""What pretraining tells about itself: at its start what will run, at its end what came out and what can follow."""

from argparse import Namespace
from pathlib import Path

from torch.utils.data import DataLoader

import next_commands
from dataset.video_dataset import videos_of
from eval.report import percent, table
from pretrain_subject import Run
from utils import run_folder, startup
from utils.console import say
from utils.distributed import Launch
from utils.terminal import paint_table
from utils.training import Place, Training


def begin(args: Namespace, here: Launch, loader: DataLoader, run: Run, folder: Path, place: Place) -> None:
    """Say what will run, where it starts from, on what, with how much data."""
    dataset = videos_of(loader)
    left_out = getattr(getattr(dataset, "index", None), "report", "")
    seen = f"{args.seq_len} frames" + (f", every {args.ds}th frame" if args.ds > 1 else "")
    data = (f"{run_folder.dataset_name(args)}: {len(dataset)} videos, clips of {seen}, {args.img_dim} px; "
            f"{len(loader)} steps per epoch of {here.world_size} x {loader.batch_size}")
    start = run.origin or [f"random weights, seed {args.seed}"]
    if args.resume:
        start = [f"resumed after {place.iteration} steps", *start]
    startup.announce(
        run=_method(args), data=[data, left_out], start=start, training="" if args.test else _course(args, run, place),
        on=startup.machine([here.device], run.precision, args.workers, here.world_size, args.gpu is not None),
        into=folder)


def _method(args: Namespace) -> str:
    """The method in words: what is trained by what, with the settings that matter most."""
    moco = f"D {args.moco_dim}, queue of {args.moco_k}, momentum {args.moco_m:g}, temperature {args.moco_t:g}"
    test = f"test of {args.test}: " if args.test else ""
    if args.model != "coclr":
        view = args.second_view if args.dataset.endswith("-f-2clip") else "RGB"
        return f"{test}{args.model} with {args.net} on two clips of {view}; {moco}"
    learns, mines = (args.second_view, "RGB") if args.reverse else ("RGB", args.second_view)
    cascade = f" by a cascade of {args.stage} stages of ratio {args.ratio:g}" if args.cascade else ""
    return (f"{test}coclr with {args.net}: {learns} learns from the top {args.topk} positives mined in {mines}"
            f"{cascade}; {moco}")


def _course(args: Namespace, run: Run, place: Place) -> str:
    """The epochs that are left, and the rates."""
    if place.epoch >= args.epochs:
        return f"nothing is left to train: the checkpoint finished epoch {place.epoch - 1} of --epochs {args.epochs}"
    inside = f" (after its first {place.batch} steps)" if place.batch else ""
    first = f", the first {args.fp32_steps} steps in fp32" if args.fp32_steps else ""
    falls = "falling as a cosine" if args.cos else f"a tenth from epochs {' '.join(map(str, args.schedule))}" \
        if args.schedule else "constant"
    return (f"epochs {place.epoch}{inside} to {args.epochs - 1}, lr {run.optimizer.base_lr:g} ({falls}), weight decay "
            f"{args.wd:g}{first}")


def end(args: Namespace, training: Training, folder: Path, processes: int) -> None:
    """Say what came out, where the last checkpoint lies, and what can be run next."""
    means = training.means  # none where nothing was left to train
    shown = [name for name in ("loss", "top1", "top5", "recall") if name in means]
    heads = [name if name == "loss" else f"{name} %" for name in shown]
    cells = [f"{means[name]:.4g}" if name == "loss" else percent(means[name]) for name in shown]
    say(table(["last epoch", "epochs", *heads, "best top1 %"],
              [[f"{args.model} on {run_folder.dataset_name(args)}", str(args.epochs), *cells,
                percent(training.place.best_acc)]]), paint=paint_table)
    path = run_folder.last_checkpoint(folder, training.place.epoch)
    say(f"last checkpoint: {path}")
    next_commands.show(next_commands.after_pretraining(args, path, processes))
