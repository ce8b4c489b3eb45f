"""Damaged csv lists, class lists, video_source.json and official lists: a right index or an error of one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import damaged, refused

from dataset.video_index import IndexRules, read_classes, read_index, read_rows
from process_data.src.splits import plan_splits
from process_data.src.write_csv import k400_list

LENGTHS = {"A/a_c01": 30, "A/a_c02": 31, "A/b": 40, "B/a": 50, "B/ü": 60}
RULES = (IndexRules(drop_unknown_classes=False, source_by_video=False, csv_counts=(True,), length="half"),
         IndexRules(drop_unknown_classes=True, source_by_video=True, csv_counts=(False,), length="whole"))
FILES = {"test_split01.csv": "".join(f"/x/{name}/,{count}\n" for name, count in LENGTHS.items()).encode(),
         "ClassInd.txt": b"1 A\n2 B\n", "video_source.json": json.dumps({"a": 0, "b": 1, "B/a": 7}).encode()}


class Reader:
    """Stands for an LMDB."""

    path = "some.lmdb"

    def __contains__(self, name: str) -> bool:
        return name in LENGTHS

    def num_frames(self, name: str) -> int:
        return LENGTHS[name]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def damage(path: Path, readers: list[Callable[[], object]], count: int = 100) -> None:
    """Check that readers take a valid file, and that damage of it is read or refused."""
    good = path.read_bytes()
    assert not any(map(refused, readers))
    for data in damaged(good, count):
        path.write_bytes(data)
        for reader in readers:
            refused(reader)


@pytest.mark.parametrize("name", FILES)
def test_split_folder(tmp_path, name):
    folder = write(tmp_path, FILES)

    def index(rules: IndexRules) -> None:
        found = read_index(folder / "test_split01.csv", [Reader()], rules, seq_len=8, ds=3)
        assert 0 < len(found.paths) == len(found.names) == len(found.labels) == len(found.num_frames)
        assert (found.labels.dtype, found.sources.dtype, found.num_frames.dtype) == (np.int64, np.int64, np.int32)
        assert all(count <= LENGTHS[video] for video, count in zip(found.names, found.num_frames, strict=True))
        assert all(found.classes[label] == video.split("/")[0]
                   for video, label in zip(found.names, found.labels, strict=True))

    def rows() -> None:
        paths, counts = read_rows(folder / "test_split01.csv")
        assert len(paths) == len(counts) > 0 and (counts >= 0).all()

    def classes() -> None:
        found = read_classes(folder / "ClassInd.txt")
        assert found and len(set(found)) == len(found) and all(each.strip() for each in found)
    damage(folder / name, [lambda: index(RULES[0]), lambda: index(RULES[1]), rows, classes])


OFFICIAL = {
    "ucf101": {"trainlist01.txt": b"A/a_c01.avi 1\nA/a_c02.avi 1\nA/b.avi 1\n", "testlist01.txt": b"B/a.avi\n"},
    "hmdb51": {f"{name}_test_split{split}.txt": text for split in (1, 2, 3)
               for name, text in (("A", b"a_c01.avi 1\nb.avi 2\na_c02.avi 0\n"), ("B", b"a.avi 1\n"))},
    "k400": {f"{part}.csv": b"label,youtube_id,time_start,time_end,split\nA,abcdefghijk,1,11,x\nB b,_,0.5,10.5,x\n"
             for part in ("train", "val")}}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_lists(tmp_path, name):
    folder = write(tmp_path / name, OFFICIAL[name])

    def splits() -> None:
        found = plan_splits("own" if name == "ucf101" else name, LENGTHS, folder, allow_missing=True)
        assert found and all(set(train) | set(test) <= set(LENGTHS) for train, test in found)

    def kinetics() -> None:
        assert all("/" in video for video in k400_list(folder, "train"))
    damage(sorted(folder.iterdir())[0], [kinetics if name == "k400" else splits])
