"""--help of every script: topics, a help text and the default of every option, and an example that parses."""

import importlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cotrain
import main_coclr
import main_nce
from eval import feature_linear_probe, main_classifier, merge_2stream_prob
from eval import options as classifier
from process_data.src import (
    check_demo,
    convert_video_to_lmdb,
    extract_ff,
    index_lmdb,
    prepare,
    render_demo,
    write_csv,
)
from utils.parser import TOPICS, Parser

ROOT = Path(__file__).parents[1]
PREPARING = (prepare, write_csv, index_lmdb, extract_ff, convert_video_to_lmdb, render_demo, check_demo)


def demo_parser() -> Parser:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module("demo").make_parser()
    finally:
        sys.path.pop(0)


def of_module(name: str) -> Callable[[], Parser]:
    """A module's options; "eval.search:index" are those of one of its commands."""
    module, _, command = name.partition(":")

    def make() -> Parser:
        place = f"{module}.__main__" if (ROOT / module.replace(".", "/") / "__main__.py").is_file() else module
        parser = importlib.import_module(place).make_parser()
        commands = [action.choices for action in parser._actions if action.choices and command in action.choices]
        return commands[0][command] if command else parser
    return make


PARSERS = {
    "main_nce.py": main_nce.make_parser, "main_coclr.py": main_coclr.make_parser, "cotrain.py": cotrain.make_parser,
    "main_classifier.py": lambda: classifier.make_parser(main_classifier.__doc__),
    "feature_linear_probe.py": feature_linear_probe.make_parser,
    "merge_2stream_prob.py": merge_2stream_prob.make_parser, "demo.py": demo_parser,
    **{f"{Path(module.__file__).name}": module.make_parser for module in PREPARING},
    **{f"{name}.py": of_module(f"scripts.{name}") for name in ("draw_cascade", "draw_gallery")},
    **{name: of_module(name) for name in ("experiments.run", "experiments.report", "experiments.verify", "report",
                                          "experiments.cost", "dataset.inspect", "benchmarks", "eval.search")},
    **{command: of_module(f"eval.search:{command}") for command in ("index", "search", "recall")}}


@pytest.fixture(params=PARSERS)
def script(request, monkeypatch):
    """A script's name, its parser, and its help on lines as long as they need."""
    monkeypatch.setenv("COLUMNS", "100000")
    parser = PARSERS[request.param]()
    return request.param, parser, parser.format_help()


def options_of(text: str) -> dict[str, dict[str, str]]:
    """{topic: {last flag of an option: the rest of its entry}} of a help text."""
    sections = re.split(rf"^({'|'.join(TOPICS)}):$", text, flags=re.MULTILINE)
    return {title: {re.findall(r"(?:^|, )(--?[a-z][\w-]*)", entry)[-1]: " ".join(entry.split())
                    for entry in re.split(r"\n  (?=-)", body)[1:]}
            for title, body in zip(sections[1::2], sections[2::2], strict=True)}


def test_every_option_is_under_a_topic_with_its_meaning_and_its_default(script):
    _, parser, text = script
    shown = {flag: entry for topic, entries in options_of(text).items() if topic in TOPICS
             for flag, entry in entries.items()}
    given = [action for action in parser._actions if action.option_strings]
    assert len(shown) == len(given) >= 3
    for action in given:
        entry = shown[action.option_strings[-1]]
        assert action.help and len(action.help.split()) > 1, entry
        takes_value = action.nargs != 0 and not action.required and action.default != "==SUPPRESS=="
        assert ("(default: " in entry) == takes_value, entry
        if takes_value and "(default: " not in action.help:  # else it says where the default comes from
            value = action.default if isinstance(action.default, list) else [action.default]
            shown_value = " ".join(map(str, value)).replace("None", "")
            assert entry.endswith(f"(default: {shown_value or 'none'})"), entry


def test_it_has_the_topics_of_the_script(script):
    name, _, text = script
    topics = list(options_of(text))
    assert topics == [topic for topic in TOPICS if topic in topics] and topics[-1] == "general"
    if name in ("main_nce.py", "main_coclr.py", "main_classifier.py"):
        assert topics == list(TOPICS)


def test_it_ends_with_an_example_that_the_script_takes(script):
    name, parser, text = script
    examples = text[text.index("--print-completion"):].replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in re.findall(
        r"^    ((?:python|torchrun) .*)", examples, flags=re.MULTILINE)]
    own = [words for words in commands if any(Path(word).name == name for word in words)]
    assert own, examples
    for words in own:
        place = next(i for i, word in enumerate(words) if Path(word).name == name)
        options = words[place + 1:]
        parser.parse_args(cotrain.joined(options) if name == "cotrain.py" else options)


def test_the_usage_names_what_is_required():
    assert merge_2stream_prob.make_parser().format_usage().endswith(
        " --prob1 RGB_FILE --prob2 FLOW_FILE [options]\n")


def test_a_default_with_a_percent_sign_is_shown(capsys):
    parser = Parser("Text.")
    parser.topic("data")("--name", default="50%s", help="some name")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "some name (default: 50%s)" in capsys.readouterr().out
