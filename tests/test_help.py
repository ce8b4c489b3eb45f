"""--help of every script: each option under a topic, with a text and its default, and an example that parses."""

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.settings import joined
from eval import main_classifier
from eval import options as classifier
from utils.parser import HIDDEN, TOPICS, Parser

ROOT = Path(__file__).parents[1]
FILES = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.py"))
         if not {"tests", ".venv"} & set(path.parts) and "def make_parser()" in path.read_text()]


def find_parsers() -> dict[str, Callable[[], Parser]]:
    """Return {what a command line has behind python: the function that makes its parser}."""
    made = {"eval/main_classifier.py": lambda: classifier.make_parser(main_classifier.__doc__)}
    for path in FILES:
        module = ".".join(path.with_suffix("").parts)
        make = importlib.import_module(module).make_parser
        in_package = path.parts[0] in ("tools", "experiments")
        name = f"-m {module.removesuffix('.__main__')}" if in_package else str(path)
        made[name] = make
        for command in getattr(make()._commands, "choices", ()):
            made[f"{name} {command}"] = lambda make=make, command=command: make()._commands.choices[command]
    return made


PARSERS = find_parsers()


@pytest.fixture(params=PARSERS)
def script(request, monkeypatch):
    """A script's name, its parser, and its help without line breaks inside an entry."""
    monkeypatch.setenv("COLUMNS", "100000")
    parser = PARSERS[request.param]()
    return request.param, parser, parser.format_help()


def options_of(text: str) -> dict[str, dict[str, str]]:
    """Return {topic: {last flag of an option: its entry}} of a help text."""
    sections = re.split(rf"^({'|'.join(TOPICS)}):$", text, flags=re.MULTILINE)
    return {title: {re.findall(r"(?:^|, )(--?[a-z][\w-]*)", entry)[-1]: " ".join(entry.split())
                    for entry in re.split(r"\n  (?=-)", body)[1:]}
            for title, body in zip(sections[1::2], sections[2::2], strict=True)}


def test_scripts_are_found():
    assert {"main_nce.py", "main_coclr.py", "cotrain.py", "-m tools.search index"} <= set(PARSERS) and len(PARSERS) > 12


def test_every_option_has_a_topic_a_text_and_a_default(script, capsys):
    _, parser, text = script
    shown = {flag: entry for entries in options_of(text).values() for flag, entry in entries.items()}
    options = {option for option in parser._options.values() if option.help != HIDDEN}
    assert len(shown) == len(options) + 4  # --help, --help-all, --config, --print-completion
    for option in options:
        entry = shown[option.option_strings[-1]]
        assert option.help.partition(" (default: ")[0].strip(), entry
        assert ("(default: " in entry) == (option.nargs != 0 and not option.required), entry
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    short = [flag for entries in options_of(capsys.readouterr().out).values() for flag in entries]
    main = {parser._options[name].option_strings[-1] for name in parser._main}
    assert main <= set(short) and (len(short) <= 20 or not main)


def test_the_help_ends_with_an_example_that_the_script_takes(script):
    name, parser, text = script
    examples = text[text.index("--print-completion"):].replace("\\\n", " ")
    place = re.escape(name).replace("eval/", "(?:eval/)?")  # some are started in eval/
    commands = re.findall(rf"^    (?:python|torchrun) (?:.* )?{place}((?: .*)?)$", examples, flags=re.MULTILINE)
    assert commands, examples
    for command in commands:
        words = shlex.split(command, comments=True)
        parser.parse_args(joined(words) if name == "cotrain.py" else words)
