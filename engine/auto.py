"""Settings of cotrain.py: its options, those chosen automatically, and the file that a run keeps them in.

Automatic settings follow from the size of the data, the machine, and the time there is. :func:`choose` is the rule, a
pure function. :func:`read_facts` and :func:`seconds_per_step` find out what it needs.
"""

import argparse
import json
import re
import shlex
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dataset import catalog
from dataset.loader import batches
from dataset.video_dataset import videos_of
from dataset.video_index import read_rows, video_name
from engine import options
from engine.options import positive_float, positive_int, share, whole_number
from engine.pretraining import PretrainTask, fitting_queue
from model.pretrain import MINING, OWN_VIEWS
from utils.console import duration
from utils.errors import OptionError
from utils.files import write_text
from utils.launch import allotted_cores
from utils.parser import Parser

SETTINGS = "settings.yaml"  # in the work folder
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
LARGE = 2000  # training videos from which on published values hold
FEW = 100  # videos below which training hardly pays
EPOCHS, CPU_EPOCHS, LEAST_EPOCHS = 300, 60, 5  # of InfoNCE: published and most, on a CPU, and least
MARGIN = 0.8  # share of the hours to plan for: a machine is not always as fast as when it was measured
START, EPOCH, PAGE = 15.0, 0.5, 45.0  # seconds: of a process beside its batches, of an epoch's end, of the report
WARM_UP, FEWEST, LONG = 2, 6, 10.0  # steps before timing, timed steps at least, seconds of timing
SIDES = (128, 112, 96, 64, 32)  # pixels
SURVIVORS = 16  # of a cascade's last but one stage, at least
# What cotrain.py does where nothing is chosen automatically.
PUBLISHED: dict[str, Any] = {
    "net": "s3d", "gpus": 1, "workers": min(8, allotted_cores()), "seq_len": 32, "ds": 1, "img_dim": 128,
    "batch_size": 16, "moco_k": 2048, "mining": "cascade", "own_view": "current", "stage": 7, "ratio": 0.5, "topk": 5,
    "cycles": 2, "infonce_epochs": EPOCHS, "coclr_epochs": 100, "probe_epochs": 100, "finetune_epochs": 500, "lr": 1e-3,
    "moco_m": 0.999}


class Setting(NamedTuple):
    """A setting by the name of its option, and why it is so."""

    name: str
    value: Any
    reason: str


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
    add("-j", "--workers", type=whole_number, default=PUBLISHED["workers"], metavar="PROCESSES",
        help="loader processes; 0 loads in the main process")
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
    """Parse a command line; a run that has begun takes its own settings, which are returned, too.

    Raises:
        OptionError: an option contradicts the run's settings.
    """
    parser = make_parser(description)
    args = _resolve(parser.parse_args(joined(argv)))
    args.out = (args.out or Path("runs", args.videos.name if args.videos else args.dataset or "ucf101")).resolve()
    args.dataset = args.dataset or ("videos" if args.videos else "ucf101")
    if (base := catalog.parse(args.dataset).base) != args.dataset:
        raise OptionError(f"--dataset {args.dataset} has a suffix: give the plain name, {base}; both streams are used")
    kept = args.out / SETTINGS
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
    """Put what is prepared into the work folder, if no other place is given."""
    places = {name: getattr(given, name) or str(given.out / folder) for name, folder in ROOTS.items()}
    return Namespace(**vars(given) | places) if given.videos else given


def _text(value: Any) -> str:
    return shlex.join(map(str, value)) or "''" if isinstance(value, list) else str(value)


def keep(settings: Sequence[Setting], values: Mapping[str, Any], out: Path) -> None:
    """Write options to the work folder as lines that ``--config`` reads, each with its reason as a comment."""
    reasons = {setting.name: f"  # {setting.reason}" for setting in settings}
    implied = {str(out / folder) for folder in ROOTS.values()}
    kept = {name: value for name, value in values.items()
            if value not in (None, [], *implied) and name not in NOT_KEPT}
    write_text(out / SETTINGS, "".join(
        f"{name}: {json.dumps(_text(value) if name.endswith('_options') else value, default=str)}"
        f"{reasons.get(name, '')}\n" for name, value in kept.items()))


@dataclass(frozen=True)
class Facts:
    """What settings follow from."""

    videos: int  # for training
    tested: int  # held out, or for testing
    frames: int  # of the median video
    side: int  # the median short side, in pixels
    labels: bool = False
    gpus: int = 0
    memory: float = 0.0  # of the smallest GPU, in GiB
    cores: int = 1
    hours: float | None = None  # for everything
    spent: float = 0.0  # seconds of them that are gone, most of them for preparation
    seconds: Mapping[str, float] = field(default_factory=dict)  # per step of "infonce" and "coclr", by measurement


def choose(facts: Facts, given: Mapping[str, Any] | None = None) -> list[Setting]:
    """Choose all settings; those given stay as they are, and the others fit them."""
    rows = _Rows(given or {})
    _choose_sizes(facts, rows)
    _choose_method(facts, rows)
    _choose_epochs(facts, rows)
    steps = rows["infonce_epochs"] * (facts.videos // _step(rows))
    large = facts.videos >= LARGE and rows["net"] != "s3d_small"
    rows.add("lr", 1e-3 if large else 5e-4, "published" if large else "half the published: a small set or network")
    rows.add("moco_m", 0.999 if steps >= 10_000 else 0.99,
             f"a memory of {'1,000' if steps >= 10_000 else '100'} steps, where InfoNCE has {steps:,}")
    return rows.settings


def published(given: Mapping[str, Any]) -> list[Setting]:
    """Return the published settings, but for those given."""
    return [Setting(name, given.get(name, value), "given" if name in given else "published")
            for name, value in PUBLISHED.items()]


def doubts(videos: int, folder: Path | None, hours: float | None, seconds: float) -> list[str]:
    """Warn of videos too few to train on, and of hours fewer than the estimate."""
    found = [f"{videos} training videos: below some {FEW} training hardly pays; published weights find similar videos "
             f"without it: python -m tools.search index CKPT {folder}"] if folder and videos < FEW else []
    if hours and 3600 * hours < seconds:
        found.append(f"--hours {hours:g} is too short: the least that can teach anything takes {duration(seconds)}")
    return found


class _Rows(dict[str, Any]):
    """Settings so far, by name."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.given, self.settings = given, list[Setting]()

    def add(self, name: str, value: Any, reason: str) -> None:
        if name in self.given:
            value, reason = self.given[name], "given"
        self[name] = value
        self.settings.append(Setting(name, value, reason))


def _step(values: Mapping[str, Any]) -> int:
    return values["batch_size"] * values["gpus"]


def _choose_sizes(facts: Facts, rows: _Rows) -> None:
    """Choose the network, what of the machine it uses, and its clips."""
    on_gpu = facts.gpus > 0
    rows.add("net", "s3d" if on_gpu else "s3d_small",
             "the full network, on a GPU" if on_gpu else "0.5 M parameters: what a CPU can train")
    rows.add("gpus", min(facts.gpus, 2) if on_gpu and facts.videos >= LARGE else 1,
             f"{facts.gpus} found; two as published, for {LARGE} videos or more" if on_gpu else "no GPU found")
    cores = facts.cores // rows["gpus"] if on_gpu else facts.cores // 2
    rows.add("workers", max(1, min(8, cores)), f"{facts.cores} cores{'' if on_gpu else ', which also train'}")
    fits = next((frames for frames in (32, 16) if facts.frames > frames + 1), 8)
    rows.add("seq_len", fits if on_gpu else 8, f"a median video has {facts.frames} frames"
             if on_gpu else "short clips, for a CPU")
    stride = 1 if on_gpu else facts.frames // (2 * rows["seq_len"])
    rows.add("ds", max(1, min(4, stride)), "every frame, as published" if on_gpu else
             f"a clip spans at most half of a median video, which has {facts.frames} frames")
    most = 128 if on_gpu else 64
    rows.add("img_dim", next((side for side in SIDES if side <= min(most, facts.side)), SIDES[-1]),
             f"frames have {facts.side} pixels" if facts.side < most else "published" if on_gpu else "for a CPU")
    largest = 32 if not on_gpu else 16 if facts.memory >= 20 else 8 if facts.memory >= 10 else 4
    batch = largest
    while batch > 2 and batch * rows["gpus"] * 8 > facts.videos:
        batch //= 2
    reason = "published" if largest == 16 else f"for {facts.memory:.0f} GiB of GPU memory" if on_gpu else "for a CPU"
    rows.add("batch_size", batch, reason if batch == largest else "an eighth of the training videos at most")


def _choose_method(facts: Facts, rows: _Rows) -> None:
    """Choose the queue, how positives are mined in it, and how often the streams take turns."""
    rows.add("moco_k", fitting_queue(facts.videos, _step(rows)),
             f"at most half of {facts.videos} training videos, up to 2048")
    queue = rows["moco_k"]
    rows.add("mining", "cascade", "published")
    rows.add("own_view", "current", "published")
    rows.add("ratio", 0.5, "published")
    rows.add("stage", next((depth for depth in (7, 5) if int(queue * rows["ratio"] ** (depth - 1)) >= SURVIVORS), 3),
             f"the last stage still chooses among {SURVIVORS} entries or more" if queue >= 4 * SURVIVORS
             else f"the least that uses both views: the queue has {queue} entries")
    left = int(queue * rows["ratio"] ** (rows["stage"] - 1))
    rows.add("topk", max(1, min(5, left // 3)), f"of the {left} entries that the stages before leave")
    once = facts.gpus == 0
    rows.add("cycles", 1 if once else 2, "one, for a CPU" if once else "published")


def _choose_epochs(facts: Facts, rows: _Rows) -> None:
    """Choose the most epochs for which everything ends in time, or without a time what is usual."""
    def add(epochs: int, reason: str, to: _Rows) -> _Rows:
        share = 2 / (3 * max(1, to["cycles"]))
        to.add("infonce_epochs", epochs, reason)
        to.add("coclr_epochs", max(3, round(share * epochs)), "two thirds of InfoNCE's, over all cycles")
        if facts.labels:
            published = facts.gpus > 0 and facts.hours is None
            to.add("probe_epochs", 100 if published else max(1, epochs // 3), "a third of InfoNCE's")
            to.add("finetune_epochs", 500 if published else max(1, epochs // 2), "published" if published else
                   "half of InfoNCE's")
        return to

    def fits(epochs: int) -> bool:
        trial = _Rows(rows.given)
        trial.update(rows)
        left = MARGIN * 3600 * (facts.hours or 0) - facts.spent
        return total(facts, add(epochs, "", trial)) <= left

    usual = EPOCHS if facts.gpus else CPU_EPOCHS
    if facts.hours is None or not facts.seconds:
        add(usual, "published" if facts.gpus else "for a CPU", rows)
        return
    epochs = next((epochs for epochs in range(EPOCHS, LEAST_EPOCHS, -1) if fits(epochs)), LEAST_EPOCHS)
    reason = {EPOCHS: "no more than published", LEAST_EPOCHS: "the least that can teach anything"}
    add(epochs, reason.get(epochs, f"what --hours {facts.hours:g} leaves time for"), rows)


def costs(facts: Facts, values: Mapping[str, Any]) -> dict[str, float]:
    """Estimate the seconds of a step of the plan by its kind; needs measured seconds per step."""
    steps = max(1, facts.videos // _step(values))
    # A step embeds a query, with gradients, which takes three times as long as a forward, and a key.
    clip = facts.seconds["infonce"] / (4 * values["batch_size"])
    windows = facts.tested * max(1, 2 * facts.frames // (values["seq_len"] * values["ds"]))
    found = {kind: START + values[f"{kind}_epochs"] * (steps * facts.seconds[kind] + EPOCH)
             for kind in ("infonce", "coclr")}
    for kind, passes in (("probe", 1), ("finetune", 3)):
        epochs = values.get(f"{kind}_epochs", 0)
        found[kind] = START + epochs * (clip * (passes * facts.videos + 0.3 * facts.tested) + EPOCH)
    clips = (facts.videos + windows) * (1 if facts.labels else 2)  # without labels random weights, too
    return found | {"retrieval": START + clips * clip, "test": START + 10 * windows * clip, "both": START,
                    "index": START + facts.spent + 8 * (facts.videos + facts.tested) * clip, "report": PAGE}


def total(facts: Facts, values: Mapping[str, Any]) -> float:
    """Estimate the seconds of all steps after the preparation."""
    each, checked = costs(facts, values), facts.tested > 0
    times = {"infonce": 2, "coclr": 2 * values["cycles"], "retrieval": (4 if facts.labels else 2) * checked,
             "both": (3 if facts.labels else 1) * checked, "index": 1, "report": 1}
    times |= {"probe": 2, "finetune": 2, "test": 4} if facts.labels else {}
    return sum(number * each[kind] for kind, number in times.items())


def read_facts(dataset: str, data_root: str | None, split_root: str | None, second_view: str, hours: float | None,
               spent: float) -> Facts:
    """Read the facts of a prepared dataset, and of this machine."""
    spec = catalog.parse(f"{dataset}-2stream-2clip", second_view)
    splits = Path(split_root or catalog.SPLIT_ROOT)
    paths, frames = read_rows(spec.csv(splits, 1, train=True))
    test = spec.csv(splits, 1, train=False)
    reader = spec.readers(Path(data_root or catalog.DATA_ROOT), train=True)[0]
    names = [name for name in map(video_name, paths) if name in reader][::max(1, len(paths) // 10)]
    sides = [min(reader.frames(name, [0]).shape[1:3]) for name in names]
    memory = [torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count())]
    return Facts(len(paths), len(test.read_text(encoding="utf-8").splitlines()), int(np.median(frames)),
                 int(np.median(sides)) if sides else SIDES[0], len(catalog.class_names(dataset, split_root)) > 1,
                 len(memory), min(memory, default=0) / 2**30, allotted_cores(), hours, spent)


def seconds_per_step(task: PretrainTask) -> float:
    """Time training steps, from the videos to the new weights; the task is of no use afterwards."""
    loader = task.make_loader("train")
    task.set_monitors(videos_of(loader))
    done, begun = 0, 0.0
    for epoch in count():
        task.begin_epoch(epoch)
        for batch in batches(loader, epoch):
            values = task.step(batch, epoch, done)
            if values["loss"].requires_grad:
                task.optimizer.zero_grad()
                task.optimizer.backward(values["loss"])
                task.optimizer.step()
            float(values["loss"].detach())  # waits for the device
            done += 1
            seconds = time.perf_counter() - begun
            if done <= WARM_UP:
                begun = time.perf_counter()
            elif done >= WARM_UP + FEWEST and seconds > LONG:
                return seconds / (done - WARM_UP)
    raise AssertionError("unreachable")
