"""The ten-crop test of a split; both versions need the same network passes."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from backbone.select_backbone import fold_batchnorm
from dataset.transforms.photometric import PhotometricRecipe
from dataset.transforms.presets import CropsTransform
from eval import network
from eval.windows import crop_probabilities, read_samples, window_clips
from tools.benchmarks import Case, Sizes, within
from tools.benchmarks.loader import PlainReader, build, crop_window, make_set

CROPS = 10
PROBABILITY = 0.05  # by which logarithms of probabilities may differ, from pixels that differ by rounding


class TenCrops:
    """A test split, and the same network for both versions."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        make_set(folder, sizes, [sizes.video_frames] * sizes.videos)
        self.transform = CropsTransform(sizes.img_dim, crops=CROPS)
        self.dataset = build(folder, "", "test", self.transform, sizes)
        self.reader = PlainReader(self.dataset.readers[0].path)
        self.windows = len(self.dataset.sampler(sizes.video_frames, self.dataset.rng(0, 0)))  # the same for all videos
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
            net(torch.cat([clips for _, clips in window_clips(self.samples(), self.sizes.device)][::CROPS]))
        return net.eval()

    def samples(self) -> Iterator[dict]:
        return read_samples(self.dataset, workers=0, device=self.sizes.device, title="bench")

    @torch.inference_mode()
    def plain(self) -> Tensor:
        """Return probabilities (N, crops, classes), decoding anew for each window and crop."""
        recipe, crops = PhotometricRecipe(self.transform.jitter, p_jitter=self.transform.p), []
        for row, name in enumerate(self.dataset.index.names):
            rng = self.dataset.rng(0, row)
            clips = self.dataset.sampler(int(self.dataset.index.num_frames[row]), rng)
            draws = [recipe.draw(own, 1, 1) for own in rng.spawn(CROPS)]
            for crop, params in enumerate(draws):
                windows = [crop_window(self.reader.frames(name, clip), crop, params, self.sizes.img_dim)
                           for clip in clips]
                logits, _ = self.contiguous(torch.stack(windows).to(self.sizes.device))
                crops.append(logits.softmax(dim=1).mean(dim=0))
        return torch.stack(crops).unflatten(0, (-1, CROPS)).cpu()

    def ours(self) -> Tensor:
        return crop_probabilities(self.net, self.samples(), self.sizes.eval_batch, self.sizes.device)

    def passes(self) -> None:
        """Run as many windows through our network, on one batch already in memory."""
        sizes, work = self.sizes, CROPS * self.windows * self.sizes.videos
        shape = (sizes.eval_batch, sizes.frames, sizes.img_dim, sizes.img_dim, 3)
        clips = torch.zeros(shape, device=sizes.device).permute(0, 4, 1, 2, 3)
        with torch.inference_mode():
            for done in range(0, work, sizes.eval_batch):
                self.net(clips[:work - done])


def cases(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Yield the ten-crop test."""
    split = TenCrops(folder, sizes)
    yield Case("ten-crop test", f"{sizes.videos} videos of {sizes.video_frames} frames, {split.windows * CROPS} passes "
               f"a video, {sizes.frames}x{sizes.img_dim}x{sizes.img_dim}", split.plain, split.ours,
               lambda plain, ours: within(PROBABILITY, float((plain.log() - ours.log()).abs().max()),
                                          "logarithms of probabilities are"),
               split.passes, "the network's passes alone")
