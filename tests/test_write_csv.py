"""Splits and split folders: official rules by plain loops, own sets by their properties."""

import csv
import json
import re

import miniature
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparing import call, refusal

from dataset import catalog
from dataset.video_index import read_classes, source_ids
from process_data.src import write_csv
from process_data.src.splits import plan_splits, source_splits, ucf101_splits
from process_data.src.write_csv import SHIPPED, check_name, class_list, class_text, split_files, write_files
from utils.errors import DataError, OptionError

UCF = [f"{c}/v_{c}_g{g:02d}_c{i:02d}" for c in ("Archery", "Biking") for g in range(1, 26) for i in (1, 2)]
UCF += [f"HandstandPushups/v_HandStandPushups_g{g:02d}_c01" for g in range(1, 26)]


def make_lmdb(path, lengths):
    miniature.write_lmdb(path, {name: [b"frame"] * frames for name, frames in lengths.items()})


def write(*words) -> int:
    return call(write_csv.main, *words)


def rows(path):
    with open(path, newline="") as file:
        return [(row[0], int(row[1])) for row in csv.reader(file)]


def source_of(name):
    return re.sub(r"_c\d+$", "", name.split("/")[1])


def test_ucf101_rule_by_loop(tmp_path):
    lengths = {name: 30 + i for i, name in enumerate(UCF)}
    make_lmdb(tmp_path / "u.lmdb", lengths)
    assert write("--name", "ucf101", "--data", tmp_path / "u.lmdb", "--split_root", tmp_path) == 0
    classes = (SHIPPED / "ucf101/ClassInd.txt").read_text().split()
    for split, first in ((1, 1), (2, 8), (3, 15)):
        train, test = [], []
        for label in classes:
            for name in sorted(UCF):
                if name.split("/")[0] == label:
                    group = int(re.search(r"_g(\d\d)_", name)[1])
                    (test if first <= group < first + 7 else train).append((name, lengths[name]))
        assert rows(tmp_path / f"ucf101/train_split0{split}.csv") == train
        assert rows(tmp_path / f"ucf101/test_split0{split}.csv") == test
    sources = json.loads((tmp_path / "ucf101/video_source.json").read_text())
    assert sources.keys() == {re.sub("_c0[12]$", "", name.split("/")[1]) for name in UCF}
    assert sorted(sources.values()) == list(range(75))


def test_twenty_five_groups_of_an_own_set_split_as_ucf101():
    assert [list(map(sorted, pair)) for pair in source_splits(UCF)] == [
        list(map(sorted, pair)) for pair in ucf101_splits(UCF)]


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.tuples(st.sampled_from("AB"), st.integers(1, 12), st.integers(1, 3)), min_size=1),
    st.booleans(), st.integers(0, 5),
)
def test_own_splits_keep_sources_apart(videos, grouped, seed):
    names = [f"{c}/{c}_g{g:02d}_c{i:02d}" if grouped else f"{c}/film {c} {g}_c{i:02d}" for c, g, i in videos]
    for train, test in source_splits(names, seed):
        assert sorted(train + test) == sorted(names)
        assert not {source_of(n) for n in train} & {source_of(n) for n in test}
        for label in "AB":
            sources = {source_of(n) for n in names if n[0] == label}
            tested = {source_of(n) for n in test if n[0] == label}
            expected = min(max(round(0.28 * len(sources)), 1), len(sources) - 1) if sources else 0
            assert len(tested) == expected


@pytest.mark.parametrize("pattern", ["{c}/{i:03d}", "{c}/v_x_g{i:02d}_c01"])
def test_classes_whose_videos_have_the_same_names_do_not_share_sources(tmp_path, pattern):
    lengths = {pattern.format(c=c, i=i): 20 for c in "ABCDEF" for i in range(1, 7)} | {"A/alone": 20, "A/v_y_g07": 20}
    make_lmdb(tmp_path / "o.lmdb", lengths)
    assert write("--name", "own", "--data", tmp_path / "o.lmdb", "--split_root", tmp_path) == 0
    for split in (1, 2, 3):
        train, test = (dict(rows(tmp_path / f"own/{side}_split0{split}.csv")) for side in ("train", "test"))
        assert train | test == lengths and not train.keys() & test.keys()
        assert [sum(name[0] == c for name in test) for c in "ABCDEF"] == [2] * 6  # 28 % of 6 and of 8
    known = json.loads((tmp_path / "own/video_source.json").read_text())
    shared = {re.sub(r"_c\d+$", "", name) for name in lengths} - {"A/alone", "A/v_y_g07"}
    assert known.keys() == {*shared, "alone", "v_y_g07"}
    ids = source_ids(list(lengths), tmp_path / "own/video_source.json", by_video=False)
    assert sorted(ids) == list(range(38))  # every video is its own source, and all are found in the file


@pytest.mark.parametrize(("name", "videos", "train", "test", "words"), [
    ("own", ["A/1", "B/1"], 2, 0, "warning: split 1, 2, 3 has no test videos, so it can be trained on but not"),
    ("own", ["A/1", "A/2", "B/1"], 2, 1, ""),
    ("ucf101", [f"Archery/v_Archery_g0{i}_c01" for i in range(1, 8)], None, 0, "split 1 has no training videos")])
def test_a_split_may_lack_test_videos_but_no_training_videos(tmp_path, capsys, name, videos, train, test, words):
    make_lmdb(tmp_path / "o.lmdb", dict.fromkeys(videos, 20))
    code = write("--name", name, "--data", tmp_path / "o.lmdb", "--split_root", tmp_path / "s")
    shown = "".join(capsys.readouterr())
    assert words in shown and ("no test videos" in shown) == (train is not None and not test)
    assert code == (2 if train is None else 0) and (tmp_path / "s").exists() == (train is not None)
    if train is not None:
        assert len(rows(tmp_path / "s/own/train_split01.csv")) == train
        assert len(rows(tmp_path / "s/own/test_split01.csv")) == test


def test_random_splits_follow_the_seed():
    names = [f"A/clip{i}" for i in range(40)]
    assert source_splits(names, 1) == source_splits(names[::-1], 1) != source_splits(names, 2)


def test_hmdb51_lists(tmp_path):
    videos = ["a_1", "a;2", "a_3"]
    lists = {1: "1 2 0", 2: "2 1 1", 3: "1 0 2"}
    for split, uses in lists.items():
        text = "".join(f"{v}.avi {u} \n" for v, u in zip(videos, uses.split(), strict=True))
        (tmp_path / f"brush_hair_test_split{split}.txt").write_text(text)
    make_lmdb(tmp_path / "h.lmdb", {f"brush_hair/{v}": 9 for v in videos})
    arguments = ("--name", "hmdb51", "--data", tmp_path / "h.lmdb", "--split_root", tmp_path / "s")
    assert write(*arguments, "--splits", tmp_path) == 0
    assert rows(tmp_path / "s/hmdb51/train_split01.csv") == [("brush_hair/a_1", 9)]
    assert rows(tmp_path / "s/hmdb51/test_split01.csv") == [("brush_hair/a;2", 9)]
    assert rows(tmp_path / "s/hmdb51/train_split02.csv") == [("brush_hair/a;2", 9), ("brush_hair/a_3", 9)]
    assert rows(tmp_path / "s/hmdb51/test_split03.csv") == [("brush_hair/a_3", 9)]
    assert write(*arguments) == 2


@pytest.mark.parametrize(("name", "file", "content", "place"), [
    ("hmdb51", "wave_test_split2.txt", b"a.avi 1\n\nword\n", "wave_test_split2.txt, line 3: 'word'"),
    ("hmdb51", "wave_test_split2.txt", b"a.avi 1\nb.avi 3\n", "wave_test_split2.txt, line 2: 'b.avi 3'"),
    ("hmdb51", "wave_test_split1.txt", b"a.avi 1\nb\xe9.avi 1\n", "wave_test_split1.txt, line 2: not UTF-8"),
    ("own", "trainlist01.txt", b"wave/a.avi 1\n\xe9/b.avi 1\n", "trainlist01.txt, line 2: not UTF-8"),
    ("own", "trainlist01.txt", b"wave/a.avi 1\nb.avi 1\n", "trainlist01.txt, line 2: 'b.avi'"),
    ("own", "classInd.txt", b"1 wave\n2 \xff\n", "classInd.txt"),
    ("k400", "train.csv", b"label,youtube_id\ncaf\xe9,x\n", "train.csv, line 2: not UTF-8"),
    ("k400", "train.csv", b"label,youtube_id,time_start,time_end\nyoga,a,1,11\nyoga,b,inf,2\n", "train.csv, line 3"),
    ("k400", "train.csv", b"label,youtube_id,time_start,time_end\nyoga,a\n", "train.csv, line 2"),
])
def test_a_list_that_cannot_be_read_is_named_with_the_line(tmp_path, capsys, name, file, content, place):
    make_lmdb(tmp_path / "x.lmdb", {"wave/a": 9, "wave/b": 9})
    for number in (1, 2, 3):
        (tmp_path / f"wave_test_split{number}.txt").write_text("a.avi 1\nb.avi 2\n")
    (tmp_path / "trainlist01.txt").write_text("wave/a.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("wave/b.avi\n")
    (tmp_path / file).write_bytes(content)
    line = refusal(capsys, write_csv.main, "--name", name, "--data", tmp_path / "x.lmdb", "--splits", tmp_path,
                   "--split_root", tmp_path / "s")
    assert f"{tmp_path}/{place}" in line


def test_a_video_listed_for_training_and_for_testing_is_refused(tmp_path):
    (tmp_path / "trainlist01.txt").write_text("A/a.avi 1\nA/c.avi 1\nA/c.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("A/b.avi\n")
    assert plan_splits("own", ["A/a", "A/b", "A/c"], tmp_path) == [(["A/a", "A/c"], ["A/b"])]
    (tmp_path / "testlist01.txt").write_text("A/a.avi\n")
    with pytest.raises(DataError, match="has A/a for training and for testing"):
        plan_splits("own", ["A/a", "A/c"], tmp_path)


def test_k400_lists(tmp_path, capsys):
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "train.csv").write_text(head + "air drumming,-aaaaaaaaaa,1,11,train\nyoga,bbbbbbbbbbb,20,30,train\n")
    (tmp_path / "val.csv").write_text(head + "yoga,ccccccccccc,3,13,val\nno class,ddddddddddd,3,13,val\n")
    make_lmdb(tmp_path / "t.lmdb", {"air drumming/-aaaaaaaaaa_000001_000011": 250})
    make_lmdb(tmp_path / "v.lmdb", {"yoga/ccccccccccc": 300})
    assert write("--name", "k400", "--data", tmp_path / "t.lmdb", tmp_path / "v.lmdb", "--splits", tmp_path,
                 "--split_root", tmp_path / "s") == 0
    shown = capsys.readouterr().out
    assert "1 listed videos are not in the data\n" in shown
    assert "1 listed videos are of classes that ClassInd.txt lacks, such as 'no class'\n" in shown
    assert rows(tmp_path / "s/k400/train_split.csv") == [("air drumming/-aaaaaaaaaa_000001_000011", 250)]
    assert rows(tmp_path / "s/k400/val_split.csv") == [("yoga/ccccccccccc", 300)]
    sources = json.loads((tmp_path / "s/k400/video_source.json").read_text())
    assert sources == {"air drumming/-aaaaaaaaaa_000001_000011": 0, "yoga/ccccccccccc": 1}


@pytest.mark.parametrize(("name", "count", "first", "last"), [
    ("ucf101", 101, "ApplyEyeMakeup", "YoYo"), ("hmdb51", 51, "brush_hair", "wave"),
    ("k400", 400, "abseiling", "zumba"),
])
def test_shipped_class_lists(name, count, first, last):
    classes = read_classes(SHIPPED / name / "ClassInd.txt")
    assert len(set(classes)) == len(classes) == count and (classes[0], classes[-1]) == (first, last)
    assert name != "k400" or classes == sorted(classes)


def test_a_class_whose_name_begins_with_a_number_keeps_it(tmp_path):
    (tmp_path / "x").write_text(class_text(["3 point throw", "walk"]))
    assert read_classes(tmp_path / "x") == ["3 point throw", "walk"]


def test_existing_files_of_other_content_stay(tmp_path):
    files = split_files(["A"], [(["A/x"], ["A/y"])], {"A/x": 3, "A/y": 4})
    write_files(tmp_path, files, overwrite=False)
    write_files(tmp_path, files, overwrite=False)
    (tmp_path / "test_split01.csv").write_text("mine,1\n")
    (tmp_path / "train_split01.csv").unlink()
    with pytest.raises(DataError, match=r"test_split01.csv exists"):
        write_files(tmp_path, files, overwrite=False)
    assert not (tmp_path / "train_split01.csv").exists()
    write_files(tmp_path, files, overwrite=True)
    assert rows(tmp_path / "test_split01.csv") == [("A/y", 4)]


def test_an_existing_class_list_decides_the_labels_until_it_is_written_again(tmp_path):
    for name, text in (("x/ClassInd.txt", "B\nA\n"), ("hmdb51/ClassInd.txt", "wave\nbrush_hair\n"),
                       ("lists/classInd.txt", "1 C\n2 B\n3 A\n")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    assert class_list("x", tmp_path, None, ["A/1", "B/1"]) == ["B", "A"]
    with pytest.raises(DataError, match="class C is not in"):
        class_list("x", tmp_path, None, ["C/1"])
    assert class_list("x", tmp_path, None, ["A/1", "B/1"], renew=True) == ["B", "A"]  # nothing to correct
    assert class_list("x", tmp_path, None, ["C/1", "B/1", "A/2"], renew=True) == ["A", "B", "C"]
    assert class_list("x", tmp_path, None, ["B/1"], renew=True) == ["B"]
    assert class_list("x", tmp_path, tmp_path / "lists", ["A/1", "B/1"], renew=True) == ["C", "B", "A"]
    assert class_list("hmdb51", tmp_path, None, ["wave/1"], renew=True) == ["wave", "brush_hair"]


@pytest.mark.parametrize("name", ["mine", "my.set", "a-b_c.2", "7", "a/b", "..", "a..b", "", ".a", "-a", "é", "mine-f",
                                  "mine-2clip", "mine-2stream", "a b"])
def test_names_are_those_that_a_dataset_option_selects(name):
    if name in ("mine", "my.set", "a-b_c.2", "7"):
        check_name(name)
        assert catalog.parse(name).base == name
    else:
        with pytest.raises(OptionError, match="--name"):
            check_name(name)
