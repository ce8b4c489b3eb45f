"""Evaluate a representation: train a classifier on it, test one on whole videos, or retrieve videos by its features.

Linear probe on a frozen backbone, and finetuning of everything (backbone at a tenth of the learning rate):

    python main_classifier.py --net s3d --dataset ucf101 --seq_len 32 --ds 1 --batch_size 32 --train_what last \\
        --optim sgd --lr 0.1 --epochs 100 --pretrain CKPT
    python main_classifier.py --net s3d --dataset ucf101 --seq_len 32 --ds 1 --batch_size 32 --train_what ft \\
        --epochs 500 --schedule 400 450 --pretrain CKPT

Ten-crop test of a trained classifier (give the --train_what it was trained with), and retrieval with a pretrained or
trained backbone. `--dataset ucf101-f` is flow; the word `random` in place of CKPT means random weights:

    python main_classifier.py --net s3d --dataset ucf101 --seq_len 32 --ds 1 --train_what ft --test CKPT --ten_crop
    python main_classifier.py --net s3d --dataset ucf101 --seq_len 32 --ds 1 --test CKPT --retrieval

Training writes a run folder log-eval-PREFIX/... in the working directory; tests write beside the checkpoint. One
process uses every visible GPU (--gpu names some of them), or the CPU; --batch_size is per GPU.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from backbone.select_backbone import fold_batchnorm
from dataset.loader import make_loader
from dataset.transforms.presets import ClassifierTransform, CropsTransform
from dataset.video_dataset import VideoDataset, videos_of
from dataset.video_index import require_labels
from engine import compatibility, run_folder
from engine import device as hardware
from engine.checkpoint import RESUME
from engine.compatibility import SIZES, TrainState, facts_of
from engine.config import DataConfig, TrainConfig, check_inputs, take
from engine.convolutions import check_convolutions, use_2d_where_faster
from engine.health import untrained
from engine.trainer import Trainer
from eval import finetune, network, options, retrieval, windows
from eval.options import RANDOM
from eval.protocols import CROP_SETS
from model.classifier import LinearClassifier
from utils import launch
from utils.console import log_file, say, say_block
from utils.provenance import code_version
from utils.stop import catch_signals

KINDS = {"last": "linear probe on a frozen", "ft": "finetuning of everything, a tenth of the learning rate for"}
CROPS = {crops: windows.CROP_TITLES[name] for name, crops in CROP_SETS.items()}
Devices = list[torch.device]


def parse(argv: Sequence[str] | None = None, planned: bool = False) -> Namespace:
    """Parse and check the options, dataset and files; checkpoints of a planned command need not exist yet."""
    args = options.parse(argv, __doc__, planned)
    resumed = "" if args.resume == run_folder.AUTO else args.resume
    check_inputs(vars(args), 1, 1, [] if planned else [resumed, args.test, args.pretrain])
    return args


def run_folder_of(given: Mapping[str, Any]) -> Path:
    name, optimizer = take(DataConfig, given).name, {"sgd": "SGD", "adam": "Adam"}[given["optim"]]
    return Path(f"log-eval-{given['prefix']}", run_folder.fitting_name(
        "{name}-{img_dim}_sp{which_split}_{model}_{net}_{optimizer}_bs{total}_lr{lr}_dp{dropout}_wd{wd}_seq1_len{seq_len}"
        "_ds{ds}_train-{train_what}{start}".format(
            **given, name=name, optimizer=optimizer, total=len(options.devices(given["gpu"])) * given["batch_size"],
            start=run_folder.started_from(given["pretrain"]))))


def random_weights(given: Mapping[str, Any]) -> Path:
    """Return a stand-in for the checkpoint path of random weights; no file is there, but results go beside it."""
    folder = run_folder_of(given)
    return folder.with_name(f"{folder.name}_pt=random") / "model" / "random"


def to_devices(net: LinearClassifier, devices: Devices, precision: hardware.Precision, clip: tuple[int, int, int],
               compiled: bool) -> nn.Module:
    """Move a classifier to one device or several GPUs, check its convolutions, and compile the backbone if asked."""
    net.to(devices[0]).to(memory_format=torch.channels_last_3d)  # as the clips lie in memory
    if precision.name == "fp32":
        use_2d_where_faster([net], devices[0])
    say(check_convolutions([net.backbone], clip, precision))
    if compiled:
        net.backbone.compile()
    return nn.DataParallel(net, device_ids=devices) if len(devices) > 1 else net


def describe(data: DataConfig, sets: Mapping[str, VideoDataset], videos: str) -> list[str]:
    reports = [f"{name}: {each.index.report}" for name, each in sets.items() if each.index.report]
    return [f"{data.name}, split {data.which_split}, {data.describe()}: {videos}", *reports]


def train(data: DataConfig, config: TrainConfig, model: network.ClassifierConfig, pretrain: str, folder: Path,
          resumed: str, devices: Devices, options: Mapping[str, Any]) -> None:
    """Train a linear probe, or finetune, in a run folder; ``resumed`` is the checkpoint to resume from, or ""."""
    loader, val = (make_loader(data.build(mode, ClassifierTransform(data.img_dim, train=mode == "train")), rank=0,
                               batch_size=config.batch_size * len(devices), workers=config.workers, world_size=1,
                               train=mode == "train", seed=config.seed, device=devices[0]) for mode in ("train", "val"))
    sets = {"train": videos_of(loader), "val": videos_of(val)}
    classes = sets["train"].index.classes
    require_labels(classes, "a classifier")
    net = model.build(len(classes), config.seed)
    start = f"{RANDOM} weights, seed {config.seed}"
    if pretrain not in ("", RANDOM) and not resumed:
        start = network.load_backbone(net, pretrain, facts_of(options), config.accept_changes)
    net.to(devices[0]).to(memory_format=torch.channels_last_3d)  # before the optimizer holds its parameters
    precision = hardware.choose_precision(config.precision, devices[0])
    optimizer = finetune.build_optimizer(net, model.train_what, name=model.optim, lr=config.lr, wd=config.wd,
                                         scaler=precision.scaler())
    made_with = {"gpus": len(devices), "precision": precision.name, "training set": sets["train"].fingerprint}
    state = TrainState(epoch=config.start_epoch)
    saved = network.load_classifier(net, resumed, RESUME)[0] if resumed else None
    options = compatibility.with_schedule(options, saved)
    config = replace(config, schedule=options["schedule"])
    if saved is not None:
        compatibility.restore_optimizer(optimizer, saved, config.rates, config.reset_lr)
        if not config.accept_changes:
            compatibility.refuse_changes(saved, options, made_with, resumed)
        state = compatibility.state_of(saved, loader)
        start = f"resumed from {resumed} after {state.iteration} steps"
    with catch_signals(), run_folder.open_run(folder, resumed, state, options, made_with) as logger:
        say_block({
            "run": f"{KINDS.get(model.train_what, 'training of everything at one learning rate,')} {model.net}",
            "data": describe(data, sets, f"{len(sets['train'])} training and {len(sets['val'])} validation videos; "
                                         f"{len(loader)} steps per epoch of {loader.batch_size}"),
            "start": start,
            "training": f"epochs {state.epoch} to {config.epochs - 1}, {model.optim}, lr {config.lr:g} "
                        f"({config.rates}), weight decay {config.wd:g}" if state.epoch < config.epochs
                        else "nothing is left to train",
            "on": hardware.describe_machine(devices, precision, config.workers), "into": str(folder)})
        task = finetune.Finetuning(to_devices(net, devices, precision, data.clip, config.compile), optimizer,
                                   model.train_what, config.rates, config.seed, val, devices[0], precision.dtype)
        checkpoints = run_folder.CheckpointManager(folder / "model", keep_all="k400" in data.dataset, resumed=resumed)
        info = {"options": options, "made_with": made_with, "code": code_version(), "classes": list(classes)}
        Trainer(loader, optimizer, devices[0], config, state=state, checkpoints=checkpoints, logger=logger,
                info=info).fit(task)
        best = finetune.report_result(f"{model.train_what} on {data.name}", state, config.epochs, folder)
        say(f"next: the same options with --test {best} --ten_crop instead of --pretrain")


def test(data: DataConfig, config: TrainConfig, model: network.ClassifierConfig, checkpoint: str, path: Path,
         dirname: str, crops: int, devices: Devices) -> None:
    """Run the crop test of a checkpoint, or retrieval if ``crops`` is 0; write log and results beside ``path``."""
    device, batch_size = devices[0], config.batch_size * len(devices)
    output, features = options.output_folders(path, dirname)
    with log_file(output / f"{path.name.removesuffix('.pth.tar')}-test.log"), torch.inference_mode():
        modes = {"test": "test"} | ({} if crops else {"train": "gallery"})
        sets = {split: data.build(mode, CropsTransform(data.img_dim, crops=crops or 1))
                for split, mode in modes.items()}
        index = sets["test"].index
        if crops:
            require_labels(index.classes, "the test of a classifier")
        net = model.build(len(index.classes), config.seed)
        start = f"{RANDOM} weights, seed {config.seed}"
        facts = asdict(data) | {"net": model.net}
        if checkpoint != RANDOM and not crops:
            start = network.load_backbone(net, path, facts_of(facts), config.accept_changes)
        elif checkpoint != RANDOM:
            _, start = network.load_classifier(net, path, needed=facts_of(facts, index.classes),
                                               accept=config.accept_changes)
        precision = hardware.choose_precision(config.precision, device)
        what = f"test with {CROPS[crops]}" if crops else "retrieval by backbone features"
        counts = " and ".join(f"{len(each)} {split}" for split, each in sets.items())
        say_block({"run": f"{what} of {model.net}, test of {checkpoint}",
                   "data": describe(data, sets, f"{counts} videos, batches of {batch_size} windows"), "start": start,
                   "on": hardware.describe_machine(devices, precision, config.workers), "into": str(output)})
        fold_batchnorm(net.eval())
        ready = to_devices(net, devices, precision, data.clip, config.compile)
        if crops:
            samples = windows.read_samples(sets["test"], workers=config.workers, device=device, title="test")
            prob = windows.crop_probabilities(ready, samples, batch_size, device, precision.dtype)
            results = windows.report_crops(prob, torch.as_tensor(index.labels))
            written = windows.write_results(output / path.name, list(index.paths), prob, results)
            say(f"probabilities of each video: {written}")
            return
        made_from = {name: facts[name] for name in ("net", "second_view", *SIZES, "which_split", "seed")}
        made_from |= {"data_root": str(Path(data.data_root).resolve()), "precision": precision.name,
                      "checkpoint": retrieval.fingerprint(checkpoint)}
        job = retrieval.FeatureJob(features, data.dataset, made_from, model.train_what == "last", batch_size,
                                   workers=config.workers, device=device, dtype=precision.dtype)
        query, found = (retrieval.split_features(ready, *each, job) for each in sets.items())
        measures = None
        if not index.has_labels:
            random = untrained(lambda: network.build(1, model.net, model.train_what), config.seed).to(device)
            videos = data.build("test", CropsTransform(data.img_dim, p=0.0))  # without jitter
            measures = retrieval.measure_without_labels(random if checkpoint == RANDOM else ready, random, videos, job)
        retrieval.report(job, query, found, measures)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.deterministic:
        hardware.use_deterministic_kernels()
    devices = options.devices(args.gpu)
    if devices[0].type == "cpu":
        hardware.keep_freed_memory()
        if args.gpu:
            say("no GPU found: running on the CPU")
    shadow = network.build_on_meta(args.net, args.train_what, final_bn=args.final_bn, training=not args.test)
    hardware.check_clips(shadow, args.net, args.batch_size, args.seq_len, args.img_dim)
    given = vars(args) | {"save_freq": args.eval_freq}
    configs = take(DataConfig, given), take(TrainConfig, given), take(network.ClassifierConfig, given)
    if not args.test:
        folder, resumed = run_folder.choose(args.resume, run_folder_of(given), "--prefix")
        train(*configs, args.pretrain, folder, resumed, devices, vars(args))
        return 0
    path = Path(args.test)
    if args.test == RANDOM:
        path = random_weights(given)
        run_folder.make(path.parents[1])
    test(*configs, args.test, path, args.dirname, args.crops, devices)
    return 0


if __name__ == "__main__":
    launch.run(main)
