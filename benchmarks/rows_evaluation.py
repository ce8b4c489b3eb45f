"""Rows of the evaluation: retrieval features and the ten-crop test of a split, whole and without the network.

Both ways need the same passes of the network. On a CPU they take nearly all the time, so the ratio there is that of
the passes; what is decoded, cropped and jittered how often shows in the rows of the data path alone.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import data, plain_images
from benchmarks.measure import Case, Disagreement, clocked
from benchmarks.sizes import Sizes
from dataset.video_dataset import VideoDataset
from eval import network
from eval.crops import crop_probabilities
from eval.retrieval import video_features
from eval.windows import read_samples, window_clips
from utils.photo import PhotoRecipe
from utils.presets import CropsTransform

COSINE = 0.999  # of features from pixels that differ by rounding
PROBABILITY = 0.05  # relative, for the same reason


class Means(nn.Module):
    """In place of a network: the mean colour of a clip, as logits and as features."""

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Both of clips (B, 3, T, h, w)."""
        means = clips.mean(dim=(2, 3, 4))
        return means, means


class Split:
    """A test split, and the same classifier in both memory formats, with BatchNorm statistics of its clips.

    without_network: mean colours instead of the classifier, so that the data path is left.
    """

    def __init__(self, folder: Path, sizes: Sizes, crops: int, *, without_network: bool = False) -> None:
        self.sizes, self.crops = sizes, crops
        data.make_set(folder, sizes, [sizes.video_frames] * sizes.videos)
        self.dataset: VideoDataset = data.build(folder, "", "test", CropsTransform(sizes.img_dim, crops=crops), sizes)
        self.reader = plain_images.PlainReader(self.dataset.readers[0].path)
        self.contiguous = Means() if without_network else self._network()
        self.ours = Means() if without_network else self._network().to(memory_format=torch.channels_last_3d)
        windows = self.dataset.sampler(sizes.video_frames, self.dataset.rng(0, 0))  # (W, T), the same for all videos
        self.windows, self.used = len(windows), np.unique(windows)
        self.size = (f"{sizes.videos} videos of {sizes.video_frames} frames, {self.windows * crops} passes a video, "
                     f"{sizes.frames}x{sizes.img_dim}x{sizes.img_dim}")

    def _network(self) -> nn.Module:
        torch.manual_seed(0)
        net = network.build(self.sizes.classes, "s3d", "ft")
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = None  # statistics become those of the clips below
                nn.init.ones_(module.bias)  # most units stay on, as rounding would else be magnified by depth
        net.to(self.sizes.device).train()
        with torch.no_grad():
            net(torch.cat([clips for _, clips in window_clips(self.samples(), self.sizes.device)][::self.crops]))
        return net.eval()

    def samples(self) -> Iterator[dict]:
        """What the evaluation scripts read, in this process."""
        return read_samples(self.dataset, workers=0, device=self.sizes.device, title="bench")

    @torch.inference_mode()
    def plain(self, output: int) -> Tensor:
        """(N, C, D): crop by crop, window by window, each decoded anew; output: 0 probabilities, 1 features.

        BatchNorm runs by itself, as it does where nothing folds it.
        """
        transform, videos = self.dataset.transform, []
        assert isinstance(transform, CropsTransform)
        for row in range(len(self.dataset)):
            rng = self.dataset.rng(0, row)
            clips = self.dataset.sampler(int(self.dataset.index.num_frames[row]), rng)
            recipe = PhotoRecipe(transform.jitter, p_jitter=transform.p)
            photos = [recipe.draw(own, 1, 1) for own in rng.spawn(10)[:self.crops]]
            videos.append(torch.stack([self._plain_crop(row, clips, crop, photo, output)
                                       for crop, photo in enumerate(photos)]))
        return torch.stack(videos).cpu()

    def _plain_crop(self, row: int, clips: np.ndarray, crop: int, photo: dict, output: int) -> Tensor:
        images = [plain_images.crop_window(self.reader.frames(self.dataset.index.names[row], clip), crop, photo,
                                           self.sizes.img_dim) for clip in clips]
        with mock.patch("backbone.s3dg.conv_bn", lambda x, conv, bn: bn(conv(x))):
            found = self.contiguous(torch.stack(images).to(self.sizes.device))[output]
        return (found if output else found.softmax(dim=1)).mean(dim=0)

    def decoding_bound(self) -> None:
        """Every frame that some window uses, decoded once."""
        for name in self.dataset.index.names:
            jpegs = self.reader.value(name)
            for frame in self.used:
                simplejpeg.decode_jpeg(jpegs[frame])

    def forward_bound(self, work: int) -> None:
        """As many passes of the network as the row needs, on one batch that is there."""
        sizes = self.sizes
        shape = (sizes.eval_batch, sizes.frames, sizes.img_dim, sizes.img_dim, 3)
        clips = torch.zeros(shape, device=sizes.device).permute(0, 4, 1, 2, 3)
        with torch.inference_mode():
            for done in range(0, work, sizes.eval_batch):
                self.ours(clips[:work - done])


def retrieval(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Pooled features of the videos of a split, mean over windows."""
    for row, split, bound in _splits(folder, "retrieval features", sizes, crops=1):
        def ours(split: Split = split) -> Tensor:
            return video_features(split.ours, split.samples(), batch_size=sizes.eval_batch, device=sizes.device)
        yield Case(row, split.size, plain=partial(_features, split), ours=ours, agree=_agree_features,
                   goals={"ratio": ">= 5"}, **bound)


def ten_crop(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Class probabilities of the videos of a split in ten crops."""
    for row, split, bound in _splits(folder, "ten-crop test", sizes, crops=10):
        def ours(split: Split = split) -> Tensor:
            return crop_probabilities(split.ours, split.samples(), sizes.eval_batch, sizes.device)
        yield Case(row, split.size, plain=partial(split.plain, 0), ours=ours, agree=_agree_probabilities,
                   goals={"ratio": ">= 10"}, **bound)


def _splits(folder: Path, row: str, sizes: Sizes, crops: int) -> Iterator[tuple[str, Split, dict]]:
    """The data path alone, then everything: name of the row, split, and bound."""
    alone = Split(folder / f"{crops} data", sizes, crops, without_network=True)
    reading = median(clocked(lambda: list(alone.samples()), "wall", sizes.device) for _ in range(3))
    bound = {"bound": alone.decoding_bound, "bound_of": "bare decoding of each frame, once",
             "notes": {"ours, what the loader's processes do of it, s": reading}}
    yield f"{row}, data path alone", alone, bound
    whole = Split(folder / f"{crops}", sizes, crops)
    passes = crops * whole.windows * sizes.videos
    yield row, whole, {"bound": partial(whole.forward_bound, passes), "bound_of": "the network's passes alone"}


def _features(split: Split) -> Tensor:
    return split.plain(1)[:, 0]


def _agree_features(plain: Tensor, ours: Tensor) -> str:
    cosine = float(F.cosine_similarity(plain, ours).min())
    if plain.shape != ours.shape or not cosine >= COSINE:
        raise Disagreement(f"features of shapes {tuple(plain.shape)} and {tuple(ours.shape)} have a cosine of {cosine}")
    return f"cosine of features at least {COSINE} ({cosine:.6f})"


def _agree_probabilities(plain: Tensor, ours: Tensor) -> str:
    apart = float((plain.log() - ours.log()).abs().max())
    if plain.shape != ours.shape or not apart <= PROBABILITY:
        raise Disagreement(f"probabilities are {apart:.1%} apart")
    return f"probabilities within {PROBABILITY:.0%} of each other ({apart:.2%})"
