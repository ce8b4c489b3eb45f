"""Options from a YAML file: ``name: value``, by the flags' names, as words of a command line.

Every value is taken as the text it is written as, and goes through the flag's own converter: 1e-3, 010 and no mean in
the file what they mean on the command line.
"""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

import yaml

from utils.errors import OptionError

NOTHING = ("", "~", "null")  # written without quotes: as if the option were not there
ON, OFF = ("true", "yes", "on"), ("false", "no", "off")


def words_of(path: str, actions: Sequence[argparse.Action]) -> dict[str, tuple[int, list[str]]]:
    """What a file says: for each flag, as argparse names it in its complaints, the line and the command line's words.

    Args:
        actions: of the options that may be in the file.

    Raises:
        OptionError: the file cannot be read, or has what is no option, or an option twice or in the wrong form.
    """
    known = {name: action for action in actions for flag in action.option_strings
             for name in (flag.lstrip("-"), action.dest)}
    found: dict[str, tuple[int, list[str]]] = {}
    for key, value in _entries(path):
        line = key.start_mark.line + 1
        place = f"{path}, line {line}"
        if not isinstance(key, yaml.ScalarNode):
            raise OptionError(f"{place} has a list or table in the place of an option's name")
        if key.value not in known:
            near = difflib.get_close_matches(key.value, sorted(known), n=1, cutoff=0.0) or ["none"]
            raise OptionError(f"{place}: there is no option {key.value!r:.100}, the nearest name is {near[0]}")
        action = known[key.value]
        name = "/".join(action.option_strings)
        if name in found:
            raise OptionError(f"{place}: {key.value} is there twice, also in line {found[name][0]}: leave one of them")
        empty = isinstance(value, yaml.ScalarNode) and value.style is None and value.value in NOTHING
        found[name] = line, [] if empty else _words(action, value, f"{place}: {key.value}")
    return found


def _entries(path: str) -> list[tuple[yaml.Node, yaml.Node]]:
    """Keys and values of the file, in their order."""
    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise OptionError(f"--config {path} cannot be read ({error.strerror}): check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = ""
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
            where = f" (line {error.problem_mark.line + 1}: {error.problem})"
        raise OptionError(f"--config {path} is not a YAML file{where}: it should have lines like batch_size: 16"
                          ) from error
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise OptionError(f"--config {path} should have lines like batch_size: 16, by the flags' names")
    return node.value


def _words(action: argparse.Action, value: yaml.Node, place: str) -> list[str]:
    flag = action.option_strings[-1]
    many = isinstance(action.nargs, int) or action.nargs in ("*", "+")
    texts = [each.value for each in value.value] if isinstance(value, yaml.SequenceNode) else [value.value]
    if not all(isinstance(text, str) for text in texts) or (isinstance(value, yaml.SequenceNode) and not many):
        raise OptionError(f"{place} takes {'a list of values' if many else 'one value'}, and no "
                          f"{'list of lists' if many else 'list'} or table")
    if action.nargs == 0:
        if texts[0].lower() not in (*ON, *OFF):
            raise OptionError(f"{place} is a flag: it takes true or false, not {texts[0]!r:.100}")
        return [flag] if texts[0].lower() in ON else []
    if not many:
        return [f"{flag}={texts[0]}"]
    if not texts and action.nargs == "+":
        return []  # which no command line can say
    odd = next((text for text in texts if text.startswith("-") and not text[1:2].isdigit()), None)
    if odd is not None:
        raise OptionError(f"{place}: {odd!r:.100} looks like a flag: write ./{odd[:50]} for a file of that name")
    return [flag, *texts]
