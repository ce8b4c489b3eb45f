"""Linear probe on features that `main_classifier.py --test CKPT --retrieval` left: one linear layer, no network pass.

    python feature_linear_probe.py --test RUN/model/CKPT.pth.tar --dataset ucf101 --dirname feature --final_bn

The features are those in the folder of PATH, under --dirname; PATH itself need not exist any more. Probabilities of
the best evaluated epoch go to `{basename of PATH}-lp-{dataset}-prob.json` in the feature folder, its accuracy to
`...-acc.json`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import launch
import next_commands
from dataset import catalog
from eval import feature_files, protocols
from eval.feature_files import FeatureSet
from eval.options import devices
from eval.report import percent, percentages, table, write_json
from utils import options
from utils.console import say
from utils.errors import OptionError
from utils.parser import Parser
from utils.schedule import lr_at
from utils.terminal import paint_table


@dataclass(frozen=True)
class Probe:
    """Settings of the training: SGD with momentum 0.9, learning rate to a tenth at each epoch of `schedule`."""

    lr: float = 1.0
    wd: float = 1e-3
    epochs: int = 100
    schedule: tuple[int, ...] = (60, 80)
    batch_size: int = 1024
    final_bn: bool = False
    normalize: bool = False
    eval_freq: int = 5
    verbose: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The best evaluated epoch, its accuracies {k: share} on the test set, and its probabilities (N, classes)."""

    epoch: int
    accuracy: dict[int, float]
    prob: Tensor


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    add = parser.topic("data")
    add("--test", required=True, metavar="CKPT", help="checkpoint the features are of; its folder counts")
    add("--dataset", default="ucf101", metavar="NAME", help="dataset name, as given for --retrieval")
    add("--split_root", default=None, metavar="FOLDER", help="folder of the splits, for the list of classes (default: "
        "process_data/data/ of the repository)")
    add("--dirname", default="feature", metavar="FOLDER", help="folder of the features, beside the checkpoint")
    add("--normalize", action="store_true", help="L2-normalise the features first")
    parser.topic("method")("--final_bn", action="store_true", help="BatchNorm before the linear layer")
    add = parser.topic("training")
    add("--lr", type=options.positive_float, default=1.0, help="learning rate at the start")
    add("--wd", type=options.non_negative_float, default=1e-3, help="weight decay")
    add("--epochs", type=options.positive_int, default=100, help="epochs in all")
    add("--schedule", type=options.whole_number, nargs="*", default=[60, 80], metavar="EPOCH",
        help="epochs at which lr falls to a tenth")
    add("--batch_size", type=options.positive_int, default=1024, metavar="FEATURES", help="features per step, at most")
    add("--seed", type=options.seed, default=0, help="seed of the layer's weights and the order")
    parser.topic("evaluation")("--eval_freq", type=options.whole_number, default=5, metavar="EPOCHS",
                               help="epochs between evaluations, the best of which counts; 0: the last epoch's alone, "
                               "so that none is chosen by test videos")
    parser.topic("output")("--verbose", type=int, choices=[0, 1], default=0, help="1: print every evaluation")
    return parser


def build_layer(width: int, num_class: int, final_bn: bool) -> nn.Sequential:
    """Optional BatchNorm, then a linear layer with weights N(0, 0.01) and zero bias: (B, width) -> (B, classes)."""
    linear = nn.Linear(width, num_class)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(*([nn.BatchNorm1d(width)] if final_bn else []), linear)


def train_epoch(layer: nn.Module, optimizer: torch.optim.Optimizer, data: FeatureSet, order: Tensor,
                batches: int) -> None:
    """One pass over `data` in `order`, cut into `batches` batches of nearly the same size (none of a single row)."""
    layer.train()
    for rows in order.tensor_split(batches):
        loss = F.cross_entropy(layer(data.features[rows]), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_probe(train: FeatureSet, test: FeatureSet, probe: Probe, num_class: int) -> Outcome:
    """Train a linear layer and return its best evaluation: every `eval_freq` epochs (0: never) and after the last."""
    torch.manual_seed(probe.seed)
    layer = build_layer(train.features.shape[1], num_class, probe.final_bn).to(train.features.device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=probe.lr, momentum=0.9, weight_decay=probe.wd)
    batches = min(-(-len(train.names) // probe.batch_size), len(train.names) // 2)
    best: Outcome | None = None
    for epoch in range(probe.epochs):
        optimizer.param_groups[0]["lr"] = lr_at(epoch, lr=probe.lr, schedule=probe.schedule, cos=False,
                                                epochs=probe.epochs)
        train_epoch(layer, optimizer, train, torch.randperm(len(train.names)), batches)
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


def feature_folder(path: Path, dirname: str, dataset: str) -> Path:
    """The folder of the features: `dirname` beside the file `path`, or inside it where `path` is itself a folder."""
    wanted = [path / dirname, path.parent / dirname] if path.is_dir() else [path.parent / dirname]
    for folder in wanted:
        if (folder / f"{dataset}_train_feature.pth.tar").is_file():
            return folder
    raise OptionError(f"no {dataset}_train_feature.pth.tar in {' or '.join(map(str, wanted))}: make it with "
                      "main_classifier.py --test CHECKPOINT --retrieval, or check --dataset and --dirname")


def prepared(data: FeatureSet, normalize: bool, device: torch.device) -> FeatureSet:
    """The set on `device`, its rows L2-normalised if asked."""
    features = data.features.to(device)
    return FeatureSet(F.normalize(features, dim=1) if normalize else features, data.labels.to(device), data.names)


def main(argv: Sequence[str] | None = None) -> int:
    """Train the probe, print its best evaluated epoch and write its probabilities."""
    args = make_parser().parse_args(argv)
    path = Path(args.test)
    folder = feature_folder(path, args.dirname, args.dataset)
    device = devices(None)[0]
    train, test = (prepared(feature_files.load(folder, args.dataset, split), args.normalize, device)
                   for split in ("train", "test"))
    if train.features.shape[1] != test.features.shape[1] or len(train.names) < 2:
        raise OptionError(f"{folder}: training features {tuple(train.features.shape)} and test features "
                          f"{tuple(test.features.shape)} cannot be used together: make them again with --retrieval")
    num_class = len(catalog.class_names(args.dataset, args.split_root))
    if any(int(data.labels.min()) < 0 or int(data.labels.max()) >= num_class for data in (train, test)):
        raise OptionError(f"{folder}: labels go beyond the {num_class} classes of {args.dataset}: check --dataset and "
                          "--split_root, or make the features again with --retrieval")
    probe = Probe(**{name: getattr(args, name) for name in Probe.__dataclass_fields__})
    best = train_probe(train, test, probe, num_class)
    output = folder / f"{path.name}-lp-{args.dataset}-prob.json"
    write_json(output, {name: [row.tolist()] for name, row in zip(test.names, best.prob, strict=True)})
    say(table(["linear probe", "epoch", "top-1 %", "top-5 %"],
              [[args.dataset, str(best.epoch), percent(best.accuracy[1]), percent(best.accuracy[5])]]),
        paint=paint_table)
    write_json(folder / f"{path.name}-lp-{args.dataset}-acc.json", {"epoch": best.epoch, **percentages(best.accuracy)})
    say(f"probabilities of that epoch: {output}")
    next_commands.show(next_commands.after_evaluations(folder))
    return 0


if __name__ == "__main__":
    launch.run(main)
