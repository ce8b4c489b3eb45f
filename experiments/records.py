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


def of_steps(out: Path, steps: Iterable[Step]) -> dict[str, dict[str, Any]]:
    """What :func:`read` has of each of these steps; of one that was not noted down, its command of today."""
    found = read(out)
    return {step.name: found.get(step.name, {"command": shown(step)}) for step in steps}


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
    steps = list(steps)
    recorded = of_steps(out, steps)
    for step in steps:
        before = recorded[step.name]["command"]
        was, now = _options(before) - _options(shown(step)), _options(shown(step)) - _options(before)
        if (was or now) and step.done:
            raise OptionError(f"{out}: {step.name!r} was made {_told(was)}, and would be {_told(now)} now: take "
                              "another --out, or remove that folder")


def _options(command: str) -> set[str]:
    """The options of a command, with their values, and its first words."""
    return set(re.findall(r"--\S+(?: (?!--)\S+)*|\S+", command))


def _told(options: set[str]) -> str:
    return f"with {' '.join(sorted(options))}" if options else "without"


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
