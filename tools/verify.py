"""Compare results with published ones.

    python -m tools.verify ckpt/log-pretrain/RUN runs/ucf101 2stream.json

Takes run folders, work folders of cotrain.py, and the output of merge_2stream_prob.py. The published numbers and their
tolerances are in docs/evaluation.md, "Numbers to expect". Exit code: 0 if every number is within the tolerance of its
published one, 1 if any is not, 2 if there is nothing to compare.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.report.run_reader import METHODS, Run, read_run
from utils import launch
from utils.console import say, table
from utils.errors import OptionError
from utils.files import read_json, read_text
from utils.parser import Parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "evaluation.md"
DATASETS = {3783: "ucf101", 1530: "hmdb51"}  # by the number of test videos of split 1
NAMES = {"retrieval": "retrieval R@", "probe": "probe top-", "finetune": "finetune top-"}
ROUNDING = 1e-9


class Published(NamedTuple):
    """A row of the table of published numbers, in percent."""

    training: str  # such as "CPR on ucf101, cycle 2"
    measure: str
    value: float
    tolerance: float


def read_table() -> list[Published]:
    row = re.compile(r"^\| (\w+ on [^|]*) \| ([^|]*) \| ([\d.]+) \| ([\d.]+) \|", re.MULTILINE)
    return [Published(training, measure, float(value), float(tolerance))
            for training, measure, value, tolerance in row.findall(read_text(PAGE))]


def read(path: Path) -> tuple[str, dict[str, float]]:
    """Read a run folder, a work folder of cotrain.py, or the output of merge_2stream_prob.py.

    Returns the training, named as in the table, "" if unknown, and what was measured, in percent, by measure.
    """
    file = path / "results.json" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        run = read_run(path)
        return training_of(run), dict(_measured(run))
    content = read_json(file)
    if "both" in content:  # the number of videos identifies the dataset
        dataset, training = DATASETS.get(content["videos"]), ""
        evaluation = "retrieval" if "50" in content["both"] else "finetune"
        results = {stream: {evaluation: content[stream]} for stream in ("RGB", "flow", "both")}
    elif "cycles" in content:
        dataset, results = content["dataset"], content["results"]
        method = "CPR" if any("--cascade" in command for command in content["commands"].values()) else "CoCLR"
        training = f"{method} on {dataset}, cycle {content['cycles']}" if content["cycles"] else f"InfoNCE on {dataset}"
    else:
        raise OptionError(f"{path} holds no results to compare: give a run folder, a work folder of cotrain.py, or the "
                          "output of merge_2stream_prob.py")
    return training, {name: value for stream, evaluations in results.items()
                      for evaluation, numbers in evaluations.items()
                      for name, value in _named(numbers, f"{dataset} {stream}", evaluation)}


def _measured(run: Run) -> Iterator[tuple[str, float]]:
    """Yield (measure, percent) of a run's metrics and evaluations; of repeated evaluations the newest comes last."""
    done, planned = 1 + max(run.epochs, default=-1), run.options.get("epochs")
    mined = {"mining recall, first epoch": ("recall", 0)}
    if planned in (None, done):
        mined |= {"mining recall, last epoch": ("recall", -1), "class mining recall, median": ("cmr_median", -1)}
    else:
        say(f"{run.folder} is not finished: {done} of {planned} epochs")
    for measure, (name, which) in mined.items():
        if found := [epoch[name] for epoch in run.epochs.values() if name in epoch]:
            yield measure, 100 * found[which]
    for path in reversed(run.files("*_recall.json")):
        yield from _named(read_json(path), _place(path.name.removesuffix("_recall.json")), "retrieval")
    for path in reversed(run.files("*-acc-ten.json")) if run.is_classifier else ():
        evaluation = "probe" if run.options["train_what"] == "last" else "finetune"
        yield from _named(read_json(path)["ten"], _place(run.options["dataset"]), evaluation)


def _place(dataset: str) -> str:
    return f"{dataset.removesuffix('-f')} {'flow' if dataset.endswith('-f') else 'RGB'}"


def _named(numbers: Mapping[str, float], place: str, evaluation: str) -> Iterator[tuple[str, float]]:
    return ((f"{place} {NAMES[evaluation]}{k}", float(value)) for k, value in numbers.items())


def training_of(run: Run) -> str:
    """Name a run's pretraining from its options, as the table does; "" if unknown."""
    options = run.options
    if run.is_classifier:
        start = run.working_folder / options["pretrain"]
        return training_of(read_run(start.parent)) if start.is_file() and start.parent.name == "model" else ""
    if options.get("model") not in METHODS:
        return ""
    cycle = re.match(r"Cycle(\d)", options["name_prefix"])
    return (f"{'CPR' if options.get('cascade') else METHODS[options['model']]} on {options['dataset'].split('-')[0]}"
            + (f", cycle {cycle[1]}" if cycle else ""))


def compare(path: Path) -> int:
    """Print a result beside published numbers, CoCLR's as lower bounds where CPR has none; return the exit code."""
    (training, values), published = read(path), read_table()
    lines: list[list[str]] = []
    held: dict[str, bool] = {}
    for name, value in values.items():
        rows = [row for row in published if row.measure == name]
        own = [row for row in rows if _same(row.training, training)]
        bounds = [row for row in rows if _same(row.training.replace("CoCLR", "CPR"), training)]
        for row in own or bounds:
            most = row.tolerance + ROUNDING
            holds = -most <= value - row.value <= (most if own else 100)
            held[name] = held.get(name, False) or holds  # if the training is unknown, one match is enough
            lines.append([name, f"{'' if own else '>= '}{row.value:.1f}", f"{row.tolerance:.1f}", f"{value:.2f}",
                          "holds" if holds else "differs", row.training])
    say(f"{path}: {training or 'training unknown'}")
    if not lines:
        say('nothing to compare: no published number matches (docs/evaluation.md, "Numbers to expect")')
        return 2
    say(table(["percent", "published", "tolerance", "found", "", "by"], lines))
    return int(not all(held.values()))


def _same(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)  # a cycle may be unknown, or not published


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument("results", nargs="+", metavar="RUN_OR_RESULT", type=Path, help="run folder, work folder of "
                        "cotrain.py, or output of merge_2stream_prob.py")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    return max(compare(path) for path in make_parser().parse_args(argv).results)


if __name__ == "__main__":
    launch.run(main)
