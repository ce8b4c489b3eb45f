"""What the pages point to exists: links, anchors, pictures, objects in the code, files and options."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest
from documented import PAGES, ROOT

from eval import options as classifier
from utils import errors

DOCS = ROOT / "docs"
ALL_PAGES = [*PAGES, ROOT / "CHANGELOG.md", *sorted((DOCS / "research").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
FILE = re.compile(r"`([\w./-]+\.(?:py|sh|sbatch|toml|yml|md))`")
FLAG = re.compile(r"(?<![\w-])(--[A-Za-z][\w-]*)")
OF_COCLR = {"dataset/lmdb_dataset.py", "utils/utils.py"}  # files of the released code that are not here
OF_OTHERS = {"--nproc_per_node", "--nnodes", "--max-restarts", "--signal", "--logdir", "--pdb"}  # of other programs


REPORTED = {"warn", *(name for name in vars(errors) if name.endswith("Error"))}  # what makes a warning or a refusal


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the names by which a page's headings are linked to, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads)


def is_there(path: str, name: str) -> bool:
    """Return whether `path:name` is an object of this project."""
    try:
        found = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not re.match(r"https?:", link):
            assert target.exists() and target.is_relative_to(ROOT), link
            assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index():
    listed = set(LINK.findall(prose(DOCS / "README.md")))
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_places_in_the_code_exist(page):
    places = PLACE.findall(page.read_text())
    assert [f"{path}:{name}" for path, name in places if not is_there(path, name)] == []


def test_every_term_has_a_place_in_the_code():
    assert not is_there("model/cascade.py", "cascade") and not is_there("model/nothing.py", "cascade_topk")
    page = (DOCS / "how_it_works.md").read_text()
    terms = re.search(r"^\| term .*\n\|[-|]*\n((?:\|.*\n)+)", page, re.MULTILINE)[1].splitlines()
    assert len(terms) > 40 and all(PLACE.search(row.split("|")[-2]) for row in terms)


def test_files_named_for_users_of_coclr_exist():
    _, _, section = (DOCS / "training.md").read_text().partition("## From CoCLR or CPR code\n")
    named = set(FILE.findall(section)) - OF_COCLR
    assert len(named) > 12 and [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    assert all(not (ROOT / name).exists() for name in OF_COCLR)


def test_flags_on_the_pages_are_options():
    scripts = [path.relative_to(ROOT) for path in ROOT.glob("[!.]*/**/*.py") if path.parts[-2] != "tests"]
    makers = [importlib.import_module(".".join(path.with_suffix("").parts)).make_parser
              for path in (*scripts, *map(Path, ("main_nce.py", "main_coclr.py", "cotrain.py")))
              if "def make_parser() ->" in (ROOT / path).read_text()]
    parsers = [classifier.make_parser(""), *(make() for make in makers)]
    parsers += [each for parser in parsers for each in getattr(parser._commands, "choices", {}).values()]
    options = {flag for parser in parsers for flag in parser._option_string_actions} | OF_OTHERS
    assert "--cascade" in options and "--nonsense" not in options
    pages = [page for page in PAGES if page.name != "README.md"]
    assert {page.name: unknown for page in pages if (unknown := set(FLAG.findall(prose(page))) - options)} == {}


def fixed(message: ast.expr) -> str:
    """Return the fixed text of a message in the code, with a mark where something is put in."""
    if isinstance(message, ast.BinOp):
        return fixed(message.left) + fixed(message.right)
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in parts)


def triples(text: str) -> set[str]:
    words = re.sub(r"[^\w -]", "", " ".join(text.lower().split())).split()
    return {" ".join(words[i:i + 3]) for i in range(len(words) - 2)}


def test_every_warning_and_refusal_is_on_the_page_on_troubles():
    page = triples((DOCS / "troubleshooting.md").read_text())
    found = {}
    for path in (*ROOT.glob("*.py"), *ROOT.glob("[!.]*/**/*.py")):
        if {"tests", "experiments", "scripts", "benchmarks"} & set(path.relative_to(ROOT).parts):
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in REPORTED and call.args:
                message = fixed(call.args[0])
                found[message] = [triples(part) for part in message.split("\0")]
    assert len(found) > 150
    assert [message for message, parts in found.items() if any(parts) and not any(part & page for part in parts)] == []
