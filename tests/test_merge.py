"""Two-stream fusion of probabilities and of similarities, against loops over videos."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval import merge_2stream_prob as fusion
from eval.merge_2stream_prob import main, match
from eval.retrieval import FeatureSet, load_both, save_features
from utils import launch
from utils.errors import CheckpointError, OptionError

CLASSES = ["Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta"]


def probabilities(names: list[str], seed: int) -> dict[str, list[float]]:
    """A random distribution over the classes for each video."""
    rng = np.random.default_rng(seed)
    return {name: rng.dirichlet(np.ones(len(CLASSES))).tolist() for name in names}


def video_names(count: int, prefix: str = "") -> list[str]:
    """Csv paths of videos of all classes in turn."""
    return [f"{prefix}{CLASSES[i % len(CLASSES)]}/v{i}" for i in range(count)]


def loop_accuracy(rows: dict[str, list[float]], k: int) -> float:
    """Share of videos whose folder is among the classes of the k highest probabilities."""
    hits = [name.split("/")[-2] in sorted(CLASSES, key=lambda c: -row[CLASSES.index(c)])[:k]
            for name, row in rows.items()]
    return sum(hits) / len(hits)


def test_probabilities_of_both_shapes_match_by_video(tmp_path):
    one, two = probabilities(video_names(20), 1), probabilities(video_names(21, "/data/frames/"), 2)
    (tmp_path / "one.json").write_text(json.dumps({name: {"mean_prob": [row]} for name, row in one.items()}))
    (tmp_path / "two.json").write_text(json.dumps({f"{name}.avi/": [row] for name, row in two.items()}))
    matched = match(*(fusion.label_probabilities(fusion.read_probabilities(tmp_path / f"{name}.json"), CLASSES)
                      for name in ("one", "two")))
    results = fusion.merge_probabilities(*matched)
    assert [len(stream.names) for stream in matched] == [20, 20]
    two = {name.removeprefix("/data/frames/"): row for name, row in two.items()}
    both = {name: [(a + b) / 2 for a, b in zip(row, two[name], strict=True)] for name, row in one.items()}
    two = {name: two[name] for name in one}
    for name, rows in (("RGB", one), ("flow", two), ("both", both)):
        for k in (1, 5):
            assert results[name][k] == pytest.approx(loop_accuracy(rows, k)), (name, k)


def stream(count: int, seed: int, order: list[int], width: int) -> FeatureSet:
    """Random features of `count` videos, in the given order; labels follow the video."""
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2
    labels = torch.arange(count) % 3
    return FeatureSet(rows[order], labels[order], [f"C{int(labels[i])}/v{i}" for i in order])


def loop_fusion(query, gallery, k: int) -> float:
    """R@k of the sum of the streams' cosines; query and gallery are {video: (feature, label)} per stream, matched."""
    centred = []
    for sets in (query, gallery):
        per_stream = []
        for videos in sets:
            mean = np.mean([feature for feature, _ in videos.values()], axis=0)
            per_stream.append({name: (f - mean) / np.linalg.norm(f - mean) for name, (f, _) in videos.items()})
        centred.append(per_stream)
    hits = 0
    for name, (_, label) in query[0].items():
        def score(other, name=name):
            return sum(float(centred[0][s][name] @ centred[1][s][other]) for s in range(len(query)))
        nearest = sorted(gallery[0], key=lambda other: -score(other))[:k]
        hits += any(gallery[0][other][1] == label for other in nearest)
    return hits / len(query[0])


def as_dict(data: FeatureSet, keep: set[str]) -> dict:
    """{video: (feature, label)} of the kept videos."""
    return {name: (row.numpy(), int(y)) for name, row, y in zip(data.names, data.features, data.labels, strict=True)
            if name in keep}


def test_similarities_intersect_first_then_centre():
    query = stream(41, 1, list(range(40)), 4), stream(41, 2, list(range(40, 0, -1)), 7)
    gallery = stream(60, 3, list(range(58)), 4), stream(60, 4, list(range(59, 1, -1)), 7)
    found = fusion.merge_similarities(match(*query), match(*gallery))
    q_keep, g_keep = ({*sets[0].names} & {*sets[1].names} for sets in (query, gallery))
    assert len(q_keep) == 39 and len(g_keep) == 56
    q, g = [as_dict(s, q_keep) for s in query], [as_dict(s, g_keep) for s in gallery]
    for name, streams in (("RGB", [0]), ("flow", [1]), ("both", [0, 1])):
        for k in (1, 5, 10):
            expected = loop_fusion([q[s] for s in streams], [g[s] for s in streams], k)
            assert found[name][k] == pytest.approx(expected), (name, k)


def test_mode_s_reads_two_folders(tmp_path, capsys):
    folders = []
    for name, seed in (("ucf101", 1), ("ucf101-f", 5)):
        folders.append(tmp_path / name / "feature")
        save_features(folders[-1], name, "test", stream(9, seed, list(range(9)), 4), {})
        save_features(folders[-1], name, "train", stream(12, seed + 1, list(range(12)), 4), {})
    output = tmp_path / "new" / "both.json"
    assert main(["--prob1", str(folders[0]), "--prob2", str(folders[1]), "--dataset", "ucf101", "--mode", "s",
                 "--output", str(output)]) == 0
    out = capsys.readouterr().out
    written = json.loads(output.read_text())
    assert written.pop("videos") == 9
    for name, recall in written.items():
        row = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        shown = [float(cell.rstrip("*")) for cell in row.split()[1:]]
        assert list(recall.values()) == pytest.approx(shown, abs=0.005)
    assert "R@50" in out and "both" in out and "R@20, R@50" in out  # the gallery has 12 videos, and that is said


def test_mode_c_takes_labels_from_the_class_list(tmp_path, capsys):
    (tmp_path / "splits" / "mini").mkdir(parents=True)
    (tmp_path / "splits" / "mini" / "ClassInd.txt").write_text("\n".join(CLASSES) + "\n")
    sure = {name: [[float(c == name.split("/")[-2]) for c in CLASSES]] for name in video_names(12, "x/")}
    wrong = {name: [[float(c == CLASSES[0]) for c in CLASSES]] for name in sure}
    for name, rows in (("sure", sure), ("wrong", wrong)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    arguments = ["--prob1", str(tmp_path / "sure.json"), "--prob2", str(tmp_path / "wrong.json"), "--dataset", "mini",
                 "--split_root", str(tmp_path / "splits")]
    assert main([*arguments, "--mode", "c", "--output", str(tmp_path / "c.json")]) == 0
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["videos"] == 12 and written["RGB"] == {"1": 100.0, "5": 100.0}
    assert written["flow"]["1"] == pytest.approx(100 / 6, abs=1e-4)  # two of twelve are of the first class
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "12 videos of RGB and 12 of flow, 12 in common"
    lines = {line.split()[0]: line.split()[1] for line in out[3:6]}
    assert lines["RGB"] == "100.00*" and lines["flow"] == f"{100 / 6:.2f}"


@pytest.mark.parametrize(("content", "complaint"), [
    (None, "cannot be read"), ("{", "not a JSON"), ("[1]", "not a probability"),
    ('{"a/b": [[1, 2]], "a/c": [[1]]}', "not a probability file (2 videos)"), ("{}", "(0 videos)"),
    ('{"a/b": {"x": 1}}', "not a probability"), ('{"a/b": [[NaN, 1]]}', "(those of a/b are not finite)"),
])
def test_bad_probability_file_is_one_line(tmp_path, capsys, content, complaint):
    path = tmp_path / "prob.json"
    if content is not None:
        path.write_text(content)
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "ClassInd.txt").write_text("\n".join(CLASSES) + "\n")
    arguments = ["--prob1", str(path), "--prob2", str(path), "--dataset", "mini", "--split_root", str(tmp_path)]
    assert launch.exit_code(lambda: main(arguments)) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1 and error.startswith("error: ")


@pytest.mark.parametrize(("rgb", "flow", "words"), [
    (range(100), range(3), "100 videos of RGB and 3 of flow, 3 in common, less than 95%; RGB alone has C0/v12, "),
    (range(94), range(100), "94 in common.*; flow alone has C0/v96, C0/v99, C1/v94: make"),
    (range(20), range(20, 40), "0 in common.*RGB alone has C0/v0, .*; flow alone has C0/v21, "),
    (range(95), range(100), ""), (range(1), range(1), "")])
def test_streams_with_too_few_videos_in_common_name_some(rgb, flow, words):
    with pytest.raises(OptionError, match=words) if words else nullcontext():
        match(stream(100, 1, list(rgb), 4), stream(100, 2, list(flow), 7))


@pytest.mark.parametrize(("one", "two", "common"), [
    (["A/v.avi", "/x/A/w.mp4"], ["A/v/", "y/A/w"], 2), (["A/v.1", "A/v.2"], ["A/v.1", "A/v.2"], 2),
    (["A/x.avi", "A/x.mp4"], ["A/x.avi", "A/x.mp4"], 2), (["Yo Yo/v", "Yo Yo/w"], ["yo_yo/w", "Yo_Yo/v"], 2),
    (["a b/v", "a_b/v"], ["a_b/v", "a b/v"], 2), (["A/v", "x/A/v"], ["A/v", "A/w"], None)])
def test_videos_match_whatever_their_folders_and_endings(one, two, common):
    sets = [FeatureSet(torch.ones(2, 3), torch.zeros(2), names) for names in (one, two)]
    with nullcontext() if common else pytest.raises(CheckpointError, match="A/v is listed twice"):
        assert len(match(*sets)[0].names) == common


@pytest.mark.parametrize("changed", ["which_split", "img_dim", "normalised", "checkpoint", "videos"])
def test_features_made_with_other_settings_do_not_mix(tmp_path, changed):
    note = {"which_split": 1, "img_dim": 128, "normalised": True, "checkpoint": "a", "videos": "1", "mean_of": "clip"}
    both = [replace(stream(3, 1, [0, 1, 2], 4), made_from=note | own) for own in ({}, {changed: 2})]
    own = changed in ("checkpoint", "videos")  # of each stream
    with nullcontext() if own else pytest.raises(CheckpointError, match=f"RGB was made with {changed} .*, flow with 2"):
        match(*both)
    for split, each in zip(("test", "train"), both, strict=True):
        save_features(tmp_path, "a", split, each, dict(each.made_from))
    with nullcontext() if changed == "videos" else pytest.raises(CheckpointError, match=f"made with {changed} "):
        load_both(tmp_path, "a")


def test_streams_that_do_not_go_together():
    one = stream(3, 1, [0, 1], 4)
    with pytest.raises(CheckpointError, match="label the same videos differently"):
        match(one, FeatureSet(one.features, one.labels + 1, one.names))
