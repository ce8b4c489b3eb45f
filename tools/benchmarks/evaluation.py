"""Retrieval features and the ten-crop test of a split; both versions need the same network passes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.select_backbone import fold_batchnorm
from dataset.transforms.photometric import PhotometricRecipe
from dataset.transforms.presets import CropsTransform
from engine.device import AUTOCAST
from eval import network
from eval.retrieval import video_features
from eval.windows import crop_probabilities, read_samples, window_clips
from tools.benchmarks import Case, Sizes
from tools.benchmarks.loader import PlainReader, build, crop_window, make_set

# In float32, from pixels that differ by rounding; and in half precision.
COSINE, PROBABILITY = (0.999, 0.99), (0.05, 0.5)  # of features; relative


class Split:
    """A test split in 1 or 10 crops, and the same network for both versions."""

    def __init__(self, folder: Path, sizes: Sizes, crops: int) -> None:
        self.sizes, self.crops = sizes, crops
        make_set(folder, sizes, [sizes.video_frames] * sizes.videos)
        self.dataset = build(folder, "", "test", CropsTransform(sizes.img_dim, crops=crops), sizes)
        self.reader = PlainReader(self.dataset.readers[0].path)
        self.windows = len(self.dataset.sampler(sizes.video_frames, self.dataset.rng(0, 0)))  # the same for all videos
        self.size = (f"{sizes.videos} videos of {sizes.video_frames} frames, {self.windows * crops} passes a video, "
                     f"{sizes.frames}x{sizes.img_dim}x{sizes.img_dim}")
        self.contiguous, self.net = self._network(), self._network()
        fold_batchnorm(self.net)
        self.net.to(memory_format=torch.channels_last_3d)

    def _network(self) -> nn.Module:
        """Build a classifier whose BatchNorm statistics are those of the split's clips."""
        torch.manual_seed(0)
        net = network.build(self.sizes.classes, "s3d", "ft")
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = None  # a plain mean over the batches below
                nn.init.ones_(module.bias)  # keeps most units active: otherwise depth would magnify rounding
        net.to(self.sizes.device).train()
        with torch.no_grad():
            net(torch.cat([clips for _, clips in window_clips(self.samples(), self.sizes.device)][::self.crops]))
        return net.eval()

    def samples(self) -> Iterator[dict]:
        return read_samples(self.dataset, workers=0, device=self.sizes.device, title="bench")

    @torch.inference_mode()
    def plain(self, output: int) -> Tensor:
        """Return probabilities (output 0) or features (1), (N, crops, D), decoding anew for each window and crop."""
        transform, videos = self.dataset.transform, []
        assert isinstance(transform, CropsTransform)
        for row in range(len(self.dataset)):
            rng = self.dataset.rng(0, row)
            clips = self.dataset.sampler(int(self.dataset.index.num_frames[row]), rng)
            recipe = PhotometricRecipe(transform.jitter, p_jitter=transform.p)
            draws = [recipe.draw(own, 1, 1) for own in rng.spawn(10)[:self.crops]]
            for crop, params in enumerate(draws):
                windows = [crop_window(self.reader.frames(self.dataset.index.names[row], clip), crop, params,
                                       self.sizes.img_dim) for clip in clips]
                found = self.contiguous(torch.stack(windows).to(self.sizes.device))[output]
                videos.append((found if output else found.softmax(dim=1)).mean(dim=0))
        return torch.stack(videos).unflatten(0, (-1, self.crops)).cpu()

    def passes(self, dtype: torch.dtype | None) -> None:
        """Run the row's number of windows through our network, on one batch already in memory."""
        sizes, work = self.sizes, self.crops * self.windows * self.sizes.videos
        shape = (sizes.eval_batch, sizes.frames, sizes.img_dim, sizes.img_dim, 3)
        clips = torch.zeros(shape, device=sizes.device).permute(0, 4, 1, 2, 3)
        with torch.inference_mode():
            for done in range(0, work, sizes.eval_batch):
                self.net(clips[:work - done], dtype)


def cases(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Yield retrieval features and the ten-crop test, in float32 and in the second precision if there is one."""
    one, ten = Split(folder / "1", sizes, 1), Split(folder / "10", sizes, 10)
    for name in ("", *([sizes.precision] if sizes.precision else [])):
        dtype, end = AUTOCAST.get(name), f", {name}" if name else ""
        how: dict[str, Any] = {"batch_size": sizes.eval_batch, "device": sizes.device, "dtype": dtype}
        passes = f"the network's passes alone{end}"
        yield Case(f"retrieval features{end}", one.size, partial(one.plain, 1),
                   partial(lambda how: video_features(one.net, one.samples(), **how), how),
                   partial(_agree_features, COSINE[name != ""]), partial(one.passes, dtype), passes)
        yield Case(f"ten-crop test{end}", ten.size, partial(ten.plain, 0),
                   partial(lambda how: crop_probabilities(ten.net, ten.samples(), **how), how),
                   partial(_agree_probabilities, PROBABILITY[name != ""]), partial(ten.passes, dtype), passes)


def _agree_features(least: float, plain: Tensor, ours: Tensor) -> str:
    cosine = float(F.cosine_similarity(plain, ours[:, None], dim=2).min())  # of one crop
    if not cosine >= least:
        raise AssertionError(f"features have a cosine of {cosine}")
    return f"cosine of features at least {least} ({cosine:.6f})"


def _agree_probabilities(most: float, plain: Tensor, ours: Tensor) -> str:
    apart = float((plain.log() - ours.log()).abs().max())
    if not apart <= most:
        raise AssertionError(f"probabilities are {apart:.1%} apart")
    return f"probabilities within {most:.0%} of each other ({apart:.2%})"
