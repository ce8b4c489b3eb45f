"""Galleries, map, confusion matrix, film strips and curves of the report, against loops and the encoders themselves."""

import base64
import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from made_run import fixture_made, small_network  # noqa: F401

from dataset import catalog
from dataset.transforms.presets import PretrainTransform, to_blocks
from engine import checkpoint
from engine.config import ModelConfig, take
from eval.protocols import recall_at_k, similarity
from model import momentum
from tools.report import curves, mining, results, retrieval, strips
from tools.report.page import Report, render
from tools.report.run_reader import Run, read_run
from tools.report.strips import Source, Strips
from utils.errors import CheckpointError


def test_the_nearest_training_clips_by_loops(made):
    found = retrieval.load(made.features, "mine")
    a, b = (each.features.numpy() - each.features.numpy().mean(axis=0) for each in (found.query, found.gallery))
    for i, row in enumerate(a):
        cosines = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in b]
        best = sorted(range(len(b)), key=lambda j: -cosines[j])[:5]
        assert found.index[i].tolist() == best
        assert found.sim[i].tolist() == pytest.approx([cosines[j] for j in best], abs=1e-5)
    assert float(found.hits[:, 0].float().mean()) == pytest.approx(
        recall_at_k(similarity(found.query.features, found.gallery.features), found.query.labels,
                    found.gallery.labels)[1])


def test_cards_name_the_clips_their_classes_and_which_are_right(made):
    found = retrieval.load(made.features, "mine")
    cards = retrieval.cards(found, 1000, {}, Strips())
    assert [f"{card['class']}/{card['name']}" for card in cards] == made.data.test
    for card in cards:
        assert card["strip"] == ""
        for near in card["near"]:
            assert f"{near['class']}/{near['name']}" in made.data.train
            assert near["right"] == (near["class"] == card["class"]) and -1 <= near["sim"] <= 1
        assert [near["sim"] for near in card["near"]] == sorted((near["sim"] for near in card["near"]), reverse=True)
    assert len(retrieval.cards(found, 3, {}, Strips())) == 3


def test_the_map_has_the_two_directions_of_most_variance(made):
    rows = torch.randn(40, 6) * torch.tensor([1, 5, 1, 3, 1, 1.0])
    places, shares = retrieval.principal(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.double().numpy().T))
    centred = rows.double().numpy() - rows.double().numpy().mean(axis=0)
    for axis in range(2):
        expected = centred @ vectors[:, -1 - axis]
        assert np.allclose(np.abs(places[:, axis]), np.abs(expected), atol=1e-4)
        assert shares[axis] == pytest.approx(values[-1 - axis] / values.sum(), abs=1e-5)
    assert np.isfinite(retrieval.principal(torch.ones(1, 4))[0]).all()  # a single clip
    found = retrieval.load(made.features, "mine")
    drawn = retrieval.feature_map(found)
    assert [point["row"] for point in drawn["points"]] == list(range(len(made.data.test)))
    for point, video in zip(drawn["points"], made.data.test, strict=True):
        assert drawn["classes"][point["class"]] == video.split("/")[0] and point["text"][0] == video
        assert point["right"] == bool(found.hits[point["row"], 0])


def test_confusions_by_loops(made):
    classes, rng = made.data.classes, np.random.default_rng(0)
    rows = {f"x/{video}/": torch.from_numpy(rng.dirichlet([1, 1, 1])) for video in made.data.test}
    found = results.of_probabilities(rows, classes, "made up")
    expected: dict = {}
    for video, row in zip(made.data.test, rows.values(), strict=True):
        pair = classes.index(video.split("/")[0]), row.tolist().index(max(row))
        expected[pair] = expected.get(pair, 0) + 1
    assert {(a, b): n for a, b, n in found["cells"]} == expected and found["total"] == len(rows)
    assert found["accuracy"] == pytest.approx(sum(n for (a, b), n in expected.items() if a == b) / len(rows))
    wrong = {(classes[a], classes[b]): n for (a, b), n in expected.items() if a != b}
    assert {(a, b): n for a, b, n, _ in found["worst"]} == wrong
    assert [n for _, _, n, _ in found["worst"]] == sorted(wrong.values(), reverse=True)
    with pytest.raises(CheckpointError, match="3 classes"):
        results.of_probabilities(rows, [*classes, "More"], "made up")
    near = results.of_neighbours(retrieval.load(made.features, "mine"))
    assert near["total"] == len(made.data.test) and "no classifier" in near["title"]


def test_each_strip_is_made_once_and_the_smaller_the_more_there_are(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_PIXELS", 2.7e5)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (24, 120, 160, 3)).astype(np.uint8)
    reader = SimpleNamespace(num_frames=lambda name: 24, frames=lambda name, rows: frames[rows])
    source, few, many = Source("test rgb", "rgb", reader), Strips(), Strips()
    assert few.want(source, "A/a") == few.want(source, "A/a") == "s0" and few.want(None, "A/a") == ""
    for i in range(20):
        many.want(source, f"A/{i}")
    heights = []
    for made in (few, many):
        made.make()
        data = base64.b64decode(made.images["s0"].partition(",")[2])
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        heights.append(image.shape[0])
    assert len(few.images) == 1 and heights == [strips.HIGHEST, 50]


def test_strips_that_cannot_be_read_are_counted_and_the_others_made(made):
    source = strips.sources("mine-f", "flow", str(made.data.data_root), "train")["flow"]
    store = Strips()
    store.want(source, made.data.train[0])
    store.want(source, "No/video")
    store.make()
    assert list(store.images) == ["s0"] and list(store.failed.values()) == [1]


def test_curves_are_those_of_the_metrics(made, monkeypatch):
    run = read_run(made.folder)
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    drawn = {line["name"]: (line["x"], line["y"]) for chart in curves.draw(run) for line in chart["lines"]}
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert drawn["PMR"] == ([line["done"] for line in epochs], [line["values"]["recall"] for line in epochs])
    hits = [line["values"]["stage2_hits"] / 3 for line in epochs]
    assert drawn["stage 2, own view, keeps 3"][1] == pytest.approx(hits)
    steps = [{"kind": "steps", "title": "train", "done": i, "values": {}, "seconds": {"step": 2.0 * i}}
             for i in range(1000)]
    monkeypatch.setattr(curves, "MOST_POINTS", 10)
    x, y = curves.points(Run(made.folder, made.folder, [], steps, []), "seconds/train/step")
    assert (x[0], y[0], len(x)) == (49.5, 99.0, 10)


def test_class_mining_recall_is_that_of_the_last_epoch(made):
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    report = Report(read_run(made.folder), mining_clips=0)
    content = next(section.content for section in report.sections if section.name == "classes")
    assert content["classes"] == [line for line in lines if line["kind"] == "mining"][-1]["classes"]
    page = render(report)
    shown = re.findall(r"<span>(\w+)</span><div class=\"bar\">.*?>([\d.]+)</span>", page)
    assert shown == [(name, f"{100 * value:.1f}") for name, value in
                     sorted(content["classes"].items(), key=lambda item: item[1])]


def mine(made, path=None, count=12, **changed):
    run = read_run(made.folder)
    roots = {"data_root": str(made.data.data_root), "split_root": str(made.data.split_root)}
    return mining.mine(run.options | roots | changed, path or run.checkpoint, count)


@pytest.fixture
def mined(made):
    return mine(made)


def plain_stage(candidates: list[int], similarity: torch.Tensor, excluded: list[bool], size: int) -> list[int]:
    return sorted(candidates, key=lambda j: (excluded[j], -float(similarity[j])))[:size]


def test_what_is_mined_is_what_the_next_step_would_mine(made, mined):
    saved = checkpoint.load(read_run(made.folder).checkpoint)
    model = take(ModelConfig, read_run(made.folder).options).build()
    model.load_state_dict(saved["state_dict"])
    model.train()
    dataset = catalog.build("mine-2stream-2clip", "train", transform=PretrainTransform(32), seq_len=8, ds=1,
                            data_root=made.data.data_root, split_root=made.data.split_root, seed=0)
    index, rows = dataset.index, saved["label_ring"]["rows"]
    assert mined.rows.tolist() == rows.tolist() and mined.views == ["other", "own", "other"]
    first = [query.row for query in mined.queries[:4]]  # a batch
    blocks = to_blocks(torch.utils.data.default_collate([dataset[2, row] for row in first]), torch.device("cpu"))
    with torch.no_grad():
        q = momentum.embed(model.encoder_q, blocks[:, 0, 0])
        kf = momentum.embed(model.sampler, blocks[:, 1, 1])
    state = saved["state_dict"]
    for i, query in enumerate(mined.queries[:4]):
        sims = {"own": q[i] @ state["queue"], "other": kf[i] @ state["queue_second"]}
        own_source = [int(index.sources[row]) == int(index.sources[query.row]) for row in rows]
        right = [index.labels[row] == index.labels[query.row] and not own_source[j] for j, row in enumerate(rows)]
        kept = list(range(8))
        for view, size, stage, hits in zip(mined.views, (5, 3, 2), query.stages, query.hits, strict=True):
            kept = plain_stage(kept, sims[view], own_source, size)
            assert sorted(stage.tolist()) == sorted(kept) and hits == sum(right[j] for j in kept)
        assert query.stages[-1].tolist() == kept  # the mined ones, best first
        assert query.sims["own"].tolist() == pytest.approx(sims["own"].tolist(), abs=1e-5)
        taken = [j for j in kept if not own_source[j]]
        assert query.recall == pytest.approx(sum(right[j] for j in taken) / max(1, len(taken)))


def test_cards_show_queries_from_the_best_to_the_worst_and_what_is_mined(made, mined):
    cards = mining.cards(mined, Strips())
    recalls = [card["recall"] for card in cards]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[0] == max(q.recall for q in mined.queries) and recalls[-1] == min(q.recall for q in mined.queries)
    for card in cards:
        assert [(stage["kept"], stage["before"]) for stage in card["stages"]] == [(5, 8), (3, 5), (2, 3)]
        assert [stage["title"] for stage in card["stages"]] == [
            "Stage 1: other view (flow)", "Stage 2: own view (RGB)", "Stage 3: other view (flow)"]
        for stage in card["stages"]:
            assert stage["hits"] == sum(bool(entry["right"]) for entry in stage["entries"])
            assert {entry["right"] for entry in stage["entries"] if entry["class"] != card["class"]} <= {False, None}
        mined_names = {entry["name"] for entry in card["stages"][-1]["entries"]}
        assert {entry["name"] for entry in card["stages"][0]["entries"] if entry["mined"]} == mined_names


def test_a_queue_of_unknown_videos_and_a_run_that_does_not_mine_are_refused(made, tmp_path):
    saved = checkpoint.load(read_run(made.folder).checkpoint)
    other = dict(saved, label_ring={**saved["label_ring"], "rows": saved["label_ring"]["rows"].flip(0)})
    del saved["label_ring"]
    for name, content, message in (("published", saved, "which videos"), ("other", other, "other videos")):
        checkpoint.save(tmp_path / name, content)
        with pytest.raises(CheckpointError, match=message):
            mine(made, tmp_path / name)


    with pytest.raises(CheckpointError, match="mines nothing"):
        mine(made, topk=0, cascade=False)
