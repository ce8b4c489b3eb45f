"""The argument parser of every script: options by topic with their defaults, a file of options, shell completion."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from utils.errors import OptionError

TOPICS = ("data", "method", "training", "evaluation", "checkpoints", "hardware", "output", "general")
CONFIG = "--config"


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are OptionErrors of one line, and which knows no abbreviations.

    Options are added by topic, ``parser.topic("data")("--dataset", ...)``. The description's first paragraph begins
    the help; the others, which hold examples, end it. ``--config`` takes options from a file, before those of the
    command line, which win; it leaves no trace in the namespace.
    """

    def __init__(self, description: str | None = None, **settings: Any) -> None:
        head, _, rest = (description or "").strip().partition("\n\n")
        super().__init__(description=head, epilog=rest, formatter_class=Help, allow_abbrev=False, add_help=False,
                         **settings)
        self._topics = {topic: self.add_argument_group(topic) for topic in TOPICS}
        self._of_file: dict[str, str] = {}  # what the complaints call an option -> file and line
        self._in_parts = False
        general = self.topic("general")
        general("-h", "--help", action="help", help="show this help and exit")
        general(CONFIG, action=_Read, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, metavar="FILE",
                help="take options from this YAML file, lines like batch_size: 16 by the flags' names; flags on the "
                "command line win")
        general("--print-completion", action=_Complete, dest=argparse.SUPPRESS, default=argparse.SUPPRESS,
                choices=["bash", "zsh"], help="print the completion of these options for a shell, and exit; see "
                "docs/console.md")

    def topic(self, name: str) -> Callable[..., argparse.Action]:
        """What adds an option under a topic, as ``add_argument`` does. name: one of TOPICS."""
        return self._topics[name].add_argument

    def error(self, message: str) -> NoReturn:
        """Raise an OptionError; where a value of the file is wrong, it names file and line."""
        place = self._of_file.get(message.removeprefix("argument ").partition(":")[0], "")
        self.refuse(f"{place}{message} (--help lists the options)")

    def refuse(self, message: str) -> NoReturn:
        """Raise the exception of this parser's complaints."""
        raise OptionError(message)

    def format_usage(self) -> str:
        """The required options alone: all of them are listed below."""
        return f"usage: {self._usage()}\n"

    def format_help(self) -> str:
        """The help, with a short usage."""
        self.usage = self._usage()
        return super().format_help()

    def _usage(self) -> str:
        formatter, words = self._get_formatter(), [self.prog]
        for action in self._actions:
            if action.required:
                shown = formatter._format_args(action, action.dest.upper())
                words.append(" ".join([*action.option_strings[-1:], shown]))
        return " ".join([*words, "[options]"]).replace("%", "%%")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # argparse overloads it by namespace
        """As argparse does, with the words of ``--config`` put first, and with lists of words between options, too."""
        if self._in_parts:
            return super().parse_known_args(args, namespace)
        words = list(sys.argv[1:] if args is None else args)
        if any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
            if words and words[0].partition("=")[0] == CONFIG:
                self.error(f"{CONFIG} belongs to a command: give it after the command's name")
            return super().parse_known_args(words, namespace)  # the command's own parser reads the file
        words = self._with_file(words)
        if not any(action.nargs in ("*", "+") for action in self._get_positional_actions()):
            return super().parse_known_args(words, namespace)
        self._in_parts = True  # the next line calls this method twice, for the options and for what is between them
        try:
            return self.parse_known_intermixed_args(words, namespace)
        finally:
            self._in_parts = False

    def _with_file(self, words: list[str]) -> list[str]:
        rest, paths = [], []
        left = iter(words)
        for word in left:
            name, equals, path = word.partition("=")
            if name != CONFIG:
                rest.append(word)
            elif (path := path if equals else next(left, "")):
                paths.append(path)
            else:
                self.error(f"argument {CONFIG}: expected one argument")
        if len(paths) > 1:
            self.error(f"{CONFIG} is there {len(paths)} times: give one file")
        if not paths:
            return rest
        return [*self._read(paths[0], rest), f"{CONFIG}={paths[0]}", *rest]  # an end for lists of the file

    def _read(self, path: str, given: Sequence[str]) -> list[str]:
        from utils import config_file
        actions = [action for action in self._actions if action.option_strings and not isinstance(action, NOT_IN_FILES)]
        try:
            found = config_file.words_of(path, actions)
        except OptionError as error:
            self.refuse(str(error))
        flags = {word.partition("=")[0] for word in given}
        self._of_file = {name: f"{path}, line {line}: " for name, (line, _) in found.items()
                         if not flags & set(name.split("/"))}
        return [word for _, words in found.values() for word in words]


class _Read(argparse.Action):
    """``--config``, which is read before the others are."""

    def __call__(self, *_: object) -> None:
        pass


class _Complete(argparse.Action):
    """Prints the completion for a shell, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        from utils import completion  # what it needs takes its time to load
        print(completion.script(parser, values))
        parser.exit()


class Help(argparse.RawDescriptionHelpFormatter):
    """Adds to the help of each option that takes a value what it is without."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if "(default:" in text or action.nargs == 0 or action.required or action.default is argparse.SUPPRESS:
            return text
        value = action.default
        shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
        return f"{text} (default: {shown.replace('%', '%%') or 'none'})"


NOT_IN_FILES = (_Read, _Complete, argparse._HelpAction)
