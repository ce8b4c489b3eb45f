"""What the inspection counts in lists, against plain loops, and against lists in which faults were planted."""

import random
import re
from collections import Counter
from pathlib import Path

import miniature
import numpy as np
import pytest
from test_video_index import FakeReader

from dataset import catalog
from dataset.errors import DataError
from dataset.video_index import read_index
from inspection import leaks, page, rows, survey
from inspection.rows import KEPT, Place
from inspection.store import Sample
from inspection.worries import worries

EVERYTHING = Sample(None, None)


def made(tmp_path: Path, name: str = "mine", **settings) -> miniature.Miniature:
    return miniature.make(tmp_path, name, **{"frames": 12, "size": (24, 32), "seed": 1} | settings)


def place_of(mini: miniature.Miniature, suffix: str = "", second_view: str = "flow", seq_len: int = 8, ds: int = 1
             ) -> Place:
    return Place(catalog.parse(mini.name + suffix, second_view), mini.data_root, mini.split_root, seq_len, ds)


def inspected(mini: miniature.Miniature, suffix: str = "", second_view: str = "flow") -> survey.Survey:
    return survey.make(place_of(mini, suffix, second_view), [1], EVERYTHING)


def rewrite(mini: miniature.Miniature, kind: str, videos: dict[str, int]) -> None:
    """Write an LMDB of the set anew, with so many frames of each video."""
    stream = "flow" if "tvl1" in kind else "rgb"
    path = mini.data_root / mini.name / f"{mini.name}_{kind}.lmdb"
    path.unlink()
    miniature.write_lmdb(path, {video: [miniature.jpeg(miniature.frame(video, i, (24, 32), stream))
                                        for i in range(count)] for video, count in videos.items()})


def listed(mini: miniature.Miniature, part: str, videos: dict[str, int] | list[str]) -> None:
    counts = videos if isinstance(videos, dict) else {video: mini.lengths.get(video, 12) for video in videos}
    (mini.split_root / mini.name / f"{part}_split01.csv").write_text("".join(f"x/{v},{n}\n" for v, n in counts.items()))


@pytest.mark.parametrize(("suffix", "view", "less"), [("", "flow", 0), ("-f", "flow", 1), ("-2stream-2clip", "flow", 1),
                                                      ("-2stream-2clip", "residual", 1)])
def test_numbers_of_a_sound_set(tmp_path, suffix, view, less):
    mini = made(tmp_path)
    found = inspected(mini, suffix, view)
    [part_of] = found.splits
    for title, names in (("train", mini.train), ("test", mini.test)):
        part = getattr(part_of, title)
        frames = sorted(mini.lengths[name] - less for name in names)
        assert (part.listed, part.kept, part.dropped, part.twice, part.refused) == (len(names), len(names), {}, [], "")
        assert part.frames.smallest == frames[0] and part.frames.largest == frames[-1]
        assert part.frames.mean == pytest.approx(sum(frames) / len(frames))
        assert part.frames.median == (frames[(len(frames) - 1) // 2] + frames[len(frames) // 2]) / 2
        windows = 0
        for count in frames:
            start = 0  # span 8: a new window every 8 // 2 - 1 frames
            while start == 0 or start <= count - 8:
                windows, start = windows + 1, start + 3
        assert part.windows == windows
        siblings = [sum(other != name and other[:-2] == name[:-2] for other in names) for name in names]
        assert part.siblings.median == np.median(siblings) and part.siblings.largest == max(siblings)
        assert part.alone == siblings.count(0)
        own = [(low, high, {"train": train, "test": test}[title]) for low, high, train, test in part_of.histogram]
        assert all(count == sum(low <= n <= high for n in frames) for low, high, count in own)
        assert sum(count for *_, count in own) == len(names)
        for count in part_of.classes:
            of_class = [name for name in names if name.startswith(f"{count.name}/")]
            assert getattr(count, title) == len(of_class) > 0
            assert getattr(count, f"{title}_groups") == len({re.search(r"_g(\d+)", name)[1] for name in of_class})
    assert [count.name for count in part_of.classes] == mini.classes
    assert not found.leaks and worries(found) == [] and found.splits[0].leaks == leaks.Leaks([], [], [])


def test_lmdbs_of_a_sound_set(tmp_path):
    mini = made(tmp_path)
    rgb, flow = inspected(mini).stores
    assert (rgb.kind, rgb.used, flow.kind, flow.used) == ("RGB", True, "flow", False)
    assert rgb.frames == rgb.looked_at[1] == sum(mini.lengths.values()) == flow.frames + len(mini.lengths)
    assert rgb.sizes == {"32 x 24": rgb.frames}
    size = [len(miniature.jpeg(miniature.frame(v, i, (24, 32)))) for v, n in mini.lengths.items() for i in range(n)]
    assert (rgb.jpeg_bytes.smallest, rgb.jpeg_bytes.largest) == (min(size), max(size))
    assert rgb.jpeg_bytes.mean == pytest.approx(np.mean(size))
    assert rgb.file_bytes == Path(rgb.path).stat().st_size and not rgb.with_ends


def random_list(rng: random.Random, folder: Path, kinetics: bool) -> list[FakeReader]:
    """A list with all kinds of rows, and readers of what two LMDBs would hold."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ClassInd.txt").write_text("A\nB\n")
    names = [f"{rng.choice('AAAB' + 'Z' * (rng.random() < 0.3))}/v_g{i:02d}" for i in range(rng.randrange(1, 60))]
    names += rng.sample(names, min(2, len(names)))
    file = "train_split.csv" if kinetics else "train_split01.csv"
    held = {name: rng.randrange(2, 30) for name in names}
    over = rng.random() < 0.2
    (folder / file).write_text("".join(f"{n},{held[n] + (over and rng.random() < 0.1)}\n" for n in names))
    missing = rng.choice([0, 0.02, 0.2])
    return [FakeReader({n: count - less for n, count in held.items() if rng.random() >= missing}) for less in (0, 1)]


@pytest.mark.parametrize("name", ["mine", "mine-f", "mine-2stream-2clip", "k400", "k400-2stream-2clip"])
def test_rows_are_kept_as_a_training_keeps_them(tmp_path, name):
    accepted = refused = dropped = 0
    for number in range(60):
        rng = random.Random(number)
        spec = catalog.parse(name)
        place = Place(spec, tmp_path, tmp_path / str(number), 8, rng.choice([1, 2]))
        both = random_list(rng, place.split_root / spec.base, spec.base == "k400")
        readers = both if len(spec.streams) == 2 else both[spec.streams == ("flow",):][:1]
        found = rows.read(place, readers, 1, train=True)
        kept = [name for name, fate in zip(found.names, found.fates, strict=True) if fate == KEPT]
        try:
            index = read_index(found.csv, readers, spec.rules(), seq_len=8, ds=place.ds)
        except DataError as error:
            assert found.refused == str(error)
            refused += 1
            continue
        assert kept == index.names and found.frames[found.kept].tolist() == index.num_frames.tolist()
        assert found.refused == "" and found.twice == [n for n, count in Counter(found.names).items() if count > 1]
        accepted += 1
        dropped += len(kept) < len(found.names)
    assert accepted > 5 and refused > 5 and dropped > 5


def test_why_videos_are_dropped(tmp_path):
    mini = made(tmp_path)
    first, second, third, fourth, *_ = mini.train
    rewrite(mini, "frame", {v: n for v, n in mini.lengths.items() if v not in (first, third)} | {fourth: 4})
    rewrite(mini, "tvl1_frame", {v: n - 1 for v, n in mini.lengths.items() if v not in (second, third)})
    rest = {v: mini.lengths[v] for v in mini.train} | {fourth: 4, "Other/v_g01_c01": 9}
    listed(mini, "train", rest)
    listed(mini, "test", [*mini.test[:1], *mini.test])
    found = inspected(mini, "-2stream-2clip")
    [part_of] = found.splits
    assert part_of.train.dropped == {
        "not in the RGB LMDB": [first], "not in the flow LMDB": [second], "not in the RGB and flow LMDBs": [third],
        "too short": [fourth], "class not in ClassInd.txt": ["Other/v_g01_c01"]}
    assert part_of.train.kept == len(mini.train) - 4 and "Other" in part_of.train.refused
    text = "\n".join(worries(found))
    assert all(f"{reason}: {names[0]}" in text for reason, names in part_of.train.dropped.items())
    shown = [re.split(r"  +", line.strip()) for line in page.lines(found)]
    assert ["not in the RGB and flow LMDBs", "1", "0"] in shown
    assert ["videos listed", str(len(rest)), str(len(mini.test))] in shown


def test_a_list_twice_or_with_too_many_frames(tmp_path):
    mini = made(tmp_path)
    file = mini.split_root / "mine" / "test_split01.csv"
    file.write_text(f"x/{mini.test[0]},99\n" + "".join(f"x/{v},{mini.lengths[v]}\n" for v in mini.test))
    found = inspected(mini)
    part = found.splits[0].test
    assert part.overstated == part.twice == [mini.test[0]] and "99" in part.refused
    assert len([line for line in worries(found) if mini.test[0] in line]) == 3


def test_leaks_of_every_kind():
    names = {"train": ["A/v_A_g01_c01", "A/v_A_g02_c01", "B/v_B_g01_c01", "A/one"],
             "test": ["A/v_A_g02_c01", "A/v_A_g01_c07", "B/v_B_g03_c01", "B/v_A_g02_c09", "B/other"]}
    sources = {"train": np.array([1, 2, 3, 4]), "test": np.array([2, 1, 5, 6, 4])}
    found = leaks.find(names["train"], names["test"], sources["train"], sources["test"])
    assert found.videos == ["A/v_A_g02_c01"]  # and not of another class
    assert found.groups == [("A", 2), ("A", 1)]
    assert [(leak.source, leak.train, leak.test) for leak in found.sources] == [
        (2, ["A/v_A_g02_c01"], ["A/v_A_g02_c01"]), (1, ["A/v_A_g01_c01"], ["A/v_A_g01_c07"]),
        (4, ["A/one"], ["B/other"])]


def test_leaks_against_all_pairs():
    for number in range(50):
        rng = random.Random(number)
        parts = [[f"{rng.choice('AB')}/v_g{rng.randrange(30):02d}_c{rng.randrange(3):02d}"
                  for _ in range(rng.randrange(8))] for _ in range(2)]
        ids = [np.array([rng.randrange(40) for _ in part], dtype=np.int64) for part in parts]
        found = leaks.find(*parts, *ids)
        train, test = (list(zip(*each, strict=True)) for each in zip(parts, ids, strict=True))
        pairs = [(a, b, i, j) for a, i in train for b, j in test]
        assert set(found.videos) == {a for a, b, *_ in pairs if a == b}
        assert {f"{name}/v_g{group:02d}" for name, group in found.groups} == {a[:7] for a, b, *_ in pairs
                                                                             if a[:7] == b[:7]}
        assert {(leak.source, a, b) for leak in found.sources for a in leak.train for b in leak.test} == {
            (i, a, b) for a, b, i, j in pairs if i == j}


def test_parts_of_k400_have_lmdbs_of_their_own(tmp_path):
    found = inspected(made(tmp_path, "k400"), "-2stream-2clip")
    assert [(store.kind, store.parts, store.used) for store in found.stores] == [
        ("RGB", ["train"], True), ("flow", ["train"], True), ("RGB", ["test"], True), ("flow", ["test"], True)]
    assert len(found.pairs) == 2 and worries(found) == [] and found.splits[0].train.siblings.largest == 0


def test_a_set_without_flow_and_without_a_test_list(tmp_path):
    mini = made(tmp_path)
    (mini.data_root / "mine" / "mine_tvl1_frame.lmdb").unlink()
    for number in (1, 3):
        (mini.split_root / "mine" / f"test_split0{number}.csv").unlink()
    (mini.split_root / "mine" / "train_split03.csv").unlink()
    assert rows.splits_there(place_of(mini)) == [1, 2]
    found = inspected(mini)
    assert found.pairs == [] and found.splits[0].test is None and worries(found) == ["split 1 has no test list"]
    assert any("not both lists" in line for line in page.lines(found))
