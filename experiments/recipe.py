"""Recipes: a published training or evaluation as data, its commands, options, numbers to expect, and cost.

A recipe is a TOML file of `recipes/`, whose fields are those of the classes below; recipes/README.md explains them.
"""

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from utils.errors import OptionError
from utils.options import ROOT

FOLDER = ROOT / "recipes"
TRAINING = "run.json"  # the record of a training; an evaluation's is a note beside its features
CHOICES = {"side": ("both", "least"), "at": ("first", "last"), "work": ("train", "test")}

Option = bool | int | float | str | list


@dataclass(frozen=True)
class Expect:
    """A number to expect, in percent.

    side: "both", within the tolerance of the value; "least", not below it by more. source: where it was published.
    reason: of the tolerance. videos, spread: what the tolerance was computed from (recipes/README.md), 0 for neither.
    metric, at: it is the mean of an epoch in metrics.jsonl, of the first or last epoch that has it. file, key: or it is
    in a JSON file, by its path from the folder of the checkpoints (a pattern) and its keys. make: the command that
    writes that file; {model} stands for the folder. note: a file that says how it was made.
    """

    name: str
    value: float
    tolerance: float
    source: str
    reason: str
    side: str = "both"
    videos: int = 0
    spread: float = 0.0
    metric: str = ""
    at: str = "last"
    file: str = ""
    key: list = dataclasses.field(default_factory=list)
    make: str = ""
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """What a part of the recipe costs (experiments/cost.py). videos, epochs, batch, processes: as of benchmarks.needs.

    clips: of a video and epoch. passes: forward passes of S3D that a clip's operations are worth. work: whether it is
    measured as training or as test. samples, operations, cpu_hours, gpu_hours: what it comes to.
    """

    what: str
    work: str
    videos: int
    passes: float
    samples: int
    operations: float
    cpu_hours: float
    gpu_hours: float
    epochs: int = 1
    batch: int = 1
    processes: int = 1
    clips: int = 1


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    commands: in their order; the first one makes the run. record: what says how it was made, "run.json" or an
    evaluation's note, by its path from the folder of the checkpoints. processes: of a training, GPUs of a classifier's.
    options: those of the command that matter, as the record names them. evaluation: what the notes of numbers should
    say. absent: why there is no number to expect.
    """

    name: str
    about: str
    commands: list
    options: dict
    record: str = TRAINING
    processes: int = 0
    evaluation: dict = dataclasses.field(default_factory=dict)
    absent: str = ""
    expect: tuple[Expect, ...] = ()
    cost: tuple[Cost, ...] = ()


def names() -> list[str]:
    """The recipes that come with the code."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(recipe: str) -> Recipe:
    """A recipe, by its name or the path of its file.

    Raises:
        OptionError: there is none, or the file is damaged; in one line.
    """
    path = Path(recipe) if recipe.endswith(".toml") else FOLDER / f"{recipe}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OptionError(f"there is no recipe {recipe}: RECIPE is a .toml file, or one of {', '.join(names())}"
                          ) from error
    except OSError as error:
        raise OptionError(f"the recipe {path} cannot be read ({error.strerror}): check the path and the rights"
                          ) from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"the recipe {path} is not TOML ({error}): correct it there") from error
    found = _build(Recipe, content, str(path))
    _check(found, path)
    return found


def _check(recipe: Recipe, path: Path) -> None:
    """Raise OptionError for what no single field shows."""
    if recipe.name != path.stem:
        raise OptionError(f"{path}: its name is {recipe.name!r}, but must be that of its file, {path.stem!r}")
    if not recipe.commands:
        raise OptionError(f"{path}: commands is empty: a recipe has at least one")
    if bool(recipe.expect) == bool(recipe.absent):
        raise OptionError(f"{path}: a recipe has either a number to expect ([[expect]]) or the reason why not (absent)")
    for each in recipe.expect:
        if bool(each.metric) == bool(each.file) or (each.file and not (each.key and each.make)):
            raise OptionError(f"{path}, {each.name}: a number is found by metric, or by file, key and make")


def _build(kind: type, content: Any, where: str) -> Any:
    """A dataclass from a table of TOML. Raises OptionError for a field that is unknown, missing or of a wrong type."""
    if not isinstance(content, dict):
        raise OptionError(f"{where} is {content!r}, but must be a table of fields")
    hints = get_type_hints(kind)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise OptionError(f"{where}: there is no field {unknown[0]!r}: it is one of {', '.join(hints)}")
    needed = [field.name for field in dataclasses.fields(kind)
              if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in content]
    if missing:
        raise OptionError(f"{where}: the field {missing[0]} is missing")
    wrong = [name for name in sorted(CHOICES.keys() & content.keys()) if content[name] not in CHOICES[name]]
    if wrong:
        raise OptionError(f"{where}, {wrong[0]} is {content[wrong[0]]!r}, but must be one of "
                          f"{', '.join(CHOICES[wrong[0]])}")
    return kind(**{name: _value(hints[name], value, f"{where}, {name}") for name, value in content.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """A field's value as its type asks."""
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise OptionError(f"{where} is {value!r}, but must be a list of tables")
        return tuple(_build(get_args(hint)[0], each, f"{where} {i + 1}") for i, each in enumerate(value))
    if hint is list and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    if hint is dict and isinstance(value, dict) and all(isinstance(each, Option) for each in value.values()):
        return value
    if hint is str and isinstance(value, str):
        return value
    if hint in (int, float) and is_number(value) and value >= 0 and (hint is float or isinstance(value, int)):
        return value
    noun = {list: "a list of texts", dict: "a table of options", str: "a text", int: "a whole number of at least 0",
            float: "a number of at least 0"}[hint]
    raise OptionError(f"{where} is {value!r}, but must be {noun}")


def is_number(value: Any) -> bool:
    """Whether a value of TOML or JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf
