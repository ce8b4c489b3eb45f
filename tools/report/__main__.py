"""Write one HTML page about a training, or about a whole run of cotrain.py: verdict, results, curves, galleries, maps.

    python -m tools.report ckpt/log-pretrain/RUN
    python -m tools.report runs/mine                                   # the --out of cotrain.py
    python -m tools.report ckpt/log-pretrain/RUN --against ckpt/log-pretrain/SECOND ckpt/log-pretrain/THIRD

RUN may also be the run folder of a linear probe or a finetuning (log-eval-PREFIX/RUN), or a folder inside a run, to
show only the evaluations there (RUN/model/feature). The page says what is missing, and why. See docs/evaluation.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dataset.catalog import DATA_ROOT, SPLIT_ROOT
from engine.config import take
from engine.options import positive_int, whole_number
from tools.pictures import write_page
from tools.report import galleries, results
from tools.report.run_reader import FEATURES, TELLING, Cotraining, Run, read_cotraining, read_run, videos_of
from tools.report.verdict import Finding, better_than_random, compare, together, verdict
from utils import launch
from utils.console import inline, one_line, say, warn
from utils.errors import OptionError, UserError
from utils.parser import Parser

RETRIEVE = "run eval/main_classifier.py --test CHECKPOINT --retrieval first"


@dataclass(frozen=True)
class Choices:
    """What a page shows and where to find it; see the options of the command."""

    clips: int
    mining_clips: int
    dataset: str | None
    data_root: str | None
    split_root: str | None
    videos: str | None


class Report:
    work: Cotraining | None = None

    def __init__(self, subject: Run | Cotraining, working_folder: Path, notes: Sequence[str], out: Path,
                 choices: Choices) -> None:
        self.title, self.folder, self.choices = subject.title, subject.folder, choices
        self.strips = galleries.Strips(galleries.video_links(choices.videos or videos_of(working_folder), out))
        self.sections, self.findings = list[dict[str, Any]](), list[Finding]()
        self.tiles: list[tuple[str, results.Result, str, str]] = []  # title, row, key of its score, caption
        self.warnings = list(notes)  # what could not be shown, and why
        self.runs: dict[str, Run] = {}

    def add(self, template: str, title: str, make: Callable[..., Any], *given: Any, stream: str = "") -> Any:
        """Add a section and return its content; one that cannot be made says why, and the report goes on."""
        content, missing = None, ""
        try:
            content = make(*given)
        except (UserError, OSError) as error:
            missing = one_line(str(error), 600)
        self.sections.append({"template": template, "name": f"{template}-{stream}" if stream else template,
                              "title": f"{title} ({stream})" if stream else title, "content": content,
                              "missing": missing})
        return content

    def root(self, run: Run, option: str, default: str | Path) -> str:
        return getattr(self.choices, option) or str(run.working_folder / run.options.get(option, default))

    def features(self, run: Run) -> galleries.Retrieved:
        if files := run.files(f"{self.choices.dataset or '*'}{FEATURES}"):
            return galleries.load(files[0].parent, files[0].name.removesuffix(FEATURES))
        raise UserError(f"This run has no retrieval features: {RETRIEVE}.")

    def retrieval(self, run: Run) -> dict[str, Any]:
        found = self.features(run)
        data_root = self.root(run, "data_root", found.query.made_from.get("data_root", DATA_ROOT))
        frames = {part: source for part in ("test", "train") for source in galleries.sources(
            found.dataset, found.query.made_from.get("second_view", "flow"), data_root, part).values()}
        if not frames:
            self.warnings.append(f"no film strips: {data_root} has no LMDB of {found.dataset}, name the folder of "
                                 "the LMDBs with --data_root")
        return {"found": found, "right": float(found.hits[:, 0].float().mean()), "folder": run.shown(found.folder),
                "chance": results.chance(found.query.labels, found.gallery.labels, 1),
                "cards": galleries.retrieval_cards(found, self.choices.clips, frames, self.strips)}

    def map(self, run: Run) -> dict[str, Any]:
        return galleries.feature_map(self.features(run), self.strips.files)

    def write(self, path: Path) -> None:
        self.warnings += [f"{count} film strip{'s' * (count > 1)} could not be read: {reason}"
                          for reason, count in self.strips.failed.items()]
        plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
        figures = {each["name"]: each["content"] for each in self.sections if each["template"] in ("curves", "map")}
        write_page(path, "report.html", report=self, plotly=Markup(plotly), figures=figures, telling=TELLING,
                   run=next(iter(self.runs.values()), None), others=dict(list(self.runs.items())[1:]))


class RunReport(Report):
    def __init__(self, run: Run, others: Iterable[Run], out: Path, choices: Choices) -> None:
        super().__init__(run, run.working_folder, run.notes, out, choices)
        self.runs = named([run, *others])
        if choices.dataset and not run.files(f"{choices.dataset}{FEATURES}"):
            raise OptionError(f"{run.asked} has no features of {choices.dataset}: check --dataset")
        self.findings = verdict(run)
        found = {name: results.read_results(each) for name, each in self.runs.items()}
        self.add("results", "Results", _rows, found)
        self.add("curves", "Curves", results.draw, {name: [(0, each)] for name, each in self.runs.items()})
        self.add("retrieval", "Retrieval gallery", self.retrieval, run)
        if "topk" in run.options or any(run.lines("mining")):
            self.add("mining", "Mining gallery", self._mining, run)
        self.add("map", "Map of the features", self.map, run)
        self._summarize(run, next(iter(found.values())))

    def _mining(self, run: Run) -> dict[str, Any]:
        path = run.checkpoint
        if path is None or not run.options:
            raise UserError("It needs a checkpoint in model/ and the options in run.json.")
        if not self.choices.mining_clips:
            raise UserError("It was switched off (--mining_clips 0).")
        options = {**run.options, "data_root": self.root(run, "data_root", DATA_ROOT),
                   "split_root": self.root(run, "split_root", SPLIT_ROOT)}
        return {"checkpoint": run.shown(path),
                **galleries.mining_gallery(options, path, self.choices.mining_clips, self.strips)}

    def _summarize(self, run: Run, rows: Sequence[results.Result]) -> None:
        """Fill in the headline numbers, and what retrieval adds to the verdict."""
        for name in ("R@1", results.LABEL_FREE["second_clip"], "top-1"):
            if scored := [row for row in rows if name in row.scores]:
                best, title = max(scored, key=lambda row: row.scores[name]), name.removesuffix(", %")
                self.tiles.append((title, best, name, best.what))
                if name in best.beside:
                    other, base = best.beside[name]
                    self.findings.append(compare(f"Are the features better than {other}?", title, best.scores[name],
                                                 other, base, best.videos))


def _rows(found: Mapping[str, Sequence[results.Result]]) -> list[results.Result]:
    rows = [row if len(found) == 1 else replace(row, of=f"{name}: {row.of}")
            for name, each in found.items() for row in each]
    if not rows:
        raise UserError(f"This run folder has no evaluation results: {RETRIEVE}.")
    return sorted(rows, key=lambda row: row.what)


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """Name runs by their titles; runs of the same title also by the first two options in which they differ."""
    found: dict[str, Run] = {}
    for number, run in enumerate(runs, start=1):
        same = [each for each in runs if each.title == run.title]
        differ = [name for name in TELLING if len({str(each.options.get(name)) for each in same}) > 1][:2]
        name = ", ".join([run.title, *(f"{option} {run.options.get(option, 'unknown')}" for option in differ)])
        found[f"{name} (run {number})" if name in found else name] = run
    return found


class CotrainReport(Report):
    def __init__(self, work: Cotraining, out: Path, choices: Choices) -> None:
        notes = [note for run in work.runs.values() for note in run.notes]
        super().__init__(work, work.folder, notes, out, choices)
        self.work = work
        labels = None
        tested = work.content.get("test_videos", 1)  # without any, there is nothing to retrieve
        last = {step.rpartition(" ")[2]: run for step, run in work.runs.items() if tested and not run.is_classifier}
        for stream, run in last.items():
            shown = self.add("retrieval", "Retrieval gallery", self.retrieval, run, stream=stream)
            if shown and shown["found"].has_labels:
                labels = shown["found"].query.labels, shown["found"].gallery.labels
        for stream, run in last.items():
            self.add("map", "Map of the features", self.map, run, stream=stream)
        rows = self.add("results", "Results", results.of_cotraining, work, labels)
        self.add("curves", "Curves", results.draw, *_series(work))
        self.sections.sort(key=lambda section: section["template"] not in ("results", "curves"))
        self.findings = [*better_than_random(work.content["results"], len(labels[0]) if labels else None),
                         *together({step: verdict(run) for step, run in work.runs.items()})]
        for row in rows or []:
            name = next(iter(row.scores))
            self.tiles.append((row.what, row, name, name.removesuffix(", %")))


def _series(work: Cotraining) -> tuple[dict[str, list[tuple[int, Run]]], list[tuple[int, str]]]:
    """Put the trainings of each stream one after the other; also return where each phase ("cycle 1") begins."""
    found: dict[str, list[tuple[int, Run]]] = {}
    marks, end = [], 0
    for phase, steps in groupby(work.runs.items(), key=lambda step: step[0].rpartition(" ")[0]):
        start = end
        marks.append((start, phase))
        for step, run in steps:
            found.setdefault(step.rpartition(" ")[2], []).append((start, run))
            end = max([end, *(start + line.get("done", 0) for line in run.metrics)])
    return found, marks


def make_parser() -> Parser:
    parser = Parser(prog="python -m tools.report", description=__doc__)
    parser.add_argument("run", metavar="RUN_DIR", help="run folder, a folder inside it, or work folder of cotrain.py")
    add = parser.topic("data")
    add("--data_root", metavar="FOLDER", help="folder of the LMDB files (default: the run's)")
    add("--split_root", metavar="FOLDER", help="folder of the splits (default: the run's)")
    add("--dataset", metavar="NAME", help="dataset whose features to show, if there are several (default: the newest)")
    add("--videos", metavar="FOLDER", help="the videos themselves, to play on a click (default: cotrain.py's --videos)")
    add = parser.topic("output")
    add("--out", metavar="FILE", help="the page (default: RUN_DIR/report.html)")
    add("--against", metavar="RUN_DIR", nargs="+", default=[], help="other runs to show beside it, at most five")
    add("--clips", type=positive_int, default=200, metavar="CLIPS", help="maximum of clips in a retrieval gallery")
    add("--mining_clips", type=whole_number, default=16, metavar="CLIPS", help="in the mining gallery; 0: no gallery")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    out = Path(args.out or Path(args.run) / "report.html")
    if args.out and (out.is_dir() or not out.parent.is_dir()):
        raise OptionError(f"--out {out} is a folder, or its folder does not exist: name a file")
    if len(args.against) >= results.LINES:
        raise OptionError(f"--against {' '.join(args.against)}: no chart shows more than {results.LINES} lines, so "
                          f"give {results.LINES - 1} runs at most")
    work = read_cotraining(args.run)
    if work and args.against:
        raise OptionError(f"{args.run} is the work folder of cotrain.py: --against compares run folders, such as "
                          f"{next(iter(work.runs.values())).folder}")
    choices = take(Choices, vars(args))
    report = (CotrainReport(work, out, choices) if work else
              RunReport(read_run(args.run), map(read_run, args.against), out, choices))
    report.write(out)
    for warning in report.warnings:
        warn(warning)
    made = [section["title"].lower() for section in report.sections if section["content"]]
    missing = [f"missing: {section['title'].lower()}. {section['missing']}" for section in report.sections
               if not section["content"]]
    for line in [*report.findings, f"sections: {', '.join(made) or 'only the options'}", *missing,
                 f"{out.stat().st_size / 1e6:.1f} MB, open it in a browser: file://{out.resolve()}"]:
        say(inline(str(line)))
    return 0


if __name__ == "__main__":
    launch.run(main)
