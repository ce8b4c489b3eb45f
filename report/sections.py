"""The parts of the page: each is made, or says in one line why it is not and which command would make it."""

import json
import shlex
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import launch
from dataset import catalog
from eval.knn import single_stream_name
from report import class_mining, confusion, curves, feature_map, mining_gallery, results, retrieval_gallery, strips
from report.run_files import RunFiles, read_run
from utils.console import one_line


@dataclass
class Section:
    """A part of the page. content: for the template, None where there is none. missing: why; command: what would make
    it."""

    identity: str
    title: str
    content: Any = None
    missing: str = ""
    command: str = ""


@dataclass
class Report:
    """All that a page tells. data: what its script shows. warnings: what was left out of it, and why."""

    run: RunFiles
    other: RunFiles | None
    sections: list[Section] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    store: strips.Strips = field(default_factory=strips.Strips)
    warnings: list[str] = field(default_factory=list)


def collect(args: Namespace) -> Report:
    """Make every section of a run. args: of the command, see ``__main__``."""
    run = read_run(args.run)
    report = Report(run, read_run(args.against) if args.against else None)
    report.warnings = run.notes
    _tables(report)
    _curves(report)
    found = _retrieval(report, args)
    _mining(report, args)
    _classes(report)
    _confusion(report, args, found)
    _map(report, found)
    report.store.budget -= len(json.dumps(report.data))
    report.store.make()
    report.warnings += [f"{count} film strip{'s' * (count > 1)} could not be read: {reason}"
                        for reason, count in report.store.failed.items()]
    if report.store.left_out:
        report.warnings.append(f"{report.store.left_out} film strips are left out, since the page would become too "
                               "large: take a smaller --clips")
    return report


def attempt(report: Report, section: Section, make: Callable[[], Any]) -> Any:
    """What ``make`` returns; where it cannot, the section says why, the report goes on, and this is None."""
    try:
        return make()
    except (*launch.USER_ERRORS, OSError) as error:
        section.missing = one_line(str(error), 600)
        report.warnings.append(f"{section.title}: {section.missing}")
        return None


def _tables(report: Report) -> None:
    section = Section("results", "Results")
    report.sections.append(section)
    own, beside = (results.read_results(run, report.warnings) if run else [] for run in (report.run, report.other))
    section.content = results.tables(own, beside) or None
    if section.content is None:
        section.missing = "No evaluation has left results in this run folder."
        section.command = retrieval_command(report.run)


def _curves(report: Report) -> None:
    charts = curves.draw(report.run, report.other)
    section = Section("curves", "Curves", charts or None)
    if not charts:
        section.missing = "There is no metrics.jsonl in this run folder, or it has no epoch yet; training writes it."
    report.data["charts"] = [chart.values for chart in charts]
    report.sections.append(section)


def _retrieval(report: Report, args: Namespace) -> retrieval_gallery.Retrieved | None:
    section, run = Section("retrieval", "Retrieval gallery"), report.run
    report.sections.append(section)
    places = retrieval_gallery.find(run, args.dataset)
    if not places:
        section.missing, section.command = "No retrieval has left features of this run.", retrieval_command(run)
        return None
    found = attempt(report, section, lambda: retrieval_gallery.load(*places[0], args.clips))
    if found is None:
        section.command = retrieval_command(run)
        return None
    notes: list[str] = []
    data_root = run.root("data_root", args.data_root, str(found.made_from.get("data_root", "")))
    source = retrieval_gallery.frames(found, data_root, notes)
    report.data["retrieval"] = retrieval_gallery.cards(found, source, report.store)
    report.warnings += notes
    section.content = {"found": found, "right": float(found.hits[:, 0].float().mean()), "notes": notes,
                       "others": [f"{run.shown(folder)} ({name})" for folder, name in places[1:]]}
    return found


def _mining(report: Report, args: Namespace) -> None:
    run = report.run
    if not run.mines:
        return
    section = Section("mining", "Mining gallery")
    report.sections.append(section)
    if run.checkpoint is None:
        section.missing = "There is no checkpoint in model/ any more, and with it no network to mine with."
        return
    if not run.options:
        section.missing = "run.json does not tell the run's options, and with them how it mines."
        return
    if not args.mining_clips:
        section.missing = "It was not asked for (--mining_clips 0)."
        section.command = f"python -m report {shlex.quote(args.run)} --mining_clips 64"
        return
    roots = [run.root(name, getattr(args, name)) for name in ("data_root", "split_root")]
    looked = attempt(report, section, lambda: mining_gallery.look(
        mining_gallery.options(run.options, *map(str, roots)), str(run.checkpoint), args.mining_clips))
    if looked is None:
        return
    streams = strips.sources(looked.args.dataset, looked.args.second_view, roots[0], train=True)
    report.data["mining"] = mining_gallery.cards(looked, streams, report.store)
    counts = len(looked.queries)
    section.content = {"looked": looked, "recall": sum(query.recall for query in looked.queries) / counts,
                       "chance": sum(query.chance for query in looked.queries) / counts,
                       "checkpoint": run.shown(run.checkpoint)}


def _classes(report: Report) -> None:
    if not report.run.mines:
        return
    found = class_mining.read(report.run, report.other)
    section = Section("classes", "Class mining recall", found)
    if found is None:
        section.missing = ("metrics.jsonl has no class mining recall: training writes it after every epoch that mined, "
                           "once the queue is full.")
    report.sections.append(section)


def _confusion(report: Report, args: Namespace, found: retrieval_gallery.Retrieved | None) -> None:
    section = Section("confusion", "Confusion matrix")
    section.content = confusion.find(report.run, report.run.root("split_root", args.split_root,
                                                                 str(catalog.SPLIT_ROOT)), found,
                                     report.warnings) or None
    if section.content is None:
        section.missing = "There are neither probabilities of a classifier nor features of a retrieval."
        section.command = retrieval_command(report.run)
    report.data["confusion"] = [
        {"classes": each.classes, "cells": sorted((*pair, count) for pair, count in each.counts.items())}
        for each in section.content or []]
    report.sections.append(section)


def _map(report: Report, found: retrieval_gallery.Retrieved | None) -> None:
    section = Section("map", "Map of the features")
    report.sections.append(section)
    if found is None:
        section.missing, section.command = "It needs the features of a retrieval.", retrieval_command(report.run)
        return
    section.content = feature_map.draw(found)


def retrieval_command(run: RunFiles) -> str:
    """The command that makes features of the run's newest checkpoint, as far as its options are known; to be given in
    the repository's root."""
    options = run.options
    words = ["python", "eval/main_classifier.py"]
    try:
        dataset = single_stream_name(str(options["dataset"]), bool(options.get("reverse")))
        words += ["--dataset", dataset]
        if dataset.endswith("-f") and options.get("second_view", "flow") != "flow":
            words += ["--second_view", str(options["second_view"])]
    except (KeyError, *launch.USER_ERRORS):
        words += ["--dataset", "DATASET"]
    for name in ("net", "seq_len", "ds", "img_dim"):
        if name in options:
            words += [f"--{name}", str(options[name])]
    for name in ("data_root", "split_root"):
        if name in options:
            words += [f"--{name}", str(run.root(name, None).resolve())]
    tested = run.checkpoint.resolve() if run.checkpoint else "CKPT"
    return shlex.join([*words, "--test", str(tested), "--retrieval"])
