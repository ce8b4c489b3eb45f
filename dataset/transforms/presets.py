"""Augmentation of pretraining (CoCLR's released code), of training a classifier, and of testing it.

A transform first decides which clips it needs (`plan`), then cuts, resizes and flips their uint8 frames and draws the
photometric steps (`render`), both in a loader's process; `to_blocks` applies the steps on the training device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataset.transforms import geometry
from dataset.transforms.photometric import PhotometricParams, PhotometricRecipe, photometric, stack_params

CROP = 224  # side of a classifier's crops, which are then resized
TRIES = 10  # draws of a classifier's random crop
P_FLIP = 0.5
P_BASE = 0.3  # probability that either of these views is augmented strongly

BASE = PhotometricRecipe(jitter=(0.4, 0.4, 0.4, 0.1), p_jitter=0.8, p_channel=0.2, p_blur=0.5)
NULL = PhotometricRecipe()
CLASSIFIER = PhotometricRecipe(jitter=(0.4, 0.4, 0.4, 0.1), p_jitter=0.3)

Frames = Mapping[int, list[np.ndarray]]  # clip number -> frames of each stream, uint8 (T, H, W, 3)


@dataclass(frozen=True)
class Plan:
    clips: tuple[int, ...]  # numbers of those that are needed
    views: tuple[tuple[int, PhotometricRecipe], ...]  # clip and recipe of each view


@dataclass(frozen=True)
class PretrainTransform:
    """Two views of a video: each null (random crop and flip) or base (with jitter, channel replacement and blur).

    Half the samples keep both clips, each base with probability 0.3; the others make both views from one of the two,
    one base and one null. All frames and streams of a view share its draws. CoCLR as released; paper, section 4.1.
    """

    img_dim: int  # side of the views in pixels
    p_two_clips: float = 0.5  # probability that the two views come from different clips

    def plan(self, rng: np.random.Generator) -> Plan:
        """Choose which of the two clips are needed, and the recipe of each view."""
        if rng.random() < self.p_two_clips:
            return Plan((0, 1), tuple((clip, BASE if rng.random() < P_BASE else NULL) for clip in (0, 1)))
        clip = int(rng.integers(2))
        recipes = (BASE, NULL) if rng.random() < 0.5 else (NULL, BASE)
        return Plan((clip,), tuple((clip, recipe) for recipe in recipes))

    def render(self, plan: Plan, frames: Frames, rng: np.random.Generator) -> dict[str, Any]:
        """Render "clips", uint8 (2, S, T, img_dim, img_dim, 3), and "photometric", draws of each view."""
        views, params = zip(*(self._view(frames[clip], recipe, rng) for clip, recipe in plan.views), strict=True)
        return {"clips": torch.from_numpy(np.array(views)), "photometric": stack_params(params)}

    def _view(self, streams: list[np.ndarray], recipe: PhotometricRecipe, rng: np.random.Generator
              ) -> tuple[list[np.ndarray], PhotometricParams]:
        size = geometry.size_of(streams[0])
        box = geometry.draw_box(*size, rng) or geometry.Box(0, 0, *size)
        params = recipe.draw(rng, len(streams), len(streams[0]))
        flipped = rng.random() < P_FLIP  # photometric steps commute with it, so it can come before them
        boxes = [geometry.scaled_box(box, size, geometry.size_of(frames)) for frames in streams]
        views = [geometry.resize(geometry.cut(frames, own), self.img_dim, self.img_dim)
                 for frames, own in zip(streams, boxes, strict=True)]
        return [geometry.flip(view) for view in views] if flipped else views, params


class OneClip:
    def plan(self, rng: np.random.Generator) -> Plan:
        return Plan((0,), ((0, NULL),))


@dataclass(frozen=True)
class ClassifierTransform(OneClip):
    """Crop at random at 224 (the centre if ten draws do not fit) and resize; in training, also jitter and flip."""

    img_dim: int  # side of the result in pixels
    train: bool = True

    def render(self, plan: Plan, frames: Frames, rng: np.random.Generator) -> dict[str, Any]:
        """Render "clips", uint8 (1, 1, T, img_dim, img_dim, 3), and "photometric"."""
        clip = frames[0][0]
        tried = (geometry.draw_box(*geometry.size_of(clip), rng) for _ in range(TRIES))
        if box := next(filter(None, tried), None):
            clip = geometry.resize(geometry.cut(clip, box), CROP, CROP)
        else:
            clip = geometry.short_side_to(clip, CROP)
            clip = geometry.cut(clip, geometry.corner_boxes(*geometry.size_of(clip), CROP)[0])
        clip = geometry.resize(clip, self.img_dim, self.img_dim)
        params = (CLASSIFIER if self.train else NULL).draw(rng, 1, len(clip))
        if self.train and rng.random() < P_FLIP:
            clip = geometry.flip(clip)
        return {"clips": torch.from_numpy(np.array([[clip]])), "photometric": stack_params([params])}


@dataclass(frozen=True)
class CropsTransform(OneClip):
    """Crops of 224 (centre; four corners; all five flipped), resized, jittered with probability p, one draw a crop.

    The draw of a crop depends on the sample's generator and the crop alone, not on how many crops there are.
    """

    img_dim: int  # side of the result in pixels
    crops: int = 1  # 1, 5 or 10
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.1)
    p: float = 0.3

    def render(self, plan: Plan, frames: Frames, rng: np.random.Generator) -> dict[str, Any]:
        """Render "clips", uint8 (crops, 1, F, img_dim, img_dim, 3), and "photometric"."""
        clips = self.cut(frames[0][0])
        recipe = PhotometricRecipe(self.jitter, p_jitter=self.p)
        params = [recipe.draw(own, 1, len(clips[0])) for own in rng.spawn(10)[:self.crops]]
        return {"clips": torch.from_numpy(np.array([[clip] for clip in clips])), "photometric": stack_params(params)}

    def cut(self, frames: np.ndarray) -> list[np.ndarray]:
        """Cut the crops of a video, uint8 (F, H, W, 3), without jitter; each uint8 (F, img_dim, img_dim, 3)."""
        video = frames if min(geometry.size_of(frames)) >= CROP else geometry.short_side_to(frames, CROP)
        boxes = geometry.corner_boxes(*geometry.size_of(video), CROP)[:self.crops]
        clips = [geometry.resize(np.ascontiguousarray(geometry.cut(video, box)), self.img_dim, self.img_dim)
                 for box in boxes]
        return clips + [geometry.flip(clip) for clip in clips][:self.crops - len(clips)]


Transform = PretrainTransform | ClassifierTransform | CropsTransform


def to_blocks(batch: Mapping[str, Any], device: torch.device | str) -> Tensor:
    """Augment and normalise the clips of a batch on the training device: float32 (B, V, S, 3, T, h, w).

    A batch has "clips" uint8 (B, V, S, T, h, w, 3) and "photometric" (B, V, ...). The clips of one view and stream,
    [:, v, s], lie in one piece of channels-last memory, as the encoders want them.
    """
    clips = batch["clips"].to(device, non_blocking=True).permute(1, 2, 0, 3, 4, 5, 6)  # (V, S, B, T, h, w, 3)
    params = {}
    for name, value in batch["photometric"].items():
        value = value.transpose(0, 1)  # (V, B, ...), and for the channels (V, B, S, T)
        params[name] = (value.transpose(1, 2).unsqueeze(3) if name == "channel" else
                        value.unsqueeze(1).expand(-1, clips.shape[1], *value.shape[1:]))
    return photometric(clips.unsqueeze(3), params)[:, :, :, 0].permute(2, 0, 1, 3, 4, 5, 6)
