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
from itertools import groupby
from pathlib import Path

import torch

import main_coclr
import main_nce
from dataset import catalog
from dataset.loader import make_loader
from dataset.transforms.presets import PretrainTransform
from engine import auto, settings
from engine.auto import PUBLISHED, Setting
from engine.config import DataConfig, ModelConfig, check_sizes, configs_of, take
from engine.run_folder import last_checkpoint
from eval import main_classifier, options
from tools.report.__main__ import main as write_report
from tools.report.verdict import show
from tools.search.__main__ import main as search
from utils import launch
from utils.console import say, say_block, warn
from utils.distributed import DistInfo
from utils.errors import CheckpointError, OptionError
from utils.files import read_json, write_bytes, write_json
from utils.parser import Parser
from utils.runner import Runner, Step, as_script

ROOT = Path(__file__).resolve().parent
CLASSIFIER, MERGE = "eval/main_classifier.py", "eval/merge_2stream_prob.py"
SCRIPTS = {"main_nce.py": main_nce, "main_coclr.py": main_coclr, CLASSIFIER: main_classifier}
STREAMS = {"RGB": "", "flow": "-f"}  # in the order of a cycle; the suffix of the dataset's name
# Within a cycle: the stream to train, the one that mines, part of the run folder's name, further options.
ALTERNATION = (("RGB", "flow", "FlowMining_", ()), ("flow", "RGB", "RGBMining_", ("--reverse",)))
ESTIMATE = "estimate.json"  # in the work folder: estimated seconds by kind of step
# Epochs at which the learning rate drops, where training takes as many as in PUBLISHED.
MILESTONES = {"infonce": (250, 280), "coclr": (80,), "probe": (60, 80), "finetune": (400, 450)}
BASELINE = "InfoNCE RGB, as long"
# Options of main_coclr.py that replace all that cotrain.py chose for mining.
MINING = {"--mining", "--cascade", "--stage", "--ratio", "--topk", "--own_view", "--progressive"}
ALWAYS = {"probe": ("--train_what", "last", "--optim", "sgd", "--lr", "0.1"), "finetune": ("--train_what", "ft")}


class Plan:
    """The steps to run, each stream's final checkpoint, and the files that will hold the results."""

    def __init__(self, args: Namespace, seconds: Mapping[str, float]) -> None:
        self.args, self.steps, self.videos = args, list[Step](), 0  # videos to train on
        self.seconds = seconds  # estimated, by kind of step
        self.labels = len(catalog.class_names(args.dataset, args.split_root)) > 1
        test = catalog.parse(args.dataset).csv(Path(args.split_root or catalog.SPLIT_ROOT), 1, train=False)
        self.tested = len(test.read_text(encoding="utf-8").splitlines()) if test.is_file() else 0
        on_gpu = options.devices(None)[0].type == "cuda"
        self.gpus = ["--gpu", ",".join(map(str, range(args.gpus)))] if on_gpu else []
        self.beside = not on_gpu  # run both streams side by side: small batches do not keep several cores busy
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
                given = self._pretrain(f"InfoNCE {stream}", "infonce", f"{args.dataset}{suffix}-2clip", stream,
                                       beside=stream == "flow")
            elif not given.is_file():
                raise CheckpointError(f"there is no checkpoint {given}: check --{option}")
            self.models[stream] = str(given)
        start, self.baseline = self.models["RGB"], ""
        for cycle in range(1, args.cycles + 1):
            for own, other, prefix, reverse in ALTERNATION:  # own is trained, other mines
                self.models[own] = self._pretrain(
                    f"cycle {cycle} {own}", "coclr", f"{args.dataset}-2stream-2clip", "flow", *reverse,
                    "--name_prefix", f"Cycle{cycle}-{prefix}", "--pretrain", self.models[own], self.models[other])
                if args.baseline and not self.baseline:
                    self.baseline = self._pretrain(BASELINE, "baseline", f"{args.dataset}-2clip", "RGB",
                                                   "--name_prefix", "AsLong-", "--pretrain", start, beside=True)
        for evaluation in settings.EVALUATIONS if self.labels else settings.EVALUATIONS[:1]:
            if self.tested and evaluation not in args.skip:
                self._evaluate(evaluation)

    def _pretrain(self, name: str, method: str, dataset: str, stream: str, *words: str, beside: bool = False) -> str:
        """Plan a pretraining and return its last checkpoint; the command omits options at the script's defaults."""
        args = self.args
        found = ["--batch_size", str(args.batch_size), "--moco-k", str(args.moco_k)]
        lr = args.lr if method == "infonce" else args.coclr_lr
        for flag, value, usual in (("--lr", lr, PUBLISHED["lr"]), ("--moco-m", args.moco_m, PUBLISHED["moco_m"])):
            found += [flag, f"{value:g}"] if value != usual else []
        if method == "coclr" and not MINING.intersection(word.partition("=")[0] for word in args.coclr_options):
            cascade = ["--cascade", "--stage", str(args.stage), "--ratio", str(args.ratio)]
            found += {"cascade": cascade, "topk": []}.get(args.mining, ["--mining", args.mining])
            found += ["--topk", str(args.topk), *(["--own_view", "frozen"] if args.own_view == "frozen" else [])]
        kind = "infonce" if method == "baseline" else method
        epochs = self._epochs("coclr", args.cycles) if method == "baseline" else self._epochs(method)
        return self._train(name, kind, settings.EXTRA[kind], "--dataset", dataset, *self._second_view(stream), *found,
                           *epochs, *vars(args)[f"{kind}_options"], *words, beside=beside)

    def _epochs(self, kind: str, times: int = 1) -> list[str]:
        """Return --epochs, ``times`` those of a kind of training, and --schedule, scaled with them."""
        epochs = times * vars(self.args)[f"{kind}_epochs"]
        milestones = sorted({round(epochs * each / PUBLISHED[f"{kind}_epochs"]) for each in MILESTONES[kind]})
        return ["--epochs", str(epochs), "--schedule", *map(str, milestones)]

    def _train(self, name: str, kind: str, script: str, *words: str, beside: bool = False) -> str:
        """Plan a training and return its last checkpoint; UserError now, rather than days later, if it cannot run."""
        argv = [*self.common, *words, "--resume", "auto"]
        processes = 1 if script == CLASSIFIER else self.args.gpus
        launcher = ["torchrun", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else ["python"]
        with settings.advised(name, kind, vars(self.args)):
            own = SCRIPTS[script].parse(argv, planned=True)
            data = take(DataConfig, vars(own))
            if script != CLASSIFIER:
                check_sizes(take(ModelConfig, vars(own)), data, own.batch_size, processes)
            dataset = data.build("train", PretrainTransform(data.img_dim))
            make_loader(dataset, batch_size=own.batch_size, workers=0, train=True, seed=0, rank=0, world_size=processes,
                        device=torch.device("cpu"))
            self.videos = len(dataset)
        if script == "main_coclr.py":
            own = main_coclr.phases(own)[-1]
        argv += self.gpus if script == CLASSIFIER else []
        product = last_checkpoint(SCRIPTS[script].run_folder_of(vars(own)), own.epochs)
        self.steps.append(Step(name, (*launcher, str(ROOT / script), *argv), product, rest="*.pth.tar",
                               seconds=self.seconds.get("coclr" if name == BASELINE else kind, 0.0),
                               advice=f"cotrain.py passes options on by --{kind}_options; ",
                               beside=beside and self.beside))
        return str(product)

    def _evaluate(self, evaluation: str) -> None:
        """Plan an evaluation of both final models and their fusion; for retrieval, of the baselines as well."""
        if evaluation == "retrieval":
            self._retrieve_all()
            return
        made, steps = list[str](), len(self.steps)
        for stream, suffix in STREAMS.items():
            name, dataset, model = f"{evaluation} {stream}", self.args.dataset + suffix, self.models[stream]
            words = ["--dataset", dataset, *self._second_view(stream), *ALWAYS[evaluation]]
            if self.args.videos:  # a small set may not fill a batch of 32, the script's default
                words += ["--batch_size", str(self.args.batch_size)]
            words += [*self._epochs(evaluation), *vars(self.args)[f"{evaluation}_options"]]
            classifier = self._train(name, evaluation, CLASSIFIER, *words, "--pretrain", model)
            made.append(f"{classifier}-prob-ten.json")
            self._test(stream, evaluation, f"{name} test", f"{classifier}-acc-ten.json", "ten", classifier, *words,
                       "--ten_crop")
        # On a CPU, RGB and flow run side by side: both trainings, then both tests.
        self.steps[steps:] = [replace(step, beside=self.beside and number > 0) for _, group in groupby(sorted(
            self.steps[steps:], key=is_test), is_test) for number, step in enumerate(group)]
        self._fuse("both", evaluation, made)

    def _retrieve_all(self) -> None:
        """Plan all retrievals; on a CPU, those that do not need the last model run beside its training."""
        made, random, dataset = list[str](), list[str](), self.args.dataset
        words = {stream: ["--dataset", dataset + suffix, *self._second_view(stream)]
                 for stream, suffix in STREAMS.items()}
        for stream in words if self.labels else ():
            planned = main_classifier.parse([*self.common, *words[stream], "--test", "random"], planned=True)
            random.append(self._retrieval(f"random {stream}", "random", *words[stream],
                                          folder=main_classifier.random_weights(vars(planned)).parent))
        for stream in words:
            beside = (stream == "RGB") == (self.args.cycles > 0)  # without cycles RGB's model is trained beside flow's
            made.append(self._retrieval(stream, self.models[stream], *words[stream], beside=beside))
            if stream == "RGB" and self.baseline:
                self._retrieval(BASELINE, self.baseline, *words[stream])
        if random:
            self._fuse("random both", "retrieval", random, beside=True)
        self._fuse("both", "retrieval", made)

    def _fuse(self, title: str, evaluation: str, made: Sequence[str], beside: bool = False) -> None:
        result = f"results/{evaluation}_{title.replace(' ', '_')}.json"
        roots = ["--split_root", self.args.split_root] if self.args.split_root else []
        sources = [self.results[stream][evaluation][0] for stream in STREAMS] if title == "both" else []
        self.results.setdefault(title, {})[evaluation] = (result, "both")
        self.steps.append(Step(f"{evaluation} {title}", (
            "python", str(ROOT / MERGE), "--mode", "s" if evaluation == "retrieval" else "c", "--dataset",
            self.args.dataset, *roots, "--prob1", made[0], "--prob2", made[1], "--output", result), Path(result),
            tuple(map(Path, sources)), seconds=self.seconds.get("both", 0.0), shown=5, beside=beside and self.beside))

    def _retrieval(self, title: str, model: str, *words: str, folder: Path | None = None, beside: bool = True) -> str:
        """Plan a retrieval; return the folder of its features."""
        made = str((folder or Path(model).parent) / "feature")
        result = f"{made}/{words[1]}_{'recall' if self.labels else 'label_free'}.json"
        self._test(title, "retrieval", f"retrieval {title}", result, None, model, *words, "--retrieval", beside=beside)
        return made

    def _test(self, title: str, evaluation: str, name: str, result: str, key: str | None, model: str, *words: str,
              beside: bool = False) -> None:
        argv = [*self.common, *words, *self.gpus, "--test", model]
        seconds = self.seconds.get("retrieval" if evaluation == "retrieval" else "test", 0.0)
        self.results.setdefault(title, {})[evaluation] = result, key
        self.steps.append(Step(name, ("python", str(ROOT / CLASSIFIER), *argv), Path(result),
                               () if model == "random" else (Path(model),), seconds=seconds, shown=4,
                               beside=beside and self.beside))

    def _second_view(self, stream: str) -> list[str]:
        """Return --second_view where a command needs it: not for RGB, nor for flow, the default."""
        view = self.args.second_view
        return [] if stream == "RGB" or view == "flow" else ["--second_view", view]


def is_test(step: Step) -> bool:
    return "--test" in step.command


def prepare(args: Namespace) -> Step:
    flow = args.flow if args.second_view == "flow" else "none"
    words = ["--videos", args.videos, "--name", args.dataset, "--labels", args.labels or "auto", "--flow", flow,
             "--seed", args.seed, "--data_root", args.data_root, "--split_root", args.split_root]
    return Step("prepare", ("python", str(ROOT / "process_data/src/prepare.py"), *map(str, words)),
                Path(args.split_root, args.dataset, "video_source.json"), shown=9)


def choose_settings(args: Namespace, spent: float) -> tuple[list[Setting], dict[str, float]]:
    """Choose the settings that are not given, from timed training steps.

    Returns:
        The settings, and the estimated seconds by kind of step, "all" for everything; none for published settings.
    """
    given = {name: value for name in PUBLISHED if (value := getattr(args, name)) is not None}
    if not (args.videos or args.hours):
        return auto.published(given), {}
    start, seconds, threads = time.perf_counter(), dict[str, float](), torch.get_num_threads()
    facts = auto.read_facts(args.dataset, args.data_root, args.split_root, args.second_view, args.hours, spent)
    facts = replace(facts, skip=tuple(args.skip))
    now = with_settings(args, auto.choose(facts, given))
    common, batch = Plan(now, {}).common, str(now.batch_size)
    say("timing a few steps of training")
    for method, make, views in (("infonce", main_nce.NceTask, ""), ("coclr", main_coclr.CoclrTask, "-2stream")):
        words = ["--dataset", f"{args.dataset}{views}-2clip", "--batch_size", batch, "--moco-k", batch]  # soon full
        words += ["--topk", "1", "--health_clips", "0", "--second_view", args.second_view] * (method == "coclr")
        words += ["--mining", "fused", "--own_view", "frozen"] * (method == "coclr" and now.own_view == "frozen")
        config = configs_of(vars(SCRIPTS[settings.EXTRA[method]].parse([*common, *words], planned=True)))
        torch.set_num_threads(max(1, threads // 2) if method == "infonce" and facts.side_by_side else threads)
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
    runs = {step.name: str(step.product.parents[1]) for step in plan.steps
            if step.rest and step.product and step.name != BASELINE}
    estimated, taken = plan.seconds.get("all"), runner.taken()
    content = {
        "dataset": args.dataset, "cycles": args.cycles, "seed": args.seed, "models": plan.models, "results": results,
        "commands": {step.name: step.shell for step in plan.steps}, "runs": runs, "labels": plan.labels,
        "test_videos": plan.tested, "settings": chosen, "warnings": [*warnings, *runner.warnings(plan.steps)],
        "hours": {"asked": args.hours, "estimated": estimated and estimated / 3600, "taken": taken / 3600}}
    write_json(out / "results.json", content)
    with runner.timed("report"):
        write_report([str(out)])
    show(out, content)


def make_parser() -> Parser:
    return settings.make_parser(__doc__)


def main(argv: Sequence[str] | None = None) -> int:
    args, chosen = settings.parse(sys.argv[1:] if argv is None else argv, __doc__)
    runner, first = Runner(args.out, most=2), [prepare(args)] if args.videos else []
    if first and not first[0].is_done(args.out):
        if not args.videos.is_dir():
            raise OptionError(f"--videos {args.videos} is not a folder: give the folder that holds the videos")
        if args.dry_run:
            say(f"{as_script(first, args.out)}\n\n# the later steps depend on the prepared data")
            return 0
        with runner.open():
            runner.run(first)
    begun = time.perf_counter()
    if chosen:
        seconds = read_json(args.out / ESTIMATE, {})
    else:
        chosen, seconds = choose_settings(args, runner.record().get("prepare", {}).get("seconds", 0.0))
    settled = time.perf_counter() - begun
    args = with_settings(args, chosen)
    plan = Plan(args, seconds)
    plan.steps[:0] = first
    runner.check(plan.steps)
    if args.dry_run:
        say(as_script(plan.steps, args.out))
        return 0
    with runner.open():
        if not (args.out / settings.FILE).is_file():
            runner.note("settings", settled, settled)
            write_json(args.out / ESTIMATE, seconds)
            settings.keep(chosen, vars(args), args.out)
            if seconds:
                say_block({"\nsettings": [f"{name:15} {value!s:10} {why}" for name, value, why in chosen]})
        warnings = auto.find_warnings(plan.videos, args.videos, args.hours, seconds.get("all", 0.0))
        for line in warnings:
            warn(line)
        say(f"{sum(step.is_done(args.out) for step in plan.steps)} of {len(plan.steps)} steps are done; the printed "
            f"commands run in {args.out}")
        runner.run(plan.steps, sum(seconds.get(kind, 0.0) for kind in ("index", "report")))
        finish(plan, runner, chosen, warnings)
    return 0


if __name__ == "__main__":
    launch.run(main)
