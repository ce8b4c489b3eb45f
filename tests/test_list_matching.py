"""Official lists and the data that people have: names in other notations, and what one of the two lacks."""

from pathlib import PureWindowsPath

import pytest
import torch
from preparing import refusal
from test_write_csv import make_lmdb, rows, write

from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from dataset.video_index import class_labels, read_classes, read_index
from eval.merge_2stream_prob import label_probabilities
from process_data.src import write_csv
from process_data.src.splits import match
from tools.dataset_survey import Dataset, survey_split


@pytest.mark.parametrize(("folder", "listed"), [
    ("playing violin", "playing_violin/v1"), ("HandstandPushups", "HandStandPushups/v1"),
    ("cafe\u0301", "caf\u00e9/v1"), ("Straße", "STRASSE/v1"), ("A", "/data/x/A/v1"), ("A", "A\\v1"), ("A", "A/day2/v1"),
    ("A/day2", "A/day2/v1")])
def test_lists_match_names_in_other_notations(tmp_path, folder, listed):
    """The labels are those of the list of classes, whichever way a class is written."""
    own = f"{folder}/v1" if folder != "A/day2" else "A/day2_v1"
    others = [f"{own.split('/')[0]}/v{i}" for i in (2, 3)] + ["B/v1"] + (["A/v1"] if folder == "A/day2" else [])
    (tmp_path / "zip").mkdir()
    (tmp_path / "zip/trainlist01.txt").write_text(f"{listed}.avi 120 1\nB/v1.avi,2\n")
    (tmp_path / "zip/testlist01.txt").write_text(f"{listed.replace('v1', 'v2').replace('day2/', '')}.avi\n")
    (tmp_path / "zip/classInd.txt").write_text(f"1 B\n2 {PureWindowsPath(listed).parts[-2].replace('day2', 'A')}\n")
    make_lmdb(tmp_path / "o.lmdb", dict.fromkeys([own, *others], 20))
    assert write("--name", "own", "--data", tmp_path / "o.lmdb", "--split_root", tmp_path, "--splits", tmp_path) == 0
    train = tmp_path / "own/train_split01.csv"
    assert rows(train) == [("B/v1", 20), (own, 20)]
    assert rows(tmp_path / "own/test_split01.csv") == [(others[0], 20)]
    index = read_index(train, [LmdbReader(tmp_path / "o.lmdb")], catalog.parse("own").rules(), seq_len=8, ds=1)
    assert index.labels.tolist() == [0, 1] and index.names == ["B/v1", own]


def test_an_exact_name_is_preferred_and_none_is_guessed():
    assert match(["a b/x", "A_b/x", "A B/x"], ["a b/x", "A_b/x"]) == {"a b/x": "a b/x", "A_b/x": "A_b/x"}
    assert class_labels(["a b", "A_b", "c"], ["a b", "A_b", "A B", "C", "d"]) == {"a b": 0, "A_b": 1, "C": 2}


def test_what_lists_and_data_do_not_share_is_named(tmp_path, capsys):
    (tmp_path / "trainlist01.txt").write_text("A/v1.avi 1\nC/v1.avi 3\nC/v2.avi 3\n")
    (tmp_path / "testlist01.txt").write_text("A/v2.avi\n")
    make_lmdb(tmp_path / "o.lmdb", dict.fromkeys(["A/v1", "A/v2", "B/v1", "all/loose"], 20))
    words = ("--name", "own", "--data", tmp_path / "o.lmdb", "--split_root", tmp_path / "s", "--splits", tmp_path)
    assert "--allow_missing" in refusal(capsys, write_csv.main, *words)
    assert write(*words, "--allow_missing") == 0
    shown = capsys.readouterr().out
    assert "2 of the 4 listed videos do not exist: C/v1, C/v2\n" in shown
    assert "2 of the 4 videos are in no list, so no split uses them: B/v1, all/loose\n" in shown
    assert read_classes(tmp_path / "s/own/ClassInd.txt") == ["A"]


def test_k400_with_underscores_in_class_folders(tmp_path, capsys):
    """As downloaders leave it; the labels are those of the class list, in training, inspection and fusion."""
    head, clip = "label,youtube_id,time_start,time_end,split,is_cc\r\n", "_000001_000011"
    labels = ["abseiling", "air drumming", "skiing (not slalom or crosscountry)"]
    for part in ("train", "val"):
        (tmp_path / f"{part}.csv").write_text(head + "".join(f"{name},{part}{i},1,11,{part},0\r\n"
                                                             for i, name in enumerate(labels)))
        make_lmdb(tmp_path / f"K400/k400_frame_{part}.lmdb",
                  {f"{name.replace(' ', '_')}/{part}{i}{clip}": 40 for i, name in enumerate(labels)})
    assert write("--name", "k400", "--data", *(tmp_path / "K400").glob("*.lmdb"), "--splits", tmp_path, "--split_root",
                 tmp_path / "s") == 0
    assert "0 listed videos are not in the data\n" in capsys.readouterr().out
    dataset = Dataset(catalog.parse("k400"), tmp_path, tmp_path / "s", 8, 1)
    part, other = survey_split(dataset, 1).parts.values()
    assert len(part.kept) == len(other.kept) == 3 and not part.dropped and not part.refused
    classes = catalog.class_names("k400", tmp_path / "s")
    index = read_index(dataset.csv(1, "train"), dataset.spec.readers(tmp_path, train=True), dataset.spec.rules(),
                       seq_len=8, ds=1)
    assert [classes[label] for label in index.labels] == labels
    prob = label_probabilities({name: torch.zeros(400) for name in index.paths}, classes)
    assert prob.labels.tolist() == index.labels.tolist()
