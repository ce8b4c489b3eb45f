"""Splits and split folders: official rules by plain loops, own sets by their properties."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import lmdb
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset import catalog
from dataset import split_files as split_files_reader
from dataset.split_files import source_ids
from process_data.src.errors import PrepareError
from process_data.src.split_folder import check_name, class_list, class_text, read_classes, split_files, write_files
from process_data.src.splits import source_of, source_splits, ucf101_splits

ROOT = Path(__file__).parents[1]
DATA = ROOT / "process_data" / "data"
UCF = [f"{c}/v_{c}_g{g:02d}_c{i:02d}" for c in ("Archery", "Biking") for g in range(1, 26) for i in (1, 2)]
UCF += [f"HandstandPushups/v_HandStandPushups_g{g:02d}_c01" for g in range(1, 26)]


def make_lmdb(path, lengths):
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = [b"%09d" % i for i in range(len(lengths))]
    with lmdb.open(str(path), subdir=False, lock=False) as env, env.begin(write=True) as txn:
        for key, value in (("keys", keys), ("order", list(lengths)), ("vlen", list(lengths.values()))):
            txn.put(f"__{key}__".encode(), msgpack.packb(value))


def write_csv(*arguments):
    command = [sys.executable, ROOT / "process_data/src/write_csv.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def rows(path):
    with open(path, newline="") as file:
        return [(row[0], int(row[1])) for row in csv.reader(file)]


def test_ucf101_rule_by_loop(tmp_path):
    lengths = {name: 30 + i for i, name in enumerate(UCF)}
    make_lmdb(tmp_path / "u.lmdb", lengths)
    done = write_csv("--name", "ucf101", "--data", tmp_path / "u.lmdb", "--split_root", tmp_path)
    assert done.returncode == 0, done.stderr
    classes = (DATA / "ucf101/ClassInd.txt").read_text().split()
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
    assert [tuple(map(sorted, pair)) for pair in source_splits(UCF)] == [
        tuple(map(sorted, pair)) for pair in ucf101_splits(UCF)
    ]


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
    done = write_csv("--name", "own", "--data", tmp_path / "o.lmdb", "--split_root", tmp_path)
    assert done.returncode == 0, done.stderr
    for split in (1, 2, 3):
        train, test = (dict(rows(tmp_path / f"own/{side}_split0{split}.csv")) for side in ("train", "test"))
        assert train | test == lengths and not train.keys() & test.keys()
        assert [sum(name[0] == c for name in test) for c in "ABCDEF"] == [2] * 6  # 28 % of 6 and of 8
    known = json.loads((tmp_path / "own/video_source.json").read_text())
    shared = {re.sub(r"_c\d+$", "", name) for name in lengths} - {"A/alone", "A/v_y_g07"}
    assert known.keys() == {*shared, "alone", "v_y_g07"}
    ids = source_ids(list(lengths), tmp_path / "own/video_source.json", by_video=False)
    assert sorted(ids) == list(range(38))  # every video is its own source, and all are found in the file


@pytest.mark.parametrize(("videos", "train", "test"), [(["A/1", "B/1"], 2, 0), (["A/1", "A/2", "B/1"], 2, 1)])
def test_a_set_without_test_videos_is_written_with_a_warning(tmp_path, videos, train, test):
    make_lmdb(tmp_path / "o.lmdb", dict.fromkeys(videos, 20))
    done = write_csv("--name", "own", "--data", tmp_path / "o.lmdb", "--split_root", tmp_path)
    assert done.returncode == 0 and len(rows(tmp_path / "own/train_split01.csv")) == train
    assert len(rows(tmp_path / "own/test_split01.csv")) == test
    warning = "warning: split 1, 2, 3 has no test videos, so it can be trained on but not evaluated\n"
    assert done.stderr == ("" if test else warning)


def test_a_split_without_training_videos_is_refused(tmp_path):
    make_lmdb(tmp_path / "u.lmdb", {f"Archery/v_Archery_g0{i}_c01": 20 for i in range(1, 8)})  # split 1 tests them all
    done = write_csv("--name", "ucf101", "--data", tmp_path / "u.lmdb", "--split_root", tmp_path / "s")
    assert done.returncode == 2 and "split 1 has no training videos" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


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
    done = write_csv(*arguments, "--splits", tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "s/hmdb51/train_split01.csv") == [("brush_hair/a_1", 9)]
    assert rows(tmp_path / "s/hmdb51/test_split01.csv") == [("brush_hair/a;2", 9)]
    assert rows(tmp_path / "s/hmdb51/train_split02.csv") == [("brush_hair/a;2", 9), ("brush_hair/a_3", 9)]
    assert rows(tmp_path / "s/hmdb51/test_split03.csv") == [("brush_hair/a_3", 9)]
    assert write_csv(*arguments).returncode == 2


@pytest.mark.parametrize(("name", "file", "content", "told"), [
    ("hmdb51", "wave_test_split2.txt", b"a.avi 1\n\nword\n", "wave_test_split2.txt, line 3: 'word'"),
    ("hmdb51", "wave_test_split2.txt", b"a.avi 1\nb.avi 3\n", "wave_test_split2.txt, line 2: 'b.avi 3'"),
    ("hmdb51", "wave_test_split1.txt", b"a.avi 1\nb\xe9.avi 1\n", "wave_test_split1.txt, line 2: not UTF-8"),
    ("own", "trainlist01.txt", b"wave/a.avi 1\n\xe9/b.avi 1\n", "trainlist01.txt, line 2: not UTF-8"),
    ("own", "trainlist01.txt", b"wave/a.avi 1\nb.avi 1\n", "trainlist01.txt, line 2: 'b.avi'"),
    ("own", "classInd.txt", b"1 wave\n2 \xff\n", "classInd.txt, line 2: not UTF-8"),
    ("k400", "train.csv", b"label,youtube_id\ncaf\xe9,x\n", "train.csv, line 2: not UTF-8"),
    ("k400", "train.csv", b"label,youtube_id,time_start,time_end\nyoga,a,1,11\nyoga,b,inf,2\n", "train.csv, line 3"),
    ("k400", "train.csv", b"label,youtube_id,time_start,time_end\nyoga,a\n", "train.csv, line 2"),
])
def test_a_list_that_cannot_be_read_is_told_with_its_line(tmp_path, name, file, content, told):
    make_lmdb(tmp_path / "x.lmdb", {"wave/a": 9, "wave/b": 9})
    for number in (1, 2, 3):
        (tmp_path / f"wave_test_split{number}.txt").write_text("a.avi 1\nb.avi 2\n")
    (tmp_path / "trainlist01.txt").write_text("wave/a.avi 1\n")
    (tmp_path / "testlist01.txt").write_text("wave/b.avi\n")
    (tmp_path / file).write_bytes(content)
    done = write_csv("--name", name, "--data", tmp_path / "x.lmdb", "--splits", tmp_path, "--split_root",
                     tmp_path / "s")
    assert done.returncode == 2 and f"{tmp_path}/{told}" in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize(("file", "told"), [("ClassInd.txt", "ClassInd.txt, line 2: not UTF-8"),
                                            ("train_split01.csv", "train_split01.csv exists with other content"),
                                            ("train_split09.csv", "train_split09.csv, line 2")])
def test_foreign_files_in_the_split_folder_are_told(tmp_path, file, told):
    make_lmdb(tmp_path / "x.lmdb", {"wave/a": 9, "wave/b": 9})
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / file).write_bytes(b"wave/a,9\n\xe9\n")
    done = write_csv("--name", "own", "--data", tmp_path / "x.lmdb", "--split_root", tmp_path)
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_byte_order_mark_and_loose_index_separators_are_read_as_the_datasets_read_them(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf1 , walk\n2\t run\n3,jump up\n4 3 point throw\n")
    assert read_classes(tmp_path / "x") == split_files_reader.read_classes(tmp_path / "x")
    assert read_classes(tmp_path / "x") == ["walk", "run", "jump up", "3 point throw"]


def test_k400_lists(tmp_path):
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "train.csv").write_text(head + "air drumming,-aaaaaaaaaa,1,11,train\nyoga,bbbbbbbbbbb,20,30,train\n")
    (tmp_path / "val.csv").write_text(head + "yoga,ccccccccccc,3,13,val\nno class,ddddddddddd,3,13,val\n")
    make_lmdb(tmp_path / "t.lmdb", {"air drumming/-aaaaaaaaaa_000001_000011": 250})
    make_lmdb(tmp_path / "v.lmdb", {"yoga/ccccccccccc": 300})
    done = write_csv("--name", "k400", "--data", tmp_path / "t.lmdb", tmp_path / "v.lmdb", "--splits", tmp_path,
                     "--split_root", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "1 listed videos are not in the data\n" in done.stdout
    assert "1 listed videos are of classes that ClassInd.txt lacks, such as 'no class'\n" in done.stdout
    assert rows(tmp_path / "s/k400/train_split.csv") == [("air drumming/-aaaaaaaaaa_000001_000011", 250)]
    assert rows(tmp_path / "s/k400/val_split.csv") == [("yoga/ccccccccccc", 300)]
    sources = json.loads((tmp_path / "s/k400/video_source.json").read_text())
    assert sources == {"air drumming/-aaaaaaaaaa_000001_000011": 0, "yoga/ccccccccccc": 1}


@pytest.mark.parametrize(("name", "count", "first", "last"), [
    ("ucf101", 101, "ApplyEyeMakeup", "YoYo"), ("hmdb51", 51, "brush_hair", "wave"),
    ("k400", 400, "abseiling", "zumba"),
])
def test_shipped_class_lists(name, count, first, last):
    classes = read_classes(DATA / name / "ClassInd.txt")
    assert len(set(classes)) == len(classes) == count and (classes[0], classes[-1]) == (first, last)


def test_k400_classes_are_those_of_the_published_weights():
    metadata = pytest.importorskip("torchvision").models.video.S3D_Weights.KINETICS400_V1.meta
    assert read_classes(DATA / "k400/ClassInd.txt") == metadata["categories"]


def test_class_lists_in_each_notation(tmp_path):
    (tmp_path / "a").write_text("1 Fight\n2 No fight\n")
    (tmp_path / "b").write_text("1,Fight\n2,No fight\n")
    (tmp_path / "c").write_text("Fight\nNo fight\n\n")
    assert [read_classes(tmp_path / x) for x in "abc"] == [["Fight", "No fight"]] * 3
    (tmp_path / "d").write_text(class_text(["3 point throw", "walk"]))
    assert read_classes(tmp_path / "d") == ["3 point throw", "walk"]


def test_existing_files_of_other_content_stay(tmp_path):
    files = split_files(["A"], [(["A/x"], ["A/y"])], {"A/x": 3, "A/y": 4})
    write_files(tmp_path, files, overwrite=False)
    write_files(tmp_path, files, overwrite=False)
    (tmp_path / "test_split01.csv").write_text("mine,1\n")
    (tmp_path / "train_split01.csv").unlink()
    with pytest.raises(PrepareError, match=r"test_split01.csv exists"):
        write_files(tmp_path, files, overwrite=False)
    assert not (tmp_path / "train_split01.csv").exists()
    write_files(tmp_path, files, overwrite=True)
    assert rows(tmp_path / "test_split01.csv") == [("A/y", 4)]


def test_an_existing_class_list_decides_the_labels(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/ClassInd.txt").write_text("B\nA\n")
    assert class_list("x", tmp_path, None, ["A/1", "B/1"]) == ["B", "A"]
    with pytest.raises(PrepareError, match="class C is not in"):
        class_list("x", tmp_path, None, ["C/1"])


def test_a_class_list_is_written_again_with_overwrite(tmp_path):
    (tmp_path / "x").mkdir()
    own = tmp_path / "x/ClassInd.txt"
    own.write_text("B\nA\n")
    assert class_list("x", tmp_path, None, ["A/1", "B/1"], renew=True) == ["B", "A"]  # nothing to correct
    assert class_list("x", tmp_path, None, ["C/1", "B/1", "A/2"], renew=True) == ["A", "B", "C"]
    assert class_list("x", tmp_path, None, ["B/1"], renew=True) == ["B"]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/classInd.txt").write_text("1 C\n2 B\n3 A\n")
    assert class_list("x", tmp_path, tmp_path / "lists", ["A/1", "B/1"], renew=True) == ["C", "B", "A"]
    (tmp_path / "hmdb51").mkdir()
    (tmp_path / "hmdb51/ClassInd.txt").write_text("wave\nbrush_hair\n")
    assert class_list("hmdb51", tmp_path, None, ["wave/1"], renew=True) == ["wave", "brush_hair"]


@pytest.mark.parametrize("name", ["mine", "my.set", "a-b_c.2", "7"])
def test_names_that_a_dataset_option_selects(name):
    check_name(name)
    assert catalog.parse(name).base == name


@pytest.mark.parametrize("name", [".a", "-a", "é"])
def test_the_rule_of_names_is_told_in_full(name):
    with pytest.raises(PrepareError, match=r"letters, digits, _, - and \., a letter or digit first, no two dots"):
        check_name(name)


@pytest.mark.parametrize("name", ["a/b", "..", "a..b", "", "mine-f", "mine-2clip", "mine-2stream", "a b"])
def test_names_that_no_dataset_option_could_select(name):
    with pytest.raises(PrepareError):
        check_name(name)
