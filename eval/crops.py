"""Test a classifier on whole videos: softmax averaged over the windows of a crop, then over crops."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from eval import protocols
from eval.windows import apply_packed, window_clips
from utils.console import mark_best, paint_table, percent, percentages, say, table
from utils.files import write_json

TITLES = {"center": "centre crop", "five": "five crops", "ten": "ten crops"}


@torch.inference_mode()
def crop_probabilities(net: nn.Module, samples: Iterable[dict], batch_size: int, device: torch.device,
                       dtype: torch.dtype | None = None) -> Tensor:
    """Compute the class probabilities of each video and crop, (N, C, classes) on the CPU, averaged over windows.

    Args:
        net: classifier in evaluation mode, returns (logits, features).
        samples: see :func:`eval.windows.window_clips`.
        batch_size: windows per batch.
        device: of the network.
        dtype: autocast type of the backbone.
    """
    videos: dict[int, list[Tensor]] = {}
    rows = apply_packed(lambda clips: net(clips, dtype)[0].softmax(dim=1), window_clips(samples, device), batch_size)
    for (video, _crop), prob in rows:
        videos.setdefault(video, []).append(protocols.window_mean(prob))
    return torch.stack([torch.stack(videos[i]) for i in sorted(videos)]).cpu()


def report_crops(prob: Tensor, labels: Tensor) -> dict[str, dict[int, float]]:
    """Print and return {"center": {1: share, 5: share}, ...} for the sets of crops that `prob` (N, C, classes) has."""
    results = {}
    for name, crops in protocols.CROP_SETS.items():
        if crops <= prob.shape[1]:
            mean = torch.stack([protocols.crop_mean(video, crops) for video in prob])
            results[name] = protocols.topk_accuracy(mean, labels)
    rows = [[TITLES[name], percent(top[1]), percent(top[5])] for name, top in results.items()]
    say(table([f"{len(prob)} videos", "top-1 %", "top-5 %"], mark_best(rows)), paint=paint_table)
    return results


def write_results(checkpoint: Path, names: list[str], prob: Tensor, results: dict[str, dict[int, float]]) -> Path:
    """Write probabilities and accuracies beside the checkpoint; their names tell the most crops, here "ten".

    `CKPT.pth.tar-prob-ten.json` holds {csv path: {"mean_prob": [[probability of each class]]}}, the mean over all crops
    of `prob` (N, C, classes); `CKPT.pth.tar-acc-ten.json` the results of `report_crops` in percent. Returns the former.
    """
    most = list(results)[-1]
    path = checkpoint.with_name(f"{checkpoint.name}-prob-{most}.json")
    write_json(path, {name: {"mean_prob": [protocols.crop_mean(video, prob.shape[1]).tolist()]}
                      for name, video in zip(names, prob, strict=True)})
    write_json(checkpoint.with_name(f"{checkpoint.name}-acc-{most}.json"),
               {name: percentages(accuracy) for name, accuracy in results.items()})
    return path
