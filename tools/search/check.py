"""Check, without labels, whether an encoder tells videos apart better than random weights.

Both ends of each video's first clip are randomly cropped, flipped and made darker or lighter. The measure is how often
the nearest neighbour of an end is the other end of its video.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from dataset.transforms.presets import NULL, Plan, PretrainTransform
from engine.health import CLEARLY_BETTER, instance_hits, sign_test, untrained
from eval import network, protocols
from process_data.src.video_io import VideoError
from tools.search.clips import ClipSettings, video_clips
from utils.console import track

VIDEOS, LEAST = 48, 20  # most and fewest videos of a check
CEILING = 90  # percent of hits of random weights that leaves no room for better ones
PLAN = Plan((0, 1), ((0, NULL), (1, NULL)))
Note = tuple[str, bool]  # a sentence, and whether it is a warning


def check_encoders(paths: Sequence[str], settings: ClipSettings, encoders: Sequence[network.Encoder]) -> list[Note]:
    """Compare encoders with random weights on the first videos that are long enough; no notes if they are too few."""
    pairs = list(islice(_pairs(paths, settings), VIDEOS)) if len(paths) >= LEAST else []
    if len(pairs) < LEAST:
        return []
    notes = []
    for spec, encoder, own in zip(settings.encoders, encoders, zip(*pairs, strict=True), strict=True):
        clips = [pair[end] for end in (0, 1) for pair in own]
        net = untrained(partial(network.build, 1, spec.net, "last"))
        random = network.Encoder(net, spec.seq_len, spec.ds, spec.img_dim, encoder.batch_size)
        rows = (encode(track(clips, len(clips), "comparing with random weights", "clip"), unit=False)
                for encode in (encoder, random))
        notes.append(verdict(spec.view, *(instance_hits(*protocols.centre_and_normalise(each).chunk(2))
                                          for each in rows)))
    return notes


def verdict(view: str, hits: torch.Tensor, by_chance: torch.Tensor) -> Note:
    """Judge an encoder by its hits and those of random weights, (2N,) bool each."""
    shares = [100 * float(each.float().mean()) for each in (hits, by_chance)]
    what = (f"of {len(hits) // 2} videos, the other end is nearest for {shares[0]:.0f} % of the ends, with random "
            f"weights for {shares[1]:.0f} %")
    if sign_test(hits, by_chance) >= CLEARLY_BETTER:
        return f"the {view} encoder is better than random weights: {what}", False
    if shares[1] >= CEILING:
        return f"these videos do not tell a good {view} encoder from a bad one: {what}", False
    return (f"the {view} encoder is hardly better than random weights: {what}. What it finds may share little but "
            "colours and background: train it longer, or take published weights"), True


def _pairs(paths: Iterable[str], settings: ClipSettings) -> Iterator[list[list[np.ndarray]]]:
    """Yield both ends of each video for each encoder, at most a window long, uint8 (T, d, d, 3)."""
    for number, path in enumerate(paths):
        try:
            clip = next(video_clips(Path(path), settings))
        except VideoError:  # it could be read when it was indexed
            continue
        spans = [spec.seq_len * spec.ds for spec in settings.encoders]
        if all(len(frames) > span // 2 for frames, span in zip(clip.frames, spans, strict=True)):
            yield [_ends(frames, min(span, len(frames) // 2), np.random.default_rng(number))
                   for frames, span in zip(clip.frames, spans, strict=True)]


def _ends(frames: np.ndarray, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    views = PretrainTransform(frames.shape[1]).render(PLAN, {0: [frames[:length]], 1: [frames[-length:]]}, rng)
    one, two = views["clips"][:, 0].numpy()
    return [np.clip(one * rng.uniform(0.6, 1.4), 0, 255).astype(np.uint8), two]
