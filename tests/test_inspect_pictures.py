"""The inspection's pictures: clips as the network gets them, and where they lie on the sheets."""

import math
import re

import miniature
import numpy as np
import pytest
import torch
from PIL import Image

import launch
from dataset import catalog, inspect
from dataset.residual import residual_image
from inspection import canvas, flow_colours, sheets
from inspection.rows import Place
from inspection.sheets import Order, as_seen
from inspection.witness import Witness, crop_of
from utils import geometry
from utils.presets import PretrainTransform

SIZE = (36, 48)


def order_of(mini: miniature.Miniature, suffix: str = "", second_view: str = "flow", clips: int = 2, seed: int = 0
             ) -> Order:
    place = Place(catalog.parse(mini.name + suffix, second_view), mini.data_root, mini.split_root, 8, 1)
    return Order(place, 1, clips, 32, seed)


def sample_of(frames: list[np.ndarray], seed: int) -> dict:
    """A sample of one clip of several streams, as a training draws it. frames: uint8 (T, H, W, 3) of each."""
    rng = np.random.default_rng(seed)
    transform = Witness(PretrainTransform(32, p_two_clips=0))
    plan = transform.plan(rng)
    return transform.render(plan, {plan.clips[0]: frames}, rng)


def channels(sample: dict, view: int, stream: int) -> list[int]:
    return sample["photo"]["channel"][view, stream].tolist()


def test_all_frames_of_a_view_share_its_augmentation_and_two_views_do_not():
    same = np.repeat(miniature.frame("A/a", 0, SIZE)[None], 6, axis=0)
    seen = {"jitter": 0, "channel": 0, "blur": 0, "apart": 0}
    for seed in range(30):
        sample = sample_of([same, same], seed)
        views = as_seen(sample)  # (V, S, T, h, w, 3)
        for view in range(2):
            for stream in range(2):
                channel = channels(sample, view, stream)
                for t, frame in enumerate(views[view, stream]):  # which channel becomes grey is each frame's own
                    assert (frame == views[view, stream, channel.index(channel[t])]).all()
            photo = {key: value[view] for key, value in sample["photo"].items()}
            seen["jitter"] += bool(photo["jitter"])
            seen["channel"] += min(channels(sample, view, 0)) >= 0
            seen["blur"] += bool(photo["sigma"] > 0)
            if min(channels(sample, view, 0) + channels(sample, view, 1)) < 0:
                assert (views[view, 0] == views[view, 1]).all()  # the streams share it too
        seen["apart"] += bool((views[0] != views[1]).mean() > 0.5)
    assert all(count > 3 for count in seen.values()) and seen["apart"] > 20  # both may draw the whole frame, unchanged


def test_a_witness_changes_no_sample(tmp_path):
    mini = miniature.make(tmp_path, "mine", frames=12, size=SIZE)

    def samples(transform):
        dataset = catalog.build("mine-2stream-2clip", "train", transform=transform, seq_len=8, ds=1, seed=3,
                                **mini.roots)
        return [dataset[epoch, row] for epoch in range(2) for row in range(len(dataset))]
    for plain, seen in zip(samples(PretrainTransform(32)), samples(Witness(PretrainTransform(32))), strict=True):
        assert set(seen) - set(plain) == {"original", "ramps"}
        assert torch.equal(plain["clips"], seen["clips"])
        assert all(torch.equal(value, seen["photo"][key]) for key, value in plain["photo"].items())


@pytest.mark.parametrize("size", [(36, 48), (120, 160), (50, 40)])
def test_the_crop_that_is_shown_is_the_one_that_was_made(size):
    frames = miniature.video(3, size)
    for seed in range(6):
        sample = sample_of([frames], seed)
        for view in range(2):
            (left, top, right, bottom), flipped = crop_of(sample["ramps"][view, 0, 0].numpy())
            x, y = round(left * size[1]), round(top * size[0])
            best = min(_distance(sample["clips"][view, 0].numpy(), frames, flipped, y + dy, x + dx,
                                 round((bottom - top) * size[0]) + dh, round((right - left) * size[1]) + dw)
                       for dy in (-1, 0, 1) for dx in (-1, 0, 1) for dh in (-1, 0, 1) for dw in (-1, 0, 1))
            assert best == 0  # within a pixel of each side


def _distance(clip, frames, flipped, top, left, height, width) -> float:
    """How far a clip is from such a crop."""
    if top < 0 or left < 0 or top + height > frames.shape[1] or left + width > frames.shape[2]:
        return math.inf
    made = geometry.resize(frames[:, top:top + height, left:left + width], 32, 32)
    return float(np.abs((made[:, :, ::-1] if flipped else made).astype(int) - clip).max())


def test_frames_without_photometric_steps_are_seen_as_they_are():
    plain = 0
    for seed in range(20):
        sample = sample_of([miniature.video(4, SIZE)], seed)
        views = as_seen(sample)
        for view in range(2):
            photo = {key: value[view] for key, value in sample["photo"].items()}
            if not photo["jitter"] and photo["sigma"] == 0 and photo["channel"].max() < 0:
                assert (views[view] == sample["clips"][view].numpy()).all()
                plain += 1
    assert plain >= 20  # one view of each has none


def place_in(picture: Image.Image, tile: np.ndarray) -> tuple[int, int] | None:
    """Row and column of a tile in a picture; None where it is not."""
    pixels = np.asarray(picture)
    first = tile[0].tobytes()
    for row in range(len(pixels) - len(tile) + 1):
        line, found = pixels[row].tobytes(), -1
        while (found := line.find(first, found + 1)) >= 0:
            column = found // 3
            if np.array_equal(pixels[row:row + len(tile), column:column + tile.shape[1]], tile):
                return row, column
    return None


@pytest.mark.parametrize(("suffix", "view", "streams"), [
    ("", "flow", 1), ("-f", "flow", 1), ("-2stream-2clip", "flow", 2), ("-2stream-2clip", "residual", 2),
    ("-f-2clip", "residual", 1)])
def test_the_sheet_has_every_frame_as_the_network_gets_it(tmp_path, suffix, view, streams):
    mini = miniature.make(tmp_path, "mine", frames=12, size=SIZE)
    order = order_of(mini, suffix, view)
    picture = sheets.augmented(order)
    dataset = catalog.build(
        "mine" + {"": "-2clip", "-f": "-f-2clip"}.get(suffix, suffix), "train", seq_len=8, ds=1, second_view=view,
        transform=PretrainTransform(32, p_two_clips=0), **mini.roots)
    shown = [row for row in range(len(dataset)) if place_in(
        picture, as_seen(dataset[0, row])[0, 0, 0].repeat(3, 0).repeat(3, 1)) is not None]
    assert len(shown) == 2 and len({dataset.index.labels[row] for row in shown}) == 2
    for row in shown:
        views = as_seen(dataset[0, row])
        assert views.shape[:3] == (2, streams, 8)
        for v in range(2):
            for s in range(streams):
                places = [place_in(picture, frame.repeat(3, 0).repeat(3, 1)) for frame in views[v, s]]
                assert None not in places
                if len({frame.tobytes() for frame in views[v, s]}) == 8:  # side by side, in their order
                    assert len({top for top, _ in places}) == 1
                    assert set(np.diff([left for _, left in places])) == {order.tile + canvas.GAP}


def test_rgb_beside_flow_and_beside_residual_frames(tmp_path):
    mini = miniature.make(tmp_path, "mine", frames=12, size=(32, 32))
    for view, make_second in (("flow", None), ("residual", residual_image)):
        order = order_of(mini, "-2stream-2clip", view, clips=1)
        picture = sheets.motion(order)
        rgb = catalog.parse("mine").readers(mini.data_root, train=True)[0]
        [flow] = catalog.parse("mine-f").readers(mini.data_root, train=True)
        found = {}
        for name in mini.train:
            frames = rgb.frames(name, range(12))
            found |= {(name, i): place for i in range(11)
                      if (place := place_in(picture, frames[i].repeat(3, 0).repeat(3, 1)))}
        assert len(found) == 8 and len({name for name, _ in found}) == 1
        name = next(iter(found))[0]
        motions = flow_colours.decoded(flow.frames(name, [i for _, i in found]))
        scale = flow_colours.scale_of([motions])
        for place, motion in zip(found, motions, strict=True):
            two = rgb.frames(name, [place[1], place[1] + 1])
            below = make_second(*two) if make_second else flow_colours.coloured(motion, scale)
            at = place_in(picture, below.repeat(3, 0).repeat(3, 1))
            assert at == (found[place][0] + order.tile + canvas.GAP, found[place][1])


def test_captions_say_what_is_beside_them(tmp_path, monkeypatch):
    mini = miniature.make(tmp_path, "mine", frames=12, size=SIZE)
    monkeypatch.setattr(canvas, "sheet", lambda title, notes, blocks, *_: blocks)
    readers = {"RGB": catalog.parse("mine").readers(mini.data_root, train=True)[0],
               "flow": catalog.parse("mine-f").readers(mini.data_root, train=True)[0]}
    for draw, stored in ((sheets.augmented, {"RGB, as stored": "RGB", "flow, as stored": "flow"}),
                         (sheets.motion, {"RGB": "RGB", "flow, as stored": "flow"})):
        for block in draw(order_of(mini, "-2stream-2clip")):
            strips = {strip.label[0]: strip for strip in block.strips}
            frames = [int(re.fullmatch(r"frame (\d+)", caption)[1]) for caption in block.columns]
            for title, stream in stored.items():
                expected = readers[stream].frames(block.title, frames).astype(int)
                differing = np.abs(np.stack(strips[title].images) - expected).max(axis=3) > 0
                assert differing.mean() < 0.25  # outlines of the crops
                assert strips[title].label[1] == "48 x 36 pixels"


def test_a_set_without_flow_gets_the_first_sheet_alone(tmp_path, capsys):
    mini = miniature.make(tmp_path, "mine", frames=12, size=SIZE)
    (mini.data_root / "mine" / "mine_tvl1_frame.lmdb").unlink()
    words = ["mine", *mini.options, "--seq_len", "8", "--img_dim", "24", "--out", str(tmp_path / "a" / "b")]
    assert launch.exit_code(lambda: inspect.main(words)) == 0
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["contact_sheet_augmented.png"]
    assert "no contact_sheet_flow.png: " in capsys.readouterr().out


def test_names_of_any_kind_fit_on_a_sheet():
    image = miniature.frame("A/a", 0, (20, 90))
    for name in ("A" * 5000, "\u202e\\x1b", "字é🙂", ""):
        block = canvas.Block(name, ["frame 0"], [canvas.Strip([name, "x" * 99], [image])])
        picture = canvas.sheet("title", ["a note"], [block], 96)
        assert picture.width == 2 * canvas.MARGIN + canvas.LABELS + 96 + canvas.GAP
        margin = np.asarray(picture)[:, -canvas.MARGIN:]
        assert int(margin.min()) == 255


def test_a_picture_is_fitted_with_square_pixels():
    wide = np.asarray(canvas.fitted(miniature.frame("A/a", 0, (24, 48)), 96))
    assert (wide[:24] == 225).all() and (wide[72:] == 225).all()
    assert (wide[24:72] == miniature.frame("A/a", 0, (24, 48)).repeat(2, 0).repeat(2, 1)).all()
    assert canvas.fitted(miniature.frame("A/a", 0, (500, 3)), 96).size == (96, 96)
