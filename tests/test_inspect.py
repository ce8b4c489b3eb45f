"""Dataset inspection against plain loops, training's own index, and faults and copies planted in lists and LMDBs."""

import json
import random
import shutil
from pathlib import Path

import cv2
import lmdb
import miniature
import msgpack
import numpy as np
import pytest
from pages import Page
from test_video_index import FakeReader

from dataset import catalog
from dataset.lmdb_reader import LmdbReader
from dataset.video_index import read_index
from tools import inspect_dataset
from tools.dataset_survey import Dataset, Lmdb, Split, check_lmdbs, compare_videos, find_leaks, survey_split
from tools.inspect_dataset import find_issues
from utils import launch
from utils.errors import DataError

SIZE = (24, 32)


def make(folder: Path, name: str = "mine", **settings) -> miniature.Miniature:
    return miniature.make(folder, name, **{"frames": 12, "size": SIZE, "seed": 1} | settings)


def dataset_of(mini: miniature.Miniature, suffix: str = "", second_view: str = "flow") -> Dataset:
    return Dataset(catalog.parse(mini.name + suffix, second_view), mini.data_root, mini.split_root, 8, 1)


def survey(mini: miniature.Miniature, suffix: str = "") -> tuple[Split, list[Lmdb], str]:
    """Return split 1, the LMDBs with every frame decoded, and the issues as a text."""
    dataset = dataset_of(mini, suffix)
    split, lmdbs = survey_split(dataset, 1), check_lmdbs(dataset, None)
    return split, lmdbs, "\n".join(find_issues([split], lmdbs))


def lmdb_path(mini: miniature.Miniature, kind: str = "frame") -> Path:
    return mini.data_root / "mine" / f"mine_{kind}.lmdb"


def write_videos(mini: miniature.Miniature, kind: str, videos: dict[str, int]) -> None:
    """Replace an LMDB by one with so many frames of each video."""
    lmdb_path(mini, kind).unlink()
    stream = "rgb" if kind == "frame" else "flow"
    miniature.write_lmdb(lmdb_path(mini, kind), {
        video: [miniature.jpeg(miniature.frame(video, i, SIZE, stream)) for i in range(count)]
        for video, count in videos.items()})


def change_video(mini: miniature.Miniature, name: str, change) -> None:
    """Change the list of a video's JPEGs in the RGB LMDB, or its packed value if the change returns bytes."""
    key = b"%09d" % LmdbReader(lmdb_path(mini)).names.index(name)
    with lmdb.open(str(lmdb_path(mini)), subdir=False, lock=False, map_size=1 << 26) as env, \
            env.begin(write=True) as transaction:
        value = change(msgpack.unpackb(transaction.get(key)))
        transaction.put(key, value if isinstance(value, bytes) else msgpack.packb(value))


def write_list(mini: miniature.Miniature, part: str, videos: dict[str, int] | list[str]) -> None:
    counts = videos.items() if isinstance(videos, dict) else [(video, mini.lengths.get(video, 12)) for video in videos]
    (mini.split_root / mini.name / f"{part}_split01.csv").write_text("".join(f"x/{v},{n}\n" for v, n in counts))


@pytest.mark.parametrize(("suffix", "view", "less"), [("", "flow", 0), ("-f", "flow", 1), ("-2stream-2clip", "flow", 1),
                                                      ("-2stream-2clip", "residual", 1)])
def test_a_sound_dataset_has_its_counts_and_no_issues(tmp_path, suffix, view, less):
    mini = make(tmp_path)
    dataset = dataset_of(mini, suffix, view)
    split, lmdbs = survey_split(dataset, 1), check_lmdbs(dataset, None)
    for title, names in (("train", mini.train), ("test", mini.test)):
        part = split.parts[title]
        assert part.names == part.kept == names and part.dropped == {} and part.refused == ""
        assert part.num_frames == [mini.lengths[name] - less for name in names]
    assert split.classes == mini.classes and not list(find_issues([split], lmdbs))
    rgb, flow = lmdbs
    assert (rgb.kind, flow.kind) == ("RGB", "flow") and rgb.parts == flow.parts == ["train", "test"]
    assert rgb.num_frames == rgb.decoded == mini.lengths
    assert flow.decoded == {name: count - 1 for name, count in mini.lengths.items()} and not flow.still


def random_list(rng: random.Random, folder: Path, kinetics: bool) -> list[FakeReader]:
    """Write a list with all kinds of rows; return readers of what two LMDBs would hold."""
    folder.mkdir(parents=True)
    (folder / "ClassInd.txt").write_text("A\nB\n")
    names = [f"{rng.choice('AAAB' + 'Z' * (rng.random() < 0.3))}/v_g{i:02d}" for i in range(rng.randrange(1, 60))]
    names += rng.sample(names, min(2, len(names)))
    held = {name: rng.randrange(2, 30) for name in names}
    over = rng.random() < 0.2
    (folder / ("train_split.csv" if kinetics else "train_split01.csv")).write_text(
        "".join(f"{n},{held[n] + (over and rng.random() < 0.1)}\n" for n in names))
    missing = rng.choice([0, 0.02, 0.2])
    return [FakeReader({n: count - less for n, count in held.items() if rng.random() >= missing}) for less in (0, 1)]


@pytest.mark.parametrize("name", ["mine", "mine-f", "mine-2stream-2clip", "k400", "k400-2stream-2clip"])
def test_videos_are_kept_as_a_training_keeps_them(tmp_path, name, monkeypatch):
    accepted = refused = dropped = 0
    for number in range(60):
        rng = random.Random(number)
        spec = catalog.parse(name)
        both = random_list(rng, tmp_path / str(number) / spec.base, spec.base == "k400")
        readers = both if len(spec.streams) == 2 else both[spec.streams == ("flow",):][:1]
        dataset = Dataset(spec, tmp_path, tmp_path / str(number), 8, rng.choice([1, 2]))
        monkeypatch.setattr(catalog.DatasetSpec, "readers", lambda *_, readers=readers, **__: readers)
        part = survey_split(dataset, 1).parts["train"]
        try:
            index = read_index(dataset.csv(1, "train"), readers, spec.rules(), seq_len=8, ds=dataset.ds)
        except DataError as error:
            assert part.refused == str(error)
            refused += 1
            continue
        assert (part.kept, part.num_frames, part.refused) == (index.names, index.num_frames.tolist(), "")
        accepted += 1
        dropped += len(part.kept) < len(part.names)
    assert accepted > 5 and refused > 5 and dropped > 5


def test_dropped_videos_are_named_with_the_reason(tmp_path):
    mini = make(tmp_path)
    first, second, third, fourth, *_ = mini.train
    write_videos(mini, "frame", {v: n for v, n in mini.lengths.items() if v not in (first, third)} | {fourth: 4})
    write_videos(mini, "tvl1_frame", {v: n - 1 for v, n in mini.lengths.items() if v not in (second, third)} |
                 {fourth: 3})
    write_list(mini, "train", {v: mini.lengths[v] for v in mini.train} | {fourth: 4, "Other/v_g01_c01": 9})
    split, lmdbs, issues = survey(mini, "-2stream-2clip")
    assert split.parts["train"].dropped == {
        "not in mine_frame.lmdb": [first], "not in mine_tvl1_frame.lmdb": [second], "too short": [fourth],
        "not in mine_frame.lmdb and mine_tvl1_frame.lmdb": [third], "class not in ClassInd.txt": ["Other/v_g01_c01"]}
    assert len(split.parts["train"].kept) == len(mini.train) - 4 and "Other" in split.parts["train"].refused
    for line in (f"train: 1 video dropped, too short: {fourth}", "refuse the list: "):
        assert line in issues, line
    text = "\n".join(inspect_dataset.report(dataset_of(mini), [split], lmdbs, []))
    train, test_videos = split.parts["train"], f"{len(mini.test)}"
    assert f"split 1: train {len(train.kept)} of {len(train.names)} videos (" in text
    assert f"test {test_videos} of {test_videos} videos (" in text


def test_leaks_against_all_pairs():
    for number in range(50):
        rng = random.Random(number)
        train, test = (list(dict.fromkeys(f"{rng.choice('AB')}/v_g{rng.randrange(30):02d}_c{rng.randrange(3):02d}"
                                          for _ in range(rng.randrange(8)))) for _ in range(2))
        sources = {name: rng.randrange(40) for name in [*train, *test]}
        pairs = {(kind, a, b) for leak in find_leaks(train, test, sources) for kind in [leak.kind] for a in leak.train
                 for b in leak.test}
        assert pairs == {(kind, a, b) for a in train for b in test for kind, same in (
            ("video", a == b), ("group", a[:7] == b[:7]), ("source", sources[a] == sources[b])) if same}


def test_a_dataset_with_lmdbs_for_each_part_and_one_without_flow_and_a_test_list(tmp_path):
    split, lmdbs, issues = survey(make(tmp_path / "k400", "k400"), "-2stream-2clip")
    assert [(lmdb.kind, lmdb.parts) for lmdb in lmdbs] == [
        ("RGB", ["train"]), ("flow", ["train"]), ("RGB", ["test"]), ("flow", ["test"])]
    assert issues == "" and not split.leaks

    mini = make(tmp_path / "mine")
    lmdb_path(mini, "tvl1_frame").unlink()
    for name in ("test_split01.csv", "test_split03.csv", "train_split03.csv"):
        (mini.split_root / "mine" / name).unlink()
    assert dataset_of(mini).splits() == [1, 2]
    split, [rgb], issues = survey(mini)
    assert (list(split.parts), rgb.kind, issues) == (["train"], "RGB", "split 1 has no test list")


def test_damaged_frames_are_found_all_and_no_others(tmp_path):
    mini = make(tmp_path, frames=14)
    one, cut, rubbish, mixed, *_ = mini.train
    change_video(mini, one, lambda jpegs: [b"\0" * len(data) if i in (0, 5) else data for i, data in enumerate(jpegs)])
    change_video(mini, cut, lambda jpegs: msgpack.packb(jpegs)[:sum(len(msgpack.packb(j)) for j in jpegs[:7]) + 20])
    change_video(mini, rubbish, lambda jpegs: [b"x"] * len(jpegs))
    change_video(mini, mixed, lambda jpegs: [*jpegs[:-1], miniature.jpeg(miniature.frame("A/a", 0, (30, 30)))])
    _, [rgb, flow], issues = survey(mini)
    expected = {one: [0, 5], cut: list(range(7, mini.lengths[cut])), rubbish: list(range(mini.lengths[rubbish])),
                mixed: [mini.lengths[mixed] - 1]}
    assert {name: list(frames) for name, frames in rgb.damaged.items()} == expected and not flow.damaged
    assert f"{sum(map(len, expected.values()))} damaged frames in 4 videos: " in issues and not rgb.still


@pytest.mark.parametrize(("moving", "still"), [(0, 1.0), (5, 0.545), (6, None)])
def test_videos_that_do_not_move_are_named(tmp_path, moving, still):
    mini = miniature.make(tmp_path, "mine", frames=12, size=SIZE)
    name, image = mini.train[0], miniature.frame("A/a", 0, SIZE)

    def change(jpegs: list[bytes]) -> list[bytes]:
        frames = [image.copy() for _ in jpegs]
        for i in range(moving):  # a block moves in, and stays
            for later in frames[i + 1:]:
                later[2 * i:2 * i + 2, :4] = 255 - later[2 * i:2 * i + 2, :4]
        return [miniature.jpeg(frame) for frame in frames]
    change_video(mini, name, change)
    _, [rgb, _], issues = survey(mini)
    assert rgb.still == ({name: still} if still else {})
    assert (f"most frames of 1 video do not move: {name}" in issues) == (still is not None)


def test_still_flow_is_named(tmp_path):
    """What rounding and JPEG leave is no motion."""
    mini = miniature.make(tmp_path, "mine", frames=24, size=SIZE)
    name, flow = mini.train[0], np.full((*SIZE, 3), 131, np.uint8)
    videos = {video: [miniature.jpeg(miniature.frame(video, i, SIZE, "flow")) for i in range(23)]
              for video in mini.lengths} | {name: [miniature.jpeg(flow)] * 23}
    lmdb_path(mini, "tvl1_frame").unlink()
    miniature.write_lmdb(lmdb_path(mini, "tvl1_frame"), videos)
    _, [rgb, flows], issues = survey(mini)
    assert flows.still == {name: 1.0} and rgb.still == {}
    assert f"next to no motion in most frames of 1 video: {name}" in issues


def test_the_page_shows_every_video_and_what_to_look_at(tmp_path, monkeypatch):
    mini = make(tmp_path, class_names=["all"])
    still, twin, copied, *_ = mini.train
    change_video(mini, still, lambda jpegs: [jpegs[0]] * len(jpegs))
    lmdb_path(mini, "tvl1_frame").unlink()
    write_list(mini, "train", [*mini.train, "all/gone"])
    change_video(mini, twin, lambda _: coded(moving(1)))
    change_video(mini, copied, lambda _: coded(moving(1)[1:-1]))
    assert run(mini, "mine", "--clips", "1", "--out", str(tmp_path / "out")) == 0
    page = Page((tmp_path / "out/inspect.html").read_text())
    thumbs = page.all("img", loading="lazy", alt="")
    strips = [each["alt"].split(": ")[0] for each in page.all("img", **{"class": "strip"})]
    assert strips == ["film strip of train", "film strip of test"]
    assert len(thumbs) == len(mini.lengths) and all(each["src"].startswith("data:image/jpeg") for each in thumbs)
    short = {name: name.split("/")[1] for name in mini.lengths}
    for text in (f"{short[still]}: 100 % still", f"{short[twin]}: {short[copied]}", "RGB: 100 % of the frames still",
                 f"like {short[copied]}", "not in mine_frame.lmdb, 1: gone", "Eight frames of the whole video"):
        assert text in page.shown, text
    assert "all/" not in page.shown.partition("Lengths")[2].partition("Film")[0]
    shown = page.shown.partition("Videos")[2]
    assert shown.index(short[still]) < shown.index(short[mini.test[-1]])
    monkeypatch.setattr(inspect_dataset, "THUMBS", 2)
    assert run(mini, "mine", "--clips", "0", "--out", str(tmp_path / "out")) == 0
    page = Page((tmp_path / "out/inspect.html").read_text())
    assert len(page.all("img")) == 2 and f"2 of {len(mini.lengths)} videos are shown" in page.shown


def run(mini: miniature.Miniature, *words: str) -> int:
    words = words if "--out" in words else (*words, "--out", str(mini.data_root / "page"))
    return launch.exit_code(lambda: inspect_dataset.main([*words, *mini.options, "--seq_len", "8"]))


def test_planted_leaks_are_named_and_are_the_exit_code(tmp_path, capsys):
    mini = make(tmp_path)
    first, extra = mini.train[0], mini.train[0].replace("_c01", "_c07")
    write_list(mini, "test", [*mini.test, first, extra])
    words = ["mine", "--clips", "0", "--json", str(tmp_path / "new" / "x.json"), "--which_split"]
    assert run(mini, *words, "1") == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if "train and test share" in line]
    assert "1 video, 1 group, 1 source" in line
    page = (mini.data_root / "page/inspect.html").read_text()
    for text in (f"video {first}: train {first}; test {first}<", f"test {first}, {extra}<",
                 f"group {first[-6:-4]} of class {mini.classes[0]}: train {first}, "):
        assert text in page, text
    written = json.loads((tmp_path / "new" / "x.json").read_text())
    kinds = {leak["kind"] for leak in written["splits"][0]["leaks"]}
    assert written["any_leak"] and kinds == {"video", "group", "source"}
    assert run(mini, *words, "2") == 0


def test_exit_codes_pictures_and_the_file(tmp_path, capsys):
    mini = make(tmp_path)
    words = ["mine-2stream-2clip", "--all", "--out", str(tmp_path / "out"), "--json",
             str(tmp_path / "x.json"), "--which_split", "1"]
    assert run(mini, *words, "--clips", "1") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == ["no issues found", f"page: {tmp_path}/out/inspect.html"] and len(said) <= 10
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["splits"][0]["parts"]["train"]["names"] == mini.train and not written["any_leak"]
    assert written["lmdbs"][0]["num_frames"] == mini.lengths and written["issues"] == []
    change_video(mini, mini.train[0], lambda jpegs: [b"x", *jpegs[1:]])
    assert run(mini, "mine", "--all", "--clips", "0") == 0 and "1 issue:" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "reason"), [
    (["nothing"], "no list of videos"), (["mine-f"], "no LMDB"), (["mine", "--which_split", "7"], "no list of videos"),
    (["mine", "--second_view", "residual"], "no effect"), (["empty"], "ClassInd.txt")])
def test_what_cannot_be_inspected_is_one_line(tmp_path, capsys, words, reason):
    mini = make(tmp_path, frames=3, groups=2, clips=1)
    lmdb_path(mini, "tvl1_frame").unlink()
    shutil.copytree(mini.split_root / "mine", mini.split_root / "empty")
    (mini.split_root / "empty" / "ClassInd.txt").write_text("")
    assert run(mini, *words) == 2
    shown = capsys.readouterr()
    assert reason in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def moving(seed: int, frames: int = 60, scene: int = 0) -> list[np.ndarray]:
    """A white block that moves on a path of its own before a scene."""
    images = [miniature.frame(f"scene/{scene}", 0, (48, 64)) for _ in range(frames)]
    rates, phases = np.random.default_rng(seed).uniform(1, 6, (2, 2, 1))
    path = 14 + 14 * np.sin(np.linspace(0, rates, frames, axis=-1)[:, 0] + phases)
    for image, (y, x) in zip(images, path.T.astype(int), strict=True):
        image[y:y + 20, x:x + 30] = 240
    return images


def coded(images: list[np.ndarray], size: tuple[int, int] = (48, 64), quality: int = 95) -> list[bytes]:
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return [cv2.imencode(".jpg", cv2.resize(image, size[::-1])[..., ::-1], settings)[1].tobytes() for image in images]


def test_copies_across_the_split_are_found_and_no_others(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None], (48, 64, 3))
    black, still = [np.zeros((48, 64, 3), np.uint8)] * 20, [ramp] * 20
    train = {"A/same": coded(moving(1)), "A/small": coded(moving(2)), "A/poor": coded(moving(3)),
             "A/cut": coded(moving(4)[2:-2]), "A/fast": coded(moving(5)[::2]), "A/black": coded(black),
             "A/still": coded(still), "A/scene": coded(moving(6, scene=7)), "B/bright": coded(moving(8))}
    bright = [np.clip(image.astype(int) * 0.9 + 25, 0, 255).astype(np.uint8) for image in moving(8)]
    test = {"A/same 2": train["A/same"], "B/small": coded(moving(2), (24, 32)),
            "A/poor 2": coded(moving(3), quality=30),
            "A/cut 2": coded(moving(4)), "A/slow": coded(moving(5)), "A/black 2": coded(black),
            "A/still 2": coded(still), "A/scene 2": coded(moving(9, scene=7)), "B/bright 2": coded(bright)}
    miniature.write_lmdb(tmp_path / "data/own/own_frame.lmdb", train | test)
    folder = tmp_path / "splits/own"
    folder.mkdir(parents=True)
    (folder / "ClassInd.txt").write_text("A\nB\n")
    for part, videos in (("train", train), ("test", test)):
        (folder / f"{part}_split01.csv").write_text("".join(f"{name},{len(v)}\n" for name, v in videos.items()))
    dataset = Dataset(catalog.parse("own"), tmp_path / "data", tmp_path / "splits", 8, 1)
    split = survey_split(dataset, 1)
    near = compare_videos(dataset, [split])
    expected = {"A/same 2": "A/same", "B/small": "A/small", "A/poor 2": "A/poor", "A/cut 2": "A/cut",
                "A/slow": "A/fast", "A/still 2": "A/still", "B/bright 2": "B/bright"}
    assert {leak.what: leak.train for leak in split.leaks if leak.kind == "copy"} == {
        name: [of] for name, of in expected.items()}
    assert "7 copies" in inspect_dataset.leak_counts(split)
    assert near == {first: [second] for first, second in map(sorted, expected.items())}
