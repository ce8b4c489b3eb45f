"""The page: one HTML file that needs nothing else, from a template, a style sheet and a script beside this module."""

import base64
import hashlib
import shlex
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from report import charts, confusion, feature_map
from report.results import Result
from report.sections import Report

FILES = resources.files("report") / "page_files"
COMMON = ("net", "dataset", "second_view", "epochs", "batch_size", "lr", "seq_len", "img_dim", "seed")
LABELLED = 30  # classes whose names fit beside a matrix


def render(report: Report) -> str:
    """The page as HTML.

    Everything that is shown is escaped; a Content-Security-Policy allows the page's own script and style alone, so
    that no network is used, whatever a name holds.
    """
    environment = Environment(loader=PackageLoader("report", "page_files"), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"number": charts.shown, "percent": lambda share: f"{100 * share:.1f}",
                            "difference": difference}
    environment.globals |= {"chart": charts, "matrix": matrix, "side": feature_map.SIDE}
    style, script = (FILES.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html").render(
        report=report, run=report.run, style=Markup(style), script=Markup(script), policy=policy(style, script),
        sections={section.identity: section for section in report.sections}, tiles=tiles(report),
        options=options(report), data=report.data, strips=report.store.images)


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy: nothing from anywhere but pictures that the page holds, this style and this script."""
    style, script = (f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
                     for text in (style, script))
    return (f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; base-uri 'none'; "
            "form-action 'none'")


def tiles(report: Report) -> list[tuple[str, str, str]]:
    """The run at a glance: name, value, what it is of."""
    found = []
    sections = {section.identity: section.content for section in report.sections}
    for table in sections["results"] or []:
        best = max(table.rows, key=lambda row: next(iter(row[0].values.values()), 0.0))[0]
        for name, value in list(best.values.items())[:1]:
            found.append((name, f"{value:.1f} %", best.what))
    last = {(line["kind"], name): value for line in report.run.journal if line["kind"] in ("epoch", "mining")
            and line.get("title") != "val" for name, value in line["values"].items()}
    for key, name, what in ((("epoch", "recall"), "PMR", "positive mining recall, last epoch"),
                            (("mining", "cmr_median"), "CMR", "median class mining recall, last epoch"),
                            (("epoch", "loss"), "loss", "training, last epoch")):
        if key in last:
            chance = last.get(("epoch", "chance")) if name == "PMR" else None
            found.append((name, charts.shown(last[key]), what + (f"; chance {charts.shown(chance)}" if chance else "")))
    return found


def options(report: Report) -> dict[str, Any]:
    """Options and environment: "short", the few that tell most; "rows", name, value and the second run's value (None
    where it is the same, or there is no second run); "starts", one dict each, the latest last."""
    own, other = report.run.options, report.other.options if report.other else None
    names = sorted({*own, *(other or {})})
    values = [(name, text(own, name), None if other is None else text(other, name)) for name in names]
    rows = [(name, value, None if beside == value else beside) for name, value, beside in values]
    return {"short": [(name, text(own, name)) for name in COMMON if name in own], "rows": rows,
            "starts": [start_of(start) for start in report.run.starts]}


def text(values: dict[str, Any], name: str) -> str:
    """An option's value as the page has it."""
    if name not in values:
        return "not there"
    value = values[name]
    return (" ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


def start_of(start: dict[str, Any]) -> dict[str, Any]:
    """What the page tells of a start of the run, all of it text."""
    code, environment, command = (start.get(name) for name in ("code", "environment", "command"))
    code, environment = (part if isinstance(part, dict) else {} for part in (code, environment))
    packages = environment.get("packages")
    version = str(code.get("commit") or code.get("package") or "unknown")
    rows = [("code", version + (", with changes that are not committed" if code.get("changed") else ""))]
    rows += [(name, text(environment, name)) for name in ("python", "system", "gpus", "threads") if name in environment]
    rows += [(name, str(version)) for name, version in packages.items()] if isinstance(packages, dict) else []
    rows += [(name, text(start, name)) for name in ("precision", "processes", "training set", "resumed_from")
             if start.get(name) is not None]
    return {"started": text(start, "started"), "rows": rows,
            "command": shlex.join(map(str, command)) if isinstance(command, list) else ""}


def difference(own: Result, other: Result | None, name: str) -> str:
    """ "+3.3": by how much a result is above the second run's; "" where that has none."""
    if other is None or name not in other.values or name not in own.values:
        return ""
    return f"{own.values[name] - other.values[name]:+.1f}"


def matrix(found: confusion.Confusion) -> dict[str, Any]:
    """Geometry of a confusion matrix: "size" of a cell, "left" margin, which is that above, too, "names" where they
    fit."""
    count = len(found.classes)
    names = found.classes if count <= LABELLED else []
    left = min(110, 10 + 6.4 * max(map(len, names))) if names else 14
    return {"size": (360 - left) / count, "left": left, "names": names}
