"""Which rows of a csv become videos, with which labels, sources and lengths."""

import json

import pandas
import pytest

from dataset.video_index import IndexRules, read_classes, read_index
from utils.errors import DataError

UCF = IndexRules(drop_unknown_classes=False, source_by_video=False, csv_counts=(True,), length="half")
K400 = IndexRules(drop_unknown_classes=True, source_by_video=True, csv_counts=(False,), length="whole")


class FakeReader:
    """Frame counts by name, in place of an LMDB."""

    def __init__(self, lengths: dict[str, int], path: str = "fake.lmdb") -> None:
        self.lengths, self.path = lengths, path

    def __contains__(self, name: str) -> bool:
        return name in self.lengths

    def num_frames(self, name: str) -> int:
        return self.lengths[name]


def write(folder, classes: str, rows: str, sources: dict | None = None):
    (folder / "ClassInd.txt").write_text(classes)
    (folder / "train.csv").write_text(rows)
    if sources is not None:
        (folder / "video_source.json").write_text(json.dumps(sources))
    return folder / "train.csv"


def index(path, lengths, rules=UCF, seq_len=8, ds=1):
    readers = [FakeReader(each) for each in lengths] if isinstance(lengths, list) else [FakeReader(lengths)]
    return read_index(path, readers, rules, seq_len=seq_len, ds=ds)


def many(count: int, name: str = "A/v_A_g{:02d}_c01") -> list[str]:
    return [name.format(i) for i in range(count)]


@pytest.mark.parametrize(("text", "classes"), [
    ("Archery\nBasketball\n", ["Archery", "Basketball"]),
    ("1 Archery\n2 Basketball", ["Archery", "Basketball"]),
    ("0,abseiling\n1,air drumming\n2, goal (soccer)\n", ["abseiling", "air drumming", "goal (soccer)"]),
    ("air drumming\nplaying 2 drums\n3d printing\n", ["air drumming", "playing 2 drums", "3d printing"]),
    ("\ufeff1\tArchery\r\n2  , Basketball \r\n\r\n", ["Archery", "Basketball"]),
])
def test_class_lists(tmp_path, text, classes):
    (tmp_path / "ClassInd.txt").write_text(text, encoding="utf-8")
    assert read_classes(tmp_path / "ClassInd.txt") == classes


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("A\n\nB\n", "empty line"), ("1 A\n2 A\n", "A twice")])
def test_bad_class_lists(tmp_path, text, words):
    (tmp_path / "ClassInd.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        read_classes(tmp_path / "ClassInd.txt")


def test_rows_keep_their_order_and_paths(tmp_path):
    path = write(tmp_path, "B\nA\n", "/x/A/v_2/,30\ny/B/v_1,20\nA/v_1,25\n")
    found = index(path, {"A/v_2": 30, "B/v_1": 21, "A/v_1": 99, "A/other": 1})
    assert found.paths == ["/x/A/v_2/", "y/B/v_1", "A/v_1"] and found.names == ["A/v_2", "B/v_1", "A/v_1"]
    assert found.labels.tolist() == [1, 0, 1] and found.classes == ["B", "A"]
    assert found.num_frames.tolist() == [30, 20, 25] and found.report == "" and len(found) == 3


def test_frame_counts_of_flow_and_of_both_streams(tmp_path):
    path = write(tmp_path, "A", "A/a,30\nA/b,20\n")
    flow = {"A/a": 29, "A/b": 25}
    only = IndexRules(False, False, (False,), "half")
    both = IndexRules(False, False, (True, False), "half")
    assert index(path, flow, only).num_frames.tolist() == [29, 25]
    assert index(path, [{"A/a": 99, "A/b": 99}, flow], both).num_frames.tolist() == [29, 20]


@pytest.mark.parametrize(("rules", "kept"), [(UCF, ["A/6", "A/10"]), (K400, ["A/10"])])
def test_the_length_rule(tmp_path, rules, kept):
    """Half a clip and two frames (6), or a whole one and two (10)."""
    lengths = {f"A/{n}": n for n in (5, 6, 9, 10)} if rules is K400 else {f"A/{n}": n for n in (4, 5, 6, 10)}
    path = write(tmp_path, "A", "".join(f"{name},{n}\n" for name, n in lengths.items()))
    found = index(path, lengths, rules)
    assert found.names == kept
    assert f"{len(kept)} of 4 videos used" in found.report and f"{4 - len(kept)} that are too short" in found.report


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"too short for --seq_len 8 .* has 3 frames"):
        index(write(tmp_path, "A", "A/a,3\nA/b,2\n"), {"A/a": 3, "A/b": 2})


def test_up_to_five_percent_may_be_missing(tmp_path):
    names = many(40)
    path = write(tmp_path, "A", "".join(f"{name},30\n" for name in names))
    found = index(path, dict.fromkeys(names[2:], 30))
    assert found.names == names[2:]
    assert found.report.count("\n") == 0 and "38 of 40" in found.report and "dropped 2 that are missing" in found.report
    with pytest.raises(DataError, match=r"3 of the 40 videos.*A/v_A_g00_c01.*at most 5 %"):
        index(path, dict.fromkeys(names[3:], 30))


def test_a_class_that_the_list_lacks(tmp_path):
    names = many(40)
    path = write(tmp_path, "A", "".join(f"{name},30\n" for name in [*names, "Z z/z"]))
    lengths = dict.fromkeys([*names, "Z z/z"], 30)
    with pytest.raises(DataError, match="lacks: Z z; add"):
        index(path, lengths)
    assert index(path, lengths, K400).names == names


def test_sources_of_groups(tmp_path):
    """The folder's spelling does not matter, the video's name does."""
    rows = ["HandstandPushups/v_HandStandPushups_g01_c01", "HandstandPushups/v_HandStandPushups_g01_c02",
            "HandstandPushups/v_HandStandPushups_g02_c01"]
    path = write(tmp_path, "1 HandstandPushups", "".join(f"{row},30\n" for row in rows),
                 {"v_HandStandPushups_g01": 7, "v_HandStandPushups_g02": 3})
    assert index(path, dict.fromkeys(rows, 30)).sources.tolist() == [7, 7, 3]


def test_sources_of_k400_are_videos(tmp_path):
    rows = ["a b/x_c01", "a b/x_c02"]
    path = write(tmp_path, "a b", "".join(f"{row},30\n" for row in rows), {"a b/x_c01": 5, "a b/x_c02": 9})
    assert index(path, dict.fromkeys(rows, 30), K400).sources.tolist() == [5, 9]


@pytest.mark.parametrize("known", [None, {"v_A_g01": 4}])
def test_sources_that_no_list_knows(tmp_path, known):
    """They are told apart, and from those that are known; the same name in two classes is two sources."""
    rows = ["A/v_A_g01_c01", "A/v_A_g02_c01", "A/v_A_g02_c02", "B/one", "A/one"]
    path = write(tmp_path, "A\nB", "".join(f"{row},30\n" for row in rows), known)
    a, b, c, d, e = index(path, dict.fromkeys(rows, 30)).sources.tolist()
    assert b == c and len({a, b, d, e}) == 4
    assert known is None or a == 4


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "b"}'])
def test_a_damaged_source_list(tmp_path, text):
    path = write(tmp_path, "A", "A/a,30\n")
    (tmp_path / "video_source.json").write_text(text)
    with pytest.raises(DataError, match=r"list of sources .*video_source\.json"):
        index(path, {"A/a": 30})


@pytest.mark.parametrize("row", ["A/a", "A/a,x", "A/a,-3", "a,30"])
def test_invalid_rows(tmp_path, row):
    with pytest.raises(DataError, match="line 2"):
        index(write(tmp_path, "A", f"A/ok,30\n{row}\n"), {"A/a": 30, "A/ok": 30})


def test_an_empty_list_and_a_missing_one(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        index(write(tmp_path, "A", "\n"), {})
    with pytest.raises(DataError, match=r"cannot read the split list .*none\.csv"):
        index(tmp_path / "none.csv", {})


@pytest.mark.parametrize("count", [5, 15, 3783])
def test_validation_is_what_pandas_samples(tmp_path, count):
    names = many(count)
    path = write(tmp_path, "A", "".join(f"{name},30\n" for name in names))
    found = index(path, dict.fromkeys(names, 30)).validation()
    expected = pandas.read_csv(path, header=None).sample(frac=0.3, random_state=666)
    assert found.paths == expected[0].tolist()
    assert len(found.labels) == len(found.sources) == len(found.num_frames) == len(found)


def test_a_row_of_more_frames_than_the_lmdb_has_is_refused_by_its_name(tmp_path):
    path = write(tmp_path, "A\n", "A/v_1,30\nA/v_2,2147483647\n")
    with pytest.raises(DataError, match=r"A/v_2 has 2147483647 frames, but 40 in fake\.lmdb"):
        index(path, {"A/v_1": 40, "A/v_2": 40})
    assert index(path, {"A/v_1": 40, "A/v_2": 40}, K400).num_frames.tolist() == [40, 40]  # there the LMDB counts
