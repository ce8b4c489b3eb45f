"""The whole alternation by one command: InfoNCE on RGB and on flow, cycles of co-training (CoCLR with cascade positive
retrieval), and the evaluation of the final models.

    python cotrain.py --dataset ucf101 --out runs/ucf101 --gpus 2
    python cotrain.py --dataset ucf101 --out runs/ucf101 --gpus 2 --dry_run      # the commands, as a shell script

Each cycle trains the RGB encoder with positives mined in flow, then the flow encoder with positives mined by the new
RGB encoder, both from the models of the cycle before (CoCLR, arXiv 2010.09709, section 3.2). Then, for both models:
retrieval, linear probe and finetuning, tested with ten crops, and the fusion of the two streams. Every step is a
command of the project, printed before it runs; all that is made lies in --out. Without flow: --second_view residual.

Stopped in any way, the same command goes on where it was. --infonce_rgb and --infonce_flow take checkpoints that are
there already. What a single script shall be given besides goes into a quoted string:

    python cotrain.py --dataset mine --moco-k 256 --infonce_options "--moco-m 0.99" \\
        --coclr_options "--cascade --stage 5 --ratio 0.5 --topk 3 --moco-m 0.99" --finetune_options "--batch_size 8"
"""

import argparse
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import launch
import next_commands
from cotrain_plan import COCLR, NCE, STREAMS, Planner, scheduled
from dataset import catalog
from eval.report import mark_best, read_json, table, write_json
from utils.console import say
from utils.errors import CheckpointError, OptionError
from utils.options import add_clips, add_roots, positive_int, seed, whole_number
from utils.parser import Parser
from utils.pipeline import Runner, as_script
from utils.terminal import paint_table

# Of a cycle: the stream that is trained, the one that mines, what the run folder is called, how the script is told.
ALTERNATION: tuple[tuple[str, str, str, list[str]], ...] = (
    ("RGB", "flow", "FlowMining_", []), ("flow", "RGB", "RGBMining_", ["--reverse"]))
EVALUATIONS = ("retrieval", "probe", "finetune")
# Published epochs, and where the learning rate falls: (epoch, of so many).
EPOCHS = {"infonce": (300, [(250, 300), (280, 300)]), "coclr": (100, [(80, 100)]),
          "probe": (100, [(60, 100), (80, 100)]), "finetune": (500, [(400, 500), (450, 500)])}
EXTRA = {"infonce": "main_nce.py", "coclr": "main_coclr.py", "probe": "the linear probe",
         "finetune": "finetuning and its test"}
DEFAULT_EXTRA = {"coclr": "--cascade --stage 7 --ratio 0.5 --topk 5"}
CLASSIFIER_WORDS = {"probe": ["--train_what", "last", "--optim", "sgd", "--lr", "0.1"],
                    "finetune": ["--train_what", "ft"]}
# Options of single scripts that the plan sets itself.
OWN = {"--dataset", "--pretrain", "--resume", "--test", "--prefix", "--name_prefix", "--reverse", "--epochs",
       "--start_epoch", "--retrieval", "--gpu", "--local_rank", "--local-rank", "--world-size", "--rank",
       "--multiprocessing-distributed", "--second_view", "--center_crop", "--five_crop", "--ten_crop", "--dirname",
       "--config", "--print-completion"}
KS = ("1", "5", "10", "20", "50")


@dataclass
class Plan:
    """What is run, and what comes out.

    models: the final checkpoints, by stream. results: by stream ("both" for their fusion) and evaluation, the file and
    the key in it (None for all of it).
    """

    planner: Planner
    models: dict[str, str] = field(default_factory=dict)
    results: dict[str, dict[str, tuple[str, str | None]]] = field(default_factory=dict)


def make_parser() -> Parser:
    """The options."""
    parser = Parser(__doc__)
    parser.topic("data")("--dataset", default="ucf101", metavar="NAME", help="dataset name without suffix")
    add_clips(parser)
    add_roots(parser, None, None)  # not given, each script has its own
    add = parser.topic("method")
    add("--cycles", type=whole_number, default=2, metavar="N", help="cycles of co-training; 0 evaluates InfoNCE")
    add("--moco-k", type=positive_int, default=2048, metavar="K", help="queue length, in clips")
    add = parser.topic("training")
    add("--batch_size", type=positive_int, default=16, metavar="CLIPS", help="clips per process and step of "
        "pretraining (classifiers: 32 per GPU, or as --probe_options and --finetune_options say)")
    add("--seed", type=seed, default=0, help="seed of every step")
    for name, (epochs, _) in EPOCHS.items():
        add(f"--{name}_epochs", type=positive_int, default=epochs, metavar="EPOCHS",
            help=f"epochs of {name}, as published unless given; its schedule is scaled alike")
    for name, script in EXTRA.items():
        add(f"--{name}_options", type=words, default=words(DEFAULT_EXTRA.get(name, "")), metavar="'OPTIONS'",
            help=f"more options of {script}, quoted")
    add = parser.topic("checkpoints")
    add("--infonce_rgb", type=Path, metavar="CKPT", help="take this checkpoint instead of training InfoNCE on RGB")
    add("--infonce_flow", type=Path, metavar="CKPT", help="the same for flow")
    parser.topic("evaluation")("--skip", nargs="+", default=[], choices=EVALUATIONS, help="evaluations to leave out")
    add = parser.topic("hardware")
    add("--gpus", "--nproc_per_node", type=positive_int, default=1, metavar="N",
        help="processes of a pretraining (torchrun), and GPUs of a classifier")
    add("-j", "--workers", type=whole_number, default=8, metavar="PROCESSES", help="loader processes; 0 loads in the "
        "main process")
    add = parser.topic("output")
    add("--out", type=Path, metavar="FOLDER", help="work folder, of all that is made (default: runs/DATASET)")
    add("--dry_run", action="store_true", help="print the commands and which of them are done, and run nothing")
    return parser


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The options, checked."""
    args = make_parser().parse_args(joined(sys.argv[1:] if argv is None else argv))
    spec = catalog.parse(args.dataset)
    if spec.base != args.dataset:
        raise OptionError(f"--dataset {args.dataset} has a suffix: give the plain name, {spec.base}, of which both "
                          "streams are used")
    args.out = (args.out or Path("runs", args.dataset)).resolve()
    return args


def words(text: str) -> list[str]:
    """A converter for argparse: the options in a quoted string."""
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be taken apart ({error})") from error
    own = [part for part in parts if part.partition("=")[0] in OWN]
    if own:
        raise argparse.ArgumentTypeError(f"{own[0]} is set by cotrain.py itself")
    return parts


def joined(argv: Sequence[str]) -> list[str]:
    """The command line with quoted options tied to what they belong to, so that their dashes are no option's."""
    quoted, left = {f"--{name}_options" for name in EXTRA}, iter(argv)
    return [f"{word}={next(left, '')}" if word in quoted else word for word in left]


def make_plan(args: Namespace) -> Plan:
    """All steps. Raises what the scripts would raise for settings that cannot work."""
    common = ["--net", args.net, "--seq_len", str(args.seq_len), "--ds", str(args.ds), "--img_dim", str(args.img_dim),
              "--seed", str(args.seed), "-j", str(args.workers)]
    roots = {f"--{name}": str(Path(path).resolve()) for name in ("data_root", "split_root")
             if (path := getattr(args, name)) is not None}
    plan = Plan(Planner(args.out, common=common, roots=roots, processes=args.gpus))
    plan.models = co_train(plan.planner, args, start_models(plan.planner, args))
    for evaluation in EVALUATIONS:
        if evaluation not in args.skip:
            evaluate(plan, args, evaluation)
    return plan


def training_words(args: Namespace, name: str) -> list[str]:
    """Options of a training that are its own: its schedule, and those of the quoted string."""
    schedule = scheduled(getattr(args, f"{name}_epochs"), EPOCHS[name][1])
    return [*schedule, *getattr(args, f"{name}_options")]


def view_words(args: Namespace, stream: str = "flow") -> list[str]:
    """What tells a script that the second stream is not flow; those of RGB alone refuse it."""
    return [] if stream == "RGB" or args.second_view == "flow" else ["--second_view", args.second_view]


def start_models(planner: Planner, args: Namespace) -> dict[str, str]:
    """The InfoNCE checkpoint of each stream, given or to be trained."""
    models = {}
    for stream, suffix in STREAMS.items():
        given = getattr(args, f"infonce_{stream.lower()}")
        if given is not None and not given.is_file():
            raise CheckpointError(f"there is no checkpoint {given}: check --infonce_{stream.lower()}")
        models[stream] = str(given.resolve()) if given is not None else planner.pretrain(
            f"InfoNCE {stream}", NCE, "--dataset", f"{args.dataset}{suffix}-2clip", *view_words(args, stream),
            "--batch_size", str(args.batch_size), "--moco-k", str(args.moco_k), *training_words(args, "infonce"))
    return models


def co_train(planner: Planner, args: Namespace, models: Mapping[str, str]) -> dict[str, str]:
    """The models after all cycles: in each the RGB one is mined for in flow, then the flow one by the new RGB one."""
    models = dict(models)
    mining = ["--dataset", f"{args.dataset}-2stream-2clip", *view_words(args), "--batch_size", str(args.batch_size),
              "--moco-k", str(args.moco_k), *training_words(args, "coclr")]
    for cycle in range(1, args.cycles + 1):
        for own, other, kind, reverse in ALTERNATION:
            models[own] = planner.pretrain(f"cycle {cycle} {own}", COCLR, *mining, *reverse, "--name_prefix",
                                           f"Cycle{cycle}-{kind}", "--pretrain", models[own], models[other])
    return models


def evaluate(plan: Plan, args: Namespace, evaluation: str) -> None:
    """Add an evaluation of both final models and of their fusion."""
    planner, made = plan.planner, []
    for stream, suffix in STREAMS.items():
        name, dataset, model = f"{evaluation} {stream}", args.dataset + suffix, plan.models[stream]
        if evaluation == "retrieval":
            made.append(planner.retrieve(name, dataset, model, *view_words(args, stream)))
            result: tuple[str, str | None] = (f"{made[-1]}/{dataset}_recall.json", None)
        else:
            made.append(planner.classify(name, dataset, model, *view_words(args, stream),
                                         *CLASSIFIER_WORDS[evaluation], *training_words(args, evaluation)))
            result = (f"{made[-1]}-acc-ten.json", "ten")
        plan.results.setdefault(stream, {})[evaluation] = result
    sources = [plan.results[stream][evaluation][0] for stream in STREAMS]
    both = f"results/{evaluation}_both.json"
    plan.results.setdefault("both", {})[evaluation] = (both, "both")
    mode, streams = ("s", made) if evaluation == "retrieval" else ("c", [f"{path}-prob-ten.json" for path in made])
    planner.merge(f"{evaluation} both", both, args.dataset, mode, sources, streams)


def collect(plan: Plan) -> dict[str, dict[str, dict[str, float]]]:
    """The numbers of all evaluations, in percent: {stream: {evaluation: {"1": R@1 or top-1, "5": ...}}}."""
    def read(file: str, key: str | None) -> dict[str, float]:
        content = read_json(plan.planner.out / file)
        return content if key is None else content[key]
    return {stream: {evaluation: read(*place) for evaluation, place in columns.items()}
            for stream, columns in plan.results.items()}


def results_table(numbers: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The numbers as a table: R@k of the retrieval, top-1 of probe and finetuning with ten crops."""
    used = [name for name in EVALUATIONS if any(name in columns for columns in numbers.values())]
    columns = [(name, k) for name in used for k in (KS if name == "retrieval" else KS[:1])]
    heads = [f"R@{k}" if name == "retrieval" else f"{name}, ten crops" for name, k in columns]
    rows = [[stream, *(f"{row[name][k]:.2f}" for name, k in columns)] for stream, row in numbers.items()]
    return table(["percent", *heads], mark_best(rows))


def report(plan: Plan, args: Namespace) -> None:
    """Show the results and write them: results.json and results.txt in the work folder."""
    numbers, out = collect(plan), plan.planner.out
    lines = [results_table(numbers)] if numbers else []
    lines += ["", *(f"{stream:5}{out / path}" for stream, path in plan.models.items())]
    write_json(out / "results.json", {
        "dataset": args.dataset, "cycles": args.cycles, "seed": args.seed, "models": plan.models, "results": numbers,
        "commands": {step.name: step.shell for step in plan.planner.steps}})
    (out / "results.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    say("")
    for block in lines:
        say(block, paint=paint_table if numbers and block == lines[0] else None)
    say(f"all numbers: {out / 'results.json'}")
    next_commands.show([found for path in plan.models.values()
                        for found in next_commands.after_evaluations((out / path).parents[1])])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the plan, or with ``--dry_run`` print it."""
    args = parse(argv)
    plan = make_plan(args)
    steps, out = plan.planner.steps, plan.planner.out
    if args.dry_run:
        say(as_script(steps, out))
    for check in plan.planner.data_checks.values():
        check()
    if args.dry_run:
        return 0
    with Runner(out).open() as runner:
        say(f"{sum(step.done for step in steps)} of {len(steps)} steps are done; what runs is printed, to be used in "
            f"{out}")
        runner.run(steps)
    report(plan, args)
    return 0


if __name__ == "__main__":
    launch.run(main)
