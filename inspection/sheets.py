"""Contact sheets of training clips: as the network gets them, and RGB beside what moves in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset import catalog
from dataset.video_dataset import VideoDataset
from inspection import canvas, flow_colours
from inspection.canvas import Block, Strip
from inspection.frames import spread
from inspection.rows import Place
from inspection.witness import Witness, crop_of
from utils.augmentation import MEAN, STD
from utils.console import one_line
from utils.photo import BRIGHTNESS, CONTRAST, HUE, SATURATION
from utils.presets import PretrainTransform, to_blocks

COLUMNS = 8  # frames of a clip that are shown
SMALLEST_TILE = 96  # pixels; smaller frames are magnified
WHOLE = 0.99  # share of a frame's sides that is all of them
DRAWS = ((201, 79, 15), (24, 95, 170))  # colours of the two
OPERATIONS = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation", HUE: "hue"}
SUFFIXES = {("rgb",): "-2clip", ("flow",): "-f-2clip", ("rgb", "flow"): "-2stream-2clip"}


@dataclass(frozen=True)
class Order:
    """What is to be drawn. clips: how many. img_dim: side of the network's frames, in pixels. seed: of all draws."""

    place: Place
    which_split: int
    clips: int
    img_dim: int
    seed: int

    @property
    def tile(self) -> int:
        """Side of a shown picture in pixels: a whole multiple of a frame's."""
        return self.img_dim * -(-SMALLEST_TILE // self.img_dim)


@dataclass(frozen=True)
class Shown:
    """A training sample. sample: of the dataset. name: "Class/video". columns: captions of the shown frames, places:
    where they are in the clip."""

    sample: Mapping[str, Any]
    name: str
    columns: list[str]
    places: list[int]

    @property
    def originals(self) -> list[np.ndarray]:
        """The shown frames of the one clip, as stored: for each stream uint8 (columns, H, W, 3)."""
        [streams] = self.sample["original"].values()
        return [stream[self.places] for stream in streams]


def augmented(order: Order) -> Image.Image:
    """Training clips as stored, and twice as the network gets them.

    Raises:
        DataError: the training part cannot be used.
    """
    spec = order.place.spec
    blocks = [Block(one_line(shown.name), shown.columns, _augmented_strips(shown, order.place.streams))
              for shown in _samples(order, SUFFIXES[spec.streams])]
    notes = ["Each clip as it is stored, and its two views as the network gets them in pretraining (before "
             "normalisation).",
             "Crop, flip, jitter and blur are drawn once for all frames of a view, and for its streams. Where colours "
             "are replaced by grey, each frame draws its channel.",
             f"The boxes in the stored frames are the crops of the views, which are {order.img_dim} x {order.img_dim} "
             f"pixels. {_clips_text(order.place)}"]
    return canvas.sheet(f"{spec.name}: augmented training clips", notes, blocks, order.tile)


def motion(order: Order) -> Image.Image:
    """Training clips in RGB, beside their flow in colours, or their residual frames.

    Raises:
        DataError: the training part cannot be used, or there is no flow.
    """
    spec, samples = order.place.spec, list(_samples(order, SUFFIXES["rgb", "flow"]))
    if spec.second_view == "residual":
        blocks = [_residual_block(shown) for shown in samples]
        notes = ["Residual frame i is 128 + (RGB frame i + 1 - RGB frame i) / 2, made as it is read.",
                 "Grey (128) is no change: a channel that grows is brighter, one that falls darker.",
                 _clips_text(order.place)]
        return canvas.sheet(f"{spec.base}: RGB beside residual frames", notes, blocks, order.tile)
    motions = [flow_colours.decoded(shown.originals[1]) for shown in samples]
    scale = flow_colours.scale_of(motions)
    blocks = [_flow_block(shown, found, scale) for shown, found in zip(samples, motions, strict=True)]
    notes = ["Flow frame i is the motion from RGB frame i to i + 1: the hue is its direction, the colour's strength its"
             " speed.",
             f"White is still, full colour is {scale:g} px a frame and more (99th percentile of what is shown, at least"
             " 1).",
             f"The JPEGs hold -{flow_colours.BOUND:g} to {flow_colours.BOUND:g} px in steps of {flow_colours.STEP:.2f}:"
             " less than two steps is shown as still, more than the range is clipped.",
             "Pixels (px) are those of the stored frames. Below, the flow as stored: (128, y, x) as red, green, blue.",
             _clips_text(order.place)]
    return canvas.sheet(f"{spec.base}: RGB beside flow", notes, blocks, order.tile, flow_colours.legend(scale))


SHEETS: dict[str, Callable[[Order], Image.Image]] = {
    "contact_sheet_augmented.png": augmented, "contact_sheet_flow.png": motion}


def _clips_text(place: Place) -> str:
    every = f", every {place.ds} frames" if place.ds > 1 else ""
    shown = f", of which {COLUMNS} are shown" if place.seq_len > COLUMNS else ""
    return f"Clips of {place.seq_len} frames{every}{shown}."


def _samples(order: Order, suffix: str) -> list[Shown]:
    """Samples of training videos, of as many classes as there may be, both views of each from one clip."""
    place = order.place
    dataset = catalog.build(
        place.spec.base + suffix, "train", transform=Witness(PretrainTransform(order.img_dim, p_two_clips=0)),
        data_root=place.data_root, split_root=place.split_root, seq_len=place.seq_len, ds=place.ds,
        which_split=order.which_split, seed=order.seed,
        second_view="flow" if suffix == SUFFIXES["rgb",] else place.spec.second_view)
    return [_shown(dataset, row) for row in _chosen(dataset, order)]


def _chosen(dataset: VideoDataset, order: Order) -> list[int]:
    """Rows, at first one of each class."""
    drawn = np.random.default_rng(order.seed).permutation(len(dataset)).tolist()
    seen: dict[int, int] = {}
    rounds = []
    for row in drawn:
        label = int(dataset.index.labels[row])
        rounds.append(seen.get(label, 0))
        seen[label] = rounds[-1] + 1
    in_order = [drawn[i] for i in np.argsort(rounds, kind="stable")]
    return in_order[:order.clips]


def _shown(dataset: VideoDataset, row: int) -> Shown:
    sample = dataset[0, row]
    [clip] = sample["original"]
    frames = dataset.sampler(int(dataset.index.num_frames[row]), dataset.rng(0, row))[clip]  # as the sample drew them
    places = spread(len(frames), COLUMNS)
    return Shown(sample, dataset.index.names[row], [f"frame {frames[place]}" for place in places], places)


def _augmented_strips(shown: Shown, streams: Sequence[str]) -> list[Strip]:
    """For each stream the stored frames with the crops in them, and the two views."""
    views, ramps = as_seen(shown.sample), shown.sample["ramps"].numpy()  # both (V, S, T, h, w, 3)
    crops = [crop_of(ramps[view, 0, 0]) for view in range(len(views))]
    boxes = [(box, colour) for (box, _), colour in zip(crops, DRAWS, strict=True)]
    strips = []
    for number, (stream, frames) in enumerate(zip(streams, shown.originals, strict=True)):
        height, width = frames.shape[1:3]
        stored = [canvas.outlined(frame, boxes) for frame in frames]
        strips.append(Strip([f"{stream}, as stored", f"{width} x {height} pixels"], stored))
        for view, ((box, flipped), colour) in enumerate(zip(crops, DRAWS, strict=True)):
            label = [f"{stream}, view {view + 1}", _crop_text(box, flipped, width, height),
                     *_photo_text({key: value[view] for key, value in shown.sample["photo"].items()}, number,
                                  shown.places)]
            strips.append(Strip(label, list(views[view, number, shown.places]), colour))
    return strips


def as_seen(sample: Mapping[str, Any]) -> np.ndarray:
    """The views of a sample with all its photometric steps, before normalisation: uint8 (V, S, T, h, w, 3)."""
    batch = {"clips": sample["clips"][None], "photo": {key: value[None] for key, value in sample["photo"].items()}}
    blocks = to_blocks(batch, torch.device("cpu"))[0]  # (V, S, 3, T, h, w)
    std, mean = (torch.tensor(values)[:, None, None, None] for values in (STD, MEAN))
    values = ((blocks * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return values.permute(0, 1, 3, 4, 5, 2).numpy()


def _crop_text(box: canvas.Box, flipped: bool, width: int, height: int) -> str:
    left, top, right, bottom = box
    if right - left > WHOLE and bottom - top > WHOLE:
        return f"whole frame{', flipped' if flipped else ''}"
    crop = f"crop {round((right - left) * width)} x {round((bottom - top) * height)}"
    return f"{crop} at {round(left * width)}, {round(top * height)}{', flipped' if flipped else ''}"


def _photo_text(photo: Mapping[str, Tensor], stream: int, places: list[int]) -> list[str]:
    """What was drawn for a view, in lines."""
    lines = []
    if photo["jitter"]:
        words = [f"{OPERATIONS[operation]} {photo['factor'][operation].item():{'+.2f' if operation == HUE else '.2f'}}"
                 for operation in photo["order"].tolist()]
        lines += [", ".join(words[:2]), ", ".join(words[2:])]
    channel = photo["channel"][stream].tolist()
    if min(channel) >= 0:
        lines.append(f"grey of {' '.join('RGB'[channel[place]] for place in places)}")
    if photo["sigma"] > 0:
        lines.append(f"blur of {photo['sigma'].item():.1f} pixels")
    return lines or ["no change of colours"]


def _flow_block(shown: Shown, found: np.ndarray, scale: float) -> Block:
    rgb, flow = shown.originals
    speed = np.hypot(found[..., 0], found[..., 1])
    return Block(one_line(shown.name), shown.columns, [
        Strip(["RGB", f"{rgb.shape[2]} x {rgb.shape[1]} pixels"], list(rgb)),
        Strip(["flow, in colours", f"mean {speed.mean():.2f} px a frame", f"fastest {speed.max():.1f} px a frame"],
              list(flow_colours.coloured(found, scale))),
        Strip(["flow, as stored", f"{flow.shape[2]} x {flow.shape[1]} pixels"], list(flow))])


def _residual_block(shown: Shown) -> Block:
    rgb, residual = shown.originals
    change = np.abs(residual.astype(int) - 128)
    return Block(one_line(shown.name), shown.columns, [
        Strip(["RGB", f"{rgb.shape[2]} x {rgb.shape[1]} pixels"], list(rgb)),
        Strip(["residual", f"mean change {2 * change.mean():.1f} levels"], list(residual))])
