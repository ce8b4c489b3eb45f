"""The table of published numbers, and tools.verify on run folders made up here."""

import json
import math
import re
from pathlib import Path

import pytest

from tools import verify
from tools.verify import Published, read_table
from utils import launch

ROOT = Path(__file__).parents[1]
# As published, in percent: InfoNCE and CoCLR by CoCLR and its released files, mining and CPR by CPR.
PUBLISHED = {
    ("InfoNCE on ucf101", "ucf101 RGB retrieval"): [36.1, 52.3, 61.7, 71.0, 82.1],
    ("InfoNCE on ucf101", "ucf101 flow retrieval"): [45.2],
    ("CoCLR on ucf101, cycle 2", "ucf101 RGB retrieval"): [51.8],
    ("CoCLR on ucf101, cycle 2", "ucf101 flow retrieval"): [48.4],
    ("CoCLR on ucf101, cycle 2", "ucf101 RGB probe"): [70.2],
    ("CoCLR on ucf101, cycle 2", "ucf101 RGB finetune"): [81.4],
    ("CoCLR on k400", "ucf101 RGB finetune"): [87.9],
    ("CoCLR on k400", "ucf101 flow finetune"): [85.3],
    ("CoCLR on k400", "ucf101 both finetune"): [90.6],
    ("CoCLR on ucf101, cycle 1", "mining recall, first"): [35.2],
    ("CoCLR on ucf101, cycle 1", "mining recall, last"): [37.4],
    ("CoCLR on ucf101, cycle 1", "class mining recall,"): [77.8],
    ("CPR on ucf101, cycle 1", "mining recall, first"): [34.0],
    ("CPR on ucf101, cycle 1", "mining recall, last"): [40.3],
    ("CPR on ucf101, cycle 1", "class mining recall,"): [83.3],
    ("CPR on ucf101, cycle 2", "ucf101 both retrieval"): [56.7],
    ("CPR on ucf101, cycle 2", "hmdb51 both retrieval"): [24.4],
    ("CPR on ucf101, cycle 2", "ucf101 both finetune"): [83.8],
    ("CPR on ucf101, cycle 2", "hmdb51 both finetune"): [54.8]}


def test_the_table_has_the_published_numbers():
    found: dict[tuple[str, str], list[float]] = {}
    for row in read_table():
        found.setdefault((row.training, row.measure.rsplit(" ", 1)[0]), []).append(row.value)
    assert found == PUBLISHED


def test_tolerances_come_from_spread_and_sampling_error():
    """The variance of a share p measured on n videos is p (1 - p) / n, that of a difference twice as much."""
    for row in read_table():
        if row.measure[:6] in ("ucf101", "hmdb51"):
            videos, share = {"ucf101": 3783, "hmdb51": 1530}[row.measure[:6]], row.value / 100
            deviation = 100 * math.sqrt(2 * share * (1 - share) / videos)
            both = math.hypot(3.0 if "retrieval" in row.measure else 0.0, 2 * deviation)
            assert both <= row.tolerance + 1e-6 < both + 0.5 + 1e-6, row


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*_*.s*")), ids=lambda path: path.name)
def test_headers_of_launchers_name_cost_and_published_numbers(script):
    header = "".join(line for line in script.read_text().splitlines(keepends=True)[1:] if line.startswith("#"))
    cost, expect = (re.search(rf"^# {word}: (.*(?:\n#  .*)*)", header, re.MULTILINE) for word in ("Cost", "Expect"))
    assert cost and expect, header
    numbers = {float(number) for number in re.findall(r"\d+\.\d", expect[1])}
    assert numbers <= {row.value for row in read_table()} and (numbers or "no number" in expect[1])


TABLE = [Published("CPR on ucf101, cycle 1", "mining recall, first epoch", 30.0, 2.0),
         Published("CPR on ucf101, cycle 1", "mining recall, last epoch", 40.0, 2.0),
         Published("CoCLR on ucf101, cycle 2", "ucf101 RGB retrieval R@1", 50.0, 1.0),
         Published("InfoNCE on ucf101", "ucf101 RGB retrieval R@1", 36.0, 4.0),
         Published("CoCLR on k400", "ucf101 RGB finetune top-1", 80.0, 1.0),
         Published("CPR on ucf101, cycle 2", "ucf101 both retrieval R@1", 56.0, 4.0)]
OPTIONS = {"model": "coclr", "dataset": "ucf101-2stream-2clip", "epochs": 3, "cascade": True, "name_prefix": ""}


def make_run(folder: Path, recalls=(None, 0.31, 0.35, 0.39), first=0.495, **options) -> Path:
    """A run folder of so many epochs, and its retrieval with R@1 ``first``."""
    (folder / "model" / "feature").mkdir(parents=True)
    starts = [{"options": OPTIONS | {"dataset": "mine"}}, {"options": OPTIONS | {"epochs": len(recalls)} | options}]
    (folder / "run.json").write_text(json.dumps({"starts": starts}))  # the last start counts
    lines = [{"kind": "epoch", "title": title, "epoch": epoch, "done": 5,
              "values": {"loss": 1.0} | ({} if recall is None else {"recall": recall * factor})}
             for epoch, recall in enumerate(recalls) for title, factor in (("val", 2), ("train", 1))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "model/feature/ucf101_recall.json").write_text(json.dumps({"1": 100 * first, "5": 70.0}))
    return folder


@pytest.fixture(autouse=True)
def small_table(monkeypatch, request):
    if "path" in request.fixturenames or "capsys" in request.fixturenames:
        monkeypatch.setattr(verify, "read_table", lambda: TABLE)


def checked(capsys, *paths: Path) -> tuple[int, str]:
    """Return the exit code and the output."""
    code = launch.exit_code(lambda: verify.main([*map(str, paths)]))
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def verdicts(text: str) -> list[str]:
    """The verdict of each row of the table."""
    return re.findall(r" (holds|differs) ", text)


@pytest.mark.parametrize("recalls, first, expected", [
    ((0.28, 0.3, 0.42), 0.49, ["holds", "holds", "holds"]),  # on the edges
    ((0.279, 0.3, 0.42), 0.49, ["differs", "holds", "holds"]),
    ((0.321, 0.3, 0.421), 0.99, ["differs", "differs", "holds"]),  # a lower bound has no upper one
    ((0.3, 0.3, 0.4), 0.489, ["holds", "holds", "differs"]),
])
def test_numbers_beyond_the_tolerance(recalls, first, expected, tmp_path, capsys):
    code, text = checked(capsys, make_run(tmp_path / "run", recalls, first))
    assert verdicts(text) == expected and code == int("differs" in expected)


@pytest.mark.parametrize("options, expected", [
    ({"name_prefix": "Cycle1-FlowMining_"}, ["mining recall, first epoch", "mining recall, last epoch"]),
    ({"name_prefix": "Cycle2-FlowMining_"}, ["ucf101 RGB retrieval R@1"]),
    ({"cascade": False}, ["ucf101 RGB retrieval R@1"]),
    ({"model": "infonce", "dataset": "ucf101-2clip", "cascade": None}, ["ucf101 RGB retrieval R@1"]),
    ({"model": "ubernce", "dataset": "ucf101-2clip", "cascade": None}, []),
    ({"dataset": "mine-2stream-2clip"}, [])])
def test_a_run_is_compared_with_numbers_of_its_own_training(options, expected, tmp_path, capsys):
    code, text = checked(capsys, make_run(tmp_path / "run", (0.3, 0.4, 0.4), 0.36, **options))
    assert [line.split("  ")[0] for line in text.splitlines()[3:]] == expected
    assert code == 2 if not expected else True
    if not expected:
        assert "nothing to compare" in text


def test_a_run_that_is_not_finished(tmp_path, capsys):
    run = make_run(tmp_path / "run", (0.3, 0.4), epochs=3)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"kind": "epoch", "title": "tr')  # killed while it wrote
    code, text = checked(capsys, run)
    assert code == 0 and "not finished: 2 of 3 epochs" in text and "last epoch" not in text


def test_a_result_of_an_unknown_training_is_compared_with_all(tmp_path, capsys):
    """For example of a released checkpoint; one match is enough."""
    run = make_run(tmp_path / "run", first=0.36)
    (run / "run.json").unlink()
    code, text = checked(capsys, run)
    assert code == 0 and re.findall(r"R@1 .* (holds|differs) ", text) == ["differs", "holds"]  # 50.0, 36.0
    (run / "model/feature/ucf101_recall.json").write_text('{"1": 45.0}')
    assert checked(capsys, run)[0] == 1


def test_both_streams(tmp_path, capsys):
    numbers = {"1": 57.0, "5": 70.0, "50": 90.0}
    (tmp_path / "both.json").write_text(json.dumps({"videos": 3783, "RGB": numbers, "flow": numbers, "both": numbers}))
    code, text = checked(capsys, tmp_path / "both.json")
    assert "ucf101 both retrieval R@1       56.0        4.0  57.00    holds" in text and code == 1  # RGB differs


def test_a_work_folder_of_cotrain(tmp_path, capsys):
    content = {"dataset": "ucf101", "cycles": 2, "commands": {"cycle 1 RGB": "python main_coclr.py --cascade"},
               "results": {"RGB": {"retrieval": {"1": 60.0}}, "both": {"retrieval": {"1": 50.0}}}}
    (tmp_path / "results.json").write_text(json.dumps(content))
    code, text = checked(capsys, tmp_path)
    assert verdicts(text) == ["holds", "differs"] and code == 1 and "CPR on ucf101, cycle 2" in text
    assert checked(capsys, tmp_path / "results.json") == (code, text.replace(str(tmp_path), f"{tmp_path}/results.json"))


def test_a_classifier_is_compared_by_what_it_started_from(tmp_path, capsys):
    make_run(tmp_path / "ckpt/log-pretrain/k400", dataset="k400-2stream-2clip", name_prefix="Cycle1-FlowMining_")
    start = "ckpt/log-pretrain/k400/model/epoch49.pth.tar"
    (tmp_path / start).touch()
    run = make_run(tmp_path / "log-eval-linclr/run", (None,) * 3, dataset="ucf101", train_what="ft", pretrain=start,
                   model="lincls")
    (run / "model/feature/ucf101_recall.json").unlink()
    tested = run / "model/model_best_epoch2.pth.tar-acc-ten.json"
    tested.write_text(json.dumps({"center": {"1": 10.0}, "ten": {"1": 99.0, "5": 99.0}}))
    code, text = checked(capsys, run)
    assert code == 0 and re.search(r"ucf101 RGB finetune top-1 +>= 80.0 +1.0 +99.00 +holds +CoCLR on k400", text)


@pytest.mark.parametrize("content", [None, b"", b"{}"], ids=repr)
def test_damaged_and_missing_results_are_named_in_one_line(content, tmp_path, capsys):
    file = make_run(tmp_path / "run") / "other.json"
    if content is not None:
        file.write_bytes(content)
    code, text = checked(capsys, file)
    assert code == 2 and text.count("\n") == 1 and text.startswith("error: ") and "other.json" in text
