"""The page of python -m tools.report as a file: what it shows, what it says is missing, names that are markup."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import made_run
import pytest
from made_run import fixture_made, small_network  # noqa: F401

from tools.report import results
from tools.report.__main__ import main
from tools.report.page import Report
from tools.report.run_reader import read_metrics, read_run
from utils import launch
from utils.errors import OptionError
from utils.files import write_json


class Page(HTMLParser):
    """A page's tags with their attributes, and the JSON that its script reads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict]] = []
        self.json: dict[str, dict] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self._open = attrs.get("id", "") if attrs.get("type") == "application/json" else ""

    def handle_data(self, data):
        if self._open:
            self.json[self._open] = json.loads(data)
            self._open = ""

    def all(self, tag: str, **wanted: str) -> list[dict]:
        """The attributes of all such tags."""
        return [attrs for name, attrs in self.tags if name == tag and wanted.items() <= attrs.items()]


def page_of(folder: Path, *words: str) -> Page:
    out = folder / "page.html"
    assert launch.exit_code(lambda: main([str(folder), "--out", str(out), *words])) == 0
    return Page(out.read_text())


def test_a_page_holds_all_that_it_shows(made, capsys):
    page = page_of(made.folder)
    said = capsys.readouterr().out
    assert ("in it: results, curves, retrieval gallery, mining gallery, class mining recall, confusion matrix, map of "
            "the features") in said and "not in it" not in said
    assert all("src" not in attrs and attrs.get("href", "#").startswith(("#", "data:")) for _, attrs in page.tags)
    assert {image["data-strip"] for image in page.all("img")} == page.json["strips"].keys()
    cards = [attrs for attrs in page.all("li") if "data-row" in attrs]
    assert len(cards) == len(made.data.test)
    assert {card["data-class"] for card in cards} == {name.split("/")[0] for name in made.data.test}
    assert [point["row"] for point in page.json["figures"]["map"]["points"]] == list(range(len(made.data.test)))
    [matrix] = page.json["figures"]["confusion"]
    assert sum(count for *_, count in matrix["cells"]) == len(made.data.test)
    assert "Plotly" in page.text and len(page.text) < 7e6


def test_results_of_a_run_and_of_what_started_from_it(made):
    run = read_run(made.folder)
    probe = run.working_folder / "log-eval-linclr" / "probe"
    (probe / "model").mkdir(parents=True)
    start = str(run.checkpoint.relative_to(run.working_folder))
    options = {"train_what": "ft", "dataset": "mine", "pretrain": start}
    write_json(probe / "run.json", {"starts": [{"options": options}]})
    write_json(probe / "model/epoch1.pth.tar-acc-ten.json", {"center": {"1": 10.0}, "ten": {"1": 20.0, "5": 60.5}})
    write_json(run.folder / "model/epoch1.pth.tar-lp-mine-acc.json", {"1": 30.0})
    rows = {video: [0.5, 0.3, 0.2] for video in made.data.test}
    made_run.add_probabilities(probe / "model/epoch1.pth.tar-prob-ten.json", rows)
    other = probe.with_name("other")
    other.mkdir()
    write_json(other / "run.json", {"starts": [{"options": {**options, "pretrain": "elsewhere.pth.tar"}}]})
    notes: list[str] = []
    assert [each.folder.name for each in run.downstream()] == ["probe"]
    found = {result.what: result.scores for result in results.read_results(run, notes)}
    assert notes == [] and found == {
        "retrieval on mine": {"R@1": 50.0, "R@5": 75.0}, "finetuning on mine, centre crop": {"top-1": 10.0},
        "finetuning on mine, ten crops": {"top-1": 20.0, "top-5": 60.5},
        "linear probe on stored features of mine": {"top-1": 30.0}}
    matrices = results.confusions(run, str(made.data.split_root), notes)
    assert [each["title"] for each in matrices] == ["finetuning on mine, ten crops, epoch1.pth.tar"] and notes == []
    assert page_of(probe).json["figures"]["curves"] is None  # a classifier's folder, without metrics or features
    for path in [run.folder / "model/epoch1.pth.tar-lp-mine-acc.json", *sorted(probe.parent.rglob("*"), reverse=True)]:
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_second_run_stands_beside_the_first(made, tmp_path):
    other = tmp_path / "other"
    (other / "model/feature").mkdir(parents=True)
    for name in ("metrics.jsonl", "run.json"):
        (other / name).write_text((made.folder / name).read_text().replace('"lr": 0.001', '"lr": 0.003'))
    write_json(other / "model/feature/mine_recall.json", {"1": 30.9, "5": 62.3})
    page = page_of(made.folder, "--against", str(other), "--mining_clips", "0")
    names = [line["name"] for chart in page.json["figures"]["curves"] for line in chart["lines"]]
    assert "PMR" in names and "PMR, second run" in names
    table = re.sub(r"<[^>]+>|\s+", " ", page.text[page.text.index('id="results"'):page.text.index('id="curves"')])
    assert re.search("retrieval on mine +model/feature +50.0 +75.0 +retrieval on mine, second run .* 30.9 +62.3", table)
    assert re.findall('class="differs"><dt>(.*?)</dt>', page.text) == ["lr"]


HOSTILE = ['</script><img src=x onerror=alert(1)>', '"><b onmouseover=alert(1)>', "{{ 7 * 7 }}", "<!--", "\u2028&amp;"]


def test_names_are_shown_and_never_become_markup(made, tmp_path):
    run = tmp_path / "ckpt/log-pretrain/<i>run"
    run.mkdir(parents=True)
    write_json(run / "run.json", {"starts": [{"options": {"<u>": HOSTILE[0], "net": HOSTILE[1], "topk": 1},
                                             "command": HOSTILE}]})
    line = {"kind": "mining", "epoch": 0, "done": 1, "values": {"cmr_median": 0.5},
            "classes": dict.fromkeys(HOSTILE, 0.5)}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    names = [f"{name.replace('/', '')}/v_{i}{name.replace('/', '')}" for i, name in enumerate(HOSTILE * 2)]
    made_run.add_features(run / "model/feature", "mine", names[:5], names[5:])
    page = page_of(run)
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in page_of(made.folder).tags}
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert {attrs["data-class"] for attrs in page.all("li") if "data-row" in attrs} == {
        name.split("/")[0] for name in names}


def test_what_is_missing_is_said_and_the_rest_is_made(made, tmp_path, capsys):
    copy = tmp_path / "ckpt/log-pretrain/run"
    (copy / "model").mkdir(parents=True)
    (copy / "run.json").write_bytes((made.folder / "run.json").read_bytes())
    (copy / "metrics.jsonl").write_text((made.folder / "metrics.jsonl").read_text() + '{"kind": "epoch", "tit')
    page_of(copy)
    said = capsys.readouterr().out
    assert "in it: curves, class mining recall" in said and "left out 1 unreadable line of metrics.jsonl" in said
    assert "not in it: mining gallery. It needs a checkpoint in model/" in said
    assert "not in it: map of the features. No retrieval has left features of this run: run eval/" in said
    (copy / "model/epoch1.pth.tar").write_bytes(read_run(made.folder).checkpoint.read_bytes()[:5000])
    os.link(made.features / "mine_test_feature.pth.tar", copy / "model/mine_test_feature.pth.tar")
    page_of(copy, "--data_root", str(made.data.data_root), "--split_root", str(made.data.split_root))
    said = capsys.readouterr().out
    assert "not in it: mining gallery. " in said and "cut short" in said and "not in it: retrieval gallery. " in said
    (copy / "run.json").write_text("[")
    page_of(copy)
    assert "run.json is not a JSON file" in capsys.readouterr().out


def test_without_frames_the_rest_is_made(made, tmp_path, capsys):
    page = page_of(made.folder, "--data_root", str(tmp_path / "gone"))
    said = capsys.readouterr().out
    assert page.json["strips"] == {} and "no film strip" in page.text
    assert "name the folder of the LMDBs with --data_root" in said and "not in it: mining gallery" in said


@pytest.mark.parametrize(("words", "message"), [
    (["nowhere"], "there is no run folder nowhere"), (["."], "is no run folder"),
    (["RUN", "--against", "nowhere"], "there is no run folder nowhere"),
    (["RUN", "--out", "no/such/folder/page.html"], "not there"), (["RUN", "--out", "."], "is a folder"),
    (["RUN", "--dataset", "ucf101"], "no features of ucf101"), (["RUN", "--clips", "0"], "--clips")])
def test_bad_input_is_refused_in_one_line(made, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    words = [str(made.folder) if word == "RUN" else word for word in words]
    assert launch.exit_code(lambda: main(words)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.rglob("*.html"))


def test_a_folder_of_features_below_a_run_is_enough(made):
    report = Report(read_run(made.features), clips=2, mining_clips=0)
    assert report.run.folder.resolve() == made.folder.resolve() and report.warnings == []
    section = next(section for section in report.sections if section.name == "retrieval")
    assert len(section.content["cards"]) == 2
    assert len(report.strips.images) > 2  # the run says where the frames are


def test_of_lines_of_one_moment_the_last_counts(tmp_path):
    def line(kind: str, epoch: int, done: int, loss: float | None, **more: object) -> str:
        return json.dumps({"kind": kind, "epoch": epoch, "done": done, "values": {"loss": loss}, **more})
    (tmp_path / "metrics.jsonl").write_text("\n".join([
        line("steps", 0, 2, 5.0, title="train"), line("steps", 0, 4, 4.0, title="train"),
        line("epoch", 0, 4, 4.5, title="train"), line("epoch", 0, 4, 3.5, title="train"),
        line("epoch", 0, 4, 9.0, title="val"), line("mining", 0, 4, None, classes={"a": 0.5}), "{", "[1]", "7",
        json.dumps({"kind": "epoch", "epoch": 1})]))
    lines, damaged = read_metrics(tmp_path / "metrics.jsonl")
    assert damaged == 4 and [each["values"] for each in lines] == [
        {"loss": 5.0}, {"loss": 4.0}, {"loss": 3.5}, {"loss": 9.0}, {}]
    run = read_run(tmp_path)
    assert run.epochs == {0: {"loss": 3.5}} and run.options == {} and run.checkpoint is None and len(run.notes) == 2
    assert read_metrics(tmp_path / "none.jsonl") == ([], 0)
    with pytest.raises(OptionError, match="there is no run folder"):
        read_run(tmp_path / "none")
