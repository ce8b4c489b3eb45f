"""The figures of the documentation: what is drawn of a cascade, and of a retrieval."""

import numpy as np
import pytest
import torch
from PIL import Image

from model.cascade import stage_sizes
from tools import figures
from utils import launch


def test_each_stage_keeps_a_part_of_the_one_before_and_none_of_the_query_s_source():
    queue = figures.make_queue(256, 3)
    kept = figures.survivors(queue, 5, 0.5, 5)
    assert [int(each.sum()) for each in kept] == stage_sizes(256, 5, 0.5, 5)
    for before, after in zip([~queue.excluded, *kept], kept, strict=False):
        assert (before | ~after).all()
    others = queue.other[~queue.excluded]
    assert float(queue.other[kept[0]].min()) >= float(others.sort(descending=True).values[127])  # ranked by that view


def test_the_cascade_is_drawn(tmp_path, capsys):
    for name in ("a.png", "b.png", "c.jpg"):
        words = ["cascade", "--moco-k", "64", "--stage", "2", "--output", str(tmp_path / name)]
        assert figures.main(words) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "stages keep 32, 5 of 64, ranked by other, other" in capsys.readouterr().out


def test_queries_are_of_as_many_classes_as_there_are():
    labels = [0] * 20 + [1] * 3 + [2]
    chosen = figures.choose_queries(labels, 5, 0)
    assert sorted(labels[i] for i in chosen) == [labels[i] for i in chosen]
    assert [labels[i] for i in chosen].count(2) == 1 and len(set(chosen)) == 5
    assert {labels[i] for i in figures.choose_queries(labels, 3, 0)} == {0, 1, 2}


@pytest.fixture
def features(tmp_path, monkeypatch):
    """RGB and flow features of a miniature dataset, and its folder of LMDBs."""
    import miniature

    from eval.retrieval import FeatureSet, save_features

    monkeypatch.chdir(tmp_path)
    made = miniature.make(tmp_path, "mine", classes=2, clips=2, frames=8)
    rng = np.random.default_rng(0)
    for dataset in ("mine", "mine-f"):
        for split, names in (("test", made.test), ("train", made.train)):
            labels = torch.tensor([made.classes.index(name.split("/")[0]) for name in names])
            rows = torch.eye(2)[labels] + torch.from_numpy(rng.normal(scale=0.01, size=(len(names), 2))).float()
            save_features(tmp_path / dataset, dataset, split, FeatureSet(rows, labels, names), {})
    return tmp_path


def test_a_gallery_shows_frames_of_queries_and_of_their_neighbours(features, capsys):
    words = ["gallery", "--dataset", "mine", "--data_root", "data", "--queries", "2", "--neighbours", "3"]
    for folders, name in ((["mine"], "one.png"), (["mine", "mine-f"], "two.png")):
        assert figures.main([*words, "--features", *folders, "--output", name]) == 0
        assert "R@1 of all queries 100.0%" in capsys.readouterr().out
        image = np.asarray(Image.open(features / name))
        assert image.shape[0] > 2 * figures.STRIP_HEIGHT and image.shape[1] > 4 * 3 * 64
        assert (image == figures.RIGHT).all(axis=2).any() and not (image == figures.WRONG).all(axis=2).any()


@pytest.mark.parametrize("words, said", [
    ("cascade --output x.gif", "give a name that ends in .png or .jpg"),
    ("cascade --output x.png --moco-k 16", "the cascade is too deep"),
    ("gallery --output x.png --dataset mine-2clip --features mine", "give the name used for --retrieval"),
    ("gallery --output x.png --dataset mine-f --features mine mine-f", "give the name used for --retrieval"),
    ("gallery --output x.png --dataset mine --features a b c", "one folder, or two (RGB and flow), not 3"),
    ("gallery --output x.png --dataset mine --features nowhere", "no mine_test_feature.pth.tar in nowhere"),
    ("gallery --output x.png --dataset mine --features mine --neighbours 99", "--neighbours 99: there are 12"),
])
def test_wrong_options_are_one_line(words, said, features, capsys):
    assert launch.exit_code(lambda: figures.main(words.split())) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (features / "x.png").exists()
