"""Options of cotrain.py, and the file in which a run keeps them."""

import argparse
import json
import re
import shlex
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset import catalog
from engine import options
from engine.auto import PUBLISHED, Setting
from engine.options import positive_float, positive_int, share, whole_number
from model.pretrain import MINING, OWN_VIEWS
from utils.errors import OptionError, UserError
from utils.files import write_text
from utils.parser import Parser

FILE = "settings.yaml"  # in the work folder
NOT_KEPT = {"out", "dry_run"}  # in that file
ROOTS = {"data_root": "data", "split_root": "splits"}  # in the work folder, of prepared videos
PLACES = ("videos", "infonce_rgb", "infonce_flow", "data_root", "split_root")
EVALUATIONS = ("retrieval", "probe", "finetune")
EXTRA = {"infonce": "main_nce.py", "coclr": "main_coclr.py", "probe": "the linear probe",
         "finetune": "finetuning and its test"}
# Options that cotrain.py sets itself, or that would change where a step's results go.
RESERVED = {"--dataset", "--pretrain", "--resume", "--test", "--prefix", "--name_prefix", "--reverse", "--epochs",
            "--start_epoch", "--retrieval", "--gpu", "--local_rank", "--local-rank", "--world-size", "--rank",
            "--multiprocessing-distributed", "--second_view", "--center_crop", "--five_crop", "--ten_crop", "--dirname",
            "--config", "--print-completion"}


def make_parser(description: str | None) -> Parser:
    """Build the option parser; options that can be chosen automatically are None where they are not given."""
    parser = Parser(description, "videos dataset labels hours out gpus net cycles mining batch_size infonce_epochs "
                    "coclr_epochs skip dry_run")
    add = parser.topic("data")
    add("--videos", type=Path, metavar="FOLDER", help="prepare and train on the videos of a folder and all below")
    add("--dataset", metavar="NAME", help="train on a prepared dataset, name without suffix; with --videos, what to "
        "call theirs (default: ucf101, or videos)")
    add("--labels", choices=["folders", "none"], help="with --videos: the folders are classes, or nothing is (default: "
        "they are if each video lies one folder deep, and two folders or more have two or more)")
    add("--flow", choices=["dis", "tvl1"], default="dis", help="with --videos: flow method; published data is tvl1")
    options.add_clips(parser)
    options.add_roots(parser, None, None)  # each script has its own defaults
    add = parser.topic("method")
    add("--baseline", action="store_true", help="also train InfoNCE on RGB for as long as the co-training takes")
    add("--cycles", type=whole_number, default=2, metavar="N", help="cycles of co-training; 0 evaluates InfoNCE")
    add("--moco-k", type=positive_int, default=2048, metavar="K", help="queue length, in clips")
    add("--moco-m", type=share, default=PUBLISHED["moco_m"], metavar="SHARE", help="momentum of the key encoder")
    add("--mining", choices=MINING, default="cascade", help="how positives are mined, unless --coclr_options says it")
    add("--own_view", choices=OWN_VIEWS, default="current", help="what ranks the own view in cascade and fused")
    add("--stage", type=positive_int, default=7, metavar="N", help="stages of the cascade")
    add("--ratio", type=options.open_share, default=0.5, metavar="SHARE", help="share that each stage keeps")
    add("--topk", type=positive_int, default=5, metavar="N", help="positives mined per query")
    add = parser.topic("training")
    add("--hours", type=positive_float, metavar="H", help="time for everything: epochs follow from measured steps")
    add("--batch_size", type=positive_int, default=16, metavar="CLIPS", help="clips per process and step of "
        "pretraining (classifiers: 32 per GPU, or as --probe_options and --finetune_options say)")
    add("--lr", type=positive_float, default=PUBLISHED["lr"], help="initial learning rate of pretraining")
    add("--coclr_lr", type=positive_float, default=PUBLISHED["coclr_lr"], help="likewise of co-training")
    add("--seed", type=options.seed, default=0, help="seed of every step")
    for name, script in EXTRA.items():
        add(f"--{name}_epochs", type=positive_int, default=PUBLISHED[f"{name}_epochs"], metavar="EPOCHS",
            help=f"epochs of {name}; its schedule scales with them")
        add(f"--{name}_options", type=words, default=[], metavar="'OPTIONS'", help=f"more options for {script}, quoted"
            + ("; they say how to mine, too, instead of --mining" if name == "coclr" else ""))
    add = parser.topic("checkpoints")
    add("--infonce_rgb", type=Path, metavar="CKPT", help="use this checkpoint instead of training InfoNCE on RGB")
    add("--infonce_flow", type=Path, metavar="CKPT", help="likewise for flow")
    parser.topic("evaluation")("--skip", nargs="+", default=[], choices=EVALUATIONS, help="evaluations to leave out")
    add = parser.topic("hardware")
    add("--gpus", "--nproc_per_node", type=positive_int, default=1, metavar="N",
        help="processes of a pretraining (torchrun), and GPUs of a classifier")
    add("-j", "--workers", type=whole_number, default=PUBLISHED["workers"], metavar="PROCESSES", help="that load clips")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="work folder for all files (default: runs/DATASET)")
    add("--dry_run", action="store_true", help="print the commands and whether they are done, without running any")
    for option in parser._actions:
        if option.dest in PUBLISHED:
            option.default, option.help = None, str(option.help).replace(
                "(default: ", "(default: chosen with --videos or --hours, else ")
    return parser


def words(text: str) -> list[str]:
    """Argparse type: split a quoted string of options."""
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be split into options ({error})") from error
    own = [part for part in parts if part.partition("=")[0] in RESERVED]
    if own:
        raise argparse.ArgumentTypeError(f"{own[0]} is set by cotrain.py itself")
    return parts


def joined(argv: Sequence[str]) -> list[str]:
    """Join --NAME_options and its quoted string with "=": argparse would take the string's dashes for options."""
    quoted, left = {f"--{name}_options" for name in EXTRA}, iter(argv)
    return [f"{word}={next(left, '')}" if word in quoted else word for word in left]


def parse(argv: Sequence[str], description: str | None) -> tuple[Namespace, list[Setting]]:
    """Parse a command line. A run that has started keeps its own settings, which are also returned."""
    parser = make_parser(description)
    args = _resolve(parser.parse_args(joined(argv)))
    args.out = (args.out or Path("runs", args.videos.name if args.videos else args.dataset or "ucf101")).resolve()
    args.dataset = args.dataset or ("videos" if args.videos else "ucf101")
    if (base := catalog.parse(args.dataset).base) != args.dataset:
        raise OptionError(f"--dataset {args.dataset} has a suffix: give the plain name, {base}; both streams are used")
    kept = args.out / FILE
    if not kept.is_file():
        return _with_roots(args), []
    own = vars(parser.parse_args(["--config", str(kept)])) | {name: getattr(args, name) for name in NOT_KEPT}
    parser.set_defaults(**own)
    now = vars(_resolve(parser.parse_args(joined(argv)))) | {"out": args.out}
    for name, value in now.items():
        if value != own[name]:
            raise OptionError(f"--{name} is {_text(value)} here, but {_text(own[name])} in {kept}, from which the run "
                              "continues: leave the option out, or choose another --out")
    reasons = dict(re.findall(r"^(\w+): .*?  # (.*)$", kept.read_text(encoding="utf-8"), re.MULTILINE))
    return _with_roots(Namespace(**own)), [Setting(name, own[name], reasons.get(name, "")) for name in PUBLISHED]


def _resolve(given: Namespace) -> Namespace:
    places = {name: type(value)(Path(value).resolve()) for name, value in vars(given).items()
              if name in PLACES and value is not None}
    return Namespace(**vars(given) | places)


def _with_roots(given: Namespace) -> Namespace:
    places = {name: getattr(given, name) or str(given.out / folder) for name, folder in ROOTS.items()}
    return Namespace(**vars(given) | places) if given.videos else given


def _text(value: Any) -> str:
    return shlex.join(map(str, value)) or "''" if isinstance(value, list) else str(value)


def keep(settings: Sequence[Setting], values: Mapping[str, Any], out: Path) -> None:
    """Write options to the work folder as lines that ``--config`` reads, each with its reason as a comment."""
    reasons = {setting.name: f"  # {setting.reason}" for setting in settings}
    implied = {str(out / folder) for folder in ROOTS.values()}
    kept = {name: value for name, value in values.items() if value not in (None, [], *implied) and name not in NOT_KEPT}
    write_text(out / FILE, "".join(
        f"{name}: {json.dumps(_text(value) if name.endswith('_options') else value, default=str)}"
        f"{reasons.get(name, '')}\n" for name, value in kept.items()))


@contextmanager
def advised(name: str, kind: str, values: Mapping[str, Any]) -> Iterator[None]:
    """Add to the UserErrors of a step its name, and the cotrain.py option that would help."""
    try:
        yield
    except UserError as error:
        quoted, found = values[f"{kind}_options"], re.findall(r"--[a-z][\w-]*|\b(?:topk|stage)\b", str(error))
        own = [word for word in found if word.strip("-").replace("-", "_") in values
               and f"--{word.strip('-')}" not in quoted]
        flag = f"--{own[0].strip('-')}" if own and kind not in EVALUATIONS else f"--{kind}_options"
        hint = "" if flag in found else f" (option of cotrain.py: {flag})"  # else the message names it
        raise type(error)(f"step {name!r}: {error}{hint}") from error
