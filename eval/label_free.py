"""Measures of features without labels, beside random weights: is the second clip of a held-out video the nearest?"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dataset.clip_sampler import TwoTimes, windows
from dataset.video_dataset import VideoDataset
from engine.health import CLEARLY_BETTER, calibrate, effective_rank, instance_hits, sign_test
from eval import protocols
from eval.retrieval import FeatureJob
from eval.windows import Chunk, apply_packed, packed, read_samples, window_clips
from utils.console import paint_table, percent, say, table, warn


def measure(net: nn.Module, untrained: nn.Module, videos: VideoDataset, job: FeatureJob) -> dict[str, float]:
    """Measure two clips of each video, of different times and without augmentation; print and return the result.

    Videos too short for a second clip are left out. BatchNorm statistics of the ``untrained`` network come from these.

    Returns:
        "second_clip", the percentage of the 2 x "videos" clips whose nearest is the other clip of their video, and
        "hits", their number; "effective_rank"; all three for random weights as "..._random"; and "better", by how many
        standard deviations (:func:`engine.health.sign_test`). With fewer than two videos, "videos" alone.
    """
    seq_len, ds = videos.sampler.seq_len, videos.sampler.ds
    index = videos.index.take([row for row, n in enumerate(videos.index.num_frames)
                               if len(windows(n, seq_len, ds)) > 1])
    if len(index) < 2:
        warn(f"only {len(index)} of {len(videos)} held-out videos are long enough for a second clip: their features "
             "cannot be judged without labels; take a smaller --seq_len or --ds, or hold out more videos")
        return {"videos": len(index)}
    pairs = VideoDataset(videos.readers, index, TwoTimes(seq_len, ds), videos.transform, by_epoch=False)
    batches = (clips for _, clips in packed(_chunks(pairs, job), max(2, job.batch_size)))
    calibrate(untrained.backbone, (clips for clips in batches if len(clips) > 1), job.dtype)
    found: dict[str, float] = {}
    hits, rows = [], []
    for name, end, each in (("features", "", net), ("random weights", "_random", untrained)):
        z = _embed(each, pairs, job)
        hits.append(instance_hits(*z.chunk(2)))
        share, rank = float(hits[-1].float().mean()), float(effective_rank(z))
        rows.append([name, percent(share), f"{rank:.1f}"])
        found |= {f"second_clip{end}": 100 * share, f"hits{end}": int(hits[-1].sum()), f"effective_rank{end}": rank}
    found["better"] = sign_test(*hits)
    say(table([f"{len(index)} held-out videos", "second clip nearest, %", "effective rank"], rows), paint=paint_table)
    if net is not untrained and found["better"] < CLEARLY_BETTER:
        warn(f"the features are not clearly better than random weights ({found['better']:+.1f} standard deviations)")
    return {name: round(value, 4) for name, value in found.items()} | {"videos": len(index)}


def _chunks(pairs: VideoDataset, job: FeatureJob) -> Iterator[Chunk]:
    return window_clips(read_samples(pairs, workers=job.workers, device=job.device, title="second clips"), job.device)


def _embed(net: nn.Module, pairs: VideoDataset, job: FeatureJob) -> Tensor:
    """Return the centred and normalised features of all first clips, then of all second ones, (2N, F)."""
    found = dict(apply_packed(lambda clips: net(clips, job.dtype)[1], _chunks(pairs, job), job.batch_size))
    both = torch.stack([found[key] for key in sorted(found)])  # (N, 2, F)
    return protocols.centre_and_normalise(both.transpose(0, 1).flatten(0, 1))
