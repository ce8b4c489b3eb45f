"""Train and evaluate everything with one command, from a folder of videos to a page of results and a search:

    python cotrain.py --videos FOLDER --out runs/mine --hours 8
    python cotrain.py --dataset ucf101 --out runs/ucf101 --gpus 2
    python cotrain.py --dataset ucf101 --out runs/ucf101 --gpus 2 --dry_run      # the commands, as a shell script

InfoNCE on RGB and on flow, then cycles of co-training (CoCLR with cascade positive retrieval): each cycle trains the
RGB encoder with positives mined in flow, then the flow encoder with positives mined by the new RGB encoder; both start
from the previous cycle's models (CoCLR, arXiv 2010.09709, section 3.2). Both final models, and the fusion of the two
streams, are evaluated by retrieval, and where there are labels by linear probe and finetuning with ten crops. To train
without flow, use --second_view residual.

--videos prepares the dataset first. With it, or with --hours, settings that are not given are chosen from data, machine
and time, and shown with their reasons; --dataset alone takes the published ones. All are kept in OUT/settings.yaml,
which --config reads. Each step is a command of this project, printed before it runs. If it is stopped for any reason,
the same command continues where it left off. Pass options to a single script as a quoted string:

    python cotrain.py --dataset mine --moco-k 256 --infonce_options "--wd 1e-4" --finetune_options "--batch_size 8"
"""

import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import main_coclr
import main_nce
from dataset import catalog
from dataset.loader import make_loader
from dataset.transforms.presets import PretrainTransform
from engine import auto, settings
from engine.auto import PUBLISHED, Setting
from engine.config import DataConfig, check_sizes, configs_of, take
from engine.run_folder import last_checkpoint
from engine.settings import EVALUATIONS, EXTRA
from eval import main_classifier, options
from tools.report.__main__ import main as write_report
from tools.report.cotrain_results import show
from tools.search.__main__ import main as search
from utils import launch
from utils.console import say, say_block, warn
from utils.distributed import DistInfo
from utils.errors import CheckpointError
from utils.files import read_json, write_bytes, write_json
from utils.parser import Parser
from utils.runner import Runner, Step, as_script

ROOT = Path(__file__).resolve().parent
CLASSIFIER, MERGE = "eval/main_classifier.py", "eval/merge_2stream_prob.py"
SCRIPTS = {"main_nce.py": main_nce, "main_coclr.py": main_coclr, CLASSIFIER: main_classifier}
STREAMS = {"RGB": "", "flow": "-f"}  # in the order of a cycle; the suffix of the dataset's name
# Within a cycle: the stream to train, the one that mines, part of the run folder's name, further options.
ALTERNATION = (("RGB", "flow", "FlowMining_", ()), ("flow", "RGB", "RGBMining_", ("--reverse",)))
ESTIMATE = "estimate.json"  # in the work folder: seconds by the kind of a step
# Epochs at which the learning rate drops, of those in PUBLISHED.
FALLS = {"infonce": (250, 280), "coclr": (80,), "probe": (60, 80), "finetune": (400, 450)}
ALWAYS = {"probe": ("--train_what", "last", "--optim", "sgd", "--lr", "0.1"), "finetune": ("--train_what", "ft")}


class Plan:
    """The steps to run, each stream's final checkpoint, and the files that will hold the results."""

    def __init__(self, args: Namespace, seconds: Mapping[str, float]) -> None:
        self.args, self.steps = args, list[Step]()
        self.seconds = seconds  # by the kind of a step, as far as they are estimated
        self.labels = len(catalog.class_names(args.dataset, args.split_root)) > 1
        test = catalog.parse(args.dataset).csv(Path(args.split_root or catalog.SPLIT_ROOT), 1, train=False)
        self.tested = len(test.read_text(encoding="utf-8").splitlines()) if test.is_file() else 0
        on_gpu = options.devices(None)[0].type == "cuda"
        self.gpus = ["--gpu", ",".join(map(str, range(args.gpus)))] if on_gpu else []
        # By step: its kind, clips per process, and processes.
        self.batches: dict[str, tuple[str, DataConfig, int, int]] = {}
        self.models: dict[str, str] = {}
        # By stream ("both" for the fusion) and evaluation: a JSON file, and the key in it (None for all of it).
        self.results: dict[str, dict[str, tuple[str, str | None]]] = {}
        self.common = ["--net", args.net, "--seq_len", str(args.seq_len), "--ds", str(args.ds), "--img_dim",
                       str(args.img_dim), "--seed", str(args.seed), "-j", str(args.workers)]
        for flag, root in (("--data_root", args.data_root), ("--split_root", args.split_root)):
            self.common += [flag, root] if root else []
        for stream, suffix in STREAMS.items():
            option = f"infonce_{stream.lower()}"
            given = getattr(args, option)
            if given is None:
                given = self._pretrain(f"InfoNCE {stream}", "infonce", f"{args.dataset}{suffix}-2clip", stream)
            elif not given.is_file():
                raise CheckpointError(f"there is no checkpoint {given}: check --{option}")
            self.models[stream] = str(given)
        for cycle in range(1, args.cycles + 1):
            for own, other, prefix, reverse in ALTERNATION:  # own is trained, other mines
                self.models[own] = self._pretrain(
                    f"cycle {cycle} {own}", "coclr", f"{args.dataset}-2stream-2clip", "flow", *reverse,
                    "--name_prefix", f"Cycle{cycle}-{prefix}", "--pretrain", self.models[own], self.models[other])
        for evaluation in EVALUATIONS if self.labels else EVALUATIONS[:1]:
            if self.tested and evaluation not in args.skip:
                self._evaluate(evaluation)

    def _pretrain(self, name: str, method: str, dataset: str, stream: str, *words: str) -> str:
        """Plan a pretraining; return the checkpoint. What its script has by default is left out of the command."""
        args = self.args
        found = ["--batch_size", str(args.batch_size), "--moco-k", str(args.moco_k)]
        for flag, value, usual in (("--lr", args.lr, PUBLISHED["lr"]), ("--moco-m", args.moco_m, PUBLISHED["moco_m"])):
            found += [flag, f"{value:g}"] if value != usual else []
        if method == "coclr" and not args.coclr_options:
            cascade = ["--cascade", "--stage", str(args.stage), "--ratio", str(args.ratio)]
            found += {"cascade": cascade, "fused": ["--mining", "fused"], "topk": []}[args.mining]
            found += ["--topk", str(args.topk), *(["--own_view", "frozen"] if args.own_view == "frozen" else [])]
        return self._train(name, method, EXTRA[method], "--dataset", dataset, *self._second_view(stream), *found,
                           *self._epochs(method), *words)

    def _epochs(self, kind: str) -> list[str]:
        """Return --epochs and --schedule, scaled, of a kind of training, and the quoted options."""
        epochs = vars(self.args)[f"{kind}_epochs"]
        falls = sorted({round(epochs * fall / PUBLISHED[f"{kind}_epochs"]) for fall in FALLS[kind]})
        return ["--epochs", str(epochs), "--schedule", *map(str, falls), *vars(self.args)[f"{kind}_options"]]

    def _train(self, name: str, kind: str, script: str, *words: str) -> str:
        """Plan a training, and return its last checkpoint."""
        argv = [*self.common, *words, "--resume", "auto"]
        processes = 1 if script == CLASSIFIER else self.args.gpus
        launcher = ["torchrun", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else ["python"]
        with settings.advised(name, kind, vars(self.args)):
            own = SCRIPTS[script].parse(argv, planned=True)
            if script != CLASSIFIER:
                model, data, _ = configs_of(vars(own))
                check_sizes(model, data, own.batch_size, processes)
        if script == "main_coclr.py":
            own = main_coclr.phases(own)[-1]
        argv += self.gpus if script == CLASSIFIER else []
        self.batches[name] = kind, take(DataConfig, vars(own)), own.batch_size, processes
        product = last_checkpoint(SCRIPTS[script].run_folder_of(own), own.epochs)
        self.steps.append(Step(name, (*launcher, str(ROOT / script), *argv), product, rest="*.pth.tar",
                               seconds=self.seconds.get(kind, 0.0),
                               advice=f"cotrain.py passes options on by --{kind}_options; "))
        return str(product)

    def _evaluate(self, evaluation: str) -> None:
        """Plan an evaluation of both final models and their fusion."""
        made = []
        for stream, suffix in STREAMS.items():
            name, dataset, model = f"{evaluation} {stream}", self.args.dataset + suffix, self.models[stream]
            words = ["--dataset", dataset, *self._second_view(stream)]
            if evaluation == "retrieval":
                made.append(str(Path(model).parent / "feature"))
                kind = "recall" if self.labels else "label_free"
                result: tuple[str, str | None] = (f"{made[-1]}/{dataset}_{kind}.json", None)
                self._test("retrieval", name, result[0], model, *words, "--retrieval")
                if self.labels:
                    planned = main_classifier.parse([*self.common, *words, "--test", "random"], planned=True)
                    beside = main_classifier.random_weights(planned).parent
                    self.results[f"random {stream}"] = {"retrieval": (f"{beside}/feature/{dataset}_recall.json", None)}
                    self._test("retrieval", f"retrieval random {stream}", f"{beside}/feature/{dataset}_recall.json",
                               "random", *words, "--retrieval")
            else:
                words += ALWAYS[evaluation]
                if self.args.videos:  # a small set has no batch of 32, the script's default
                    words += ["--batch_size", str(self.args.batch_size)]
                words += self._epochs(evaluation)
                classifier = self._train(name, evaluation, CLASSIFIER, *words, "--pretrain", model)
                made.append(f"{classifier}-prob-ten.json")
                result = (f"{classifier}-acc-ten.json", "ten")
                self._test("test", f"{name} test", result[0], classifier, *words, "--ten_crop")
            self.results.setdefault(stream, {})[evaluation] = result
        both = f"results/{evaluation}_both.json"
        sources = tuple(Path(self.results[stream][evaluation][0]) for stream in STREAMS)
        roots = ["--split_root", self.args.split_root] if self.args.split_root else []
        self.results.setdefault("both", {})[evaluation] = (both, "both")
        self.steps.append(Step(f"{evaluation} both", (
            "python", str(ROOT / MERGE), "--mode", "s" if evaluation == "retrieval" else "c", "--dataset",
            self.args.dataset, *roots, "--prob1", made[0], "--prob2", made[1], "--output", both),
            Path(both), sources, seconds=self.seconds.get("both", 0.0), shown=5))

    def _test(self, kind: str, name: str, result: str, model: str, *words: str) -> None:
        argv = [*self.common, *words, *self.gpus, "--test", model]
        self.steps.append(Step(name, ("python", str(ROOT / CLASSIFIER), *argv), Path(result),
                               () if model == "random" else (Path(model),), seconds=self.seconds.get(kind, 0.0),
                               shown=4))

    def _second_view(self, stream: str) -> list[str]:
        """Return --second_view where a command needs it: not for RGB, nor for flow, the default."""
        view = self.args.second_view
        return [] if stream == "RGB" or view == "flow" else ["--second_view", view]

    def check_data(self) -> None:
        """Open the lists and LMDBs of all trainings, to raise UserError now rather than days later."""
        for name, (kind, data, batch_size, processes) in self.batches.items():
            with settings.advised(name, kind, vars(self.args)):
                dataset = data.build("train", PretrainTransform(data.img_dim))
                make_loader(dataset, batch_size=batch_size, workers=0, train=True, seed=0, rank=0, world_size=processes,
                            device=torch.device("cpu"))
                self.videos = len(dataset)


def prepare(args: Namespace) -> Step:
    flow = args.flow if args.second_view == "flow" else "none"
    words = ["--videos", args.videos, "--name", args.dataset, "--labels", args.labels or "auto", "--flow", flow,
             "--seed", args.seed, "--data_root", args.data_root, "--split_root", args.split_root]
    return Step("prepare", ("python", str(ROOT / "process_data/src/prepare.py"), *map(str, words)),
                Path(args.split_root, args.dataset, "video_source.json"), shown=9)


def settle(args: Namespace, spent: float) -> tuple[list[Setting], dict[str, float]]:
    """Choose what is not given, by measured steps; return it, and the seconds of each kind of step."""
    given = {name: value for name in PUBLISHED if (value := getattr(args, name)) is not None}
    if not (args.videos or args.hours):
        return auto.published(given), {}
    start, seconds = time.perf_counter(), dict[str, float]()
    facts = auto.read_facts(args.dataset, args.data_root, args.split_root, args.second_view, args.hours, spent)
    now = with_settings(args, auto.choose(facts, given))
    common, batch = Plan(now, {}).common, str(now.batch_size)
    say("timing a few steps of training")
    for method, make, views in (("infonce", main_nce.NceTask, ""), ("coclr", main_coclr.CoclrTask, "-2stream")):
        words = ["--dataset", f"{args.dataset}{views}-2clip", "--batch_size", batch, "--moco-k", batch]  # soon full
        words += ["--topk", "1", "--health_clips", "0", "--second_view", args.second_view] * (method == "coclr")
        config = configs_of(vars(SCRIPTS[EXTRA[method]].parse([*common, *words], planned=True)))
        seconds[method] = auto.seconds_per_step(make(*config, DistInfo(0, 0, 1, options.devices(None)[0])))
    facts = replace(facts, seconds=seconds, spent=spent + time.perf_counter() - start)
    chosen = auto.choose(facts, given)
    values = {name: value for name, value, _ in chosen}
    return chosen, auto.costs(facts, values) | {"all": facts.spent + auto.total(facts, values)}


def with_settings(args: Namespace, chosen: Sequence[Setting]) -> Namespace:
    return Namespace(**vars(args) | PUBLISHED | {name: value for name, value, _ in chosen})


def finish(plan: Plan, runner: Runner, chosen: list[Setting], warnings: list[str]) -> None:
    """Write models, index, results.json and report; print the results and what comes next."""
    args, out = plan.args, plan.args.out
    for stream, model in plan.models.items():
        write_bytes(out / f"{stream.lower()}.pth.tar", (out / model).read_bytes())
    if args.videos:
        with runner.timed("search index"):
            search(["index", str(out / "rgb.pth.tar"), str(args.videos), "--two_stream", str(out / "flow.pth.tar"),
                    "--flow", args.flow, "-j", str(launch.allotted_cores()), "--out", str(out / "index")])
    # In percent: {stream: {evaluation: {"1": R@1 or top-1, "5": ...}}}.
    results = {stream: {evaluation: read_json(out / file) if key is None else read_json(out / file)[key]
                        for evaluation, (file, key) in row.items()} for stream, row in plan.results.items()}
    runs = {step.name: str(step.product.parents[1]) for step in plan.steps if step.rest and step.product}
    estimated, taken = plan.seconds.get("all"), sum(step.get("seconds", 0.0) for step in runner.record().values())
    content = {
        "dataset": args.dataset, "cycles": args.cycles, "seed": args.seed, "models": plan.models,
        "results": results, "commands": {step.name: step.shell for step in plan.steps}, "runs": runs,
        "labels": plan.labels, "test_videos": plan.tested, "settings": chosen,
        "warnings": [*warnings, *runner.warnings(plan.steps)],
        "hours": {"asked": args.hours, "estimated": estimated and estimated / 3600, "taken": taken / 3600}}
    write_json(out / "results.json", content)
    with runner.timed("report"):
        write_report([str(out)])
    show(out, content)


def make_parser() -> Parser:
    return settings.make_parser(__doc__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps, or print them with ``--dry_run``."""
    args, chosen = settings.parse(sys.argv[1:] if argv is None else argv, __doc__)
    runner, first = Runner(args.out), [prepare(args)] if args.videos else []
    if first and not first[0].is_done(args.out):
        if args.dry_run:
            say(f"{as_script(first, args.out)}\n\n# what comes after it follows from the data")
            return 0
        with runner.open():
            runner.run(first)
    if chosen:
        seconds = read_json(args.out / ESTIMATE, {})
    else:
        chosen, seconds = settle(args, runner.record().get("prepare", {}).get("seconds", 0.0))
    args = with_settings(args, chosen)
    plan = Plan(args, seconds)
    plan.steps[:0] = first
    runner.check(plan.steps)
    plan.check_data()
    if args.dry_run:
        say(as_script(plan.steps, args.out))
        return 0
    with runner.open():
        if not (args.out / settings.FILE).is_file():
            write_json(args.out / ESTIMATE, seconds)
            settings.keep(chosen, vars(args), args.out)
            if seconds:
                say_block({"\nsettings": [f"{name:15} {value!s:10} {why}" for name, value, why in chosen]})
        warnings = auto.doubts(plan.videos, args.videos, args.hours, seconds.get("all", 0.0))
        for line in warnings:
            warn(line)
        say(f"{sum(step.is_done(args.out) for step in plan.steps)} of {len(plan.steps)} steps are done; the printed "
            f"commands run in {args.out}")
        runner.run(plan.steps, sum(seconds.get(kind, 0.0) for kind in ("index", "report")))
        finish(plan, runner, chosen, warnings)
    return 0


if __name__ == "__main__":
    launch.run(main)
