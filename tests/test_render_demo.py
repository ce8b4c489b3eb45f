"""The demo set: real files, the same every time, classes told by motion and not by colour."""

import colorsys
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from process_data.src.check_demo import colour_statistics, flow_statistics, measure, nearest_accuracy
from process_data.src.demo_motions import MOTIONS, draw_clip
from process_data.src.demo_scenes import make_scene
from process_data.src.errors import PrepareError
from process_data.src.render_demo import Look, clip_frames, render
from process_data.src.video_io import find_videos, read_frames

ROOT = Path(__file__).parents[1]
SMALL = Look(frames=16, size=(64, 48), seed=0)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "videos"
    assert render(out, list(MOTIONS)[:8], SMALL, groups=4, clips=2) == 64
    return out


def test_motion_tells_the_class_across_scenes_and_colour_does_not(demo):
    result = measure(find_videos(demo))
    assert result["chance"] == 1 / 8
    # three standard deviations of 64 guesses at 1/8
    assert result["bound"] == pytest.approx(0.125 + 3 * (0.125 * 0.875 / 64) ** 0.5)
    assert result["flow"] > 0.8
    assert result["colour"] < result["bound"]


def test_a_typical_object_is_the_class_s_in_every_scene_and_the_ground_is_not():
    alike = {0.0: [], 1.0: []}
    for name in ("Slide", "Fall", "Spin", "Rock"):
        own = make_scene(0, 1000 + list(MOTIONS).index(name), 96, 128)
        colour = _direction(own.thing[own.mask > 0.9].mean(axis=0))
        for typical, found in alike.items():  # a muted ground is grey: what has a hue is the object
            look = replace(SMALL, typical=typical, muted=1.0)
            found += [np.dot(colour, _hue(clip_frames(name, group, 1, look).astype(float))) for group in range(1, 6)]
    assert np.mean(alike[1.0]) > 0.85 and np.mean(alike[0.0]) < 0.4


def test_an_object_in_the_scene_s_colours_has_the_class_s_figure_and_the_scene_s_hue():
    own, plain = (make_scene(0, 1003, 96, 128, colours_of=group) for group in (2, None))
    other = make_scene(0, 1003, 96, 128, colours_of=5)
    solid = own.mask > 0.99
    assert np.array_equal(own.mask, plain.mask) and np.array_equal(own.ground, plain.ground)
    light, lighter = (scene.thing[solid].mean(axis=1) for scene in (own, other))  # one pattern, in two palettes
    assert np.corrcoef(light, lighter)[0, 1] > 0.95
    hues = [colorsys.rgb_to_hsv(*scene.thing[solid].mean(axis=0)[::-1] / 255)[0] for scene in (own, other)]
    for hue, group in zip(hues, (2, 5), strict=True):  # golden-ratio steps, half way round from the ground, +-0.12
        assert abs((hue - 0.618 * group - 0.45 + 0.5) % 1 - 0.5) < 0.12


def test_the_scene_s_colours_are_those_that_videos_show():
    looks = {colours: replace(SMALL, typical=1.0, muted=1.0, colours=colours) for colours in ("class", "scene")}
    spread = {}
    for colours, look in looks.items():  # of one scene's hues over the classes: one hue, or each class's own
        hues = np.stack([_hue(clip_frames(name, 2, 1, look).astype(float)) for name in MOTIONS])
        spread[colours] = 1 - np.linalg.norm(hues.mean(axis=0))
    assert spread["scene"] < 0.1 and spread["class"] > 0.3


def _direction(colour: np.ndarray) -> np.ndarray:
    """A BGR colour's part that is not grey, of length 1."""
    part = colour - colour.mean()
    return part / np.linalg.norm(part)


def _hue(frames: np.ndarray) -> np.ndarray:
    """The direction of the most colourful tenth of the pixels' mean colour."""
    pixels = frames.reshape(-1, 3)
    colourful = np.ptp(pixels, axis=1)
    return _direction(pixels[colourful > np.quantile(colourful, 0.9)].mean(axis=0))


def test_other_speeds_change_how_fast_and_not_what():
    looks = [replace(SMALL, pace=pace, spread=0.0) for pace in (1.0, 2.0)]
    slow, fast = (clip_frames("Slide", 1, 1, look).astype(float) for look in looks)
    np.testing.assert_array_equal(slow[::2], fast[:8])  # every second frame of the slow one


def test_files_are_real_videos_of_the_named_form(demo):
    videos = find_videos(demo)
    assert len({name.split("/")[0] for name in videos}) == 8
    assert "Spin/v_Spin_g03_c02" in videos and videos["Spin/v_Spin_g03_c02"].suffix == ".avi"
    for path in list(videos.values())[::9]:
        frames = list(read_frames(path))
        assert len(frames) == 16 and frames[0].shape == (48, 64, 3)


def test_rendering_twice_gives_the_same_bytes(demo, tmp_path):
    render(tmp_path / "again", ["Bounce"], SMALL, groups=2, clips=1)
    for path in (tmp_path / "again").rglob("*.avi"):
        assert path.read_bytes() == (demo / path.relative_to(tmp_path / "again")).read_bytes()


def test_a_video_holds_what_was_rendered(demo):
    wanted = clip_frames("Zoom", 2, 1, SMALL)
    got = np.stack(list(read_frames(demo / "Zoom" / "v_Zoom_g02_c01.avi")))
    assert np.abs(wanted.astype(int) - got).mean() < 8  # JPEG


@pytest.mark.parametrize("name", MOTIONS)
def test_every_motion_moves_in_any_sixteen_frames(name):
    pose = MOTIONS[name](np.arange(48), draw_clip(np.random.default_rng(5)))
    moves = sum(np.abs(np.diff(v)) for v in (pose.x, pose.y, pose.angle, pose.log_scale))
    assert len(moves) == 47
    assert min(moves[i : i + 15].mean() for i in range(33)) > 0.01


def test_a_scene_is_a_torus_and_depends_on_its_group_alone():
    scene, again, other = make_scene(0, 1, 48, 64), make_scene(0, 1, 48, 64), make_scene(0, 2, 48, 64)
    assert (scene.ground == again.ground).all() and (scene.ground != other.ground).any()
    ground = scene.ground.astype(float)
    inside, seam = np.abs(np.diff(ground, axis=1)).mean(), np.abs(ground[:, 0] - ground[:, -1]).mean()
    assert seam < 2 * inside


def test_flow_statistics_of_a_known_flow():
    flow = np.zeros((2, 6, 6, 2))
    flow[..., 0] = 1.0  # one pixel to the right everywhere: direction bin 0, size bin 2 (0.75-1.5)
    cell = np.zeros(13)
    cell[0] = cell[8 + 2] = 1
    np.testing.assert_allclose(flow_statistics(flow), np.tile(cell, 9))


def test_colour_statistics_of_a_known_frame():
    frame = np.zeros((6, 6, 3), np.uint8)
    frame[..., 1] = 255
    channel = np.eye(8)[[0, 7, 0]].ravel()
    np.testing.assert_allclose(colour_statistics(frame), np.tile(channel, 9))


def test_the_nearest_of_the_own_scene_does_not_count():
    rows = np.array([[0.0], [0.1], [5.0], [5.1]])
    assert nearest_accuracy(rows, ["a", "a", "b", "b"], ["1", "1", "2", "2"]) == 0.0
    assert nearest_accuracy(rows, ["a", "a", "b", "b"], ["1", "2", "1", "2"]) == 1.0


def test_a_folder_with_files_is_not_rendered_into(demo):
    with pytest.raises(PrepareError, match="not an empty folder"):
        render(demo, ["Bounce"], SMALL, groups=1, clips=1)


@pytest.mark.parametrize("wrong", [["--classes", "1"], ["--size", "65x48"], ["--size", "tiny"], ["--frames", "4"],
                                   ["--seed", "-1"], ["--pace", "0"], ["--spread", "1"], ["--typical", "1.5"],
                                   ["--muted", "-1"], ["--contact_sheet", "sheet.xyz"], ["--contact_sheet", "/"]])
def test_wrong_options_end_in_one_line(wrong, tmp_path):
    command = [sys.executable, ROOT / "process_data/src/render_demo.py", "--out", tmp_path / "x", *wrong]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    command = [sys.executable, ROOT / "process_data/src/render_demo.py", "--classes", "2", "--groups", "1", "--clips",
               "1", "--frames", "16"]
    for options in (["--out", tmp_path / "file/x"],
                    ["--out", tmp_path / "x", "--contact_sheet", tmp_path / "file/x.png"]):
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"{tmp_path}/file" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_contact_sheet_has_a_row_for_each_class(tmp_path):
    command = [sys.executable, ROOT / "process_data/src/render_demo.py", "--out", tmp_path / "x", "--classes", "2",
               "--groups", "1", "--clips", "1", "--frames", "16", "--contact_sheet", tmp_path / "sheet.png"]
    subprocess.run(command, check=True, capture_output=True)
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] == 1.5 * 2 * (48 + 4)
