"""The page of python -m tools.report: what it shows and says is missing, and its parts, against plain loops."""

import json
import os
import re
from pathlib import Path

import made_run
import numpy as np
import pytest
import torch
from made_run import fixture_made  # noqa: F401
from pages import Page

from dataset import catalog
from dataset.transforms.presets import PretrainTransform, to_blocks
from engine import checkpoint
from engine.config import ModelConfig, take
from eval.protocols import recall_at_k, similarity
from model import momentum
from tools.report import galleries, results
from tools.report.__main__ import main
from tools.report.galleries import Strips
from tools.report.run_reader import Run, read_run
from tools.report.verdict import better_than_random, results_table, verdict
from utils import launch
from utils.errors import CheckpointError
from utils.files import write_json

pytestmark = pytest.mark.usefixtures("small_network")


def page_of(folder: Path, *words: str) -> Page:
    out = folder / "page.html"
    assert launch.exit_code(lambda: main([str(folder), "--out", str(out), *words])) == 0
    return Page(out.read_text())


def test_a_page_is_self_contained(made, capsys):
    page = page_of(made.folder)
    said = capsys.readouterr().out
    assert "sections: results, curves, retrieval gallery, mining gallery, map of the features" in said
    assert "missing:" not in said
    assert all("src" not in attrs and attrs.get("href", "#").startswith(("#", "data:")) for _, attrs in page.tags)
    assert {image["data-strip"] for image in page.all("img")} == page.json["strips"].keys()
    cards = [attrs for attrs in page.all("li") if "data-row" in attrs]
    assert len(cards) == len(made.data.test)
    assert {card["data-class"] for card in cards} == {name.split("/")[0] for name in made.data.test}
    rows = [point["row"] for point in page.json["figures"]["map"]["points"]]
    assert rows == [*range(len(made.data.test)), *[None] * len(made.data.train)]
    assert "Plotly" in page.text and len(page.text) < 7e6


def test_results_of_a_run_and_of_a_classifier(made):
    run = read_run(made.folder)
    probe = run.working_folder / "log-eval-linclr" / "probe"
    (probe / "model").mkdir(parents=True)
    options = {"train_what": "ft", "dataset": "mine"}
    write_json(probe / "run.json", {"starts": [{"options": options}]})
    write_json(probe / "model/epoch1.pth.tar-acc-ten.json", {"center": {"1": 10.0}, "ten": {"1": 20.0, "5": 60.5}})
    write_json(run.folder / "model/epoch1.pth.tar-lp-mine-acc.json", {"1": 30.0})
    pretrained, finetuned = ({result.what: result.scores for result in results.read_results(each)}
                             for each in (run, read_run(probe)))
    assert pretrained == {"retrieval on mine": {"R@1": 50.0, "R@5": 75.0},
                          "linear probe on stored features of mine": {"top-1": 30.0}}
    assert finetuned == {"finetuning on mine, centre crop": {"top-1": 10.0},
                         "finetuning on mine, ten crops": {"top-1": 20.0, "top-5": 60.5}}
    assert page_of(probe).json["figures"]["curves"] is None  # a classifier's folder, without metrics or features
    for path in [run.folder / "model/epoch1.pth.tar-lp-mine-acc.json", *sorted(probe.parent.rglob("*"), reverse=True)]:
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_second_run_is_compared_with_the_first(made, tmp_path):
    other = tmp_path / "other"
    (other / "model/feature").mkdir(parents=True)
    for name in ("metrics.jsonl", "run.json"):
        (other / name).write_text((made.folder / name).read_text().replace('"lr": 0.001', '"lr": 0.003'))
    write_json(other / "model/feature/mine_recall.json", {"1": 30.9, "5": 62.3})
    page = page_of(made.folder, "--against", str(other), "--mining_clips", "0")
    names = [line["name"] for chart in page.json["figures"]["curves"] for line in chart["lines"]]
    first, second = (f"{read_run(other).title}, lr {lr}" for lr in ("0.001", "0.003"))
    assert {f"{first}: PMR", f"{second}: PMR", first, second} <= {*names}
    assert max(len(chart["lines"]) for chart in page.json["figures"]["curves"]) == 6
    table = re.sub(r"<[^>]+>|\s+", " ", page.text[page.text.index('id="results"'):page.text.index('id="curves"')])
    assert re.search(rf"retrieval on mine +{re.escape(first)}: model/feature.* 50.0 +chance 33.3 +75.0 +.* "
                     rf"retrieval on mine +{re.escape(second)}: model/feature +30.9 +62.3", table)
    assert re.findall('class="differs"><dt>(.*?)</dt>', page.text) == ["lr"]


def test_a_set_of_one_class_has_numbers_without_labels_and_file_names(tmp_path):
    run = tmp_path / "ckpt/log-pretrain/run"
    splits, videos = tmp_path / "splits/mine", tmp_path / "films [1]"
    for folder in (run, splits, videos):
        folder.mkdir(parents=True)
    (splits / "ClassInd.txt").write_text("1 all\n")
    options = {"dataset": "mine-2stream-2clip", "split_root": str(splits.parent), "model": "coclr", "batch_size": 4,
               "moco_k": 8, "topk": 2, "cascade": True}
    write_json(run / "run.json", {"starts": [{"options": options, "processes": 1}]})
    values = {"loss": 1.0, "recall": 1.0, "chance": 1.0, "top1": 0.5}
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in [
        {"kind": "epoch", "title": "train", "epoch": 0, "done": 2, "values": values},
        {"kind": "mining", "epoch": 0, "done": 2, "values": {"cmr_median": 1, "rank_own": 1.2}},
        {"kind": "health", "epoch": -1, "done": 0, "values": {"better": 1, "second_other": .25, "second_random": .1}}]))
    made_run.add_features(run / "model/feature", "mine", ["all/q0", "all/q1"], [f"all/g{i}" for i in range(9)])
    write_json(run / "model/feature/mine_label_free.json", {"second_clip": 63.0, "second_clip_random": 21.0,
                                                            "effective_rank": 5.9, "effective_rank_random": 2.0,
                                                            "videos": 20})
    (videos / "g3.mp4").touch()
    page = page_of(run, "--videos", str(videos))
    shown = page.text[:page.text.index('<script type="application')]
    assert not re.search(r"R@\d|PMR|CMR|✓ right|✗ wrong|right or|data-right|Class mining", shown)
    assert "63.0<small>random weights 21.0" in shown and "5.9<small>random weights 2.0" in shown and ">g3.mp4<" in shown
    links = {point["text"][0]: point["link"] for point in page.json["figures"]["map"]["points"]}
    assert links["all/g3"] == "../../../films%20%5B1%5D/g3.mp4" and links["all/q0"] == ""
    found = [(finding.question, finding.good, finding.answer) for finding in verdict(read_run(run))]
    assert [good for _, good, _ in found] == [False, False, False] and "nothing was trained" in found[0][2]
    assert [chart["title"] for chart in page.json["figures"]["curves"]][:2] == ["Loss", "Accuracy"]


def test_chance_and_random_weights_by_simulation():
    query, gallery = torch.tensor([0, 0, 0, 1]), torch.tensor([0] * 3 + [1] * 9)
    draws = [torch.randperm(12, generator=torch.Generator().manual_seed(i))[:2] for i in range(4000)]
    hits = np.mean([[bool((gallery[draw] == label).any()) for label in query] for draw in draws])
    assert results.chance(query, gallery, 2) == pytest.approx(100 * hits, abs=1.5)
    assert results.chance(query, gallery, 50) == 100

    def findings(own: float, random: float, **more: float) -> list:
        return better_than_random({name: {"retrieval": {"1": value, **more}}
                                   for name, value in (("RGB", own), ("random RGB", random))})
    rng = np.random.default_rng(0)
    chances = [rng.binomial(200, .3, 20000) / 2, rng.binomial(200, .2, 20000) / 2]
    error = np.std(chances[0] - chances[1])  # of the difference, in percentage points
    for difference in (1.8, 2.2):
        [finding] = findings(20 + difference * error, 20.0, videos=200)
        assert finding.good == (difference > 2)
    assert findings(60.0, 20.0)[0].good is None and not findings(0.0, 20.0, videos=50)[0].good
    numbers = {"second_clip": 63.0, "second_clip_random": 21.0, "videos": 20}
    [free] = better_than_random({"flow": {"retrieval": numbers}})
    assert free.good and str(free).startswith("✓ Are the flow features better than random weights? yes: second clip")


def test_a_whole_cotraining_has_one_page(made, tmp_path):
    runs = {"InfoNCE RGB": made.folder, "cycle 1 RGB": made.folder, "cycle 1 flow": made.folder}
    retrieval = {"1": 50.0, "5": 75.0}
    write_json(tmp_path / "results.json", {
        "dataset": "mine", "cycles": 1, "models": {}, "warnings": ["it was <late>"], "commands": {},
        "runs": {step: os.path.relpath(folder, tmp_path) for step, folder in runs.items()},
        "results": {"RGB": {"retrieval": retrieval, "probe": {"1": 40.0}}, "random RGB": {"retrieval": {"1": 30.0}},
                    "both": {"retrieval": retrieval}},
        "hours": {"asked": 0.25, "estimated": 0.2, "taken": 0.31}, "settings": [["moco_k", 8, "half of 16 videos"]]})
    (tmp_path / "settings.yaml").write_text(f"videos: {tmp_path}\n")
    name = made.data.train[0]
    (tmp_path / name).parent.mkdir()
    (tmp_path / f"{name}.mp4").touch()
    page = page_of(tmp_path)
    assert "CoCLR + CPR on mine, RGB and flow" in page.text and "it was &lt;late&gt;" in page.text
    shown = re.sub(r"<[^>]+>|\s+", " ", page.text[:page.text.index('<script type="application')])
    for words in ("moco_k 8 half of 16 videos", "50.0 random weights 30.0", "50.0 chance 33.3",
                  "19 min taken; asked 15 min; estimated 12 min"):
        assert words in re.sub(" +", " ", shown)
    assert f"{name}.mp4" in page.json["links"].values()
    loss = page.json["figures"]["curves"][0]
    last = max(line["done"] for line in read_run(made.folder).metrics)
    assert loss["marks"] == [[0, "InfoNCE"], [last, "cycle 1"]]
    assert [line["name"] for line in loss["lines"]] == ["RGB", "flow"]
    rgb, flow = (line["x"] for line in loss["lines"])
    assert flow == [x + last for x in rgb[:len(flow)]] and rgb[-1] == flow[-1]
    assert [*page.json["figures"]] == ["curves", "map-RGB", "map-flow"]
    assert launch.exit_code(lambda: main([str(tmp_path), "--against", str(made.folder)])) == 2


def test_videos_are_found_by_the_names_that_they_have_with_labels_and_without(tmp_path, capsys):
    (tmp_path / "A/B").mkdir(parents=True)
    for name in ("a.mp4", "A/b.mp4", "A/B/c.mp4", "notes.txt"):
        (tmp_path / name).touch()
    assert galleries.video_links(str(tmp_path), tmp_path / "report.html") == {
        "all/a": "a.mp4", "all/b": "A/b.mp4", "A/b": "A/b.mp4", "all/c": "A/B/c.mp4", "A/c": "A/B/c.mp4"}
    assert galleries.video_links(str(tmp_path / "gone"), tmp_path / "report.html") == {}
    assert not capsys.readouterr().out


def test_no_row_is_the_best_without_labels():
    text = results_table({"RGB": {"retrieval": {"second_clip": 20.0, "second_clip_random": 70.0}},
                          "flow": {"retrieval": {"second_clip": 10.0, "second_clip_random": 60.0}}})
    assert "70.00" in text and "*" not in text
    assert "30.00*" in results_table({"RGB": {"retrieval": {"1": 30.0}}, "flow": {"retrieval": {"1": 20.0}}})


def test_galleries_of_a_cotraining_are_of_its_encoders_where_classifiers_follow(made, tmp_path):
    classifier = tmp_path / "log-eval-linclr/run"
    classifier.mkdir(parents=True)
    write_json(classifier / "run.json", {"starts": [{"options": {"train_what": "ft", "dataset": "mine"}}]})
    write_json(tmp_path / "results.json", {
        "dataset": "mine", "cycles": 1, "models": {}, "warnings": [], "commands": {}, "settings": [],
        "runs": {"cycle 1 RGB": os.path.relpath(made.folder, tmp_path), "finetune RGB": "log-eval-linclr/run"},
        "results": {"RGB": {"retrieval": {"1": 50.0}}, "random RGB": {"retrieval": {"1": 30.0}}}, "test_videos": 6,
        "hours": {"asked": None, "estimated": None, "taken": 0.1}})
    page = page_of(tmp_path)
    assert [*page.json["figures"]] == ["curves", "map-RGB"] and page.json["strips"]
    assert "--retrieval first" not in page.text and "is unknown" not in page.text


def test_a_cotraining_that_held_out_no_video_has_no_empty_sections(made, tmp_path):
    write_json(tmp_path / "results.json", {
        "dataset": "mine", "cycles": 1, "models": {}, "warnings": [], "commands": {}, "results": {}, "settings": [],
        "runs": {"InfoNCE RGB": os.path.relpath(made.folder, tmp_path)}, "test_videos": 0,
        "hours": {"asked": None, "estimated": None, "taken": 0.1}})
    page = page_of(tmp_path)
    assert "No video was held out, so nothing was evaluated" in page.text
    assert "--retrieval first" not in page.text and [*page.json["figures"]] == ["curves"]


HOSTILE = ['</script><img src=x onerror=alert(1)>', '"><b onmouseover=alert(1)>', "{{ 7 * 7 }}", "<!--", "\u2028&amp;"]


def test_names_are_shown_and_never_become_markup(made, tmp_path):
    run = tmp_path / "ckpt/log-pretrain/<i>run"
    run.mkdir(parents=True)
    write_json(run / "run.json", {"starts": [{"options": {"<u>": HOSTILE[0], "net": HOSTILE[1], "topk": 1},
                                             "command": HOSTILE}]})
    line = {"kind": "mining", "epoch": 0, "done": 1, "values": {"cmr_median": 0.5}}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    names = [f"{name.replace('/', '')}/v_{i}{name.replace('/', '')}" for i, name in enumerate(HOSTILE * 2)]
    made_run.add_features(run / "model/feature", "mine", names[:5], names[5:])
    page = page_of(run)
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in page_of(made.folder).tags}
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert {attrs["data-class"] for attrs in page.all("li") if "data-row" in attrs} == {
        name.split("/")[0] for name in names}


def test_missing_sections_say_why_and_the_rest_is_made(made, tmp_path, capsys):
    copy = tmp_path / "ckpt/log-pretrain/run"
    (copy / "model").mkdir(parents=True)
    (copy / "run.json").write_bytes((made.folder / "run.json").read_bytes())
    (copy / "metrics.jsonl").write_text((made.folder / "metrics.jsonl").read_text() + '{"kind": "epoch", "tit')
    page_of(copy)
    said = capsys.readouterr().out
    assert "sections: curves\n" in said and "skipped 1 unreadable line of metrics.jsonl" in said
    assert "missing: mining gallery. It needs a checkpoint in model/" in said
    assert "missing: map of the features. This run has no retrieval features: run eval/" in said
    (copy / "model/epoch1.pth.tar").write_bytes(read_run(made.folder).checkpoint.read_bytes()[:5000])
    os.link(made.features / "mine_test_feature.pth.tar", copy / "model/mine_test_feature.pth.tar")
    page_of(copy, "--data_root", str(made.data.data_root), "--split_root", str(made.data.split_root))
    said = capsys.readouterr().out
    assert "missing: mining gallery. " in said and "cut short" in said and "missing: retrieval gallery. " in said
    (copy / "run.json").write_text("[")
    page_of(copy)
    assert "run.json is not a JSON file" in capsys.readouterr().out
    page = page_of(made.folder, "--data_root", str(tmp_path / "gone"))  # without frames
    said = capsys.readouterr().out
    assert page.json["strips"] == {} and "no film strip" in page.text
    assert "name the folder of the LMDBs with --data_root" in said and "missing: mining gallery" in said


@pytest.mark.parametrize(("words", "message"), [
    (["nowhere"], "there is no run folder nowhere"), (["."], "is not a run folder"),
    (["RUN", "--against", "nowhere"], "there is no run folder nowhere"),
    (["RUN", "--out", "no/such/folder/page.html"], "does not exist"), (["RUN", "--out", "."], "is a folder"),
    (["RUN", "--dataset", "ucf101"], "no features of ucf101"), (["RUN", "--clips", "0"], "--clips")])
def test_bad_input_is_refused_in_one_line(made, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    words = [str(made.folder) if word == "RUN" else word for word in words]
    assert launch.exit_code(lambda: main(words)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.rglob("*.html"))


def test_a_folder_of_features_below_a_run_is_enough(made):
    page = page_of(made.features, "--clips", "2", "--mining_clips", "0")
    assert str(made.folder.resolve()) in page.text and 'class="notes"' not in page.text
    assert len([attrs for attrs in page.all("li") if "data-row" in attrs]) == 2
    assert len(page.json["strips"]) > 2  # the run says where the frames are


def test_the_nearest_training_clips_by_loops(made):
    found = galleries.load(made.features, "mine")
    cards = galleries.retrieval_cards(found, 1000, {}, Strips())
    a, b = (each.features.numpy() - each.features.numpy().mean(axis=0) for each in (found.query, found.gallery))
    for row, card, video in zip(a, cards, made.data.test, strict=True):
        cosines = [float(row @ other / np.linalg.norm(row) / np.linalg.norm(other)) for other in b]
        best = sorted(range(len(b)), key=lambda j: -cosines[j])[:5]
        assert f"{card['class']}/{card['name']}" == video and card["strips"] == [""]
        assert [f"{near['class']}/{near['name']}" for near in card["near"]] == [made.data.train[j] for j in best]
        assert [near["sim"] for near in card["near"]] == pytest.approx([cosines[j] for j in best], abs=1e-5)
        assert all(near["right"] == (near["class"] == card["class"]) for near in card["near"])
    assert np.mean([card["near"][0]["right"] for card in cards]) == pytest.approx(
        recall_at_k(similarity(found.query.features, found.gallery.features), found.query.labels,
                    found.gallery.labels)[1])
    assert len(galleries.retrieval_cards(found, 3, {}, Strips())) == 3


def test_the_map_has_the_two_directions_of_most_variance(made):
    rows = torch.randn(40, 6) * torch.tensor([1, 5, 1, 3, 1, 1.0])
    places, shares = galleries.principal(rows)
    values, vectors = np.linalg.eigh(np.cov(rows.double().numpy().T))
    centred = rows.double().numpy() - rows.double().numpy().mean(axis=0)
    for axis in range(2):
        expected = centred @ vectors[:, -1 - axis]
        assert np.allclose(np.abs(places[:, axis]), np.abs(expected), atol=1e-4)
        assert shares[axis] == pytest.approx(values[-1 - axis] / values.sum(), abs=1e-5)
    found = galleries.load(made.features, "mine")
    drawn = galleries.feature_map(found, {made.data.test[0]: "a.mp4"})
    for i, (point, video) in enumerate(zip(drawn["points"], made.data.test + made.data.train, strict=True)):
        assert point["group"] == video.split("/")[0] and point["group"] in drawn["groups"]
        assert point["text"][0] == video
        assert point["row"] == (i if i < len(made.data.test) else None) and (point["link"] == "a.mp4") == (i == 0)
        assert point["right"] == (i >= len(made.data.test) or bool(found.hits[i, 0]))


def test_each_strip_is_made_once_and_those_that_cannot_be_read_are_counted(made):
    source = galleries.sources("mine-f", "flow", str(made.data.data_root), "train")["flow"]
    store = Strips()
    assert store.add(None, "A/a") == ""
    assert [store.add(source, name) for name in (made.data.train[0], "No/video") * 2] == ["s0", "s1"] * 2
    assert {*store.images} == {"s0", "wheel"} and list(store.failed.values()) == [1]


def test_curves_are_those_of_the_metrics(made, monkeypatch):
    run = read_run(made.folder)
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    charts = results.draw({"": [(0, run)]})
    drawn = {line["name"]: (line["x"], line["y"]) for chart in charts for line in chart["lines"]}
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert drawn["PMR"] == ([line["done"] for line in epochs], [100 * line["values"]["recall"] for line in epochs])
    steps = [{"kind": "steps", "title": "train", "done": i, "values": {"loss": 2.0 * i}} for i in range(1000)]
    monkeypatch.setattr(results, "MAX_POINTS", 10)
    timed = Run(made.folder, made.folder, [], steps, [])
    x, y = results.points([(0, timed), (1000, timed)], "steps/train/loss")
    assert (x[0], y[0], len(x), y[10], x[11], y[11]) == (49.5, 99.0, 21, None, 1049.5, 99.0)


def gallery(made, path=None, **changed):
    """The mining gallery of all twelve training clips."""
    run = read_run(made.folder)
    roots = {"data_root": str(made.data.data_root), "split_root": str(made.data.split_root)}
    return galleries.mining_gallery(run.options | roots | changed, path or run.checkpoint, 12, Strips())


def cascade_by_loops(sims: dict, excluded: list[bool]) -> list[list[int]]:
    kept, stages = list(range(len(excluded))), []
    for view, size in zip(("other", "own", "other"), (5, 3, 2), strict=True):
        kept = sorted(kept, key=lambda j: (excluded[j], -float(sims[view][j])))[:size]
        stages.append(kept)
    return stages


def test_what_is_mined_is_what_the_next_step_would_mine(made):
    saved = checkpoint.load(read_run(made.folder).checkpoint)
    state, queue_rows = saved["state_dict"], saved["label_ring"]["rows"]
    model = take(ModelConfig, read_run(made.folder).options).build()
    model.load_state_dict(state)
    dataset = catalog.build("mine-2stream-2clip", "train", transform=PretrainTransform(32), seq_len=8, ds=1,
                            data_root=made.data.data_root, split_root=made.data.split_root, seed=0)
    index = dataset.index
    batch_rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:4].tolist()
    blocks = to_blocks(torch.utils.data.default_collate([dataset[2, row] for row in batch_rows]), torch.device("cpu"))
    with torch.no_grad():
        q, kf = momentum.embed(model.encoder_q, blocks[:, 0, 0]), momentum.embed(model.sampler, blocks[:, 1, 1])
    content = gallery(made)
    cards = {card["name"]: card for card in content["cards"]}
    names = [index.names[row].split("/")[1] for row in queue_rows]
    for i, row in enumerate(batch_rows):
        card = cards[index.names[row].split("/")[1]]
        sims = {"own": q[i] @ state["queue"], "other": kf[i] @ state["queue_second"]}
        own_source = [int(index.sources[other]) == int(index.sources[row]) for other in queue_rows]
        right = [index.labels[other] == index.labels[row] and not own_source[j] for j, other in enumerate(queue_rows)]
        found = cascade_by_loops(sims, own_source)
        before = 8
        for kept, shown in zip(found, card["stages"], strict=True):
            assert (shown["kept"], shown["before"], shown["hits"]) == (len(kept), before, sum(right[j] for j in kept))
            assert sorted(entry["name"] for entry in shown["entries"]) == sorted(names[j] for j in kept)
            before = len(kept)
            for entry in shown["entries"]:
                j = names.index(entry["name"])
                assert entry["right"] == (None if own_source[j] else bool(right[j]))
                assert entry["mined"] == (j in found[-1])
                assert [entry["own"], entry["other"]] == pytest.approx([float(sims["own"][j]), float(sims["other"][j])],
                                                                      abs=1e-5)
        assert [entry["name"] for entry in card["stages"][-1]["entries"]] == [names[j] for j in found[-1]]  # best first
        taken = [j for j in found[-1] if not own_source[j]]
        assert card["recall"] == pytest.approx(sum(right[j] for j in taken) / max(1, len(taken)))


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A run that mined by fused ranks, its own view frozen."""
    return made_run.make(tmp_path_factory.mktemp("fused"), ["--mining", "fused", "--own_view", "frozen"])


def test_a_run_with_fused_ranks_and_a_frozen_own_view_has_its_page(fused, tmp_path):
    page = page_of(fused.folder)
    assert "CoCLR + fused on mine, RGB" in page.text and "Stage 1: both views (RGB + flow)</h3>" in re.sub(
        r" keeps 2 of 8", "", page.text)
    saved = checkpoint.load(read_run(fused.folder).checkpoint)
    del saved["frozen_own_view"]
    checkpoint.save(tmp_path / "without", saved)
    with pytest.raises(CheckpointError, match="it has no 'frozen_own_view'"):
        gallery(fused, tmp_path / "without")


def test_a_queue_of_unknown_videos_and_a_run_that_does_not_mine_are_refused(made, tmp_path):
    saved = checkpoint.load(read_run(made.folder).checkpoint)
    other = dict(saved, label_ring={**saved["label_ring"], "rows": saved["label_ring"]["rows"].flip(0)})
    del saved["label_ring"]
    for name, content, message in (("published", saved, "not record its videos"), ("other", other, "do not match the")):
        checkpoint.save(tmp_path / name, content)
        with pytest.raises(CheckpointError, match=message):
            gallery(made, tmp_path / name)
    with pytest.raises(CheckpointError, match="mines nothing"):
        gallery(made, topk=0, cascade=False)


def test_a_run_folder_with_metrics_alone_is_read_without_damaged_lines_and_nan(tmp_path):
    lines = [{"kind": kind, "title": title, "epoch": 0, "done": 4, "values": {"loss": loss}} for kind, title, loss in (
        ("steps", "train", 5.0), ("epoch", "train", 3.5), ("epoch", "val", 9.0), ("mining", "", None))]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*map(json.dumps, lines), "{", "[1]", "7", '{"kind": "epoch"}']))
    run = read_run(tmp_path)
    assert [line["values"] for line in run.metrics] == [{"loss": 5.0}, {"loss": 3.5}, {"loss": 9.0}, {}]
    assert run.epochs == {0: {"loss": 3.5}} and run.options == {} and run.checkpoint is None
    assert len(run.notes) == 2 and "skipped 4 unreadable lines" in run.notes[1]
