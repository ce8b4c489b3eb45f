"""Train and evaluate everything with one command: InfoNCE on RGB and on flow, cycles of co-training (CoCLR with cascade
positive retrieval), and the evaluation of the final models.

    python cotrain.py --dataset ucf101 --out runs/ucf101 --gpus 2
    python cotrain.py --dataset ucf101 --out runs/ucf101 --gpus 2 --dry_run      # the commands, as a shell script

Each cycle trains the RGB encoder with positives mined in flow, then the flow encoder with positives mined by the new
RGB encoder; both start from the previous cycle's models (CoCLR, arXiv 2010.09709, section 3.2). Both final models, and
the fusion of the two streams, are evaluated by retrieval, linear probe and finetuning, the last two with ten crops.
Each step is a command of this project, printed before it runs; all files go into --out. To train without flow, use
--second_view residual.

If it is stopped for any reason, the same command continues where it left off. --infonce_rgb and --infonce_flow reuse
existing checkpoints. Pass options to a single script as a quoted string:

    python cotrain.py --dataset mine --moco-k 256 --infonce_options "--moco-m 0.99" \\
        --coclr_options "--cascade --stage 5 --ratio 0.5 --topk 3 --moco-m 0.99" --finetune_options "--batch_size 8"
"""

import argparse
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import main_coclr
import main_nce
from dataset import catalog
from dataset.loader import make_loader
from dataset.transforms.presets import PretrainTransform
from engine import pretraining
from engine.config import DataConfig, configs_of, take
from engine.options import add_clips, add_roots, positive_int, seed, whole_number
from engine.run_folder import last_checkpoint
from eval import main_classifier
from utils import launch
from utils.console import mark_best, paint_table, say, table
from utils.errors import CheckpointError, OptionError
from utils.files import read_json, write_json
from utils.parser import Parser
from utils.runner import Runner, Step, as_script

ROOT = Path(__file__).resolve().parent
CLASSIFIER, MERGE = "eval/main_classifier.py", "eval/merge_2stream_prob.py"
SCRIPTS = {"main_nce.py": main_nce, "main_coclr.py": main_coclr, CLASSIFIER: main_classifier}
STREAMS = {"RGB": "", "flow": "-f"}  # in the order of a cycle; the suffix of the dataset's name
# Within a cycle: the stream to train, the one that mines, part of the run folder's name, further options.
ALTERNATION = (("RGB", "flow", "FlowMining_", ()), ("flow", "RGB", "RGBMining_", ("--reverse",)))
EVALUATIONS = ("retrieval", "probe", "finetune")
# Published epochs, and those at which the learning rate drops.
EPOCHS = {"infonce": (300, (250, 280)), "coclr": (100, (80,)), "probe": (100, (60, 80)), "finetune": (500, (400, 450))}
EXTRA = {"infonce": "main_nce.py", "coclr": "main_coclr.py", "probe": "the linear probe",
         "finetune": "finetuning and its test"}
CASCADE = "--cascade --stage 7 --ratio 0.5 --topk 5"
CLASSIFIER_OPTIONS = {"probe": ["--train_what", "last", "--optim", "sgd", "--lr", "0.1"],
                      "finetune": ["--train_what", "ft"]}
# Options that cotrain.py sets itself, or that would change where a step's results go.
RESERVED = {"--dataset", "--pretrain", "--resume", "--test", "--prefix", "--name_prefix", "--reverse", "--epochs",
            "--start_epoch", "--retrieval", "--gpu", "--local_rank", "--local-rank", "--world-size", "--rank",
            "--multiprocessing-distributed", "--second_view", "--center_crop", "--five_crop", "--ten_crop", "--dirname",
            "--config", "--print-completion"}
KS = ("1", "5", "10", "20", "50")


class Plan:
    """The steps to run, each stream's final checkpoint, and the files that will hold the results."""

    def __init__(self, args: Namespace) -> None:
        self.args, self.steps = args, list[Step]()
        self.batches: dict[str, tuple[DataConfig, int, int]] = {}  # by dataset: clips per process, and processes
        self.models: dict[str, str] = {}
        # By stream ("both" for the fusion) and evaluation: a JSON file, and the key in it (None for all of it).
        self.results: dict[str, dict[str, tuple[str, str | None]]] = {}
        self.common = ["--net", args.net, "--seq_len", str(args.seq_len), "--ds", str(args.ds), "--img_dim",
                       str(args.img_dim), "--seed", str(args.seed), "-j", str(args.workers)]
        for name in ("data_root", "split_root"):
            if getattr(args, name) is not None:
                self.common += [f"--{name}", str(Path(getattr(args, name)).resolve())]
        for stream in STREAMS:
            self.models[stream] = self._infonce(stream)
        for cycle in range(1, args.cycles + 1):
            for own, other, prefix, reverse in ALTERNATION:  # own is trained, other mines
                self.models[own] = self._pretrain(
                    f"cycle {cycle} {own}", "coclr", f"{args.dataset}-2stream-2clip", "flow", *reverse,
                    "--name_prefix", f"Cycle{cycle}-{prefix}", "--pretrain", self.models[own], self.models[other])
        for evaluation in EVALUATIONS:
            if evaluation not in args.skip:
                self._evaluate(evaluation)

    def _infonce(self, stream: str) -> str:
        """Plan InfoNCE on a stream, unless its checkpoint is given; return the checkpoint."""
        args = self.args
        given = getattr(args, f"infonce_{stream.lower()}")
        if given is not None:
            if not given.is_file():
                raise CheckpointError(f"there is no checkpoint {given}: check --infonce_{stream.lower()}")
            return str(given.resolve())
        return self._pretrain(f"InfoNCE {stream}", "infonce", f"{args.dataset}{STREAMS[stream]}-2clip", stream)

    def _pretrain(self, name: str, method: str, dataset: str, stream: str, *words: str) -> str:
        """Plan a pretraining; return the checkpoint."""
        return self._train(name, EXTRA[method], "--dataset", dataset, *self._second_view(stream), "--batch_size",
                           str(self.args.batch_size), "--moco-k", str(self.args.moco_k), *self._schedule(method),
                           *words)

    def _train(self, name: str, script: str, *words: str) -> str:
        """Plan a training, and return its last checkpoint."""
        argv = [*self.common, *words, "--resume", "auto"]
        options = SCRIPTS[script].parse(argv, planned=True)
        processes = 1 if script == CLASSIFIER else self.args.gpus
        launcher = ["torchrun", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else ["python"]
        if script == CLASSIFIER:
            argv += self._gpus()
        else:
            model, data, _ = configs_of(vars(options))
            pretraining.check_sizes(model, data, options.batch_size, processes)
            if script == "main_coclr.py":
                options = main_coclr.phases(options)[-1]
        self.batches[options.dataset] = take(DataConfig, vars(options)), options.batch_size, processes
        product = last_checkpoint(SCRIPTS[script].run_folder_of(options), options.epochs)
        self.steps.append(Step(name, (*launcher, str(ROOT / script), *argv), product))
        return str(product)

    def _evaluate(self, evaluation: str) -> None:
        """Plan an evaluation of both final models and their fusion."""
        made = []
        for stream, suffix in STREAMS.items():
            name, dataset, model = f"{evaluation} {stream}", self.args.dataset + suffix, self.models[stream]
            words = ["--dataset", dataset, *self._second_view(stream)]
            if evaluation == "retrieval":
                made.append(str(Path(model).parent / "feature"))
                result: tuple[str, str | None] = (f"{made[-1]}/{dataset}_recall.json", None)
                self._test(name, result[0], model, *words, "--retrieval")
            else:
                words += [*CLASSIFIER_OPTIONS[evaluation], *self._schedule(evaluation)]
                classifier = self._train(name, CLASSIFIER, *words, "--pretrain", model)
                made.append(f"{classifier}-prob-ten.json")
                result = (f"{classifier}-acc-ten.json", "ten")
                self._test(f"{name} test", result[0], classifier, *words, "--ten_crop")
            self.results.setdefault(stream, {})[evaluation] = result
        both = f"results/{evaluation}_both.json"
        sources = tuple(Path(self.results[stream][evaluation][0]) for stream in STREAMS)
        roots = self.common[self.common.index("--split_root"):][:2] if "--split_root" in self.common else []
        self.results.setdefault("both", {})[evaluation] = (both, "both")
        self.steps.append(Step(f"{evaluation} both", (
            "python", str(ROOT / MERGE), "--mode", "s" if evaluation == "retrieval" else "c", "--dataset",
            self.args.dataset, *roots, "--prob1", made[0], "--prob2", made[1], "--output", both),
            Path(both), sources, shown=5))

    def _test(self, name: str, result: str, model: str, *words: str) -> None:
        argv = [*self.common, *words, *self._gpus(), "--test", model]
        self.steps.append(Step(name, ("python", str(ROOT / CLASSIFIER), *argv), Path(result), (Path(model),), shown=4))

    def _schedule(self, name: str) -> list[str]:
        """Return --epochs, --schedule scaled from the published one, and the quoted options."""
        (whole, falls), epochs = EPOCHS[name], getattr(self.args, f"{name}_epochs")
        scaled = sorted({round(epochs * fall / whole) for fall in falls})
        return ["--epochs", str(epochs), "--schedule", *map(str, scaled), *getattr(self.args, f"{name}_options")]

    def _second_view(self, stream: str) -> list[str]:
        """Return --second_view where a command needs it: not for RGB, nor for flow, the default."""
        view = self.args.second_view
        return [] if stream == "RGB" or view == "flow" else ["--second_view", view]

    def _gpus(self) -> list[str]:
        """Return a classifier's --gpu, if there are GPUs."""
        on_gpu = main_classifier.options.devices(None)[0].type == "cuda"
        return ["--gpu", ",".join(map(str, range(self.args.gpus)))] if on_gpu else []

    def check_data(self) -> None:
        """Open the lists and LMDBs of all trainings, to raise UserError now rather than days later."""
        for data, batch_size, processes in self.batches.values():
            make_loader(data.build("train", PretrainTransform(data.img_dim)), batch_size=batch_size, workers=0,
                        train=True, seed=0, rank=0, world_size=processes, device=torch.device("cpu"))

    def collect(self) -> dict[str, dict[str, dict[str, float]]]:
        """Read the results, in percent: {stream: {evaluation: {"1": R@1 or top-1, "5": ...}}}."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for stream, columns in self.results.items():
            for evaluation, (file, key) in columns.items():
                content = read_json(self.args.out / file)
                found.setdefault(stream, {})[evaluation] = content if key is None else content[key]
        return found


def results_table(numbers: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format a table: R@k of retrieval, top-1 of probe and finetuning with ten crops."""
    used = [name for name in EVALUATIONS if any(name in columns for columns in numbers.values())]
    columns = [(name, k) for name in used for k in (KS if name == "retrieval" else KS[:1])]
    heads = [f"R@{k}" if name == "retrieval" else f"{name}, ten crops" for name, k in columns]
    rows = [[stream, *(f"{row[name][k]:.2f}" for name, k in columns)] for stream, row in numbers.items()]
    return table(["percent", *heads], mark_best(rows))


def report(plan: Plan) -> None:
    """Print the results, and write results.json to the work folder."""
    numbers, args = plan.collect(), plan.args
    write_json(args.out / "results.json", {
        "dataset": args.dataset, "cycles": args.cycles, "seed": args.seed, "models": plan.models, "results": numbers,
        "commands": {step.name: step.shell for step in plan.steps}})
    if numbers:
        say("")
        say(results_table(numbers), paint=paint_table)
    say(f"all numbers, checkpoints and commands: {args.out / 'results.json'}")
    say(f"next: python -m tools.report {Path(args.out, plan.models['RGB']).parents[1]}")


def make_parser() -> Parser:
    """Build the option parser."""
    parser = Parser(__doc__)
    parser.topic("data")("--dataset", default="ucf101", metavar="NAME", help="dataset name without suffix")
    add_clips(parser)
    add_roots(parser, None, None)  # each script has its own defaults
    add = parser.topic("method")
    add("--cycles", type=whole_number, default=2, metavar="N", help="cycles of co-training; 0 evaluates InfoNCE")
    add("--moco-k", type=positive_int, default=2048, metavar="K", help="queue length, in clips")
    add = parser.topic("training")
    add("--batch_size", type=positive_int, default=16, metavar="CLIPS", help="clips per process and step of "
        "pretraining (classifiers: 32 per GPU, or as --probe_options and --finetune_options say)")
    add("--seed", type=seed, default=0, help="seed of every step")
    for name, (epochs, _) in EPOCHS.items():
        add(f"--{name}_epochs", type=positive_int, default=epochs, metavar="EPOCHS",
            help=f"epochs of {name}; its schedule scales with them")
    for name, script in EXTRA.items():
        add(f"--{name}_options", type=words, default=words(CASCADE if name == "coclr" else ""), metavar="'OPTIONS'",
            help=f"more options for {script}, quoted")
    add = parser.topic("checkpoints")
    add("--infonce_rgb", type=Path, metavar="CKPT", help="use this checkpoint instead of training InfoNCE on RGB")
    add("--infonce_flow", type=Path, metavar="CKPT", help="likewise for flow")
    parser.topic("evaluation")("--skip", nargs="+", default=[], choices=EVALUATIONS, help="evaluations to leave out")
    add = parser.topic("hardware")
    add("--gpus", "--nproc_per_node", type=positive_int, default=1, metavar="N",
        help="processes of a pretraining (torchrun), and GPUs of a classifier")
    add("-j", "--workers", type=whole_number, default=min(8, launch.allotted_cores()), metavar="PROCESSES",
        help="loader processes; 0 loads in the main process")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="work folder for all files (default: runs/DATASET)")
    add("--dry_run", action="store_true", help="print the commands and whether they are done, without running any")
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


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """Parse and check the options."""
    args = make_parser().parse_args(joined(sys.argv[1:] if argv is None else argv))
    spec = catalog.parse(args.dataset)
    if spec.base != args.dataset:
        raise OptionError(f"--dataset {args.dataset} has a suffix: give the plain name, {spec.base}; both streams are "
                          "used")
    args.out = (args.out or Path("runs", args.dataset)).resolve()
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps, or print them with ``--dry_run``."""
    args = parse(argv)
    plan, runner = Plan(args), Runner(args.out)
    runner.check(plan.steps)
    plan.check_data()
    if args.dry_run:
        say(as_script(plan.steps, args.out))
        return 0
    with runner.open():
        done = sum(step.is_done(args.out) for step in plan.steps)
        say(f"{done} of {len(plan.steps)} steps are done; the printed commands run in {args.out}")
        runner.run(plan.steps)
    report(plan)
    return 0


if __name__ == "__main__":
    launch.run(main)
