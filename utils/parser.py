"""The option parser of all scripts: options by topic, from the command line or a YAML file, with shell completion."""

import argparse
import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import configargparse
import shtab
import yaml
from configargparse import ConfigFileParserException

from utils.errors import OptionError

PATHS = re.compile("FOLDER|FILE|CKPT|_DIR|INDEX|CLIP|RESULT")  # in the metavar of an option that takes a path
HIDDEN = argparse.SUPPRESS  # help of an option that is accepted, but not shown
TOPICS = ("data", "method", "training", "evaluation", "checkpoints", "hardware", "output", "general")
# shtab completes the words after a command, which for us is python or torchrun: hand the rest to the script's own.
DISPATCH = """
_complete_script() {
  local i name
  for ((i = 1; i < COMP_CWORD; i++)); do
    name="${COMP_WORDS[i]##*/}" name="_shtab_${name//[^a-zA-Z0-9]/_}"
    if declare -F "$name" > /dev/null; then
      COMP_WORDS=("${COMP_WORDS[@]:i}") COMP_CWORD=$((COMP_CWORD - i))
      "$name"
      return
    fi
  done
}
complete -o bashdefault -o default -F _complete_script python python3 torchrun
"""


class _Help(argparse._HelpAction):
    """Print the help and exit: --help that of the options that matter most, --help-all of all."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for action in parser._actions if parser._main and option_string != "--help-all" else ():
            if action.dest not in (*parser._main, "help", "help_all"):
                action.help = HIDDEN
        super().__call__(parser, namespace, values, option_string)


class Parser(configargparse.ArgumentParser):
    """Parses options, and reports each mistake as a one-line OptionError.

    ``parser.topic("data")("--dataset", ...)`` adds an option. The first paragraph of the description (the script's
    docstring) opens the help, and the rest, usually examples, closes it. ``main`` names the options that ``--help``
    shows, by default all. Abbreviations are refused; dashes and underscores are the same. ``--config`` reads options
    from a YAML file; the command line wins.
    """

    def __init__(self, description: str | None = None, main: str = "", **settings: Any) -> None:
        head, _, rest = (description or "").strip().partition("\n\n")
        self._main = main.split()
        self._options: dict[str, argparse.Action] = {}  # by name, with underscores
        self._required: list[str] = []  # words of the usage
        self._commands: Any = None
        super().__init__(
            description=head, epilog=rest, allow_abbrev=False, add_help=False, usage="%(prog)s [options]",
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26),
            config_file_parser_class=OptionsFile(self._options), add_config_file_help=False, add_env_var_help=False,
            config_file_open_func=functools.partial(open, encoding="utf-8"), **settings)
        self._topics = {topic: self.add_argument_group(topic) for topic in TOPICS}
        general = self._topics["general"]
        general.add_argument("-h", "--help", action=_Help, help="show this help and exit")
        general.add_argument("--help-all", action=_Help, help="show every option and exit")
        general.add_argument("--config", is_config_file_arg=True, metavar="FILE", type=functools.partial(_path, str),
                             help="read options from this YAML file, in lines like batch_size: 16; options on the "
                             "command line win")
        shtab.add_argument_to(general, "--print-completion", preamble={"bash": DISPATCH},
                              help="print the completion script of a shell and exit; see docs/training.md")

    def topic(self, name: str) -> Callable[..., argparse.Action]:
        """Return a function that adds an option under a topic, called like ``add_argument``."""
        def add(*flags: str, help: str, **settings: Any) -> argparse.Action:
            option = self._topics[name].add_argument(*flags, help=help, **settings)
            if option.option_strings:
                self._options |= {_name(flag): option for flag in (*flags, option.dest)}
            if option.nargs != 0 and not option.required and "(default:" not in help and help != HIDDEN:
                shown = option.default if isinstance(option.default, list | tuple) else [option.default]
                text = " ".join(str(value) for value in shown if value is not None).replace("%", "%%")
                option.help = f"{help} (default: {text or 'none'})"
            return self._describe(option)
        return add

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        return self._describe(super().add_argument(*names, **settings))

    def add_subparsers(self, **settings: Any) -> Any:
        """Add commands as argparse does; each reads its own ``--config``."""
        self._commands = self._describe(super().add_subparsers(prog=self.prog, **settings))
        return self._commands

    def _describe(self, action: Any) -> Any:
        """Show a required argument in the usage; expand a path, and complete it in the shell."""
        shown = action.metavar if isinstance(action.metavar, tuple) else (action.metavar or action.dest.upper(),)
        if action.required:
            self._required += [*action.option_strings[-1:], *shown]
            self.usage = " ".join(["%(prog)s", *self._required, "[options]"])
        if action.type in (None, Path) and (action.type or PATHS.search(" ".join(shown))):
            action.complete = shtab.DIRECTORY if "FOLDER" in shown else shtab.FILE
            action.type = functools.partial(_path, action.type or str)
        return action

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse a command line, by default the program's; positional and optional arguments may mix."""
        words = list(sys.argv[1:] if args is None else args)
        if self._commands and words and words[0] in self._commands.choices:
            return self._commands.choices[words[0]].parse_args(words[1:], namespace)
        end = words.index("--") if "--" in words else len(words)
        words[:end] = map(self._spelt, words[:end])
        if sum(word.partition("=")[0] == "--config" for word in words) > 1:
            self.error("--config is given more than once: give one file")
        options = (super().parse_args if self._commands else self.parse_intermixed_args)(words, namespace)
        for name in ("config", "print_completion"):
            vars(options).pop(name, None)
        return options

    def _spelt(self, word: str) -> str:
        """Return an argument with its option as it was declared; report an option that does not exist."""
        flag, sign, value = word.partition("=")
        flags = {_name(known): known for known in self._option_string_actions}
        if flag.startswith("--") and _name(flag) in flags:
            return flags[_name(flag)] + sign + value
        if " " not in word and re.match("--?[a-zA-Z]", word) and word[:2] not in flags.values():
            near = difflib.get_close_matches(_name(flag), flags, n=1)
            self.error(f"there is no option {flag}" + (f"; the nearest is {flags[near[0]]}" if near else ""))
        return word

    def get_possible_config_keys(self, action: argparse.Action) -> list[str]:
        return list(action.option_strings[-1:])

    def error(self, message: str) -> NoReturn:
        """Raise an OptionError; if the value came from a YAML file, name the file."""
        sources = self.get_source_to_settings_dict() if message.startswith("argument ") else {}
        for source, settings in sources.items():
            kind, _, path = source.partition("|")
            for action, _ in settings.values() if kind == "config_file" else []:
                if message.startswith(f"argument {'/'.join(action.option_strings)}: "):
                    raise OptionError(f"{path}: {message}")
        message = re.sub(r"Unable to open config file: (.*)\. Error: \[Errno \d+\] ([^:]*):.*",
                         r"--config \1 cannot be read (\2): check the path", message)
        raise OptionError(f"{message} ({'--help-all' if self._main else '--help'} lists the options)")


def _path(kind: type[str] | type[Path], text: str) -> str | Path:
    """Argparse type: a path, with ~ and $VARIABLES expanded where no shell has done so (`--out=~/x`, YAML)."""
    path = os.path.expanduser(text)
    if not os.path.lexists(path):  # names of files may hold a $
        path = os.path.expandvars(path)
        if unset := re.search(r"\$\{?([A-Za-z_]\w*)", path):
            raise argparse.ArgumentTypeError(f"{text}: the environment has no variable {unset[1]}")
    return kind(path)


def _name(flag: str) -> str:
    """Return an option's name in one spelling: --moco-k -> moco_k."""
    return flag.lstrip("-").replace("-", "_")


class OptionsFile(configargparse.ConfigFileParser):
    """Reads options from YAML, each value as plain text: 1e-4, 010 and no mean what they mean on a command line."""

    def __init__(self, options: Mapping[str, argparse.Action]) -> None:
        super().__init__()
        self.options = options

    def parse(self, stream: TextIO) -> dict[str, str | list[str]]:
        """Return {an option's last flag: its text or list of texts}, without empty entries."""
        try:
            root = yaml.compose(stream, Loader=yaml.BaseLoader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigFileParserException(f"{stream.name} is not YAML ({' '.join(str(error).split())})") from error
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise ConfigFileParserException(f"{stream.name} should have lines like batch_size: 16")
        found: dict[str, str | list[str] | None] = {}
        for key, value in root.value if root else []:
            place, name = f"{stream.name}, line {key.start_mark.line + 1}", str(key.value)
            option = self.options.get(_name(name))
            if option is None:
                near = difflib.get_close_matches(_name(name), self.options, n=1, cutoff=0)
                hint = f"the nearest is {near[0]}" if near else "give --config after the command"
                raise ConfigFileParserException(f"{place}: there is no option {name!r}; {hint}")
            flag = option.option_strings[-1]
            if flag in found:
                raise ConfigFileParserException(f"{place}: {name} has been set above already: delete one of the two")
            found[flag] = _value(option, value, f"{place}: {name}")
        return {flag: value for flag, value in found.items() if value is not None}


def _value(option: argparse.Action, node: yaml.Node, place: str) -> str | list[str] | None:
    """Return an entry's text or list of texts; None if it is empty."""
    takes_list = option.nargs not in (None, 0, "?")
    if isinstance(node, yaml.SequenceNode) and takes_list and all(isinstance(item.value, str) for item in node.value):
        return [item.value for item in node.value] or (None if option.nargs == "+" else [])
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigFileParserException(f"{place} takes {'a list of values' if takes_list else 'one value'}")
    if node.style is None and node.value in ("", "~", "null"):
        return None
    if option.nargs == 0 and node.value.lower() not in ("true", "false", "yes", "no", "on", "off"):
        raise ConfigFileParserException(f"{place} takes true or false, not {node.value!r}")
    return str(node.value)
