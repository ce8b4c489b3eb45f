"""Compare results with published ones.

    python -m tools.verify ckpt/log-pretrain/RUN runs/ucf101 2stream.json

Takes run folders, work folders of cotrain.py, and JSON files of results. The published numbers and their tolerances are
in docs/evaluation.md, "Numbers to expect". Exit code: 0 if every number is within the tolerance of its published one,
1 if any is not, 2 if there is nothing to compare.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.report.run_reader import Run, read_run
from utils import launch
from utils.console import say, table
from utils.errors import OptionError
from utils.files import read_json, read_text
from utils.parser import Parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "evaluation.md"
DATASETS = {3783: "ucf101", 1530: "hmdb51"}  # by the number of test videos of split 1
METHODS = {"infonce": "InfoNCE", "ubernce": "UberNCE", "coclr": "CoCLR"}
NAMES = {"retrieval": "retrieval R@", "probe": "probe top-", "finetune": "finetune top-"}
ROUNDING = 1e-9


class Published(NamedTuple):
    """A row of the table of published numbers; values in percent."""

    training: str  # such as "CPR on ucf101, cycle 2"
    measure: str
    value: float
    tolerance: float


class Result(NamedTuple):
    """The measured numbers of a training."""

    training: str  # named as in the table, "" if unknown
    values: dict[str, float]  # in percent, by measure
    note: str = ""


def read_table() -> list[Published]:
    """Read the published numbers."""
    row = re.compile(r"^\| (\w+ on [^|]*) \| ([^|]*) \| ([\d.]+) \| ([\d.]+) \|", re.MULTILINE)
    return [Published(training, measure, float(value), float(tolerance))
            for training, measure, value, tolerance in row.findall(read_text(PAGE))]


def read(path: Path) -> Result:
    """Read a run folder, a work folder of cotrain.py, or a file of results.

    Raises:
        OptionError: it is none of these.
        CheckpointError: a file is damaged.
    """
    if path.is_dir() and not (path / "results.json").is_file():
        return _read_run(read_run(path))
    content = read_json(path / "results.json" if path.is_dir() else path)
    if "cycles" in content:
        return _read_cotrain(content)
    if "both" in content:
        return Result("", _merged(content))
    run = read_run(path.parent)
    return Result(_training(run), _evaluation(run, path))


def _read_cotrain(content: Mapping[str, Any]) -> Result:
    dataset, cycles = content["dataset"], content["cycles"]
    method = "CPR" if any("--cascade" in command for command in content["commands"].values()) else "CoCLR"
    values: dict[str, float] = {}
    for stream, evaluations in content["results"].items():
        for evaluation, numbers in evaluations.items():
            values |= _named(numbers, f"{dataset} {stream}", evaluation)
    return Result(f"{method} on {dataset}, cycle {cycles}" if cycles else f"InfoNCE on {dataset}", values)


def _read_run(run: Run) -> Result:
    recall, classes = ([100 * epoch[name] for epoch in run.epochs.values() if name in epoch]
                       for name in ("recall", "cmr_median"))
    values = {"mining recall, first epoch": recall[0]} if recall else {}
    epochs, done = run.options.get("epochs"), 1 + max(run.epochs, default=-1)
    finished = epochs in (None, done)
    if recall and finished:
        values["mining recall, last epoch"] = recall[-1]
    if classes and finished:
        values["class mining recall, median"] = classes[-1]
    for path in reversed([*run.files("*_recall.json"), *run.files("*-acc-ten.json")]):  # the newest last
        values |= _evaluation(run, path)
    return Result(_training(run), values, "" if finished else f"not finished: {done} of {epochs} epochs")


def _evaluation(run: Run, path: Path) -> dict[str, float]:
    """Read the numbers of a retrieval, a ten-crop test, or a two-stream fusion."""
    content, dataset, evaluation = read_json(path), path.name.removesuffix("_recall.json"), "retrieval"
    if "both" in content:
        return _merged(content)
    if path.name.endswith("-acc-ten.json") and run.is_classifier:
        content, dataset = content["ten"], run.options["dataset"]
        evaluation = "probe" if run.options["train_what"] == "last" else "finetune"
    elif not path.name.endswith("_recall.json"):
        raise OptionError(f"{path} holds no results to compare: give *_recall.json, *-acc-ten.json, the "
                          "output of merge_2stream_prob.py, or a folder")
    stream = "flow" if dataset.endswith("-f") else "RGB"
    return _named(content, f"{dataset.removesuffix('-f')} {stream}", evaluation)


def _merged(content: Mapping[str, Any]) -> dict[str, float]:
    """Read the numbers of merge_2stream_prob.py, whose number of videos identifies the dataset."""
    evaluation, dataset = "retrieval" if "50" in content["both"] else "finetune", DATASETS.get(content["videos"])
    return {name: value for stream in ("RGB", "flow", "both")
            for name, value in _named(content[stream], f"{dataset} {stream}", evaluation).items()}


def _named(numbers: Mapping[str, float], place: str, evaluation: str) -> dict[str, float]:
    return {f"{place} {NAMES[evaluation]}{k}": float(value) for k, value in numbers.items()}


def _training(run: Run) -> str:
    """Name a run's pretraining from its options."""
    options = run.options
    if run.is_classifier:
        start = run.working_folder / options["pretrain"]
        return _training(read_run(start.parent)) if start.is_file() and start.parent.name == "model" else ""
    if options.get("model") not in METHODS:
        return ""
    cycle = re.match(r"Cycle(\d)", options["name_prefix"])
    return (f"{'CPR' if options.get('cascade') else METHODS[options['model']]} on {options['dataset'].split('-')[0]}"
            + (f", cycle {cycle[1]}" if cycle else ""))


def compare(path: Path, published: Sequence[Published]) -> int:
    """Print a result beside the published numbers of its training (of any, if unknown); return the exit code.

    CoCLR's numbers are lower bounds for CPR where no number for CPR was published.
    """
    result = read(path)
    lines: list[list[str]] = []
    held: dict[str, bool] = {}
    for name, value in result.values.items():
        rows = [row for row in published if row.measure == name]
        own = [(row, math.inf) for row in rows if _same(row.training.replace("CoCLR", "CPR"), result.training)]
        own = [(row, row.value + row.tolerance) for row in rows if _same(row.training, result.training)] or own
        for row, high in own:
            holds = row.value - row.tolerance - ROUNDING <= value <= high + ROUNDING
            held[name] = held.get(name, False) or holds  # if the training is unknown, one match is enough
            lines.append([name, f"{'>= ' if high == math.inf else ''}{row.value:.1f}", f"{row.tolerance:.1f}",
                          f"{value:.2f}", "holds" if holds else "differs", row.training])
    say(f"{path}: {result.training or 'training unknown'}{f', {result.note}' if result.note else ''}")
    if not lines:
        say('nothing to compare: no published number matches (docs/evaluation.md, "Numbers to expect")')
        return 2
    say(table(["percent", "published", "tolerance", "found", "", "by"], lines))
    return int(not all(held.values()))


def _same(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)  # a cycle may be unknown, or not published


def make_parser() -> Parser:
    """Define the options."""
    parser = Parser(description=__doc__)
    parser.add_argument("results", nargs="+", metavar="RUN_OR_RESULT", type=Path, help="run folder, work folder of "
                        "cotrain.py, or JSON file of results")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare each result, and return the highest exit code."""
    published = read_table()
    return max(compare(path, published) for path in make_parser().parse_args(argv).results)


if __name__ == "__main__":
    launch.run(main)
