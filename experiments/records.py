"""What was run in a folder of the experiment: of each step its command, its seconds, and the code's version.

So results tell the commands that made them, and a step that was made by another command is not taken for this one's.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cotrain_plan import ROOT
from eval.report import read_json, write_json
from utils.errors import OptionError
from utils.pipeline import Runner, Step
from utils.provenance import code_version

FILE = "steps.json"


def shown(step: Step) -> str:
    """A step's command, with $ROOT for the repository."""
    return step.shell.replace(str(ROOT), "$ROOT")


def read(out: Path) -> dict[str, dict[str, Any]]:
    """{step: {"command", "seconds", "commit"}} of a folder."""
    path = out / FILE
    return read_json(path) if path.is_file() else {}


def add(out: Path, steps: Iterable[Step], times: Mapping[str, float]) -> None:
    """Remember those of the steps that were run; one that was stopped before took the sum of its runs.

    Args:
        times: seconds by name.
    """
    found, commit = read(out), code_version().get("commit")
    for step in steps:
        if step.name in times:
            before = found.get(step.name, {}).get("seconds", 0.0)
            found[step.name] = {"command": shown(step), "seconds": round(before + times[step.name], 1),
                                "commit": commit}
    write_json(out / FILE, found)


def check(out: Path, steps: Iterable[Step]) -> None:
    """Nothing, unless a step is done that was done by another command.

    Raises:
        OptionError: it was.
    """
    recorded = read(out)
    for step in steps:
        before = recorded.get(step.name, {}).get("command")
        if before is not None and before != shown(step) and step.done:
            was, now = _differing(before, shown(step))
            raise OptionError(f"{out}: {step.name!r} was made with {was}, and would be with {now} now: take another "
                              "--out, or remove that folder")


def _differing(one: str, two: str) -> tuple[str, str]:
    """What two commands do not share, by option."""
    options = [re.findall(r"--\S+(?: (?!--)\S+)*|\S+", command) for command in (one, two)]
    first, second = ([word for word in words if word not in other]
                     for words, other in (options, reversed(options)))
    return " ".join(first) or "fewer options", " ".join(second) or "fewer options"


def run(runner: Runner, steps: list[Step], at_once: int = 1) -> None:
    """Run what is left of steps in the runner's folder, and remember it, also where one fails or is stopped.

    Args:
        at_once: so many side by side. Raises as :meth:`Runner.run` does, and as :func:`check`.
    """
    check(runner.out, steps)
    try:
        runner.run(steps, at_once)
    finally:
        add(runner.out, steps, runner.times)
