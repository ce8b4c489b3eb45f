"""The page of python -m report as a file: what is in it, what is said to be missing, its size, and untrusted names."""

import base64
import hashlib
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import cv2
import made_run
import numpy as np
import pytest
import torch
from made_run import fixture_made, small_network  # noqa: F401

import launch
from eval.feature_files import FeatureSet
from eval.report import write_json
from report import (
    confusion,
    feature_map,
    results,
    retrieval_gallery,
    strips,
)
from report.__main__ import main
from report.page import render
from report.run_files import downstream, read_run
from report.sections import Report, Section, collect


class Page(HTMLParser):
    """A page's tags with their attributes, and the text of its scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.blocks: list[tuple[str, dict, str]] = []
        self._open: tuple[str, dict] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else self._open

    def handle_data(self, text):
        if self._open:
            self.blocks.append((*self._open, text))

    def handle_endtag(self, tag):
        self._open = None if tag in ("script", "style") else self._open

    def data(self, identity: str) -> dict:
        [text] = [text for tag, attrs, text in self.blocks if attrs.get("id") == identity]
        return json.loads(text)


def page_of(folder: Path, *words: str) -> Page:
    out = folder / "page.html"
    assert launch.exit_code(lambda: main([str(folder), "--out", str(out), *words])) == 0
    return Page(out.read_text())


def test_a_thousand_test_clips_stay_under_15_mb(monkeypatch):
    """Features and pictures are made up; each training clip is the nearest of some query, and pictures are detailed."""
    rng = np.random.default_rng(0)
    coarse = [cv2.resize(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8), (128, 96)) for _ in range(24)]
    pool = np.stack([np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8) for image in coarse])
    reader = SimpleNamespace(num_frames=lambda name: 100, frames=lambda name, rows: pool[rows % 24])
    query, gallery = torch.randn(1000, 16), torch.randn(3000, 16)
    labels = [torch.arange(len(x)) % 101 for x in (query, gallery)]
    names = [[f"d/Class number {c}/v_Class_g{i:05d}_c01" for i, c in enumerate(label.tolist())] for label in labels]
    sets = [FeatureSet(*columns) for columns in zip((query, gallery), labels, names, strict=True)]
    found = retrieval_gallery.Retrieved(Path("f"), "many", {}, *sets, *retrieval_gallery.nearest(query, gallery),
                                        list(range(1000)))
    monkeypatch.setattr(strips, "SAMPLE", 12)
    store = strips.Strips()
    report = Report(read_run_of_nothing(), None, store=store)
    source = {part: strips.Source(part, reader, "rgb") for part in ("test", "train")}
    report.data["retrieval"] = retrieval_gallery.cards(found, source, store)
    report.sections = [Section("results", "Results"), Section("retrieval", "Gallery", {
        "found": found, "right": 0.5, "notes": [], "others": []}), Section("map", "Map", feature_map.draw(found)),
        Section("confusion", "Confusion", [confusion.of_neighbours(found)])]
    store.make()
    size = len(render(report).encode())
    assert len(store.images) > 2500 and store.left_out == 0 and 3e6 < size < 15e6, (size, len(store.images))


def read_run_of_nothing():
    return SimpleNamespace(name="run", folder=Path("run"), options={}, starts=[], journal=[], shown=str)


def test_results_of_a_run_and_of_what_started_from_it(made, tmp_path):
    run = read_run(made.folder)
    probe = run.working_folder / "log-eval-linclr" / "probe"
    (probe / "model").mkdir(parents=True)
    start = str(run.checkpoint.relative_to(run.working_folder))
    options = {"train_what": "ft", "dataset": "mine", "pretrain": start}
    write_json(probe / "run.json", {"starts": [{"options": options}]})
    write_json(probe / "model/epoch1.pth.tar-acc-ten.json", {"center": {"1": 10.0}, "ten": {"1": 20.0, "5": 60.5}})
    write_json(probe / "best.json", {"validation_top1": 12.5, "epochs": 2, "checkpoint": "model/x"})
    rows = {video: [0.5, 0.3, 0.2] for video in made.data.test}
    made_run.add_probabilities(probe / "model/epoch1.pth.tar-prob-ten.json", rows)
    other = probe.with_name("other")
    other.mkdir()
    write_json(other / "run.json", {"starts": [{"options": {**options, "pretrain": "elsewhere.pth.tar"}}]})
    notes: list[str] = []
    assert [each.name for each in downstream(run)] == ["probe"]
    found = {result.what: result.values for result in results.read_results(run, notes)}
    assert notes == [] and found == {
        "retrieval on mine": {"R@1": 50.0, "R@5": 75.0}, "finetuning on mine, centre crop": {"top-1": 10.0},
        "finetuning on mine, ten crops": {"top-1": 20.0, "top-5": 60.5},
        "finetuning on mine, best validation (30 % of the test videos, one clip)": {"top-1": 12.5}}
    matrices = confusion.find(run, made.data.split_root, None, notes)
    assert [each.title for each in matrices] == ["finetuning, ten crops, epoch1.pth.tar"] and notes == []
    assert page_of(probe).data("data")["charts"] == []  # a classifier's folder, without a journal or features
    for path in sorted(probe.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_second_run_is_set_beside(made):
    own = [results.Result("retrieval", "retrieval on x", {"R@1": 41.7}, "a", "f")]
    other = [results.Result("retrieval", "retrieval on x", {"R@1": 30.9}, "b", "g")]
    [table] = results.tables(own, other)
    assert table.rows == [(own[0], other[0])] and table.columns == ["R@1"]
    page = page_of(made.folder, "--against", str(made.folder), "--mining_clips", "0")
    charts_of = page.data("data")["charts"]
    names = [line["name"] for chart in charts_of for line in chart["lines"]]
    assert "PMR" in names and "PMR, second run" in names


def test_a_second_run_without_the_same_results_explains_no_numbers(made, tmp_path):
    """They stand beside none then, and the page says why."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("metrics.jsonl", "run.json"):
        (bare / name).write_text((made.folder / name).read_text())
    out = made.folder / "page.html"
    for against, explained in ((made.folder, True), (bare, False)):
        page_of(made.folder, "--against", str(against), "--mining_clips", "0")
        text = out.read_text()
        assert ("Small numbers: points above (+) or below (-) the second run" in text) == explained
        assert ("The second run has none of these results" in text) == (not explained)


def test_the_policy_lets_nothing_in_but_the_pages_own_script_and_style(made):
    page = page_of(made.folder)
    [policy] = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        [text] = [text for name, attrs, text in page.blocks if name == tag and "type" not in attrs]
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    assert not [attrs for _, attrs in page.tags if {"style", "onclick", "src"} & attrs.keys()]
    assert all(attrs["href"].startswith(("#", "data:")) for _, attrs in page.tags if "href" in attrs)
    strip_ids = page.data("strips").keys()
    data = page.data("data")
    assert {query["clip"][2] for query in data["retrieval"]["queries"]} <= strip_ids
    assert {strip for clip in data["mining"]["clips"] for strip in clip[2:]} <= strip_ids


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
    known = {tag for tag, _ in page_of(made.folder).tags} | {"label", "select"}
    assert {tag for tag, _ in page.tags} <= known
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert {f"{page.data('data')['retrieval']['classes'][query['clip'][1]]}/{query['clip'][0]}"
            for query in page.data("data")["retrieval"]["queries"]} == set(names[:5])
    labels = [attrs.get("aria-label", "") for _, attrs in page.tags]
    assert all(f"{name}: 50.0 %" in labels for name in HOSTILE)


def test_what_is_not_there_is_said_and_the_rest_is_made(made, tmp_path, capsys):
    copy = tmp_path / "ckpt/log-pretrain/run"
    copy.mkdir(parents=True)
    for name in ("run.json", "metrics.jsonl"):
        (copy / name).write_bytes((made.folder / name).read_bytes())
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "tit')
    page_of(copy)
    said = capsys.readouterr().out
    assert "in it: curves, class mining recall" in said and "1 line of metrics.jsonl cannot be read" in said
    assert "not in it: mining gallery. There is no checkpoint in model/ any more" in said
    assert "--dataset mine --net s3d --seq_len 8" in said and "--retrieval" in said
    (copy / "run.json").write_text("[")
    (copy / "model").mkdir()
    (copy / "model/epoch3.pth.tar").write_bytes(b"no checkpoint")
    page_of(copy)
    assert "run.json is not a JSON file" in capsys.readouterr().out


def test_without_frames_or_with_a_damaged_checkpoint_the_rest_is_made(made, tmp_path, capsys):
    copy = tmp_path / "ckpt/log-pretrain/run"
    (copy / "model").mkdir(parents=True)
    (copy / "run.json").write_bytes((made.folder / "run.json").read_bytes())
    (copy / "model/epoch1.pth.tar").write_bytes(read_run(made.folder).checkpoint.read_bytes()[:5000])
    (copy / "model/feature").symlink_to(made.features)
    for path in made.features.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    os.unlink(copy / "model/feature")
    (copy / "model/feature").mkdir()
    for path in made.features.iterdir():
        (tmp_path / path.name).rename(copy / "model/feature" / path.name)
    page = page_of(copy, "--data_root", str(tmp_path / "gone"))
    said = capsys.readouterr().out
    assert page.data("strips") == {} and len(page.data("data")["retrieval"]["queries"]) == len(made.data.test)
    assert "say where the LMDBs lie with --data_root" in said and "not in it: mining gallery" in said
    page_of(copy, "--data_root", str(made.data.data_root), "--split_root", str(made.data.split_root))
    assert "cut short" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    (["nowhere"], "there is no run folder nowhere"), (["."], "is no run folder"),
    (["RUN", "--against", "nowhere"], "there is no run folder nowhere"),
    (["RUN", "--out", "no/such/folder/page.html"], "folder that is not there"), (["RUN", "--out", "."], "a folder"),
    (["RUN", "--dataset", "ucf101"], "none of ucf101"), (["RUN", "--clips", "0"], "--clips")])
def test_bad_input_is_refused_in_one_line(made, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    words = [str(made.folder) if word == "RUN" else word for word in words]
    assert launch.exit_code(lambda: main(words)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.rglob("*.html"))


def test_a_folder_of_features_below_a_run_is_enough(made):
    args = SimpleNamespace(run=str(made.features), against=None, data_root=None, split_root=None, dataset=None, clips=2,
                           mining_clips=0)
    report = collect(args)
    assert report.run.folder.resolve() == made.folder.resolve() and report.warnings == []
    assert len(report.data["retrieval"]["queries"]) == 2
    assert len(report.store.images) > 2  # the run says where the frames are
