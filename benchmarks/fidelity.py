"""How faithful each precision is to float32 in training: ``python -m benchmarks.fidelity --name NAME``.

On a dataset that process_data prepared, for each precision that the device has:

- one batch at initialisation: the error of the pooled features, and layer by layer the cosine between its gradient and
  float32's;
- InfoNCE pretraining of some hundred steps from several seeds, the same clips and weights in each precision: the loss
  curve, in windows of steps. A precision is *safe* if its curve, the mean over the seeds, lies within float32's own
  spread, the range over its seeds, in every window; it is *fast* if its steps take less time than float32's.

Prints a table; ``--json FILE`` writes everything. The demo set, 8 frames of 32 pixels, on two CPU cores:

    python -m benchmarks.fidelity --name motions --data_root DATA --split_root SPLITS --precisions fp32 bf16
"""

import copy
import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import launch
from benchmarks.rounding import EMULATED
from dataset import catalog
from model.loss import infonce_loss
from model.pretrain import InfoNCE, check_queue
from pretrain_steps import infonce_steps
from utils.console import say
from utils.conv_check import check_convolutions
from utils.conv_forms import fits_2d, use_2d_where_faster, use_form
from utils.errors import OptionError
from utils.loader import batches, make_loader
from utils.memory import keep_freed_memory
from utils.optimizer import RunOptimizer
from utils.options import ROOT, Parser, positive_float, positive_int, whole_number
from utils.precision import STEPS, choose
from utils.presets import PretrainTransform, to_blocks

EXACT = "fp32"
WD = 1e-5
FIRST_SCALE = 256.0  # of the first step's loss: keeps fp16's gradients in range; a cosine does not see it


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, checked."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--name", default="motions", help="dataset, as in --dataset NAME-2clip")
    add("--data_root", default=str(ROOT / "data"), help="folder of the LMDB files")
    add("--split_root", default=str(ROOT / "process_data" / "data"), help="folder of the splits")
    add("--precisions", nargs="+", choices=[*STEPS, *EMULATED], default=[], help="what to measure (default: all that "
        "the device has; on a CPU fp32 and bf16); fp32 is always measured")
    add("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu", help="where")
    add("--net", default="s3d", help="backbone")
    add("--seq_len", type=positive_int, default=8, help="frames per clip")
    add("--img_dim", type=positive_int, default=32, help="side of the frames in pixels")
    add("--batch_size", type=positive_int, default=8, help="clips per step")
    add("--moco-k", type=positive_int, default=64, help="queue length")
    add("--lr", type=positive_float, default=1e-3, help="learning rate")
    add("--steps", type=positive_int, default=300, help="training steps per seed")
    add("--warmup", type=whole_number, default=0, help="steps in float32 before that")
    add("--window", type=positive_int, default=50, help="steps that one point of a curve is the mean of")
    add("--seeds", type=positive_int, default=3, help="number of seeds, at least 2")
    add("-j", "--workers", type=whole_number, default=0, help="loader processes")
    add("--json", default="", metavar="FILE", help="write all numbers to this file")
    args = parser.parse_args(argv)
    if args.seeds < 2:
        raise OptionError("--seeds 1 gives no spread to compare with: take at least 2")
    if args.steps < args.window:
        raise OptionError(f"--steps {args.steps} is less than one --window of {args.window}")
    check_queue(args.moco_k, args.batch_size, 1)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda: there is no GPU here")
    everything = ["tf32", "fp16", "bf16"] if args.device == "cuda" else ["bf16"]
    args.precisions = [EXACT, *(name for name in args.precisions or everything if name != EXACT)]
    return args


def make_batches(args: Namespace, seed: int) -> DataLoader:
    """The training clips, in the order of a seed."""
    dataset = catalog.build(f"{args.name}-2clip", "train", transform=PretrainTransform(args.img_dim), seed=seed,
                            data_root=args.data_root, split_root=args.split_root, seq_len=args.seq_len, ds=1)
    return make_loader(dataset, batch_size=args.batch_size, workers=args.workers, train=True, seed=seed, rank=0,
                       world_size=1, device=torch.device(args.device))


def endless(loader: DataLoader) -> Iterator[dict]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        yield from batches(loader, epoch)
        epoch += 1


def make_model(args: Namespace, seed: int, name: str) -> tuple[InfoNCE, str]:
    """InfoNCE with the weights of a seed in a precision, and what the check of its convolutions says."""
    device = torch.device(args.device)
    precision = choose(EXACT if name in EMULATED else name, device)
    torch.manual_seed(seed)
    model = InfoNCE(args.net, 128, args.moco_k)
    model.to(device).to(memory_format=torch.channels_last_3d)
    model.dtype = precision.dtype
    if name == EXACT:
        use_2d_where_faster(model.encoders(), device)  # as the scripts do
    if name in EMULATED:
        for conv in (module for encoder in model.encoders() for module in encoder.modules()):
            if type(conv) is nn.Conv3d and fits_2d(conv):
                use_form(conv, EMULATED[name])
        return model, f"{name}: convolutions round to {EMULATED[name].bits} bits"
    return model, check_convolutions(model.encoders(), (args.seq_len, args.img_dim, args.img_dim), precision)


@dataclass(frozen=True)
class Start:
    """Where a seed's runs begin: states of model and optimizer after `--warmup` steps in float32."""

    model: dict
    optimizer: dict


def warm_up(args: Namespace, seed: int) -> Start | None:
    """Take a seed's first steps; None without any."""
    if not args.warmup:
        return None
    model, _ = make_model(args, seed, EXACT)
    optimizer = RunOptimizer(model.named_parameters(), lr=args.lr, wd=WD)
    step = infonce_steps(model, optimizer, torch.device(args.device))(0)
    for i, batch in enumerate(islice(endless(make_batches(args, seed)), args.warmup)):
        step(batch, i)
    return Start(copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()))


def first_step(args: Namespace, name: str, start: Start | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Pooled features (B, F) of the first batch and the gradient of every layer of encoder_q, at the start."""
    model, _ = make_model(args, 0, name)
    if start:
        model.load_state_dict(start.model)
    features: list[Tensor] = []
    model.encoder_q[1].register_forward_hook(lambda _, inputs, output: features.append(output.flatten(1).float()))
    batch = next(islice(endless(make_batches(args, 0)), args.warmup, None))
    block = to_blocks(batch, torch.device(args.device))[:, :, 0]
    logits, _ = model(block)
    (infonce_loss(logits) * FIRST_SCALE).backward()
    gradients = {label: p.grad.float() for label, p in model.encoder_q.named_parameters() if p.grad is not None}
    return features[0].detach(), gradients


def compare_first_step(args: Namespace, name: str, start: Start | None,
                       exact: tuple[Tensor, dict[str, Tensor]]) -> dict:
    """Feature error and gradient cosines of a precision's first step against float32's."""
    features, gradients = first_step(args, name, start)
    cosine = {label: float(F.cosine_similarity(gradients[label].flatten(), exact[1][label].flatten(), dim=0))
              for label in gradients if exact[1][label].any()}
    return {"feature_error": float((features - exact[0]).norm() / exact[0].norm()),
            "median_cosine": statistics.median(cosine.values()), "least_cosine": min(cosine.values()),
            "cosine": cosine}


def train(args: Namespace, seed: int, name: str, begin: Start | None) -> dict:
    """Loss of every window of a training, and the median seconds of a step without its data."""
    device = torch.device(args.device)
    model, check = make_model(args, seed, name)
    scaler = None if name in EMULATED else choose(name, device).scaler()
    optimizer = RunOptimizer(model.named_parameters(), lr=args.lr, wd=WD, scaler=scaler)
    if begin:
        model.load_state_dict(begin.model)
        optimizer.load_state_dict(copy.deepcopy(begin.optimizer))
    step = infonce_steps(model, optimizer, device)(0)
    losses, seconds = [], []
    batches = islice(endless(make_batches(args, seed)), args.warmup, args.warmup + args.steps)
    for i, batch in enumerate(batches, start=args.warmup):
        start = time.perf_counter()
        losses.append(float(step(batch, i)["loss"]))  # reading the loss waits for the device
        seconds.append(time.perf_counter() - start)
    points = [statistics.fmean(losses[i:i + args.window])
              for i in range(0, args.steps - args.window + 1, args.window)]
    return {"curve": points, "step_seconds": statistics.median(seconds), "check": check, "losses": losses}


def judge(runs: dict[str, list[dict]]) -> dict[str, dict]:
    """Mean curve, step time, and whether fast and safe, of each precision's runs (one a seed)."""
    exact = [run["curve"] for run in runs[EXACT]]
    low, high = ([limit(points) for points in zip(*exact, strict=True)] for limit in (min, max))
    verdicts = {}
    for name, own in runs.items():
        mean = [statistics.fmean(points) for points in zip(*(run["curve"] for run in own), strict=True)]
        seconds = statistics.median(run["step_seconds"] for run in own)
        verdicts[name] = {"curve": mean, "step_seconds": seconds,
                          "safe": all(a <= x <= b for a, x, b in zip(low, mean, high, strict=True))}
    for verdict in verdicts.values():
        verdict["fast"] = verdict["step_seconds"] < verdicts[EXACT]["step_seconds"]
    verdicts[EXACT] |= {"low": low, "high": high}
    return verdicts


def show(first: dict[str, dict], verdicts: dict[str, dict]) -> None:
    """The table: one row a precision."""
    exact = verdicts[EXACT]
    say("| precision | feature error | gradient cosine, median (least) | step ms | loss, mean of each window | safe | "
        "fast |\n|---|---|---|---|---|---|---|")
    for name, verdict in verdicts.items():
        start = first[name]
        say(f"| {name} | {start['feature_error']:.2%} | {start['median_cosine']:.3f} ({start['least_cosine']:.3f}) | "
            f"{verdict['step_seconds'] * 1e3:.0f} | {' '.join(f'{x:.3f}' for x in verdict['curve'])} | "
            f"{'yes' if verdict['safe'] else 'no'} | {'yes' if verdict['fast'] else 'no'} |")
    spread = " ".join(f"{a:.3f}-{b:.3f}" for a, b in zip(exact["low"], exact["high"], strict=True))
    say(f"float32 over its seeds: {spread}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    args = parse(argv)
    if args.device == "cpu":
        keep_freed_memory()
    runs: dict[str, list[dict]] = {name: [] for name in args.precisions}
    first: dict[str, dict] = {}
    for seed in range(args.seeds):
        start = warm_up(args, seed)
        if seed == 0:
            exact = first_step(args, EXACT, start)
            first = {name: compare_first_step(args, name, start, exact) for name in args.precisions}
        for name in args.precisions:  # in turn, so that a busy machine slows all alike
            runs[name].append(train(args, seed, name, start))
            print(f"{name}, seed {seed}: loss {runs[name][-1]['curve'][-1]:.4f}", file=sys.stderr)
    verdicts = judge(runs)
    show(first, verdicts)
    if args.json:
        content = {"options": vars(args), "torch": torch.__version__, "threads": torch.get_num_threads(),
                   "first_step": first, "runs": runs, "verdicts": verdicts}
        Path(args.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    launch.run(main)
