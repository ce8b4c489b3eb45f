"""Video retrieval: backbone features of the test split (queries) and the training split (gallery), and recall@k.

A query's feature is the mean over its windows; a gallery video's comes from one random clip (drawn from the seed and
the video alone) or from all its windows. Features are kept on disk and reused by a later run on the same checkpoint.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.video_dataset import VideoDataset
from eval import feature_files, protocols
from eval.feature_files import FeatureSet
from eval.options import RANDOM
from eval.report import mark_best, percent, percentages, table, write_json
from eval.windows import apply_packed, read_samples, window_clips
from utils import checkpoint
from utils.console import say
from utils.terminal import paint_table


@dataclass(frozen=True)
class FeatureJob:
    """How features are made and where they are kept.

    Args:
        folder: of the files. dataset: name in the files' names.
        made_from: what identifies them besides the videos (checkpoint hash, network, clip options).
        gallery: "clip" or "windows", what a training video's feature is of.
        normalise: L2-normalise the feature of each window before the mean (linear-probe networks).
        batch_size: windows in a batch, over all GPUs. workers: loader processes. device: of the network.
    """

    folder: Path
    dataset: str
    made_from: dict
    gallery: str
    normalise: bool
    batch_size: int
    workers: int
    device: torch.device


@torch.inference_mode()
def video_features(net: nn.Module, samples: Iterable[dict], *, batch_size: int, device: torch.device | str,
                   normalise: bool = False) -> Tensor:
    """Features (N, F) on the CPU, in the order of the dataset: pooled backbone outputs, mean over windows.

    Args:
        net: returns (logits, features) of clips (B, 3, T, h, w), in evaluation mode.
        samples: of a dataset whose mode is "test", "query", "gallery" or "gallery_windows", see `windows.window_clips`.
        batch_size: windows in a batch. device: of the network.
        normalise: L2-normalise the feature of each window before the mean.
    """
    rows = apply_packed(lambda clips: net(clips)[1], window_clips(samples, device), batch_size)
    means = {video: protocols.window_mean(features, normalise) for (video, _crop), features in rows}
    return torch.stack([means[video] for video in sorted(means)]).cpu()


def split_features(net: nn.Module, split: str, dataset: VideoDataset, job: FeatureJob) -> FeatureSet:
    """Features of a split, (N, F): from the folder if made from the same things, else made and written.

    Args:
        net: see :func:`video_features`. split: "train" or "test". dataset: its videos. job: how, and where.

    Raises:
        DataError: a video cannot be read.
        TrainingError: more than 1 % of the frames cannot, or a loader worker was lost.
    """
    index = dataset.index
    videos = [list(index.paths), list(map(int, index.labels)), list(map(int, index.num_frames))]
    made_from = {**job.made_from, "videos": _digest(videos), "normalised": job.normalise,
                 "mean_of": job.gallery if split == "train" else "windows"}
    found = feature_files.load_if_made_from(job.folder, job.dataset, split, made_from)
    if found is not None:
        say(f"{split}: features of {len(found.names)} videos reused from {job.folder}")
        return found
    say(f"{split}: features of {len(dataset)} videos are computed")
    samples = read_samples(dataset, workers=job.workers, device=job.device, title=split)
    features = video_features(net, samples, batch_size=job.batch_size, device=job.device, normalise=job.normalise)
    result = FeatureSet(features, torch.as_tensor(index.labels, dtype=torch.int64), list(index.paths))
    feature_files.save(job.folder, job.dataset, split, result, made_from)
    return result


def retrieve(query: FeatureSet, gallery: FeatureSet, device: torch.device) -> tuple[Tensor, dict[int, float]]:
    """Similarities (Q, G) of two sets, each centred by its own mean, on the CPU; and recall at 1, 5, 10, 20 and 50.

    Args:
        query, gallery: features, (Q, F) and (G, F). device: where the product is made.
    """
    sim = protocols.similarity(query.features.to(device), gallery.features.to(device)).cpu()
    return sim, protocols.recall_at_k(sim, query.labels, gallery.labels)


def report(job: FeatureJob, query: FeatureSet, gallery: FeatureSet) -> None:
    """Rank the gallery for each query; print, log and write the recalls; write the similarities, too.

    Args:
        job: its folder, dataset and device count. query, gallery: features, (Q, F) and (G, F).

    Raises:
        CheckpointError: a file could not be written.
    """
    sim, recall = retrieve(query, gallery, job.device)
    path = job.folder / f"{job.dataset}_sim.pth.tar"
    checkpoint.save(path, sim)
    say(f"{len(query.names)} queries in a gallery of {len(gallery.names)} videos")
    report_recall({job.dataset: recall}, len(gallery.names))
    write_json(job.folder / f"{job.dataset}_recall.json", percentages(recall))
    say(f"features and similarities: {job.folder}")


def report_recall(rows: dict[str, dict[int, float]], gallery_size: int) -> None:
    """Print and log a table of recall@k in %, one row a feature set.

    Args:
        rows: {"ucf101": {1: share in 0-1, 5: share, ...}}. gallery_size: videos.
    """
    ks = next(iter(rows.values()))
    lines = [[name, *map(percent, recall.values())] for name, recall in rows.items()]
    say(table(["retrieval, %", *(f"R@{k}" for k in ks)], mark_best(lines)), paint=paint_table)
    beyond = [f"R@{k}" for k in ks if k > gallery_size]
    if beyond:
        say(f"note: the gallery has {gallery_size} videos, so {', '.join(beyond)} cover all of it")


def fingerprint(checkpoint_file: str) -> str:
    """SHA-256 of a checkpoint's bytes; the word "random" stays as it is.

    Args:
        checkpoint_file: its path.
    """
    if checkpoint_file == RANDOM:
        return RANDOM
    with open(checkpoint_file, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
