"""Video retrieval: backbone features of the test split (queries) and the training split (gallery), and recall@k.

A query's feature is the mean over its windows. A gallery video's comes from one random clip (drawn from the seed and
the video alone) or from all its windows. Features stay on disk, and a later run on the same checkpoint reuses them.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.video_dataset import VideoDataset
from engine import checkpoint
from eval import feature_files, protocols
from eval.feature_files import FeatureSet
from eval.options import RANDOM
from eval.windows import apply_packed, read_samples, window_clips
from utils.console import mark_best, paint_table, percent, percentages, say, table
from utils.files import write_json


@dataclass(frozen=True)
class FeatureJob:
    """How features are made, and where they are kept.

    Args:
        folder, dataset: folder of the files, and the name they begin with.
        made_from: what identifies the features besides the videos (checkpoint hash, network, clip options).
        gallery: "clip" or "windows", what a training video's feature is made of.
        normalise: L2-normalise the feature of each window before the mean (linear-probe networks).
        batch_size: windows per batch, over all GPUs.
        workers: number of loader processes.
        device, dtype: of the network; autocast type of its backbone.
    """

    folder: Path
    dataset: str
    made_from: dict
    gallery: str
    normalise: bool
    batch_size: int
    workers: int
    device: torch.device
    dtype: torch.dtype | None = None


@torch.inference_mode()
def video_features(net: nn.Module, samples: Iterable[dict], *, batch_size: int, device: torch.device | str,
                   normalise: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """Average the pooled backbone features of each video over its windows: (N, F), on the CPU.

    Args:
        net: classifier in evaluation mode, returns (logits, features).
        samples: see :func:`eval.windows.window_clips`.
        batch_size: windows per batch.
        device: of the network.
        normalise: L2-normalise the feature of each window before the mean.
        dtype: autocast type of the backbone.
    """
    rows = apply_packed(lambda clips: net(clips, dtype)[1], window_clips(samples, device), batch_size)
    means = {video: protocols.window_mean(features, normalise) for (video, _crop), features in rows}
    return torch.stack([means[video] for video in sorted(means)]).cpu()


def split_features(net: nn.Module, split: str, dataset: VideoDataset, job: FeatureJob) -> FeatureSet:
    """Read the features of a split from the job's folder if they were made from the same things; else make them.

    Args:
        net: see :func:`video_features`.
        split: "train" or "test".
        dataset: its videos.
        job: how, and where.

    Returns:
        Features (N, F) in the order of the dataset.

    Raises:
        DataError: a video cannot be read.
        TrainingError: more than 1 % of the frames cannot be read, or a loader worker was lost.
    """
    index = dataset.index
    videos = [list(index.paths), list(map(int, index.labels)), list(map(int, index.num_frames))]
    made_from = {**job.made_from, "videos": hashlib.sha256(json.dumps(videos).encode()).hexdigest(),
                 "normalised": job.normalise, "mean_of": job.gallery if split == "train" else "windows"}
    found = feature_files.load_if_made_from(job.folder, job.dataset, split, made_from)
    if found is not None:
        say(f"{split}: features of {len(found.names)} videos reused from {job.folder}")
        return found
    say(f"{split}: features of {len(dataset)} videos are computed")
    samples = read_samples(dataset, workers=job.workers, device=job.device, title=split)
    features = video_features(net, samples, batch_size=job.batch_size, device=job.device, normalise=job.normalise,
                              dtype=job.dtype)
    result = FeatureSet(features, torch.as_tensor(index.labels, dtype=torch.int64), list(index.paths))
    feature_files.save(job.folder, job.dataset, split, result, made_from)
    return result


def report(job: FeatureJob, query: FeatureSet, gallery: FeatureSet) -> None:
    """Rank the gallery for each query; print and write the recalls, and write the similarities.

    Args:
        job: gives folder, dataset name and device.
        query: features (Q, F) of the test videos.
        gallery: features (G, F) of the training videos.
    """
    sim = protocols.similarity(query.features.to(job.device), gallery.features.to(job.device)).cpu()  # (Q, G)
    recall = protocols.recall_at_k(sim, query.labels, gallery.labels)
    checkpoint.save(job.folder / f"{job.dataset}_sim.pth.tar", sim)
    say(f"{len(query.names)} queries in a gallery of {len(gallery.names)} videos")
    report_recall({job.dataset: recall}, len(gallery.names))
    write_json(job.folder / f"{job.dataset}_recall.json", percentages(recall))
    say(f"features and similarities: {job.folder}")


def report_recall(rows: dict[str, dict[int, float]], gallery_size: int) -> None:
    """Print a table of recall@k in %.

    Args:
        rows: {name of a feature set: {k: share in 0-1}}.
        gallery_size: number of gallery videos.
    """
    ks = next(iter(rows.values()))
    lines = [[name, *map(percent, recall.values())] for name, recall in rows.items()]
    say(table(["retrieval, %", *(f"R@{k}" for k in ks)], mark_best(lines)), paint=paint_table)
    beyond = [f"R@{k}" for k in ks if k > gallery_size]
    if beyond:
        say(f"note: the gallery has {gallery_size} videos, so {', '.join(beyond)} cover all of it")


def fingerprint(checkpoint_file: str) -> str:
    """Return the SHA-256 of a checkpoint's bytes; the word "random" stays as it is."""
    if checkpoint_file == RANDOM:
        return RANDOM
    with open(checkpoint_file, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
