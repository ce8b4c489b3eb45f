"""Train a linear probe on the features stored by `main_classifier.py --test CKPT --retrieval`.

    python feature_linear_probe.py --test RUN/model/CKPT.pth.tar --dataset ucf101 --dirname feature --final_bn

The features lie in the folder of CKPT, under --dirname; CKPT itself need not exist any more. The probabilities of the
best epoch go to `{basename of CKPT}-lp-{dataset}-prob.json` in the feature folder, its accuracy to `...-acc.json`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import catalog
from dataset.video_index import require_labels
from engine import options
from engine.config import take
from engine.optimizer import LrSchedule
from eval import protocols
from eval.options import devices
from eval.retrieval import FeatureSet, load_both
from utils import launch
from utils.console import paint_table, percent, percentages, say, table
from utils.errors import OptionError
from utils.files import write_json
from utils.parser import Parser


@dataclass(frozen=True)
class Probe:
    """Settings of the training, by SGD with momentum 0.9."""

    lr: float = 1.0
    wd: float = 1e-3
    epochs: int = 100
    schedule: Sequence[int] | None = None
    batch_size: int = 1024
    final_bn: bool = False
    eval_freq: int = 5
    verbose: bool = False
    seed: int = 0


class Outcome(NamedTuple):
    epoch: int  # 0-based
    accuracy: dict[int, float]  # {k: share in 0-1}
    prob: Tensor  # class probabilities, (N, classes), on the CPU


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--test", required=True, metavar="CKPT", help="checkpoint that made the features")
    add("--dataset", default="ucf101", metavar="NAME", help="dataset name, as given for --retrieval")
    add("--split_root", metavar="FOLDER", help="folder of the splits (default: the repository's process_data/data/)")
    add("--dirname", default="feature", metavar="FOLDER", help="folder of the features, beside the checkpoint")
    add("--normalize", action="store_true", help="L2-normalise the features first")
    parser.topic("method")("--final_bn", action="store_true", help="BatchNorm before the linear layer")
    add = parser.topic("training")
    add("--lr", type=options.positive_float, default=1.0, help="learning rate at the start")
    add("--wd", type=options.non_negative_float, default=1e-3, help="weight decay")
    add("--epochs", type=options.positive_int, default=100, help="epochs in all")
    add("--schedule", type=options.whole_number, nargs="*", metavar="EPOCH", help="epochs at which lr falls to a tenth "
        "(default: three and four fifths of --epochs)")
    add("--batch_size", type=options.positive_int, default=1024, metavar="FEATURES", help="features per step, at most")
    add("--seed", type=options.seed, default=0, help="seed of the layer's weights and the order")
    parser.topic("evaluation")("--eval_freq", type=options.whole_number, default=5, metavar="EPOCHS",
                               help="epochs between evaluations, of which the best counts; 0: only the last epoch")
    parser.topic("output")("--verbose", type=int, choices=[0, 1], default=0, help="1: print every evaluation")
    return parser


def build_layer(width: int, num_class: int, final_bn: bool) -> nn.Sequential:
    linear = nn.Linear(width, num_class)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(*([nn.BatchNorm1d(width)] if final_bn else []), linear)


def train_probe(train: FeatureSet, test: FeatureSet, probe: Probe, num_class: int) -> Outcome:
    """Train a linear layer; evaluate it every `eval_freq` epochs (0: never) and after the last; return the best."""
    torch.manual_seed(probe.seed)
    layer = build_layer(train.features.shape[1], num_class, probe.final_bn).to(train.features.device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=probe.lr, momentum=0.9, weight_decay=probe.wd)
    # Batches of nearly the same size, none of a single row, which BatchNorm cannot train on.
    batches = min(-(-len(train.names) // probe.batch_size), len(train.names) // 2)
    best: Outcome | None = None
    schedule = tuple(max(1, probe.epochs * n // 5) for n in (3, 4)) if probe.schedule is None else tuple(probe.schedule)
    rates = LrSchedule(probe.lr, schedule, False, probe.epochs)
    for epoch in range(probe.epochs):
        optimizer.param_groups[0]["lr"] = probe.lr * rates.factor(epoch)
        layer.train()
        for rows in torch.randperm(len(train.names)).tensor_split(batches):
            loss = F.cross_entropy(layer(train.features[rows]), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch + 1 < probe.epochs and (probe.eval_freq == 0 or epoch % probe.eval_freq):
            continue
        layer.eval()
        with torch.inference_mode():
            prob = layer(test.features).softmax(dim=1)
        accuracy = protocols.topk_accuracy(prob, test.labels)
        if probe.verbose:
            say(f"epoch {epoch}: top-1 {percent(accuracy[1])} %")
        if best is None or accuracy[1] > best.accuracy[1]:
            best = Outcome(epoch, accuracy, prob.cpu())
    assert best is not None  # there is at least one epoch, and the last is evaluated
    return best


def load_splits(folder: Path, dataset: str, num_class: int, normalize: bool, device: torch.device
                ) -> tuple[FeatureSet, FeatureSet]:
    """Read the features of the training and the test split onto a device, and check that they match."""
    test, train = (replace(data, features=data.features.to(device), labels=data.labels.to(device))
                   for data in load_both(folder, dataset))
    labels = torch.cat([train.labels, test.labels])
    if (train.features.shape[1] != test.features.shape[1] or len(train.names) < 2 or labels.min() < 0
            or labels.max() >= num_class):
        raise OptionError(f"{folder}: training features {tuple(train.features.shape)}, test features "
                          f"{tuple(test.features.shape)}, labels {labels.min()} to {labels.max()} and the {num_class} "
                          f"classes of {dataset} cannot be used together: check --dataset and --split_root, or "
                          "recompute the features with --retrieval")
    if normalize:
        train, test = (replace(data, features=F.normalize(data.features, dim=1)) for data in (train, test))
    return train, test


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    path = Path(args.test)  # a file of the folder, or the folder itself
    places = [path / args.dirname, path.parent / args.dirname, Path(args.dirname)]  # as `output_folders` chooses them
    folder = next((place for place in places if place.is_dir()), places[1])
    classes = catalog.class_names(args.dataset, args.split_root)
    require_labels(classes, "a linear probe")
    train, test = load_splits(folder, args.dataset, len(classes), args.normalize, devices(None)[0])
    best = train_probe(train, test, take(Probe, vars(args)), len(classes))
    name = f"{path.name}-lp-{args.dataset}"
    write_json(folder / f"{name}-prob.json",
               {video: [row.tolist()] for video, row in zip(test.names, best.prob, strict=True)})
    write_json(folder / f"{name}-acc.json", {"epoch": best.epoch, **percentages(best.accuracy)})
    row = [args.dataset, str(best.epoch), percent(best.accuracy[1]), percent(best.accuracy[5])]
    say(table(["linear probe", "epoch", "top-1 %", "top-5 %"], [row]), paint=paint_table)
    say(f"probabilities of that epoch: {folder / name}-prob.json")
    return 0


if __name__ == "__main__":
    launch.run(main)
