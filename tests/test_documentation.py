"""What README, docs/ and recipes/README.md point to is there: links, anchors, pictures, files, objects and options."""

import contextlib
import importlib
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from documented import PAGES, ROOT

import cotrain
import main_coclr
import main_nce
from eval import feature_linear_probe, merge_2stream_prob
from eval import options as classifier
from experiments import run
from process_data.src import prepare, write_csv
from scripts import draw_gallery

DOCS = ROOT / "docs"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
FILE = re.compile(r"`([\w./-]+\.(?:py|sh|sbatch|toml|yml|md))`")
FLAG = re.compile(r"(?<![\w-])(--[A-Za-z][\w-]*)")
FOUND_ELSEWHERE = {"dataset/lmdb_dataset.py", "utils/utils.py"}  # of CoCLR, and not here
HELPS = {"main_nce": lambda: main_nce.parse(["--help"]), "main_coclr": lambda: main_coclr.parse(["--help"]),
         "cotrain": lambda: cotrain.parse(["--help"]), "classifier": lambda: classifier.parse(["--help"], ""),
         "probe": lambda: feature_linear_probe.make_parser().parse_args(["--help"]),
         "merge": lambda: merge_2stream_prob.parse(["--help"]),
         "prepare": prepare.main, "write_csv": write_csv.main,
         "experiment": lambda: run.parse(["--help"]), "gallery": lambda: draw_gallery.parse(["--help"])}


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names by which a page's headings are linked to, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads)


def broken(page: Path, text: str) -> list[str]:
    """The links of a text on a page that lead nowhere; those to other servers are not followed."""
    found = []
    for link in LINK.findall(text):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def is_there(path: str, name: str) -> bool:
    """Whether `path:name` is an object of this project."""
    try:
        found = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_pictures_and_anchors_lead_somewhere(page):
    assert broken(page, prose(page)) == []


def test_the_check_of_links_can_fail():
    page = DOCS / "glossary.md"
    text = "[a](mining.md) ![b](no.png) [c](mining.md#nowhere) [d](mining.md#without-labels) [e](../../x) [f](#data)"
    assert broken(page, text) == ["no.png", "mining.md#nowhere", "../../x"]


def test_every_page_is_in_the_index():
    listed = set(LINK.findall(prose(DOCS / "README.md")))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_places_in_the_code_are_there(page):
    places = PLACE.findall(page.read_text())
    assert [f"{path}:{name}" for path, name in places if not is_there(path, name)] == []


def test_every_term_of_the_glossary_has_a_place_in_the_code():
    assert not is_there("model/cascade.py", "cascade") and not is_there("model/nothing.py", "cascade_topk")
    rows = [line for line in (DOCS / "glossary.md").read_text().splitlines() if line.startswith("|")]
    terms = [row for row in rows if not row.startswith(("| term", "|---"))]
    assert len(terms) > 40 and all(PLACE.search(row.split("|")[-2]) for row in terms)


def test_our_files_that_the_page_for_users_of_coclr_names_are_there():
    table = (DOCS / "from_coclr.md").read_text()
    named = set(FILE.findall(table)) - FOUND_ELSEWHERE
    shortened = {"convert_video_to_lmdb.py": "process_data/src", "write_csv.py": "process_data/src"}
    assert [name for name in sorted(named) if not (ROOT / shortened.get(name, "") / name).is_file()] == []
    assert all(not (ROOT / name).exists() for name in FOUND_ELSEWHERE)


@pytest.fixture
def options(capsys, monkeypatch) -> set[str]:
    """Every option of the entry scripts, as their help names it."""
    monkeypatch.setattr(sys, "argv", ["script", "--help"])
    for show in HELPS.values():
        with contextlib.suppress(SystemExit):
            show()
    return set(FLAG.findall(capsys.readouterr().out))


@pytest.mark.parametrize("page", ["from_coclr.md", "glossary.md", "own_videos.md", "mining.md", "data.md",
                                  "training.md", "evaluation.md"])
def test_flags_that_pages_name_are_options(page, options):
    assert "--cascade" in options and "--nonsense" not in options
    others = {"--nproc_per_node", "--max-restarts", "--signal", "--logdir"}  # of torchrun, SLURM and TensorBoard
    assert set(FLAG.findall(prose(DOCS / page))) - options - others == set()
