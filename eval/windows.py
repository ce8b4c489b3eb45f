"""From decoded videos to one output row per window: frames are decoded and jittered once, windows run in full batches.

An evaluation sample holds the distinct frames of a video (in one to ten crops) and the positions of its windows in
them. Windows of all crops and videos are packed into batches of one size, which keeps the device busy even where a
video has a single window. The rows come back per video and crop, in the order of the dataset.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dataset.loader import init_worker, items
from dataset.transforms.photometric import photometric
from dataset.video_dataset import VideoDataset
from engine.trainer import DamageCounter
from eval import protocols
from utils.console import mark_best, paint_table, percent, percentages, say, table, track
from utils.files import write_json

Key = tuple[int, int]  # row of the dataset's index, crop
Chunk = tuple[Key, Tensor]  # (W, ...) rows or clips
CROP_TITLES = {"center": "centre crop", "five": "five crops", "ten": "ten crops"}


def read_samples(dataset: VideoDataset, *, workers: int, device: torch.device, title: str,
                 damage: DamageCounter | None = None) -> Iterator[dict]:
    """Yield the samples of a dataset in an evaluation mode one by one, in its order, and show the progress.

    `damage` counts frames that cannot be read, by default of all videos; more than 1 % are a TrainingError.
    """
    # Its own generator: measuring must not change the random numbers of a training.
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None,
                        worker_init_fn=init_worker, generator=torch.Generator(), pin_memory=device.type == "cuda")
    damage = damage or DamageCounter(dataset, sum(map(int, dataset.index.num_frames)))
    for sample in track(items(loader), len(loader), title):
        for part in range(sample.pop("parts", 1)):  # a long video has several: this process reads the rest
            sample = dataset.sample(0, sample["index"], part) if part else sample
            damage.add({"index": torch.tensor([sample["index"]]), "damaged": sample["damaged"][None]})
            yield sample


def window_clips(samples: Iterable[dict], device: torch.device | str) -> Iterator[Chunk]:
    """Make the normalised float clips (W, 3, T, h, w) of each video and crop on a device, in channels-last memory.

    The colour jitter of a video and crop is applied to its F frames once, for all windows. One crop at a time is held
    in float. Samples have "clips" uint8 (C, 1, F, h, w, 3), "photometric" (C leading), "windows" int64 (W, T), "index".
    """
    for sample in samples:
        windows = sample["windows"].to(device, non_blocking=True)  # (W, T) positions in 0 ... F-1
        for crop in range(len(sample["clips"])):
            one = slice(crop, crop + 1)
            frames = sample["clips"][one].to(device, non_blocking=True)
            frames = photometric(frames, {name: value[one] for name, value in sample["photometric"].items()})[0, 0]
            clips = frames.permute(1, 2, 3, 0)[windows]  # (3, F, h, w) -> (F, h, w, 3) -> (W, T, h, w, 3)
            yield (int(sample["index"]), crop), clips.permute(0, 4, 1, 2, 3)


def packed(chunks: Iterable[Chunk], size: int) -> Iterator[tuple[tuple[Key, ...], Tensor]]:
    """Join the rows of chunks into batches of exactly `size` rows, with the key of each; the last may be smaller."""
    rows = ((key, clips[i:i + 1]) for key, clips in chunks for i in range(len(clips)))
    while batch := list(islice(rows, size)):
        keys, clips = zip(*batch, strict=True)
        yield keys, torch.cat(clips)


def apply_packed(net: Callable[[Tensor], Tensor], chunks: Iterable[Chunk], batch_size: int) -> Iterator[Chunk]:
    """Run `net` on the rows of all chunks in full batches; yield the outputs of each video and crop."""
    outputs = (row for keys, clips in packed(chunks, batch_size) for row in zip(keys, net(clips).split(1), strict=True))
    for _, of_video in groupby(outputs, key=lambda row: row[0][0]):
        rows: dict[Key, list[Tensor]] = {}
        for key, row in of_video:  # of a long video, those of a crop come in several parts
            rows.setdefault(key, []).append(row)
        yield from ((key, torch.cat(parts)) for key, parts in rows.items())


@torch.inference_mode()
def crop_probabilities(net: nn.Module, samples: Iterable[dict], batch_size: int, device: torch.device,
                       dtype: torch.dtype | None = None) -> Tensor:
    """Compute the class probabilities of each video and crop, (N, C, classes) on the CPU, averaged over windows.

    `net` is a classifier in evaluation mode; `batch_size` counts windows; for `samples` see :func:`window_clips`.
    """
    rows = apply_packed(lambda clips: net(clips, dtype)[0].softmax(dim=1), window_clips(samples, device), batch_size)
    keys, means = zip(*((key, protocols.window_mean(prob)) for key, prob in rows), strict=True)
    return torch.stack(means).unflatten(0, (-1, 1 + keys[-1][1])).cpu()


def report_crops(prob: Tensor, labels: Tensor) -> dict[str, dict[int, float]]:
    """Print and return {"center": {1: share, 5: share}, ...} for the sets of crops that `prob` (N, C, classes) has."""
    results = {}
    for name, crops in protocols.CROP_SETS.items():
        if crops <= prob.shape[1]:
            mean = torch.stack([protocols.crop_mean(video, crops) for video in prob])
            results[name] = protocols.topk_accuracy(mean, labels)
    report_shares(f"{len(prob)} videos", "top-{} %", {CROP_TITLES[name]: top for name, top in results.items()})
    return results


def report_shares(title: str, column: str, rows: dict[str, dict[int, float]]) -> None:
    """Print a table in %, from rows {name: {k: share in 0-1}}; `column` is the heading of k."""
    lines = [[name, *map(percent, shares.values())] for name, shares in rows.items()]
    ks = next(iter(rows.values()))
    say(table([title, *map(column.format, ks)], mark_best(lines)), paint=paint_table)


def write_results(checkpoint: Path, names: list[str], prob: Tensor, results: dict[str, dict[int, float]]) -> Path:
    """Write probabilities and accuracies beside the checkpoint, in files named by the largest set of crops.

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
