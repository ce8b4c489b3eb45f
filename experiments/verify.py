"""Whether a finished run came to what was published.

    python -m experiments.verify RUN RECIPE

RUN is the folder of a run (ckpt/log-.../..., log-eval-.../...), for a recipe of an evaluation also the folder of a
checkpoint; RECIPE a name of recipes/ or a .toml file of that form (recipes/README.md).

Exit code: 0 if every number of the recipe holds; 1 if one does not, or the run was made otherwise; 2 if it cannot be
told: the run is not finished, results are missing (a line says which command makes them), or none was published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launch
from eval.report import table
from experiments import recipe as recipes
from experiments import run_record
from experiments.recipe import Expect, Recipe
from experiments.run_record import RunRecord, Unknown
from utils.console import say
from utils.options import Parser
from utils.resuming import YOUNGER

HOLDS, DIFFERS, UNKNOWN = "holds", "differs", "cannot tell"
ROUNDING = 1e-9


@dataclass(frozen=True)
class Finding:
    """What a run shows of a number to expect: in percent, None where it does not, and then why not."""

    expect: Expect
    found: float | None
    why: str = ""

    @property
    def verdict(self) -> str:
        """Whether it is the number to expect."""
        if self.found is None:
            return UNKNOWN
        distance = self.found - self.expect.value
        low, high = -self.expect.tolerance - ROUNDING, self.expect.tolerance + ROUNDING
        return HOLDS if low <= distance and (self.expect.side == "least" or distance <= high) else DIFFERS

    @property
    def row(self) -> list[str]:
        """Of the table."""
        least = self.expect.side == "least"
        return [self.expect.name, f"{'>= ' if least else ''}{self.expect.value:.1f}",
                f"{'-' if least else '+-'}{self.expect.tolerance:.1f}", "" if self.found is None else
                f"{self.found:.2f}", self.verdict]


def find(run: RunRecord, expect: Expect) -> Finding:
    """What a run shows of one number."""
    try:
        found = (run_record.metric(run, expect.metric, expect.at) if expect.metric else
                 run_record.result(run, expect.file, expect.key, expect.make))
    except Unknown as error:
        return Finding(expect, None, str(error))
    return Finding(expect, found)


def differences(made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Each option that something was made with otherwise, as text."""
    lines = [f"{name} is {shown(made_with[name])}, in the recipe {shown(value)}" if name in made_with else
             f"{name} is not known of it, in the recipe it is {shown(value)}"
             for name, value in wanted.items() if name not in made_with or not same(made_with[name], value)]
    if made_with.get("accept_changes"):
        lines.append("accept_changes: an earlier part of the run was made with other options")
    return lines


def changes(run: RunRecord, recipe: Recipe, findings: Sequence[Finding]) -> list[str]:
    """How the run, and the files that its numbers were found in, were made otherwise than in the recipe."""
    usual = {name: value for name, value in {**YOUNGER, "progressive": []}.items() if name in run.made_with}
    lines = differences(run.made_with, usual | recipe.options
                        | ({"processes": recipe.processes} if recipe.processes else {}))
    for name in sorted({each.expect.note for each in findings if each.expect.note and each.found is not None}):
        path = run.model / name
        lines += [f"{path}: {line}" for line in differences(run_record.note(path), recipe.evaluation)]
    return lines


def same(one: Any, other: Any) -> bool:
    """Equality, in which 1 is 1.0 but not True."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def shown(value: Any) -> str:
    """An option's value as on the command line."""
    return " ".join(map(str, value)) or "empty" if isinstance(value, list) else str(value)


def verify(folder: Path, recipe: Recipe) -> int:
    """Say what a run shows beside what a recipe expects; the exit code.

    Raises:
        OptionError, CheckpointError: the folder is no run's, or damaged.
    """
    run = run_record.read(folder, recipe.record)
    findings = [find(run, expect) for expect in recipe.expect]
    changed = changes(run, recipe, findings)
    say(f"{folder}\n{recipe.name}: {recipe.about}")
    if findings:
        say(table(["number, %", "expected", "tolerance", "found", "verdict"], [each.row for each in findings]))
    for line in changed:
        say(f"not as the recipe: {line}")
    if run.unfinished:
        say(f"not finished: {run.unfinished}")
    for each in findings:
        if each.why:
            say(f"{each.expect.name}: {each.why}")
    if recipe.absent:
        say(f"nothing to compare with: {recipe.absent}")
    verdicts = {each.verdict for each in findings}
    code = 1 if changed or DIFFERS in verdicts else 2 if run.unfinished or verdicts != {HOLDS} else 0
    say({0: "as published, within the tolerances", 2: "it cannot be told",
         1: "not as published" if DIFFERS in verdicts else "this is not a run of the recipe"}[code])
    return code


def make_parser() -> Parser:
    """The options."""
    parser = Parser(description=__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("recipe", metavar="RECIPE", help=f"one of {', '.join(recipes.names())}, or a .toml file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare one run with one recipe."""
    args = make_parser().parse_args(argv)
    return verify(args.run, recipes.load(args.recipe))


if __name__ == "__main__":
    launch.run(main)
