"""Video retrieval: backbone features of the test split (queries) and the training split (gallery), and recall@k.

A query's feature is the mean over its windows. A gallery video's comes from one random clip (drawn from the seed and
the video alone) or from all its windows. Features stay on disk, neither centred nor normalised over the set:
`{dataset}_{train,test}_{feature,label}.pth.tar` and `..._vname.json`. A note `..._made_from.json`, written last, says
which checkpoint and options they were made with; a later run reuses features whose note fits.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataset import clip_sampler
from dataset.video_dataset import VideoDataset
from engine import checkpoint
from engine.health import CLEARLY_BETTER, effective_rank, instance_hits, sign_test
from eval import protocols
from eval.options import RANDOM
from eval.windows import Chunk, apply_packed, read_samples, report_shares, window_clips
from utils.console import inline, one_line, paint_table, percent, percentages, say, table, warn
from utils.errors import CheckpointError, OptionError
from utils.files import read_json, write_json


@dataclass(frozen=True)
class FeatureSet:
    """Features of N videos, whose names are their csv paths."""

    features: Tensor  # (N, F) float32, finite
    labels: Tensor  # (N,) int64
    names: list[str]
    made_from: Mapping[str, Any] = field(default_factory=dict)  # the note on their origin, if there is one

    def rows(self, keep: list[int]) -> "FeatureSet":
        return replace(self, features=self.features[keep], labels=self.labels[keep],
                       names=[self.names[i] for i in keep])


def save_features(folder: Path, dataset: str, split: str, content: FeatureSet, made_from: dict) -> None:
    """Write the files of a split ("train" or "test"), the note on their origin last."""
    folder.mkdir(parents=True, exist_ok=True)
    note = _file(folder, dataset, split, "made_from.json")
    note.unlink(missing_ok=True)
    checkpoint.save(_file(folder, dataset, split, "feature.pth.tar"), content.features)
    checkpoint.save(_file(folder, dataset, split, "label.pth.tar"), content.labels)
    write_json(_file(folder, dataset, split, "vname.json"), content.names)
    write_json(note, made_from)


def load_features(folder: Path, dataset: str, split: str) -> FeatureSet:
    """Read the files of a split ("train" or "test"); OptionError if there are none, CheckpointError if damaged."""
    path = _file(folder, dataset, split, "feature.pth.tar")
    if not path.is_file():
        raise OptionError(f"no {path.name} in {folder}: make it with main_classifier.py --test CHECKPOINT --retrieval, "
                          "or check the names of dataset and folder")
    try:  # other software may have written lists
        features = torch.as_tensor(checkpoint.read(path)).float()
        labels = torch.as_tensor(checkpoint.read(_file(folder, dataset, split, "label.pth.tar"))).long()
        names = read_json(_file(folder, dataset, split, "vname.json"))
        if features.dim() != 2 or labels.dim() != 1 or not 0 < len(features) == len(labels) == len(names):
            raise ValueError(f"{tuple(features.shape)} features, {tuple(labels.shape)} labels and {len(names)} names")
        if not features.square().sum(dim=1).isfinite().all():
            raise ValueError("features that are not finite, or too large to compare")
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} and the files beside it are inconsistent ({error}): recompute the features with "
                              "--retrieval and a sound checkpoint") from error
    return FeatureSet(features, labels, names, read_json(_file(folder, dataset, split, "made_from.json"), {}))


def load_both(folder: Path, dataset: str) -> tuple[FeatureSet, FeatureSet]:
    """Read the features of test and training videos; raises as :func:`load_features`, or if their notes differ."""
    query, gallery = (load_features(folder, dataset, split) for split in ("test", "train"))
    refuse_other_origin({"test": query, "train": gallery}, {*query.made_from} - {"videos", "mean_of"}, str(folder))
    return query, gallery


def refuse_other_origin(sets: Mapping[str, FeatureSet], compared: Iterable[str], where: str) -> None:
    """Raise CheckpointError if two feature sets, by name, differ in one of the ``compared`` settings."""
    (one, first), (two, second) = sets.items()
    for key in sorted(set(compared) & {*first.made_from} & {*second.made_from}):
        then, now = first.made_from[key], second.made_from[key]
        if then != now:
            raise CheckpointError(f"{where}: the features do not match, {one} was made with {key} "
                                  f"{one_line(str(then), 40)}, {two} with {one_line(str(now), 40)}: recompute them "
                                  "with --retrieval and the same options")


def _file(folder: Path, dataset: str, split: str, kind: str) -> Path:
    return folder / f"{dataset}_{split}_{kind}"


@dataclass(frozen=True)
class FeatureJob:
    folder: Path
    dataset: str  # the file names begin with it
    made_from: dict  # what identifies the features besides the videos: checkpoint hash, network, clip options
    normalise: bool  # L2-normalise the feature of each window before the mean (linear-probe networks)
    batch_size: int  # windows per batch, over all GPUs
    workers: int  # loader processes
    device: torch.device
    dtype: torch.dtype | None = None  # autocast type of the backbone


def window_features(net: nn.Module, samples: Iterable[dict], batch_size: int, device: torch.device | str,
                    dtype: torch.dtype | None) -> Iterator[Chunk]:
    """Yield the pooled backbone features of the windows of each video and crop, see :func:`video_features`."""
    return apply_packed(lambda clips: net(clips, dtype)[1], window_clips(samples, device), batch_size)


@torch.inference_mode()
def video_features(net: nn.Module, samples: Iterable[dict], *, batch_size: int, device: torch.device | str,
                   normalise: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """Average the pooled backbone features of each video over its windows: (N, F), on the CPU.

    ``net`` returns (logits, features); for ``samples`` see :func:`eval.windows.window_clips`; ``batch_size`` counts
    windows, whose features are L2-normalised before the mean if asked.
    """
    rows = window_features(net, samples, batch_size, device, dtype)
    means = {video: protocols.window_mean(features, normalise) for (video, _crop), features in rows}
    return torch.stack([means[video] for video in sorted(means)]).cpu()


def split_features(net: nn.Module, split: str, dataset: VideoDataset, job: FeatureJob) -> FeatureSet:
    """Read the features of a split ("train" or "test") if their note fits; else compute and save them."""
    index = dataset.index
    videos = [list(index.paths), list(map(int, index.labels)), list(map(int, index.num_frames))]
    made_from = {**job.made_from, "videos": hashlib.sha256(json.dumps(videos).encode()).hexdigest(),
                 "normalised": job.normalise, "mean_of": "clip" if split == "train" else "windows"}
    note = _file(job.folder, job.dataset, split, "made_from.json")
    try:
        if note.is_file() and read_json(note) == made_from:
            found = load_features(job.folder, job.dataset, split)
            say(f"{split}: features of {len(found.names)} videos reused from {job.folder}")
            return found
    except (CheckpointError, OptionError) as error:
        say(inline(f"recomputing features: {error}"))
    say(f"{split}: computing features of {len(dataset)} videos")
    samples = read_samples(dataset, workers=job.workers, device=job.device, title=split)
    features = video_features(net, samples, batch_size=job.batch_size, device=job.device, normalise=job.normalise,
                              dtype=job.dtype)
    result = FeatureSet(features, torch.as_tensor(index.labels, dtype=torch.int64), list(index.paths))
    save_features(job.folder, job.dataset, split, result, made_from)
    return result


def measure_without_labels(net: nn.Module, random: nn.Module, videos: VideoDataset, job: FeatureJob
                           ) -> dict[str, float]:
    """Compare features with those of random weights on two clips of each video, without augmentation; print.

    Videos that are too short for a second clip are left out.

    Returns:
        "videos", how many were used, and unless they are fewer than two: "second_clip", the percentage of clips whose
        nearest neighbour is the other clip of their video; "hits", their number; "effective_rank"; the same three of
        the ``random`` weights as "..._random"; "better", in standard deviations of :func:`engine.health.sign_test`.
    """
    seq_len, ds = videos.sampler.seq_len, videos.sampler.ds
    index = videos.index.take([row for row, n in enumerate(videos.index.num_frames)
                               if len(clip_sampler.windows(n, seq_len, ds)) > 1])
    if len(index) < 2:
        warn(f"only {len(index)} of {len(videos)} held-out videos are long enough for a second clip: their features "
             "cannot be judged without labels; take a smaller --seq_len or --ds, or hold out more videos")
        return {"videos": len(index)}
    pairs = VideoDataset(videos.readers, index, clip_sampler.TwoTimes(seq_len, ds), videos.transform, by_epoch=False)
    found: dict[str, float] = {}
    hits, rows = [], []
    for name, end, each in (("features", "", net), ("random weights", "_random", random)):
        samples = read_samples(pairs, workers=job.workers, device=job.device, title="second clips")
        of_video = dict(window_features(each, samples, job.batch_size, job.device, job.dtype))
        both = torch.stack([of_video[key] for key in sorted(of_video)])  # (N, 2, F)
        z = protocols.centre_and_normalise(both.transpose(0, 1).flatten(0, 1))  # first clips, then second ones
        hits.append(instance_hits(*z.chunk(2)))
        share, rank = float(hits[-1].float().mean()), float(effective_rank(z))
        rows.append([name, percent(share), f"{rank:.1f}"])
        found |= {f"second_clip{end}": 100 * share, f"hits{end}": int(hits[-1].sum()), f"effective_rank{end}": rank}
    found["better"] = sign_test(*hits)
    say(table([f"{len(index)} held-out videos", "second clip nearest, %", "effective rank"], rows), paint=paint_table)
    if net is not random and found["better"] < CLEARLY_BETTER:
        warn(f"the features are not clearly better than random weights ({found['better']:+.1f} standard deviations)")
    return {name: round(value, 4) for name, value in found.items()} | {"videos": len(index)}


def report(job: FeatureJob, query: FeatureSet, gallery: FeatureSet, label_free: Mapping[str, float] | None = None
           ) -> None:
    """Rank the gallery; print and write recalls, or ``label_free`` measures in their place; write similarities."""
    sim = protocols.similarity(query.features.to(job.device), gallery.features.to(job.device)).cpu()  # (Q, G)
    checkpoint.save(job.folder / f"{job.dataset}_sim.pth.tar", sim)
    say(f"{len(query.names)} queries in a gallery of {len(gallery.names)} videos")
    if label_free is None:
        recall = protocols.recall_at_k(sim, query.labels, gallery.labels)
        report_recall({job.dataset: recall}, len(gallery.names))
        write_json(job.folder / f"{job.dataset}_recall.json", percentages(recall))
    else:
        write_json(job.folder / f"{job.dataset}_label_free.json", label_free)
    say(f"features and similarities: {job.folder}")


def report_recall(rows: dict[str, dict[int, float]], gallery_size: int) -> None:
    """Print a table of recall@k in %, from rows {name of a feature set: {k: share in 0-1}}."""
    report_shares("retrieval, %", "R@{}", rows)
    beyond = [f"R@{k}" for k in next(iter(rows.values())) if k > gallery_size]
    if beyond:
        say(f"note: the gallery has {gallery_size} videos, so {', '.join(beyond)} cover all of it")


def fingerprint(checkpoint_file: str) -> str:
    """Return the SHA-256 of a checkpoint's bytes; the word "random" stays as it is."""
    if checkpoint_file == RANDOM:
        return RANDOM
    with open(checkpoint_file, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
