"""A two-stream, two-clip training sample: what one loader process makes of it, with and without photometric steps."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import default_collate

from dataset.transforms.photometric import STD
from dataset.transforms.presets import PretrainTransform, to_blocks
from tools.benchmarks import data, plain
from tools.benchmarks.data import Sizes
from tools.benchmarks.measure import Case, Disagreement

GREY_LEVEL = 1 / (255 * min(STD))  # of a normalised value


class Samples:
    """The same samples made in both ways, from a video of this many frames."""

    def __init__(self, folder: Path, sizes: Sizes, length: int) -> None:
        data.make_set(folder, sizes, [length])
        self.dataset = data.build(folder, "-2stream-2clip", "train", PretrainTransform(sizes.img_dim), sizes)
        self.readers = [plain.PlainReader(reader.path) for reader in self.dataset.readers]
        self.items = [(epoch, 0) for epoch in range(sizes.samples)]

    def ours(self) -> list[dict]:
        """Make what a worker sends."""
        return [self.dataset[item] for item in self.items]

    def ours_as_floats(self) -> Tensor:
        """Make samples, and do the photometric steps and the normalisation as the training device does."""
        return to_blocks(default_collate(self.ours()), "cpu")

    def plain(self) -> list[Tensor]:
        """Make float views."""
        return [plain.pretraining_sample(self.dataset, self.readers, *item) for item in self.items]

    def used_jpegs(self) -> list[bytes]:
        """Return the different frames that the samples use, of both streams."""
        found = []
        for epoch, row in self.items:
            rng = self.dataset.rng(epoch, row)
            clips = self.dataset.sampler(int(self.dataset.index.num_frames[row]), rng)
            used = np.unique(clips[list(self.dataset.transform.plan(rng).clips)])
            found += [reader.value(self.dataset.index.names[row])[i] for reader in self.readers for i in used]
        return found


def cases(sizes: Sizes, folder: Path) -> Iterator[Case]:
    """Yield a worker's samples, and the same with the photometric steps that follow on the training device."""
    for length in sizes.lengths:
        samples = Samples(folder / str(length), sizes, length)
        jpegs = samples.used_jpegs()
        ours, theirs = samples.ours()[0], samples.plain()[0]
        notes = {"frames decoded a sample": len(jpegs) / sizes.samples, "bytes to the trainer": _bytes(ours),
                 "bytes of the straightforward sample": _bytes(theirs)}
        size = f"{sizes.width}x{sizes.height}, {sizes.frames} of {length} frames"
        case = partial(Case, size=size, plain=samples.plain, clock="cpu", units=sizes.samples,
                       bound=partial(_decode, jpegs),
                       bound_of="bare decoding of the frames used (simplejpeg)")
        yield case("loader", ours=samples.ours, notes=notes,
                   agree=lambda plain, ours: _agree(plain, to_blocks(default_collate(ours), "cpu")))
        yield case("loader, photometric steps on the CPU", ours=samples.ours_as_floats, agree=_agree)


def _decode(jpegs: list[bytes]) -> None:
    for jpeg in jpegs:
        simplejpeg.decode_jpeg(jpeg)


def _agree(plain: list[Tensor], ours: Tensor) -> str:
    theirs = torch.stack(plain)
    apart = float((theirs.mean(dim=(-2, -1)) - ours.mean(dim=(-2, -1))).abs().max()) / GREY_LEVEL
    far = float(((theirs - ours).abs() > 4 * GREY_LEVEL).float().mean())
    if apart > 1 or far > 0.01:
        raise Disagreement(f"a frame's mean is {apart:.2f} grey levels apart, {far:.2%} of the pixels more than 4")
    return f"frame means within 1 grey level ({apart:.2f}); {1 - far:.2%} of the pixels within 4"


def _bytes(value: object) -> int:
    """Count the bytes of all tensors of a nested sample."""
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(_bytes, value.values())) if isinstance(value, dict) else 0
