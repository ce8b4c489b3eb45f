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
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.utils.data import DataLoader

import launch
import next_commands
from dataset import catalog
from dataset.video_dataset import Transform, VideoDataset, videos_of
from eval import announce, crops, finetune, network, options, retrieval
from eval.options import RANDOM
from eval.windows import read_samples
from model.classifier import LinearClassifier
from utils import run_folder, run_start
from utils.clip_check import check_clips
from utils.console import log_file, say
from utils.conv_check import check_convolutions
from utils.conv_forms import use_2d_where_faster
from utils.errors import CheckpointError, OptionError
from utils.keeper import Keeper
from utils.loader import make_loader
from utils.memory import keep_freed_memory
from utils.optimizer import RunOptimizer
from utils.precision import Precision, choose, use_deterministic_kernels
from utils.presets import ClassifierTrainTransform, ClassifierValTransform, CropsTransform
from utils.provenance import code_version
from utils.resuming import refuse_changes
from utils.stop import listening
from utils.training import Place, Plan, Training, place_of

Devices = list[torch.device]


def check_inputs(args: Namespace, later: Container[str] = ()) -> None:
    """Refuse a dataset that is not one clip of one stream, and a file that is not there, before anything is built.

    later: files that need not be there yet.
    """
    spec = catalog.parse(args.dataset, args.second_view)
    if spec.clips != 1 or len(spec.streams) != 1:
        raise OptionError(f"--dataset {args.dataset} is for pretraining: a classifier takes {spec.base} or "
                          f"{spec.base}-f")
    resumed = "" if args.resume == run_folder.AUTO else args.resume
    for path in (resumed, args.test, args.pretrain):
        if path and path != RANDOM and path not in later and not Path(path).is_file():
            raise CheckpointError(f"there is no checkpoint {path}: check the path (only the word random means none)")


def second_view(args: Namespace) -> str:
    """What the network sees besides RGB, "" for nothing."""
    return args.second_view if args.dataset.endswith("-f") else ""


def build_dataset(args: Namespace, mode: str, transform: Transform) -> VideoDataset:
    """The videos of a mode of `dataset.catalog`."""
    return catalog.build(args.dataset, mode, transform=transform, data_root=args.data_root,
                         split_root=args.split_root, seq_len=args.seq_len, ds=args.ds, which_split=args.which_split,
                         seed=args.seed, second_view=args.second_view)


def build_loaders(args: Namespace, devices: Devices) -> list[DataLoader]:
    """Batches of the training and of the validation videos."""
    parts = (("train", ClassifierTrainTransform(args.img_dim)), ("val", ClassifierValTransform(args.img_dim)))
    return [make_loader(build_dataset(args, mode, transform), batch_size=args.batch_size * len(devices),
                        workers=args.workers, train=mode == "train", seed=args.seed, rank=0, world_size=1,
                        device=devices[0]) for mode, transform in parts]


def build_net(args: Namespace, num_class: int) -> LinearClassifier:
    """A new classifier, its weights drawn from --seed."""
    torch.manual_seed(args.seed)
    return network.build(num_class, args.net, args.train_what, dropout=args.dropout, final_bn=args.final_bn,
                         num_fc=args.num_fc)


def spread(net: nn.Module, devices: Devices) -> nn.Module:
    """The network on its device, or on several GPUs."""
    net.to(devices[0]).to(memory_format=torch.channels_last_3d)  # as the clips lie in memory
    return nn.DataParallel(net, device_ids=devices) if len(devices) > 1 else net


def prepare(args: Namespace, net: LinearClassifier, devices: Devices, precision: Precision) -> nn.Module:
    """The network on its devices, computing in a precision; says what a check of its convolutions found."""
    net.to(devices[0])
    net.dtype = precision.dtype
    if precision.name == "fp32":
        use_2d_where_faster([net], devices[0])
    say(check_convolutions([net.backbone], (args.seq_len, args.img_dim, args.img_dim), precision))
    if args.compile:
        net.backbone.compile()
    return spread(net, devices)


def train(args: Namespace, devices: Devices) -> None:
    """Linear probe or finetuning, into a run folder (of a resumed checkpoint: its own)."""
    folder = run_folder.classifier_folder(args, len(devices))
    choice = run_folder.choose(args.resume, folder, "--prefix")
    folder, args.resume = choice.folder, choice.resume
    loaders = build_loaders(args, devices)
    videos = videos_of(loaders[0])
    net = build_net(args, len(videos.index.classes))
    origin = ""
    if args.pretrain not in ("", RANDOM) and not args.resume:
        origin = network.load_backbone(net, args.pretrain, second_view(args))
    net.to(devices[0]).to(memory_format=torch.channels_last_3d)  # before the optimizer holds its parameters
    precision = choose(args.precision, devices[0])
    optimizer = finetune.build_optimizer(net, args.train_what, name=args.optim, lr=args.lr, wd=args.wd,
                                         scaler=precision.scaler())
    rates = finetune.Rates(**{name: getattr(args, name) for name in finetune.Rates.__dataclass_fields__})
    made_with = {"gpus": len(devices), "precision": precision.name, "training set": videos.fingerprint}
    place, inside = resume(args, net, optimizer, rates, made_with, loaders[0])
    with listening(), run_start.open_run(choice, args, place, made_with) as journal:
        announce.training(args, devices, precision, loaders, folder, origin, place)
        subject = finetune.Classifying(prepare(args, net, devices, precision), optimizer, rates, loaders[1], devices[0])
        training = Training(
            subject, loaders[0], Plan(args.epochs, args.eval_freq, args.save_steps, args.print_freq),
            Keeper(folder / "model", keep_all="k400" in args.dataset, resumed=args.resume), journal, devices[0],
            {"options": vars(args), "made_with": made_with, "code": code_version()})
        training.stand_at(place, inside)
        training.run()
        best = finetune.report_result(f"{args.train_what} on {run_folder.dataset_name(args)}", place, training.place,
                                      args.epochs, folder)
        next_commands.show(next_commands.after_training_a_classifier(args, best))


def resume(args: Namespace, net: nn.Module, optimizer: RunOptimizer, rates: finetune.Rates, made_with: dict,
           loader: DataLoader) -> tuple[Place, Mapping | None]:
    """Take everything over from the checkpoint `--resume`, if any; where the training stands."""
    if not args.resume:
        return Place(epoch=args.start_epoch), None
    saved = finetune.resume(net, optimizer, args.resume, rates, args.reset_lr)
    if not args.accept_changes:
        refuse_changes(saved, args, made_with, args.resume)
    return place_of(saved, loader)


def test(args: Namespace, devices: Devices) -> None:
    """Crop test or retrieval of one checkpoint; the log and all results go beside it."""
    path = Path(args.test)
    if args.test == RANDOM:
        path = run_folder.random_weights(args, len(devices))  # no training's
        run_folder.make(path.parents[1])
    with log_file(path.with_name(path.name.removesuffix(".pth.tar") + "-test.log")), torch.inference_mode():
        (test_retrieval if args.retrieval else test_crops)(args, path, devices)


def test_crops(args: Namespace, path: Path, devices: Devices) -> None:
    """Accuracy of a classifier on whole test videos, and its probabilities as JSON."""
    dataset = build_dataset(args, "test", CropsTransform(args.img_dim, crops=args.crops))
    net = build_net(args, len(dataset.index.classes))
    origin = "" if args.test == RANDOM else network.load_classifier(net, path, second_view=second_view(args))[1]
    precision = choose(args.precision, devices[0])
    announce.test(args, devices, precision, {"test": dataset}, path, origin)
    samples = read_samples(dataset, workers=args.workers, device=devices[0], title="test")
    batch = args.batch_size * len(devices)
    ready = prepare(args, net.eval(), devices, precision)
    prob = crops.crop_probabilities(ready, samples, batch, devices[0])
    results = crops.report_crops(prob, torch.as_tensor(dataset.index.labels))
    output = crops.write_probabilities(path, list(dataset.index.paths), prob)
    crops.write_accuracies(path, results)
    say(f"probabilities of each video: {output}")
    next_commands.show(next_commands.after_crops(args, path))


def test_retrieval(args: Namespace, path: Path, devices: Devices) -> None:
    """Recall@k of test videos among training videos, and their features and similarities as files."""
    train_mode = {"clip": "gallery", "windows": "gallery_windows"}[args.gallery]
    sets = {split: build_dataset(args, mode, CropsTransform(args.img_dim, crops=1))
            for split, mode in (("test", "test"), ("train", train_mode))}
    net = build_net(args, len(sets["test"].index.classes))
    origin = "" if args.test == RANDOM else network.load_backbone(net, path, second_view(args))
    precision = choose(args.precision, devices[0])
    announce.test(args, devices, precision, sets, path, origin)
    made_from = {name: getattr(args, name)
                 for name in ("net", "second_view", "seq_len", "ds", "img_dim", "which_split", "seed")}
    made_from |= {"data_root": str(Path(args.data_root).resolve()), "checkpoint": retrieval.fingerprint(args.test),
                  "precision": precision.name}
    job = retrieval.FeatureJob(
        folder=path.parent / args.dirname, dataset=args.dataset, made_from=made_from, gallery=args.gallery,
        normalise=args.train_what == "last", batch_size=args.batch_size * len(devices), workers=args.workers,
        device=devices[0])
    ready = prepare(args, net.eval(), devices, precision)
    query, gallery = (retrieval.split_features(ready, split, videos, job) for split, videos in sets.items())
    retrieval.report(job, query, gallery)
    next_commands.show(next_commands.after_retrieval(args, path))


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or with --test evaluate."""
    args = options.parse(argv, __doc__)
    check_inputs(args)
    if args.deterministic:
        use_deterministic_kernels()
    devices = options.devices(args.gpu)
    if devices[0].type == "cpu":
        keep_freed_memory()
    check_clips(network.shadow(args), args)
    if args.test:
        test(args, devices)
    else:
        train(args, devices)
    return 0


if __name__ == "__main__":
    launch.run(main)
