"""Write one HTML page about a run: options, curves, results, galleries, confusion matrix and a map of the features.

    python -m tools.report ckpt/log-pretrain/RUN
    python -m tools.report ckpt/log-pretrain/RUN --against ckpt/log-pretrain/ANOTHER_RUN --out page.html

RUN may also be the run folder of a linear probe or a finetuning (log-eval-PREFIX/RUN), or a folder inside a run, to
show only the evaluations there (RUN/model/feature). The page says what is missing, and why. See docs/report.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from engine.options import DATA_ROOT, SPLIT_ROOT, positive_int, whole_number
from tools import pages
from tools.pages import number
from tools.report import galleries, results
from tools.report.run_reader import FEATURES, Run, read_run
from utils import launch
from utils.console import inline, one_line, say, warn
from utils.errors import OptionError, UserError
from utils.parser import Parser

RETRIEVE = "run eval/main_classifier.py --test CHECKPOINT --retrieval first"


@dataclass(frozen=True)
class Section:
    """A section of the page: content for the template ``name``.html, or why it is missing."""

    name: str
    title: str
    content: Any = None
    missing: str = ""


class Report:
    """Everything on a run's page; the keywords are the options of the command."""

    def __init__(self, run: Run, other: Run | None = None, *, clips: int = 200, mining_clips: int = 16,
                 dataset: str | None = None, data_root: str | None = None, split_root: str | None = None) -> None:
        self.run, self.other, self.clips, self.mining_clips = run, other, clips, mining_clips
        self.roots = {"data_root": data_root, "split_root": split_root}
        self.strips, self.sections = galleries.Strips(), list[Section]()
        self.warnings = list(run.notes)  # what could not be shown, and why
        self.features = run.files(f"{dataset or '*'}{FEATURES}")
        if dataset and not self.features:
            raise OptionError(f"{run.asked} has no features of {dataset}: check --dataset")
        self.results = results.read_results(run, self.warnings)
        self._add("results", "Results", self._results)
        self._add("curves", "Curves", self._curves)
        self._add("retrieval", "Retrieval gallery", self._retrieval)
        if "topk" in run.options or any(run.lines("mining")):
            self._add("mining", "Mining gallery", self._mining)
            self._add("classes", "Class mining recall", self._classes)
        self._add("confusion", "Confusion matrix", self._confusion)
        self._add("map", "Map of the features", lambda: galleries.feature_map(self.found))
        self.warnings += [f"{count} film strip{'s' * (count > 1)} could not be read: {reason}"
                          for reason, count in self.strips.failed.items()]
        self.warnings = list(dict.fromkeys(self.warnings))

    def _add(self, name: str, title: str, make: Callable[[], Any]) -> None:
        """Add a section; one that cannot be made says why, and the report goes on."""
        try:
            self.sections.append(Section(name, title, make()))
        except (UserError, OSError) as error:
            self.sections.append(Section(name, title, missing=one_line(str(error), 600)))

    @cached_property
    def found(self) -> galleries.Retrieved:
        """The newest features of a retrieval."""
        if not self.features:
            raise UserError(f"This run has no retrieval features: {RETRIEVE}.")
        return galleries.load(self.features[0].parent, self.features[0].name.removesuffix(FEATURES))

    def _root(self, option: str, default: str) -> str:
        return self.roots[option] or str(self.run.working_folder / self.run.options.get(option, default))

    def _results(self) -> list[results.Result]:
        second = results.read_results(self.other, self.warnings) if self.other else []
        found = [*self.results, *(replace(result, what=f"{result.what}, second run") for result in second)]
        if not found:
            raise UserError(f"This run folder has no evaluation results: {RETRIEVE}.")
        return sorted(found, key=lambda result: result.what)

    def _curves(self) -> list[dict[str, Any]]:
        if charts := results.draw(self.run, self.other):
            return charts
        raise UserError("This run folder has no metrics.jsonl, or no epoch is in it yet; training writes it.")

    def _retrieval(self) -> dict[str, Any]:
        made_from = self.found.query.made_from
        data_root = self._root("data_root", made_from.get("data_root", DATA_ROOT))
        frames = {part: source for part in ("test", "train") for source in galleries.sources(
            self.found.dataset, made_from.get("second_view", "flow"), data_root, part).values()}
        if not frames:
            self.warnings.append(f"no film strips: {data_root} has no LMDB of {self.found.dataset}, name the folder of "
                                 "the LMDBs with --data_root")
        return {"found": self.found, "right": float(self.found.hits[:, 0].float().mean()),
                "cards": galleries.retrieval_cards(self.found, self.clips, frames, self.strips)}

    def _mining(self) -> dict[str, Any]:
        path = self.run.checkpoint
        if path is None or not self.run.options:
            raise UserError("It needs a checkpoint in model/ and the options in run.json.")
        if not self.mining_clips:
            raise UserError("It was switched off (--mining_clips 0).")
        options = {**self.run.options, "data_root": self._root("data_root", DATA_ROOT),
                   "split_root": self._root("split_root", SPLIT_ROOT)}
        found = galleries.mining_gallery(options, path, self.mining_clips, self.strips)
        return {"checkpoint": self.run.shown(path), **found}

    def _classes(self) -> dict[str, Any]:
        lines = [line for line in self.run.lines("mining") if line.get("classes")]
        if lines:
            return max(lines, key=lambda line: line["epoch"])
        raise UserError("metrics.jsonl has no class mining recall: training writes it after each epoch that mined.")

    def _confusion(self) -> list[dict[str, Any]]:
        matrices = results.confusions(self.run, self._root("split_root", SPLIT_ROOT), self.warnings)
        return matrices if matrices and not self.features else [*matrices, results.of_neighbours(self.found)]

    def tiles(self) -> list[tuple[str, str, str]]:
        """Return the headline numbers: name, value and description."""
        found = []
        for name in ("R@1", "top-1"):
            if rows := [result for result in self.results if name in result.scores]:
                best = max(rows, key=lambda result: result.scores[name])
                found.append((name, f"{best.scores[name]:.1f} %", best.what))
        last = {name: value for values in self.run.epochs.values() for name, value in values.items()}
        chance = f"; chance {number(last['chance'])}" if "chance" in last else ""
        names = {"recall": ("PMR", f"positive mining recall, last epoch{chance}"),
                 "cmr_median": ("CMR", "median class mining recall, last epoch"),
                 "loss": ("loss", "training, last epoch")}
        return found + [(name, number(last[key]), what) for key, (name, what) in names.items() if key in last]

    def write(self, path: Path) -> int:
        """Write the page, and return its size in bytes."""
        plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
        figures = {each.name: each.content for each in self.sections if each.name in ("curves", "confusion", "map")}
        return pages.write(path, "report.html", report=self, run=self.run, second=self.other or self.run,
                           tiles=self.tiles(), plotly=Markup(plotly), figures=figures, strips=self.strips.images)


def make_parser() -> Parser:
    """Build the option parser."""
    parser = Parser(prog="python -m tools.report", description=__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="run folder, or one inside it, to show only its evaluations")
    add = parser.topic("data")
    add("--data_root", metavar="FOLDER", help="folder of the LMDB files (default: the run's)")
    add("--split_root", metavar="FOLDER", help="folder of the splits (default: the run's)")
    add("--dataset", metavar="NAME", help="dataset whose features to show, if there are several (default: the newest)")
    add = parser.topic("output")
    add("--out", metavar="FILE", help="the page (default: RUN_DIR/report.html)")
    add("--against", metavar="RUN_DIR", help="a second run to compare with")
    add("--clips", type=positive_int, default=200, metavar="CLIPS", help="maximum of clips in the retrieval gallery")
    add("--mining_clips", type=whole_number, default=16, metavar="CLIPS", help="training clips in the mining "
        "gallery; three networks embed each of them (0: no gallery)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, and print which sections it has."""
    args = make_parser().parse_args(argv)
    run, other = read_run(args.run), read_run(args.against) if args.against else None
    out = Path(args.out or Path(args.run) / "report.html")
    if out.is_dir() or not out.parent.is_dir():
        raise OptionError(f"--out {out} is a folder, or its folder does not exist: name a file")
    report = Report(run, other, clips=args.clips, mining_clips=args.mining_clips, dataset=args.dataset,
                    data_root=args.data_root, split_root=args.split_root)
    size = report.write(out)
    for warning in report.warnings:
        warn(warning)
    made = [section.title.lower() for section in report.sections if section.content]
    say(f"sections: {', '.join(made) or 'only the options'}")
    for section in report.sections:
        if not section.content:
            say(inline(f"missing: {section.title.lower()}. {section.missing}"))
    say(inline(f"{size / 1e6:.1f} MB, open it in a browser: file://{out.resolve()}"))
    return 0


if __name__ == "__main__":
    launch.run(main)
