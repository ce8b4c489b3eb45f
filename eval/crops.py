"""Test of a classifier on whole videos: softmax averaged over the windows of a crop, then over crops."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from eval import protocols
from eval.report import mark_best, percent, percentages, table, write_json
from eval.windows import apply_packed, window_clips
from utils.console import say
from utils.terminal import paint_table

TITLES = {"center": "centre crop", "five": "five crops", "ten": "ten crops"}


@torch.inference_mode()
def crop_probabilities(net: nn.Module, samples: Iterable[dict], batch_size: int, device: torch.device) -> Tensor:
    """Class probabilities of every video and crop, averaged over windows: (N, C, classes), on the CPU.

    net: returns (logits, features) of clips (B, 3, T, h, w), in evaluation mode. samples: see `windows.window_clips`.
    """
    videos: dict[int, list[Tensor]] = {}
    rows = apply_packed(lambda clips: net(clips)[0].softmax(dim=1), window_clips(samples, device), batch_size)
    for (video, _crop), prob in rows:
        videos.setdefault(video, []).append(protocols.window_mean(prob))
    return torch.stack([torch.stack(videos[i]) for i in sorted(videos)]).cpu()


def report_crops(prob: Tensor, labels: Tensor) -> dict[str, dict[int, float]]:
    """Print and log top-1 and top-5 of one, five and ten crops, as far as `prob` (N, C, classes) goes.

    Returns {"center": {1: share, 5: share}, ...}.
    """
    results = {}
    for name, crops in protocols.CROP_SETS.items():
        if crops <= prob.shape[1]:
            mean = torch.stack([protocols.crop_mean(video, crops) for video in prob])
            results[name] = protocols.topk_accuracy(mean, labels)
    rows = [[TITLES[name], percent(top[1]), percent(top[5])] for name, top in results.items()]
    say(table([f"{len(prob)} videos", "top-1 %", "top-5 %"], mark_best(rows)), paint=paint_table)
    return results


def write_probabilities(checkpoint: Path, names: list[str], prob: Tensor) -> Path:
    """Write {csv path: {"mean_prob": [[probability of each class]]}}, of all crops of `prob` (N, C, classes).

    The file lies beside the checkpoint and has the crops in its name, `CKPT.pth.tar-prob-ten.json`; returns its path.
    """
    crops = prob.shape[1]
    title = next(name for name, count in protocols.CROP_SETS.items() if count == crops)
    path = checkpoint.with_name(f"{checkpoint.name}-prob-{title}.json")
    write_json(path, {name: {"mean_prob": [protocols.crop_mean(video, crops).tolist()]}
                      for name, video in zip(names, prob, strict=True)})
    return path


def write_accuracies(checkpoint: Path, results: dict[str, dict[int, float]]) -> Path:
    """Write what `report_crops` returned, in percent: {"center": {"1": 50.0, "5": 100.0}, ...}.

    The file lies beside the checkpoint and has the most crops in its name, `CKPT.pth.tar-acc-ten.json`.
    """
    path = checkpoint.with_name(f"{checkpoint.name}-acc-{list(results)[-1]}.json")
    write_json(path, {name: percentages(accuracy) for name, accuracy in results.items()})
    return path
