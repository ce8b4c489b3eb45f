"""What the page of a run shows: its sections, each with its content or the reason why there is none."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from engine.options import DATA_ROOT, SPLIT_ROOT
from tools import pages
from tools.pages import number
from tools.report import curves, galleries, mining, results
from tools.report.galleries import Strips, sources
from tools.report.run_reader import FEATURES, Run
from utils.console import one_line
from utils.errors import OptionError, UserError

RETRIEVE = "run eval/main_classifier.py --test CHECKPOINT --retrieval first"


@dataclass(frozen=True)
class Section:
    """A part of the page: content for the template of its name, or why there is none."""

    name: str
    title: str
    content: Any = None
    missing: str = ""


class Report:
    """All that the page of a run shows.

    Args:
        run: the run.
        other: a second run to compare with.
        clips: most test clips in the retrieval gallery.
        mining_clips: training clips that mine, 0 for no mining gallery.
        dataset: whose features to show, None for the newest.
        data_root, split_root: folders of LMDBs and splits, None for the run's.

    Raises:
        OptionError: there are no features of the dataset that was asked for.
    """

    def __init__(self, run: Run, other: Run | None = None, *, clips: int = 200, mining_clips: int = 16,
                 dataset: str | None = None, data_root: str | None = None, split_root: str | None = None) -> None:
        self.run, self.other, self.clips, self.mining_clips = run, other, clips, mining_clips
        self.roots = {"data_root": data_root, "split_root": split_root}
        self.strips, self.sections = Strips(), list[Section]()
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
        self.strips.make()
        self.warnings += [f"{count} film strip{'s' * (count > 1)} could not be read: {reason}"
                          for reason, count in self.strips.failed.items()]

    def _add(self, name: str, title: str, make: Callable[[], Any]) -> None:
        """Add a section; where it cannot be made it says why, and the report goes on."""
        try:
            self.sections.append(Section(name, title, make()))
        except (UserError, OSError) as error:
            self.sections.append(Section(name, title, missing=one_line(str(error), 600)))

    @cached_property
    def found(self) -> galleries.Retrieved:
        """The newest features of a retrieval."""
        if not self.features:
            raise UserError(f"No retrieval has left features of this run: {RETRIEVE}.")
        return galleries.load(self.features[0].parent, self.features[0].name.removesuffix(FEATURES))

    def _root(self, option: str, default: str) -> str:
        return self.roots[option] or str(self.run.working_folder / self.run.options.get(option, default))

    def _results(self) -> list[results.Result]:
        beside = results.read_results(self.other, self.warnings) if self.other else []
        found = [*self.results, *(replace(result, what=f"{result.what}, second run") for result in beside)]
        if not found:
            raise UserError(f"No evaluation has left results in this run folder: {RETRIEVE}.")
        return sorted(found, key=lambda result: result.what)

    def _curves(self) -> list[dict[str, Any]]:
        if charts := curves.draw(self.run, self.other):
            return charts
        raise UserError("There is no metrics.jsonl in this run folder, or it has no epoch yet; training writes it.")

    def _retrieval(self) -> dict[str, Any]:
        data_root = self._root("data_root", self.found.made_from.get("data_root", DATA_ROOT))
        second_view = self.found.made_from.get("second_view", "flow")
        frames = {part: source for part in ("test", "train")
                  for source in sources(self.found.dataset, second_view, data_root, part).values()}
        if not frames:
            self.warnings.append(f"no film strips: {data_root} has no LMDB of {self.found.dataset}, name the folder of "
                                 "the LMDBs with --data_root")
        return {"found": self.found, "right": float(self.found.hits[:, 0].float().mean()),
                "cards": galleries.retrieval_cards(self.found, self.clips, frames, self.strips)}

    def _mining(self) -> dict[str, Any]:
        path = self.run.checkpoint
        if path is None or not self.run.options:
            raise UserError("It needs a checkpoint in model/, and the options in run.json.")
        if not self.mining_clips:
            raise UserError("It was switched off (--mining_clips 0).")
        options = {**self.run.options, "data_root": self._root("data_root", DATA_ROOT),
                   "split_root": self._root("split_root", SPLIT_ROOT)}
        return {"checkpoint": self.run.shown(path)} | mining.gallery(options, path, self.mining_clips, self.strips)

    def _classes(self) -> dict[str, Any]:
        lines = [line for line in self.run.lines("mining") if line.get("classes")]
        if lines:
            return max(lines, key=lambda line: line["epoch"])
        raise UserError("metrics.jsonl has no class mining recall: training writes it after each epoch that mined.")

    def _confusion(self) -> list[dict[str, Any]]:
        matrices = results.confusions(self.run, self._root("split_root", SPLIT_ROOT), self.warnings)
        return matrices if matrices and not self.features else [*matrices, results.of_neighbours(self.found)]

    def tiles(self) -> list[tuple[str, str, str]]:
        """Return the run at a glance: name, value, and what it is of."""
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
