"""Fuzz targets: csv lists, class lists, video_source.json, the official lists that splits are made from, and videos."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from fuzz_inputs import JSON, TEXT, edits
from fuzz_targets import Target, given
from hypothesis import strategies as st
from miniature import frame

from dataset.split_files import read_classes, read_rows
from dataset.video_index import IndexRules, read_index
from process_data.src import record
from process_data.src.check_lmdb import check_rows
from process_data.src.k400_splits import k400_names
from process_data.src.split_folder import class_list, plan_splits
from process_data.src.video_io import read_frames

LENGTHS = {"A/a_c01": 30, "A/a_c02": 31, "A/b": 40, "B/a": 50, "B/ü, \"x\"": 60}
UCF = IndexRules(drop_unknown_classes=False, source_by_video=False, csv_counts=(True,), length="half")
K400 = IndexRules(drop_unknown_classes=True, source_by_video=True, csv_counts=(False,), length="whole")
ROWS = b'/x/A/a_c01/,30\n/x/A/a_c02/,31\nA/b,40\nB/a,50\n'
FILES = {"test_split01.csv": [ROWS, ROWS.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + ROWS, b'"B/\xc3\xbc, ""x""",60\n'],
         "ClassInd.txt": [b"A\nB\n", b"1 A\n2 B\n", b"1,A\r\n2,B\r\n", b"A\nB\nplaying guitar\n"],
         "video_source.json": [b'{"a": 0, "b": 1}', b'{"A/a": 3, "a": 4, "b": 7}', b"{}"]}


class Reader:
    """In place of an LMDB."""

    path = "some.lmdb"

    def __contains__(self, name: str) -> bool:
        return name in LENGTHS

    def num_frames(self, name: str) -> int:
        return LENGTHS[name]


def index_target(folder: Path, changed: str) -> Target:
    """A split folder with one of its files changed."""
    folder = folder / changed
    folder.mkdir()
    for name, seeds in FILES.items():
        (folder / name).write_bytes(seeds[0])

    def read(data: bytes) -> int:
        (folder / changed).write_bytes(data)

        def index(rules: IndexRules) -> Callable[[], None]:
            def check() -> None:
                found = read_index(folder / "test_split01.csv", [Reader()], rules, seq_len=8, ds=3)
                assert 0 < len(found.paths) == len(found.names) == len(found.labels) == len(found.num_frames)
                assert (found.labels.dtype, found.sources.dtype, found.num_frames.dtype) == (
                    np.int64, np.int64, np.int32)
                assert all(count <= LENGTHS[name] for name, count in zip(found.names, found.num_frames, strict=True))
                assert set(found.names) <= set(LENGTHS) and "\n" not in found.report
                assert all(found.classes[label] == name.split("/")[0]
                           for name, label in zip(found.names, found.labels, strict=True))
                same = [(one, two) for one in range(len(found)) for two in range(one)
                        if found.names[one].split("_c")[0] == found.names[two].split("_c")[0]]
                if not rules.source_by_video:
                    assert all(found.sources[one] == found.sources[two] for one, two in same)
            return check

        def classes() -> None:
            found = read_classes(folder / "ClassInd.txt")
            assert found and len(set(found)) == len(found) and all(name.strip() for name in found)

        def rows() -> None:
            paths, counts = read_rows(folder / "test_split01.csv")
            assert len(paths) == len(counts) > 0 and (counts >= 0).all()
        readings = {"test_split01.csv": [rows], "ClassInd.txt": [classes]}.get(changed, [])
        results = given(index(UCF), index(K400), *readings)
        assert data != FILES[changed][0] or results == 2 + len(readings)
        return results
    odd = JSON if changed.endswith("json") else TEXT
    numbers = st.dictionaries(st.sampled_from(["a", "b", "A/a"]), st.integers() | st.integers(0, 3)).map(
        lambda value: json.dumps(value).encode())
    counts = st.sampled_from([0, 1, 29, 30, 31, (1 << 31) - 1, 1 << 31]).map(lambda count: ROWS.replace(
        b",30", b",%d" % count))
    return Target(changed, FILES[changed], read, odd | numbers | edits(FILES[changed]) | counts)


def prepared_target(folder: Path, name: str, seeds: list[bytes], reading: Callable[[Path], object]) -> Target:
    """A file that the preparation reads. reading: of the file's path, with checks."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)

    def read(data: bytes) -> int:
        path.write_bytes(data)
        result = given(lambda: reading(path))
        assert data != seeds[0] or result
        return result
    return Target(f"preparation, {path.parent.name}/{name.split('/')[-1]}", seeds, read,
                  TEXT | (JSON if name.endswith("json") else st.binary(max_size=100)) | edits(seeds))


def official(path: Path) -> None:
    splits = plan_splits("own", LENGTHS, path.parent, allow_missing=True)
    assert splits and all(set(train) | set(test) <= set(LENGTHS) for train, test in splits)


def hmdb(path: Path) -> None:
    splits = plan_splits("hmdb51", LENGTHS, path.parent, allow_missing=True)
    assert len(splits) == 3 and all(train for train, _ in splits)


def classes_of(path: Path) -> None:
    found = class_list("own", path.parent.parent, None, LENGTHS)
    assert {"A", "B"} <= set(found)


def kinetics(path: Path) -> None:
    assert all(isinstance(name, str) and "/" in name for name in k400_names(path))


def rows_of(path: Path) -> None:
    assert list(check_rows(path.parent, LENGTHS)) == [path.name]


def record_of(path: Path) -> None:
    assert isinstance(record.read(path), dict)


def video_target(folder: Path) -> Target:
    """Videos, of which the frames up to the first damage count; what decodes them is not ours."""
    seeds = []
    for ending, code in (("avi", "MJPG"), ("avi", "XVID"), ("mp4", "mp4v")):
        path = folder / f"sound.{ending}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25, (64, 48))
        for number in range(6):
            writer.write(frame("A/a", number))
        writer.release()
        seeds.append(path.read_bytes())
    path = folder / "video.avi"

    def read(data: bytes) -> int:
        path.write_bytes(data)
        frames = list(itertools.islice(read_frames(path, short_side=32), 50))
        assert all(image.dtype == np.uint8 and image.shape[2:] == (3,) for image in frames)
        assert data not in seeds or [image.shape for image in frames] == [(32, 43, 3)] * 6
        return len(frames)
    return Target("videos", seeds, read, edits(seeds))


def targets(folder: Path) -> list[Target]:
    (folder / "lists").mkdir()
    (folder / "lists/testlist01.txt").write_text("B/a.avi\n")
    (folder / "hmdb").mkdir()
    for number in (1, 2, 3):
        (folder / f"hmdb/B_test_split{number}.txt").write_text("a.avi 1\n")
    head = b"label,youtube_id,time_start,time_end,split\n"
    return [*(index_target(folder, name) for name in FILES), video_target(folder),
            prepared_target(folder, "lists/trainlist01.txt", [b"A/a_c01.avi 1\nA/a_c02.avi 1\nA/b.avi 1\n"], official),
            prepared_target(folder, "hmdb/A_test_split1.txt", [b"a_c01.avi 1\nb.avi 2\na_c02.avi 0\n"], hmdb),
            prepared_target(folder, "own/ClassInd.txt", [b"A\nB\n", b"1 A\n2 B\n"], classes_of),
            prepared_target(folder, "k400/train.csv", [head + b"A,abcdefghijk,1,11,train\nB b,_,0.5,10.5,train\n"],
                            kinetics),
            prepared_target(folder, "rows/test_split01.csv", [b"A/a_c01,30\nB/a,50\n"], rows_of),
            prepared_target(folder, "record/record.json", [b'{"flow": "dis", "short_side": 240}\n'], record_of)]
