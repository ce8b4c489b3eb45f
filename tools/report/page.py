"""The page of a training, and that of a whole run of cotrain.py: their sections, headline numbers and verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dataset.catalog import DATA_ROOT, SPLIT_ROOT
from tools import pages
from tools.report import galleries, results
from tools.report.run_reader import FEATURES, TELLING, Cotraining, Run, videos_of
from tools.report.verdict import Finding, better_than_random, compare, together, verdict
from utils.console import one_line
from utils.errors import OptionError, UserError

RETRIEVE = "run eval/main_classifier.py --test CHECKPOINT --retrieval first"


@dataclass(frozen=True)
class Section:
    """A section of the page: content for a template of that name, or why it is missing."""

    template: str
    title: str
    content: Any
    missing: str
    name: str  # its id


class Report:
    """A page; the keywords are the options of the command."""

    def __init__(self, title: str, folder: Path, working_folder: Path, notes: Sequence[str], *, clips: int = 200,
                 mining_clips: int = 16, dataset: str | None = None, data_root: str | None = None,
                 split_root: str | None = None, videos: str | None = None, out: Path = Path("report.html")) -> None:
        self.title, self.folder, self.dataset = title, folder, dataset
        self.clips, self.mining_clips = clips, mining_clips
        self.roots = {"data_root": data_root, "split_root": split_root}
        self.strips = galleries.Strips(galleries.video_links(videos or videos_of(working_folder), out))
        self.sections, self.findings, self.tiles = list[Section](), list[Finding](), list[tuple[str, str, str]]()
        self.warnings = list(notes)  # what could not be shown, and why
        self.work: Cotraining | None = None
        self.runs: dict[str, Run] = {}

    def add(self, template: str, title: str, make: Callable[[], Any], stream: str = "") -> Any:
        """Add a section and return its content; one that cannot be made says why, and the report goes on."""
        content, missing = None, ""
        try:
            content = make()
        except (UserError, OSError) as error:
            missing = one_line(str(error), 600)
        name = f"{template}-{stream}" if stream else template
        self.sections.append(Section(template, f"{title} ({stream})" if stream else title, content, missing, name))
        return content

    def add_tile(self, title: str, row: results.Result, score: str, about: str) -> None:
        """Add a headline number, with chance or random weights beside it."""
        beside = "; {} {:.1f}".format(*row.beside[score]) if score in row.beside else ""
        self.tiles.append((title, f"{row.scores[score]:.1f} %", f"{about}{beside}"))

    def root(self, run: Run, option: str, default: str | Path) -> str:
        """Return the folder of the LMDBs or lists of a run."""
        return self.roots[option] or str(run.working_folder / run.options.get(option, default))

    def features(self, run: Run) -> galleries.Retrieved:
        """Return the newest features of a retrieval."""
        if files := run.files(f"{self.dataset or '*'}{FEATURES}"):
            return galleries.load(files[0].parent, files[0].name.removesuffix(FEATURES))
        raise UserError(f"This run has no retrieval features: {RETRIEVE}.")

    def retrieval(self, run: Run) -> dict[str, Any]:
        """Return the content of a retrieval gallery."""
        found = self.features(run)
        data_root = self.root(run, "data_root", found.query.made_from.get("data_root", DATA_ROOT))
        frames = {part: source for part in ("test", "train") for source in galleries.sources(
            found.dataset, found.query.made_from.get("second_view", "flow"), data_root, part).values()}
        if not frames:
            self.warnings.append(f"no film strips: {data_root} has no LMDB of {found.dataset}, name the folder of "
                                 "the LMDBs with --data_root")
        return {"found": found, "right": float(found.hits[:, 0].float().mean()), "folder": run.shown(found.folder),
                "chance": results.chance(found.query.labels, found.gallery.labels, 1),
                "cards": galleries.retrieval_cards(found, self.clips, frames, self.strips)}

    def map(self, run: Run) -> dict[str, Any]:
        """Return the content of a map of the features."""
        return galleries.feature_map(self.features(run), self.strips.files)

    def write(self, path: Path) -> int:
        """Write the page, and return its size in bytes."""
        self.warnings += [f"{count} film strip{'s' * (count > 1)} could not be read: {reason}"
                          for reason, count in self.strips.failed.items()]
        plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
        figures = {each.name: each.content for each in self.sections if each.template in ("curves", "map")}
        return pages.write(path, "report.html", report=self, plotly=Markup(plotly), figures=figures, telling=TELLING,
                           run=next(iter(self.runs.values()), None), others=dict(list(self.runs.items())[1:]))


class RunReport(Report):
    """The page of a run, beside others."""

    def __init__(self, run: Run, others: Sequence[Run] = (), **options: Any) -> None:
        super().__init__(run.title, run.folder, run.working_folder, run.notes, **options)
        self.runs = named([run, *others])
        if self.dataset and not run.files(f"{self.dataset}{FEATURES}"):
            raise OptionError(f"{run.asked} has no features of {self.dataset}: check --dataset")
        self.findings = verdict(run)
        found = {name: results.read_results(each, self.warnings) for name, each in self.runs.items()}
        self.add("results", "Results", partial(_results, found))
        self.add("curves", "Curves", lambda: results.draw({name: [(0, each)] for name, each in self.runs.items()}))
        self.add("retrieval", "Retrieval gallery", partial(self.retrieval, run))
        if "topk" in run.options or any(run.lines("mining")):
            self.add("mining", "Mining gallery", partial(self._mining, run))
            if run.has_labels:
                self.add("classes", "Class mining recall", partial(_classes, run))
        self.add("map", "Map of the features", partial(self.map, run))
        self._summarize(run, next(iter(found.values())))

    def _mining(self, run: Run) -> dict[str, Any]:
        path = run.checkpoint
        if path is None or not run.options:
            raise UserError("It needs a checkpoint in model/ and the options in run.json.")
        if not self.mining_clips:
            raise UserError("It was switched off (--mining_clips 0).")
        options = {**run.options, "data_root": self.root(run, "data_root", DATA_ROOT),
                   "split_root": self.root(run, "split_root", SPLIT_ROOT)}
        return {"checkpoint": run.shown(path),
                **galleries.mining_gallery(options, path, self.mining_clips, self.strips)}

    def _summarize(self, run: Run, rows: Sequence[results.Result]) -> None:
        """Fill in the headline numbers, and what retrieval adds to the verdict."""
        for name in ("R@1", results.LABEL_FREE["second_clip"], "top-1"):
            if scored := [row for row in rows if name in row.scores]:
                best, title = max(scored, key=lambda row: row.scores[name]), name.removesuffix(", %")
                self.add_tile(title, best, name, best.what)
                if name in best.beside:
                    other, base = best.beside[name]
                    self.findings.append(compare(f"Are the features better than {other}?", title, best.scores[name],
                                                 other, base, best.videos))
        last = run.last
        if run.has_labels and "recall" in last:
            self.tiles.append(("PMR", f"{pages.percent(last['recall'])} %",
                               f"positive mining recall, last epoch; chance {pages.percent(last['chance'])} %"))
        if run.has_labels and "cmr_median" in last:
            self.tiles.append(("CMR", f"{pages.percent(last['cmr_median'])} %",
                               "median class mining recall, last epoch"))
        if "loss" in last:
            self.tiles.append(("loss", pages.number(last["loss"]), "training, last epoch"))


def _results(found: Mapping[str, Sequence[results.Result]]) -> list[results.Result]:
    rows = [row if len(found) == 1 else replace(row, of=f"{name}: {row.of}")
            for name, each in found.items() for row in each]
    if not rows:
        raise UserError(f"This run folder has no evaluation results: {RETRIEVE}.")
    return sorted(rows, key=lambda row: row.what)


def _classes(run: Run) -> dict[str, Any]:
    if lines := [line for line in run.lines("mining") if line.get("classes")]:
        return lines[-1]
    raise UserError("metrics.jsonl has no class mining recall: training writes it after each epoch that mined.")


def named(runs: Sequence[Run]) -> dict[str, Run]:
    """Name runs by their titles, and those of one title by the first two options in which they differ."""
    found: dict[str, Run] = {}
    for number, run in enumerate(runs, start=1):
        same = [each for each in runs if each.title == run.title]
        told = [name for name in TELLING if len({str(each.options.get(name)) for each in same}) > 1][:2]
        name = ", ".join([run.title, *(f"{option} {run.options.get(option, 'unknown')}" for option in told)])
        found[f"{name} (run {number})" if name in found else name] = run
    return found


class CotrainReport(Report):
    """The page of a whole run of cotrain.py."""

    def __init__(self, work: Cotraining, **options: Any) -> None:
        notes = [note for run in work.runs.values() for note in run.notes]
        super().__init__(work.title, work.folder, work.folder, notes, **options)
        self.work = work
        last = {step.rpartition(" ")[2]: run for step, run in work.runs.items()}
        content = [self.add("retrieval", "Retrieval gallery", partial(self.retrieval, run), stream)
                   for stream, run in last.items()]
        for stream, run in last.items():
            self.add("map", "Map of the features", partial(self.map, run), stream)
        galleries_, self.sections = self.sections, []
        found = next((each["found"] for each in content if each and each["found"].has_labels), None)
        labels = (found.query.labels, found.gallery.labels) if found else None
        rows = self.add("results", "Results", partial(results.of_cotraining, work, labels))
        self.add("curves", "Curves", partial(results.draw, *_series(work)))
        self.sections += galleries_
        self.findings = [*better_than_random(work.content["results"], len(labels[0]) if labels else None),
                         *together({step: verdict(run) for step, run in work.runs.items()})]
        for row in rows or []:
            name = next(iter(row.scores))
            self.add_tile(row.what, row, name, name.removesuffix(", %"))
        hours = {name: f"{value:.2g}" for name, value in work.content["hours"].items() if value is not None}
        others = "".join(f"; {name} {hours[name]}" for name in ("asked", "estimated") if name in hours)
        self.tiles.append(("hours", hours["taken"], f"taken{others}"))


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
