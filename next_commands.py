"""The commands to run after a run, with its files filled in, ready to be pasted into the shell it was started from."""

import glob
import importlib
import re
import shlex
from argparse import Namespace
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from dataset import catalog
from eval import options as classifier_options
from model.errors import ModelError
from model.pretrain import check_mining
from utils.console import NEXT, inline, say
from utils.options import ROOT, SECOND_VIEWS, SPLIT_ROOT, TOPK
from utils.parser import Parser
from utils.run_folder import last_checkpoint, nce_folder
from utils.terminal import painter

NCE, COCLR, CLASSIFIER = "main_nce.py", "main_coclr.py", "eval/main_classifier.py"
PROBE, MERGE = "eval/feature_linear_probe.py", "eval/merge_2stream_prob.py"
CLIP = frozenset(("net", "second_view", "seq_len", "ds", "img_dim", "data_root", "split_root", "workers", "precision"))
# Of another pretraining: what both must have, and how the machine is used.
PRETRAINING = CLIP | {"batch_size", "accumulate", "moco_dim", "moco_k", "moco_m", "moco_t", "seed", "prefix", "gpu",
                      "fp32_steps", "compile", "deterministic", "knn_freq"}
CLASSIFYING = CLIP | {"which_split", "train_what", "num_fc", "final_bn", "batch_size", "gpu"}
# Of a pretraining with the same options: not where it starts, nor how its processes were launched.
OF_ONE_RUN = frozenset((
    "resume", "pretrain", "test", "start_epoch", "accept_changes", "reset_lr", "dataset", "reverse", "name_prefix",
    "world_size", "rank", "local_rank", "dist_url", "multiprocessing_distributed"))
MINING = {False: "FlowMining_", True: "RGBMining_"}  # of the run folder's name, by --reverse

Commands = list[tuple[str, str]]  # what for, and the command


def show(commands: Commands) -> None:
    """Say what can be run next."""
    if commands:
        say(NEXT, paint=painter("title"))
        for what, command in commands:
            say(f"  # {inline(what)}\n  {inline(command)}")


def words_of(args: Namespace, parser: Parser, names: Container[str]) -> list[str]:
    """The flags that give a script's parser the named options of ``args``, but for its defaults."""
    words: list[str] = []
    for action in parser._actions:
        value = getattr(args, action.dest, action.default)
        if action.dest not in names or value == action.default:
            continue
        flag = max(action.option_strings, key=len)
        if action.nargs == 0:
            words.append(flag)
        elif isinstance(value, list):
            words += [flag, *map(str, value)] if action.nargs else [flag, ",".join(map(str, value))]
        else:
            words += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
    return words


def launcher(processes: int) -> tuple[str, ...]:
    """What starts a pretraining on this machine."""
    return ("python",) if processes == 1 else ("torchrun", "--standalone", f"--nproc_per_node={processes}")


def command(script: str, words: Iterable[object], processes: int = 1) -> str:
    """A line for the shell, from the working directory."""
    path = ROOT / script
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.join([*launcher(processes), str(shown), *map(str, words)])


def after_pretraining(args: Namespace, path: Path, processes: int) -> Commands:
    """After main_nce.py or main_coclr.py. path: of its last checkpoint."""
    base = catalog.parse(args.dataset, args.second_view).base
    if args.model == "coclr":
        topks = args.progressive
        if topks and args.topk != topks[-1]:
            return []  # the next phase begins by itself
        return [*_other_view_of_coclr(args, path, processes), _retrieval(args, base, path, args.reverse)]
    more = _after_infonce(args, base, path, processes) if args.model == "infonce" else []
    return [*more, _retrieval(args, base, path, args.dataset.endswith("-f-2clip"))]


def _after_infonce(args: Namespace, base: str, path: Path, processes: int) -> Commands:
    """Co-training where the other stream's model is there, else that model."""
    if args.dataset.endswith("-f-2clip"):
        others = [_like(args, f"{base}-2clip", "flow")]  # RGB knows of no other view
    else:
        others = [_like(args, f"{base}-f-2clip", view) for view in SECOND_VIEWS]
    made = next((other for other in others if _end_of(other).is_file()), None)
    if made is None:
        other = next((other for other in others if _has_frames(other)), others[0])
        parser = importlib.import_module("main_nce").make_parser()
        names = {action.dest for action in parser._actions} - OF_ONE_RUN | {"name_prefix"}
        words = ["--dataset", other.dataset, *words_of(other, parser, names), "--resume", "auto"]
        return [(f"the same on {_view(other)}, before co-training", command(NCE, words, processes))]
    second = args if args.dataset.endswith("-f-2clip") else made
    rgb, flow = (_end_of(made), path) if second is args else (path, _end_of(made))
    parser = importlib.import_module("main_coclr").make_parser()
    epochs = max(1, args.epochs // 3)  # as published: 300 of InfoNCE, 100 of CoCLR with a fall at 80
    falls = [epochs * 4 // 5] if epochs > 1 else []
    words = ["--dataset", f"{base}-2stream-2clip", *words_of(second, parser, PRETRAINING), "--epochs", epochs,
             "--schedule", *falls, *cascade(args.moco_k), "--name_prefix", f"Cycle1-{MINING[False]}",
             "--pretrain", rgb, flow, "--resume", "auto"]
    return [(f"co-training of RGB, with positives mined in {second.second_view}", command(COCLR, words, processes))]


def _like(args: Namespace, dataset: str, second_view: str) -> Namespace:
    return Namespace(**vars(args) | {"dataset": dataset, "second_view": second_view, "pretrain": ""})


def _end_of(args: Namespace) -> Path:
    return last_checkpoint(nce_folder(args), args.epochs)


def _has_frames(args: Namespace) -> bool:
    return all(path.exists() for path in catalog.parse(args.dataset, args.second_view).lmdbs(
        Path(args.data_root), train=True))


def _view(args: Namespace) -> str:
    return args.second_view if args.dataset.endswith("-f-2clip") else "RGB"


def cascade(queue: int) -> list[str]:
    """The published way to mine, with as many of its seven stages as a queue of that length has entries for."""
    topk = min(TOPK, queue)
    for stage in range(7, 0, -1):
        try:
            check_mining(queue, topk, 0.5, stage, True)
        except ModelError:
            continue
        return ["--topk", str(topk), "--cascade", "--stage", str(stage), "--ratio", "0.5"]
    return ["--topk", str(topk)]


def _other_view_of_coclr(args: Namespace, path: Path, processes: int) -> Commands:
    """The other half of the cycle, which this model mines for; after the second half, the next cycle."""
    parser = importlib.import_module("main_coclr").make_parser()
    names = {action.dest for action in parser._actions} - OF_ONE_RUN
    reverse = not args.reverse
    prefix = args.name_prefix.replace(MINING[args.reverse], MINING[reverse])
    if args.reverse:
        cycle = re.search(r"Cycle(\d+)", prefix)
        prefix = prefix.replace(cycle[0], f"Cycle{int(cycle[1]) + 1}", 1) if cycle else f"Cycle2-{prefix}"
    words = ["--dataset", args.dataset, *words_of(args, parser, names), *(["--reverse"] if reverse else []),
             *(["--name_prefix", prefix] if prefix else []), "--pretrain", args.pretrain[1], path, "--resume", "auto"]
    learns, mines = (args.second_view, "RGB") if reverse else ("RGB", args.second_view)
    return [(f"{'the other half of the cycle' if reverse else 'the next cycle'}: {learns} learns from positives mined "
             f"in {mines}", command(COCLR, words, processes))]


def _retrieval(args: Namespace, base: str, path: Path, second: bool) -> tuple[str, str]:
    words = words_of(args, classifier_options.make_parser(""), CLIP if second else CLIP - {"second_view"})
    return "retrieval, which needs no training", command(
        CLASSIFIER, ["--dataset", f"{base}-f" if second else base, *words, "--test", path, "--retrieval"])


def after_training_a_classifier(args: Namespace, path: Path) -> Commands:
    """After a linear probe or finetuning. path: of its best checkpoint, or its last one."""
    return [("test with ten crops", _ten_crops(args, path))]


def after_crops(args: Namespace, path: Path) -> Commands:
    """After a test with crops. path: of the checkpoint."""
    if args.crops < 10:
        return [("test with ten crops", _ten_crops(args, path))] if args.test != "random" else []
    other, flow = _other_stream(args.dataset)
    views = [""] if flow else ["", *(f"_{view}" for view in SECOND_VIEWS)]
    found = _newest(path, *(f"{glob.escape(other + view)}-{args.img_dim}_sp{args.which_split}_*_train-"
                            f"{glob.escape(args.train_what)}*/model/*-prob-ten.json" for view in views))
    return _merge(args, "c", path.with_name(f"{path.name}-prob-ten.json"), found, flow)


def _ten_crops(args: Namespace, path: Path) -> str:
    words = words_of(args, classifier_options.make_parser(""), CLASSIFYING)
    return command(CLASSIFIER, ["--dataset", args.dataset, *words, "--test", path, "--ten_crop"])


def after_retrieval(args: Namespace, path: Path) -> Commands:
    """After a retrieval. path: of the checkpoint."""
    probe = ["--test", path, "--dataset", args.dataset, *_named("--dirname", args.dirname, "feature"), "--final_bn",
             *_named("--split_root", args.split_root, SPLIT_ROOT)]
    other, flow = _other_stream(args.dataset)
    found = _newest(path, f"*/model/{glob.escape(args.dirname)}/{glob.escape(other)}_train_feature.pth.tar")
    return [("linear probe on these features", command(PROBE, probe)),
            *_merge(args, "s", path.parent / args.dirname, found and found.parent, flow)]


def after_evaluations(run: Path) -> Commands:
    """After the last of a run's evaluations. run: its folder, which the report may also be asked for by a part of."""
    words = shlex.join(["python", "-m", "report", str(run)])
    here = "" if Path.cwd() == ROOT else f"PYTHONPATH={shlex.quote(str(ROOT))} "
    return [("one page with all of this run", here + words)]


def _other_stream(dataset: str) -> tuple[str, bool]:
    """The dataset's other stream, and whether the dataset is the second one."""
    flow = dataset.endswith("-f")
    return dataset.removesuffix("-f") if flow else f"{dataset}-f", flow


def _newest(path: Path, *patterns: str) -> Path | None:
    """The youngest of the files in run folders beside a checkpoint's."""
    if len(path.parents) < 4:  # the last one is the working directory, or the root
        return None
    found = (file for pattern in patterns for file in path.parents[2].glob(pattern))
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def _merge(args: Namespace, mode: str, own: Path, other: Path | None, flow: bool) -> Commands:
    if other is None:
        return []
    streams: Sequence[Path] = (other, own) if flow else (own, other)
    words = ["--mode", mode, "--dataset", args.dataset.removesuffix("-f"), "--prob1", streams[0], "--prob2",
             streams[1], *_named("--split_root", args.split_root, SPLIT_ROOT)]
    return [(f"both streams together, with the newest results of the other one, {other}", command(MERGE, words))]


def _named(flag: str, value: str, default: str) -> list[str]:
    return [] if value == default else [flag, value]
