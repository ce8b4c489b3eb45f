"""Damaged and odd input to every reader, and inputs that once did harm; longer runs: ``python -m tests.fuzz``."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz_evaluation
import fuzz_frames
import fuzz_lists
import fuzz_watch
import msgpack
import numpy as np
import pytest
import torch
from fuzz_inputs import mutated, png_sized, repacked, saved
from fuzz_targets import OWN, Target, given
from fuzz_watch import Count, Watched, alarm
from hypothesis import strategies as st

from dataset.errors import DataError
from utils import checkpoint
from utils.errors import CheckpointError

ROOT = Path(__file__).parents[1]


def test_two_thousand_inputs_end_in_results_or_refusals(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", "2100", "--minutes", "5", "--seed", "5", "--findings",
               str(tmp_path / "found")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^2100 inputs in \d+ s, 0 findings$", done.stdout, flags=re.MULTILINE)
    rows = [line.rsplit(maxsplit=6) for line in done.stdout.splitlines() if line.endswith("MB")]
    assert len(rows) >= 25 and all(int(row[1]) >= 50 and int(row[2]) > 0 for row in rows), done.stdout
    assert not (tmp_path / "found").exists()


def test_the_mutator_repeats_itself_and_leaves_some_inputs_as_they_are():
    seeds = [b"0123456789" * 10, b"abc"]
    one, two = ([mutated(random.Random(number), seeds) for number in range(500)] for _ in range(2))
    assert one == two and len(set(one)) > 400
    assert 0 < sum(data in seeds for data in one) < 100


def hang(data: bytes) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as C code that does not return
    time.sleep(60)
    return 1


def loop(data: bytes) -> int:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def grow(data: bytes) -> int:
    np.ones((fuzz_watch.GROWTH + (64 << 20)) // 8)
    return 1


def fail(data: bytes) -> int:
    return given(lambda: {}["none"])


def refuse_at_length(data: bytes) -> int:
    def reading() -> None:
        raise DataError("two\nlines")
    return given(reading)


def crash(data: bytes) -> int:
    if data == b"bad":
        os.kill(os.getpid(), signal.SIGSEGV)
    return 1


@pytest.mark.parametrize(("read", "words"), [
    (hang, "hangs: the alarm was not heard"), (loop, "fuzz_watch.Slow"), (grow, "memory has grown by"),
    (fail, "KeyError: 'none'"), (refuse_at_length, "AssertionError: not one line"), (crash, "code -11")])
def test_the_watch_finds(read, words, tmp_path, monkeypatch, capsys):
    if read in (hang, loop):
        monkeypatch.setattr(fuzz_watch, "SECONDS", 0.2)
        monkeypatch.setattr(fuzz_watch, "GRACE", 0.5)
    count, found = Count("a reader"), tmp_path / "found"
    watched = Watched(Target("a reader", [b"bad"], read, st.just(b"bad")), count, found)
    watched.run("0", 2, 1.0, time.monotonic() + 60)
    assert count.inputs == 2 and count.findings >= 1
    texts, inputs = list(found.glob("*.txt")), list(found.glob("*.input"))
    assert texts and words in texts[0].read_text() and any(path.read_bytes() == b"bad" for path in inputs)


def test_the_watch_counts_results_and_refusals(tmp_path):
    def read(data: bytes) -> int:
        def reading() -> None:
            if data == b"bad":
                raise CheckpointError("it is bad")
        return given(reading)
    count = Count("a reader")
    watched = Watched(Target("a reader", [b"good"], read, st.just(b"bad")), count, tmp_path / "found")
    watched.run("0", 40, 0.5, time.monotonic() + 60)
    assert (count.inputs, count.findings) == (40, 0) and count.results > 0 and count.refused > 0
    assert not (tmp_path / "found").exists()


def refuses(target: Target, data: bytes) -> None:
    """The target refuses the data, and takes a sound input."""
    assert target.read(data) == 0
    assert target.read(target.seeds[0]) > 0


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, np.zeros(22, np.uint32))
    return file.getvalue()


@pytest.mark.parametrize("data", [
    npz(), b"\x93NUMPY\x01\x00\x20\x00" + b"(" * 31 + b"\n", npy(np.zeros(22, ">u4")), npy(np.zeros(22, "V4")),
    npy(np.zeros(22, np.uint32)) + b"more", npy(np.zeros(22, np.uint32))[:-1]])
def test_other_arrays_in_place_of_the_ends_of_frames_are_refused(tmp_path, data):
    refuses(fuzz_frames.ends_target(tmp_path), data)


@pytest.mark.parametrize(("key", "value"), [
    ("__vlen__", [5]), ("__vlen__", [1, 1, 1.5]), ("__vlen__", [1, 1, 1 << 31]), ("__vlen__", [1, 1, -1]),
    ("__keys__", ["0", "1"]), ("__keys__", ["0", "1", "1"]), ("__keys__", [0, 1, 1 << 62]), ("__keys__", [2, 1, -3]),
    ("__order__", ["A/a", "A/a", "B/b"]), ("__order__", ["A/a"]), ("__order__", {})])
def test_metadata_of_an_lmdb_that_does_not_belong_together_is_refused(tmp_path, key, value):
    refuses(fuzz_frames.metadata_target(tmp_path, key), msgpack.packb(value))


def page_edits() -> list[list[tuple[int, int]]]:
    """Numbers in the headers of pages, 16 bits each: 10 flags, 12 end of the list of nodes, 16 the first node."""
    return [[(page * 4096 + field, number)] for page in range(2, 9) for field in (10, 12, 14, 16, 18)
            for number in (0, 1, 2, 4, 15, 17, 4095, 4096, 65535)]


def test_damaged_pages_end_no_process(tmp_path):
    target = fuzz_frames.pages_target(tmp_path)
    sound, given_up = target.seeds[0], 0
    for edits in page_edits():
        data = bytearray(sound)
        for place, number in edits:
            data[place:place + 2] = number.to_bytes(2, "little")
        given_up += target.read(bytes(data)) == 0
    assert 0 < given_up < len(page_edits())


@pytest.mark.parametrize("data", [
    png_sized(fuzz_frames.saved("PNG"), 30_000, 30_000), b"P6\n30000 30000 255\n" + bytes(99),
    fuzz_frames.saved("BMP"), fuzz_frames.saved("GIF"), fuzz_frames.saved("TIFF")])
def test_images_that_promise_any_size_and_other_formats_are_refused(data):
    refuses(fuzz_frames.jpeg_target(), data)


@pytest.mark.parametrize("row", ["A/a," + "9" * 5000, "A/a,4294967296", '"' + "a" * 140_000 + '/b",3', "A/a,\u00b2"])
def test_numbers_and_fields_out_of_all_bounds_are_refused_in_csv_lists(tmp_path, row):
    refuses(fuzz_lists.index_target(tmp_path, "test_split01.csv"), row.encode())


@pytest.mark.parametrize("data", ["[" * 5000, '{"a": ' * 3000, '{"a": ' + "9" * 5000 + "}",
                                  '{"a": 36893488147419103232}'])
def test_deep_json_and_large_numbers_are_refused_in_lists_of_sources(tmp_path, data):
    refuses(fuzz_lists.index_target(tmp_path, "video_source.json"), data.encode())


@pytest.mark.parametrize("part", ["feature.pth.tar", "label.pth.tar"])
@pytest.mark.parametrize("value", [
    [None] * 4, [{}] * 4, ["a"] * 4, torch.zeros(()), torch.zeros(4, 3, 2), torch.full((4,), -1), torch.zeros(1 << 20),
    torch.zeros(1).expand(1 << 20, 64), torch.zeros(4, 3, device="meta"), torch.zeros(4, 3).to_sparse()])
def test_features_and_labels_that_are_none_are_refused(tmp_path, part, value):
    target = fuzz_evaluation.feature_target(tmp_path, part)
    if part == "label.pth.tar" and isinstance(value, torch.Tensor) and value.dim() == 1 and len(value) == 4:
        assert target.read(saved(value)) > 0  # retrieval takes any numbers, the linear probe does not
    else:
        refuses(target, saved(value))


@pytest.mark.parametrize("value", [0, None, True, {"0": "A/a"}, [0, 1, 2, 3], "abcd", ["A/a"] * 3 + [["B/b"]]])
def test_names_of_features_that_are_none_are_refused(tmp_path, value):
    refuses(fuzz_evaluation.feature_target(tmp_path, "vname.json"), json.dumps(value).encode())


@pytest.mark.parametrize("change", [
    {"made_with": {"processes": "a\nb"}}, {"options": {**fuzz_evaluation.OPTIONS, "schedule": [[2]]}},
    {"options": {**fuzz_evaluation.OPTIONS, "schedule": "often"}},
    {"options": {**fuzz_evaluation.OPTIONS, "schedule": torch.ones(2)}},
    {"optimizer": {**fuzz_evaluation.GOOD["optimizer"], "state": {7: {"momentum_buffer": torch.ones(2)}}}},
    {"optimizer": {**fuzz_evaluation.GOOD["optimizer"], "state": {0: {"momentum_buffer": "none"}}}},
    {"optimizer": {**fuzz_evaluation.GOOD["optimizer"], "state": {0: {"momentum_buffer": torch.ones(3).expand(2, 3)}}}}
])
def test_what_no_run_writes_into_a_checkpoint_is_refused_when_it_resumes(tmp_path, change):
    target = fuzz_evaluation.checkpoint_target(tmp_path, "zip")
    assert target.read(saved(fuzz_evaluation.GOOD | change)) <= 1  # its weights can be used
    assert target.read(target.seeds[0]) == 2


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_long_name_in_a_pickle_takes_no_time(tmp_path, form):
    target, name = fuzz_evaluation.checkpoint_target(tmp_path, form), b"c" + b"a" * 300_000 + b"\nb\n."
    sound = target.seeds[0]
    start = sound.index(b"\x80", 20)  # of the second pickle
    data = repacked(b"\x80\x02" + name, sound) if form == "zip" else sound[:start] + b"\x80\x02" + name
    with alarm():
        refuses(target, data)


def test_views_of_tensors_are_read(tmp_path):
    base = torch.arange(60.).reshape(3, 4, 5)
    views = {"t": base.transpose(0, 2), "cut": base[:, ::2, 1:3], "none": base[:0], "one": base[0, 0, 0],
             "row": base[1:2].expand(1, 4, 5)}
    for number, legacy in enumerate((True, False)):
        (tmp_path / str(number)).write_bytes(saved({"state_dict": views}, legacy))
        found = checkpoint.load(tmp_path / str(number))["state_dict"]
        assert all(torch.equal(found[name], value) for name, value in views.items())


@pytest.mark.parametrize("change", [{"epoch": 10**15}, {"progress": {**fuzz_evaluation.GOOD["progress"],
                                                                     "epoch": 10**15}}])
def test_an_epoch_that_no_run_reaches_takes_no_time(tmp_path, change):
    with alarm():
        assert fuzz_evaluation.checkpoint_target(tmp_path, "zip").read(saved(fuzz_evaluation.GOOD | change)) > 0


@pytest.mark.parametrize("cut", [b"J", b"X\xff\xff\xff\x7f", b"M\x01", b"K"])
def test_a_pickle_that_ends_within_a_number_is_refused(tmp_path, cut):
    sound = saved(fuzz_evaluation.GOOD, legacy=True)
    refuses(fuzz_evaluation.checkpoint_target(tmp_path, "legacy"), sound[:sound.index(b"\x80", 20)] + b"\x80\x02" + cut)


def test_all_of_the_projects_errors_count_as_refusals():
    assert {error.__name__ for error in OWN} == {"DataError", "FrameError", "PrepareError", "CheckpointError",
                                                 "OptionError"}
