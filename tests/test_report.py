"""The parts of python -m report, against loops over what a small run left, and the whole page as a file."""

import base64
import hashlib
import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import cv2
import made_run
import noise
import numpy as np
import pytest
import torch

import launch
import main_coclr
from dataset import catalog
from eval import feature_files, retrieval
from eval.report import write_json
from model import momentum
from report import charts, class_mining, confusion, curves, feature_map, mining_gallery, results, retrieval_gallery, strips
from report.__main__ import main
from report.page import render
from report.run_files import downstream, read_run
from report.sections import Report, Section, collect
from utils import checkpoint
from utils.errors import CheckpointError, OptionError
from utils.presets import PretrainTransform, to_blocks


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_run.make(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr(momentum, "select_backbone", noise.small_backbone)


@pytest.fixture
def looked(made):
    args = mining_gallery.options(read_run(made.folder).options, str(made.data.data_root), str(made.data.split_root))
    return mining_gallery.look(args, str(read_run(made.folder).checkpoint), 12)


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


def test_the_nearest_training_clips_by_loops():
    query, gallery = torch.randn(7, 5) + 2, torch.randn(9, 5) - 1
    sim, index = retrieval_gallery.nearest(query, gallery)
    a, b = query.numpy() - query.numpy().mean(axis=0), gallery.numpy() - gallery.numpy().mean(axis=0)
    for i in range(7):
        cosines = [float(a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j])) for j in range(9)]
        best = sorted(range(9), key=lambda j: -cosines[j])[:5]
        assert index[i].tolist() == best and sim[i].tolist() == pytest.approx([cosines[j] for j in best], abs=1e-5)
    assert retrieval_gallery.nearest(query, gallery[:3])[1].shape == (7, 3)


def test_cards_name_the_clips_their_classes_and_what_is_a_hit(made):
    found = retrieval_gallery.load(made.features, "mine", 1000)
    cards = retrieval_gallery.cards(found, {"test": None, "train": None}, strips.Strips())
    assert len(cards["queries"]) == len(made.data.test)
    for query, video in zip(cards["queries"], made.data.test, strict=True):
        name, label, strip = query["clip"]
        assert f"{cards['classes'][label]}/{name}" == video and strip == ""
        for clip, similarity, hit in query["near"]:
            other, its, _ = cards["clips"][clip]
            assert f"{cards['classes'][its]}/{other}" in made.data.train
            assert bool(hit) == (its == label) and -1 <= similarity <= 1
        similarities = [each[1] for each in query["near"]]
        assert similarities == sorted(similarities, reverse=True)
    assert len({tuple(clip) for clip in cards["clips"]}) == len(cards["clips"])  # each once
    few = retrieval_gallery.load(made.features, "mine", 3)
    assert few.rows[0] == 0 and few.rows[-1] == len(made.data.test) - 1 and len(few.rows) == 3
    assert torch.equal(few.sim, found.sim)  # centred by all queries, shown or not


def plain_stage(candidates: list[int], similarity: torch.Tensor, excluded: list[bool], size: int) -> list[int]:
    return sorted(candidates, key=lambda j: (excluded[j], -float(similarity[j])))[:size]


def test_what_is_mined_is_what_the_next_step_would_mine(made, looked):
    """q, k and kf by the encoders themselves, and the cascade by sorting lists."""
    saved = checkpoint.load(read_run(made.folder).checkpoint)
    args = looked.args
    model = main_coclr.build(args)
    model.load_state_dict(saved["state_dict"])
    model.train()
    dataset = catalog.build(args.dataset, "train", transform=PretrainTransform(32), seq_len=8, ds=1,
                            data_root=args.data_root, split_root=args.split_root, seed=0)
    index, rows = dataset.index, saved["label_ring"]["rows"]
    assert looked.rows.tolist() == rows.tolist() and looked.views == ["other", "own", "other"]
    first = [query.row for query in looked.queries[:4]]  # a batch
    blocks = to_blocks(torch.utils.data.default_collate([dataset[2, row] for row in first]), torch.device("cpu"))
    with torch.no_grad():
        q = momentum.embed(model.encoder_q, blocks[:, 0, 0])
        kf = momentum.embed(model.sampler, blocks[:, 1, 1])
    state = saved["state_dict"]
    for i, query in enumerate(looked.queries[:4]):
        sims = {"own": q[i] @ state["queue"], "other": kf[i] @ state["queue_second"]}
        own_source = [int(index.sources[row]) == int(index.sources[query.row]) for row in rows]
        right = [index.labels[row] == index.labels[query.row] and not own_source[j] for j, row in enumerate(rows)]
        kept = list(range(8))
        for view, size, stage, hits in zip(looked.views, (5, 3, 2), query.stages, query.hits, strict=True):
            kept = plain_stage(kept, sims[view], own_source, size)
            assert sorted(stage.tolist()) == sorted(kept) and hits == sum(right[j] for j in kept)
        assert query.stages[-1].tolist() == kept  # the mined ones, best first
        assert query.own.tolist() == pytest.approx(sims["own"].tolist(), abs=1e-5)
        taken = [j for j in kept if not own_source[j]]
        assert query.recall == pytest.approx(sum(right[j] for j in taken) / max(1, len(taken)))


def test_a_queue_that_the_checkpoint_does_not_tell_is_made_anew(made, looked, tmp_path):
    saved = checkpoint.load(read_run(made.folder).checkpoint)
    del saved["label_ring"]
    checkpoint.save(tmp_path / "published.pth.tar", saved)
    again = mining_gallery.look(looked.args, str(tmp_path / "published.pth.tar"), 6)
    assert "made for this page" in again.origin and "made for this page" not in looked.origin
    assert len(again.rows) == 8 and len(again.queries) == 6 and all(len(query.own) == 8 for query in again.queries)
    for query in again.queries:
        sources = [looked.dataset.index.sources[row] for row in again.rows]
        expected = [source != looked.dataset.index.sources[query.row] for source in sources]
        assert query.allowed.tolist() == expected


def test_queries_are_shown_from_the_best_to_the_worst(looked):
    recalls = [query.recall for query in looked.chosen]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[0] == max(q.recall for q in looked.queries) and recalls[-1] == min(q.recall for q in looked.queries)


@pytest.mark.parametrize(("name", "value"), [("moco_k", "8"), ("topk", True), ("dataset", 5), ("ratio", None)])
def test_odd_options_of_a_run_are_refused(made, name, value):
    with pytest.raises(OptionError, match=name):
        mining_gallery.options({**read_run(made.folder).options, name: value}, "data", "splits")


def test_a_strip_shows_frames_of_the_whole_video_once():
    assert strips.spread(100, 4).tolist() == [12, 37, 62, 87]
    assert strips.spread(2, 4).tolist() == [0, 1]
    frames = np.stack([np.full((20, 40, 3), 60 * i, np.uint8) for i in range(3)])
    joined = strips.joined(frames, 10)
    width = round(10 * 16 / 9)  # 40 x 20 is wider
    assert joined.shape == (10, 3 * width + 2 * strips.GAP, 3)
    assert [int(joined[5, width // 2 + i * (width + strips.GAP), 0]) for i in range(3)] == [0, 60, 120]
    reader = SimpleNamespace(num_frames=lambda name: 9, frames=lambda name, rows: np.zeros((len(rows), 8, 8, 3), np.uint8))
    store, source = strips.Strips(), strips.Source("test rgb", reader, "rgb")
    assert store.want(source, "A/a") == store.want(source, "A/a") != store.want(source, "A/b")
    assert store.want(None, "A/a") == ""
    store.make()
    assert set(store.images) == {"s0", "s1"}
    assert cv2.imdecode(np.frombuffer(base64.b64decode(store.images["s0"]), np.uint8), 1).shape[0] == store.level[1]


def test_flow_has_the_colour_of_its_direction():
    flow = np.full((1, 10, 10, 3), 128, np.uint8)
    assert (strips.coloured(flow) == 255).all()  # nothing moves: white
    for x, y, colour in ((60, 0, (255, 0, 0)), (-60, 0, (0, 255, 255))):  # hue 0 and the opposite one
        flow[..., 2], flow[..., 1] = 128 + x, 128 + y
        assert np.abs(strips.coloured(flow)[0, 0, 0].astype(int) - colour).max() < 8
    halves = flow.copy()
    halves[:, :5, :, 2] = 128 - 30
    saturation = [strips.coloured(halves)[0, row, 0].min() for row in (0, 9)]
    assert 110 < saturation[0] < 145 and saturation[1] == 0  # half as fast, half as strong


def test_strips_that_cannot_be_read_are_told_and_the_others_made(made):
    source = strips.sources("mine", "flow", made.data.data_root, train=True)["rgb"]
    store = strips.Strips()
    store.want(source, made.data.train[0])
    store.want(source, "No/video")
    store.make()
    assert list(store.images) == ["s0"] and list(store.failed.values()) == [1]


def test_a_thousand_test_clips_stay_under_15_mb(monkeypatch):
    """Features and pictures are made up; each training clip is the nearest of some query, and pictures are detailed."""
    rng = np.random.default_rng(0)
    coarse = [cv2.resize(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8), (128, 96)) for _ in range(24)]
    pool = np.stack([np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8) for image in coarse])
    reader = SimpleNamespace(num_frames=lambda name: 100, frames=lambda name, rows: pool[rows % 24])
    query, gallery = torch.randn(1000, 16), torch.randn(3000, 16)
    labels = [torch.arange(len(x)) % 101 for x in (query, gallery)]
    sets = [feature_files.FeatureSet(x, label, [f"d/Class number {int(c)}/v_Class_g{i:05d}_c01" for i, c in
                                                enumerate(label)]) for x, label in zip((query, gallery), labels, strict=True)]
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


def test_a_map_has_the_two_directions_of_most_variance():
    rows = torch.randn(40, 6) * torch.tensor([1, 5, 1, 3, 1, 1.0])
    places, shares = feature_map.principal(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.double().numpy().T))
    centred = rows.double().numpy() - rows.double().numpy().mean(axis=0)
    for axis in range(2):
        expected = centred @ vectors[:, -1 - axis]
        assert np.allclose(np.abs(places[:, axis]), np.abs(expected), atol=1e-4)
        assert shares[axis] == pytest.approx(values[-1 - axis] / values.sum(), abs=1e-5)
        assert places[np.abs(places[:, axis]).argmax(), axis] > 0
    assert np.isfinite(feature_map.principal(torch.ones(1, 4))[0]).all()  # one clip alone


def test_confusions_by_loops(made, tmp_path):
    classes, rng = made.data.classes, np.random.default_rng(0)
    rows = {f"x/{video}/": rng.dirichlet([1, 1, 1]).tolist() for video in made.data.test}
    found = confusion.of_probabilities(rows, classes, "made up")
    expected: dict = {}
    for video, row in zip(made.data.test, rows.values(), strict=True):
        pair = classes.index(video.split("/")[0]), row.index(max(row))
        expected[pair] = expected.get(pair, 0) + 1
    assert dict(found.counts) == expected and found.total == len(rows)
    assert found.accuracy == sum(n for (a, b), n in expected.items() if a == b) / len(rows)
    wrong = {pair: n for pair, n in expected.items() if pair[0] != pair[1]}
    assert {(a, b): n for a, b, n, _ in found.worst} == wrong
    assert [n for _, _, n, _ in found.worst] == sorted(wrong.values(), reverse=True)
    with pytest.raises(CheckpointError, match="3 classes"):
        confusion.of_probabilities(rows, [*classes, "More"], "made up")
    near = confusion.of_neighbours(retrieval_gallery.load(made.features, "mine", 5))
    assert near.total == len(made.data.test) and "no classifier" in near.title


def test_results_of_a_run_and_of_what_started_from_it(made, tmp_path):
    run = read_run(made.folder)
    probe = run.working_folder / "log-eval-linclr" / "probe"
    (probe / "model").mkdir(parents=True)
    start = str(run.checkpoint.relative_to(run.working_folder))
    options = {"train_what": "ft", "dataset": "mine", "pretrain": start}
    write_json(probe / "run.json", {"starts": [{"options": options}]})
    write_json(probe / "model/epoch1.pth.tar-acc-ten.json", {"center": {"1": 10.0}, "ten": {"1": 20.0, "5": 60.5}})
    write_json(probe / "best.json", {"validation_top1": 12.5, "epochs": 2, "checkpoint": "model/x"})
    made_run.add_probabilities(probe / "model/epoch1.pth.tar-prob-ten.json", {v: [0.5, 0.3, 0.2] for v in made.data.test})
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
    assert page_of(probe).data("data") == {"charts": []}  # a classifier's folder, without a journal or features
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


def test_curves_and_class_mining_are_those_of_the_journal(made):
    run = read_run(made.folder)
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    drawn = {line.name: line.points for chart in curves.draw(run) for line in chart.series}
    assert drawn["PMR"] == [(line["done"], line["values"]["recall"]) for line in lines if line["kind"] == "epoch"]
    hits = [line["values"]["stage2_hits"] / 3 for line in lines if line["kind"] == "epoch"]
    assert [y for _, y in drawn["stage 2, own view, keeps 3"]] == pytest.approx(hits)
    last = [line for line in lines if line["kind"] == "mining"][-1]
    found = class_mining.read(run, run)
    assert {name: value for name, value, _ in found.rows} == last["classes"] and found.epoch == 1
    assert all(value == beside for _, value, beside in found.rows)
    assert [value for _, value, _ in found.rows] == sorted(last["classes"].values())


@pytest.mark.parametrize("low, high", [(0, 1), (2.8, 3.07), (-0.004, 0.02), (1e-6, 1e-4), (0, 12345), (5, 5), (0, 0),
                                       (-3, -3), (0.1, 0.3)])
def test_ticks_are_round_and_enclose_the_range(low, high):
    ticks = charts.ticks(low, high)
    steps = np.diff(ticks)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 8
    assert np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert any(math.isclose(mantissa, round_number, rel_tol=1e-6) for round_number in (1, 2, 2.5, 5, 10))


def test_a_chart_puts_points_where_its_axes_say():
    chart = charts.Chart("t", "x", "y", [charts.Series("a", [(0, 0.0), (50, 0.5), (100, 1.0)], 0)])
    (x0, y0), (x1, y1), (x2, y2) = (chart.at(*point) for point in chart.series[0].points)
    assert (x0, x2) == (charts.LEFT, charts.WIDTH - charts.RIGHT) and x1 == pytest.approx((x0 + x2) / 2)
    assert (y0, y2) == (charts.HEIGHT - charts.BOTTOM, charts.TOP) and y1 == pytest.approx((y0 + y2) / 2)
    assert charts.thinned([(i, 2.0 * i) for i in range(1000)], 10)[0] == (49.5, 99.0)


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
            "classes": {name: 0.5 for name in HOSTILE}}
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
    (["RUN", "--out", "no/such/folder/page.html"], "in a folder that is not there"), (["RUN", "--out", "."], "a folder"),
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
    assert len(report.data["retrieval"]["queries"]) == 2 and len(report.store.images) > 2  # the run says where frames are


def test_similarities_are_those_that_retrieval_writes(made):
    found = retrieval_gallery.load(made.features, "mine", 10)
    sim, recall = retrieval.retrieve(found.query, found.gallery, torch.device("cpu"))
    assert torch.equal(found.sim, sim.topk(5, dim=1).values)
    assert float(found.hits[:, 0].float().mean()) == pytest.approx(recall[1])
