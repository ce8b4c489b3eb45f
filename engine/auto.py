"""Automatic settings for cotrain.py, from the size of the data, the machine and the time available.

:func:`choose` is the rule, a pure function. :func:`read_facts` and :func:`seconds_per_step` find out what it needs.
"""

import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dataset import catalog
from dataset.loader import batches
from dataset.video_dataset import videos_of
from dataset.video_index import read_rows, video_name
from engine.pretraining import PretrainTask
from model.momentum import fitting_queue
from utils.console import duration
from utils.launch import allotted_cores

LARGE = 2000  # training videos from which on published values hold
FEW = 100  # videos below which training is hardly worth it
EPOCHS, CPU_EPOCHS, LEAST_EPOCHS = 300, 60, 5  # of InfoNCE: published and most, on a CPU, and least
MARGIN = 0.8  # share of the hours to plan for: a machine is not always as fast as when it was measured
START, EPOCH, PAGE = 15.0, 0.5, 45.0  # seconds: of a process beside its batches, of an epoch's end, of the report
WARM_UP, FEWEST, LONG = 2, 6, 3.0  # steps before timing, timed steps at least, seconds of timing
SIDES = (128, 112, 96, 64, 32)  # pixels
SURVIVORS = 16  # entries that the last stage of a cascade should choose from, at least
# What cotrain.py does where nothing is chosen automatically.
PUBLISHED: dict[str, Any] = {
    "net": "s3d", "gpus": 1, "workers": min(8, allotted_cores()), "seq_len": 32, "ds": 1, "img_dim": 128,
    "batch_size": 16, "moco_k": 2048, "mining": "cascade", "own_view": "current", "stage": 7, "ratio": 0.5, "topk": 5,
    "cycles": 2, "infonce_epochs": EPOCHS, "coclr_epochs": 100, "probe_epochs": 100, "finetune_epochs": 500, "lr": 1e-3,
    "coclr_lr": 1e-3, "moco_m": 0.999}


class Setting(NamedTuple):
    name: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Facts:
    videos: int  # for training
    tested: int  # held out, or for testing
    frames: int  # of the median video
    side: int  # the median short side, in pixels
    labels: bool = False
    gpus: int = 0
    memory: float = 0.0  # of the smallest GPU, in GiB
    cores: int = 1
    hours: float | None = None  # for everything
    spent: float = 0.0  # seconds of them that are gone, most of them for preparation
    seconds: Mapping[str, float] = field(default_factory=dict)  # per step of "infonce" and "coclr", by measurement
    skip: tuple[str, ...] = ()  # evaluations that are left out

    @property
    def side_by_side(self) -> bool:
        """Whether both streams run at the same time, each on half of the cores."""
        return self.gpus == 0 and self.cores > 1


def choose(facts: Facts, given: Mapping[str, Any] | None = None) -> list[Setting]:
    """Choose all settings; those given stay as they are, and the others fit them."""
    rows = _Rows(given or {})
    _choose_sizes(facts, rows)
    _choose_method(facts, rows)
    _choose_epochs(facts, rows)
    steps = rows["infonce_epochs"] * (facts.videos // _step(rows))
    large = _is_large(facts, rows)
    rows.add("lr", 1e-3 if large else 5e-4, "published" if large else "half the published: a small set or network")
    rows.add("coclr_lr", 1e-3 if large else 1e-4, "published" if large else "small sets collapse at InfoNCE's rate")
    rows.add("moco_m", 0.999 if steps >= 10_000 else 0.99,
             f"a memory of {'1,000' if steps >= 10_000 else '100'} steps, where InfoNCE has {steps:,}")
    return rows.settings


def published(given: Mapping[str, Any]) -> list[Setting]:
    return [Setting(name, given.get(name, value), "given" if name in given else "published")
            for name, value in PUBLISHED.items()]


def find_warnings(videos: int, folder: Path | None, hours: float | None, seconds: float) -> list[str]:
    """Return warnings: too few videos to train on, or fewer hours than estimated."""
    found = [f"{videos} training videos: below some {FEW} training is hardly worth it; published weights find similar "
             f"videos without it: python -m tools.search index CKPT {folder}"] if folder and 0 < videos < FEW else []
    if hours and 3600 * hours < seconds:
        found.append(f"--hours {hours:g} is too short: the least that can teach anything takes {duration(seconds)}")
    return found


class _Rows(dict[str, Any]):
    def __init__(self, given: Mapping[str, Any]) -> None:
        super().__init__()
        self.given, self.settings = given, list[Setting]()

    def add(self, name: str, value: Any, reason: str) -> None:
        if name in self.given:
            value, reason = self.given[name], "given"
        self[name] = value
        self.settings.append(Setting(name, value, reason))


def _is_large(facts: Facts, values: Mapping[str, Any]) -> bool:
    """Return whether published values hold."""
    return facts.videos >= LARGE and values["net"] != "s3d_small"


def _step(values: Mapping[str, Any]) -> int:
    return values["batch_size"] * values["gpus"]


def _choose_sizes(facts: Facts, rows: _Rows) -> None:
    """Choose the network, what of the machine it uses, and its clips."""
    on_gpu = facts.gpus > 0
    rows.add("net", "s3d" if on_gpu else "s3d_small",
             "the full network, on a GPU" if on_gpu else "0.5 M parameters: what a CPU can train")
    rows.add("gpus", min(facts.gpus, 2) if on_gpu and facts.videos >= LARGE else 1,
             f"{facts.gpus} found; two as published, for {LARGE} videos or more" if on_gpu else "no GPU found")
    cores = facts.cores // rows["gpus"] if on_gpu else facts.cores // 2
    rows.add("workers", max(1, min(8, cores)), f"{facts.cores} cores{'' if on_gpu else ', which also train'}")
    fits = next((frames for frames in (32, 16) if facts.frames > frames + 1), 8)
    rows.add("seq_len", fits if on_gpu else 8, f"a median video has {facts.frames} frames"
             if on_gpu else "short clips, for a CPU")
    stride = 1 if on_gpu else facts.frames // (2 * rows["seq_len"])
    rows.add("ds", max(1, min(4, stride)), "every frame, as published" if on_gpu else
             f"a clip spans at most half of a median video, which has {facts.frames} frames")
    most = 128 if on_gpu else 64
    rows.add("img_dim", next((side for side in SIDES if side <= min(most, facts.side)), SIDES[-1]),
             f"frames have {facts.side} pixels" if facts.side < most else "published" if on_gpu else "for a CPU")
    largest = 32 if not on_gpu else 16 if facts.memory >= 20 else 8 if facts.memory >= 10 else 4
    batch = largest
    while batch > 2 and batch * rows["gpus"] * 8 > facts.videos:
        batch //= 2
    reason = "published" if largest == 16 else f"for {facts.memory:.0f} GiB of GPU memory" if on_gpu else "for a CPU"
    rows.add("batch_size", batch, reason if batch == largest else "an eighth of the training videos at most")


def _choose_method(facts: Facts, rows: _Rows) -> None:
    """Choose the queue, how positives are mined in it, and how often the streams take turns."""
    rows.add("moco_k", fitting_queue(facts.videos, _step(rows)),
             f"at most half of {facts.videos} training videos, up to 2048")
    queue = rows["moco_k"]
    if {"stage", "ratio"} & {*rows.given}:
        rows.add("mining", "cascade", "which has the given stages")
    elif queue < 4:
        rows.add("mining", "topk", f"{queue} entries leave no choice")
    elif _is_large(facts, rows):
        rows.add("mining", "cascade", "published")
    else:
        rows.add("mining", "fused", "mined best in small trainings (docs/research/experiment.md)")
    rows.add("own_view", *(("frozen", "the same") if rows["mining"] == "fused" else ("current", "published")))
    left = queue
    if rows["mining"] == "cascade":
        rows.add("ratio", 0.5, "published")
        depths = (depth for depth in (7, 5) if int(queue * rows["ratio"] ** (depth - 1)) >= SURVIVORS)
        rows.add("stage", next(depths, 3), f"the last stage still chooses among {SURVIVORS} entries or more"
                 if queue >= 4 * SURVIVORS else f"the least that uses both views: the queue has {queue} entries")
        left = int(queue * rows["ratio"] ** (rows["stage"] - 1))
    rows.add("topk", max(1, min(5, left // 3)), f"of the {left} entries to choose from")
    once = facts.gpus == 0
    rows.add("cycles", 1 if once else 2, "one, for a CPU" if once else "published")


def _choose_epochs(facts: Facts, rows: _Rows) -> None:
    """Choose the most epochs for which everything ends in time, or without a time what is usual."""
    def add(epochs: int, reason: str, to: _Rows) -> _Rows:
        share = 2 / (3 * max(1, to["cycles"]))
        to.add("infonce_epochs", epochs, reason)
        to.add("coclr_epochs", max(3, round(share * epochs)), "two thirds of InfoNCE's, over all cycles")
        if facts.labels:
            published = facts.gpus > 0 and facts.hours is None
            to.add("probe_epochs", 100 if published else max(1, epochs // 3), "a third of InfoNCE's")
            to.add("finetune_epochs", 500 if published else max(1, epochs // 2), "published" if published else
                   "half of InfoNCE's")
        return to

    def fits(epochs: int) -> bool:
        trial = _Rows(rows.given)
        trial.update(rows)
        left = MARGIN * 3600 * (facts.hours or 0) - facts.spent
        return total(facts, add(epochs, "", trial)) <= left

    usual = EPOCHS if facts.gpus else CPU_EPOCHS
    if facts.hours is None or not facts.seconds:
        add(usual, "published" if facts.gpus else "for a CPU", rows)
        return
    epochs = next((epochs for epochs in range(EPOCHS, LEAST_EPOCHS, -1) if fits(epochs)), LEAST_EPOCHS)
    reason = {EPOCHS: "no more than published", LEAST_EPOCHS: "the least that can teach anything"}
    add(epochs, reason.get(epochs, f"what --hours {facts.hours:g} leaves time for"), rows)


def costs(facts: Facts, values: Mapping[str, Any]) -> dict[str, float]:
    """Estimate the seconds of a step of the plan by its kind; needs measured seconds per step."""
    steps = max(1, facts.videos // _step(values))
    # A step embeds a query, with gradients, which takes three times as long as a forward, and a key.
    clip = facts.seconds["infonce"] / (4 * values["batch_size"])
    windows = facts.tested * max(1, 2 * facts.frames // (values["seq_len"] * values["ds"]))
    found = {kind: START + values[f"{kind}_epochs"] * (steps * facts.seconds[kind] + EPOCH)
             for kind in ("infonce", "coclr")}
    for kind, passes in (("probe", 1), ("finetune", 3)):
        epochs = values.get(f"{kind}_epochs", 0)
        found[kind] = START + epochs * (clip * (passes * facts.videos + 0.3 * facts.tested) + EPOCH)
    clips = (facts.videos + windows) * (1 if facts.labels else 2)  # without labels random weights, too
    return found | {"retrieval": START + clips * clip, "test": START + 10 * windows * clip, "both": START,
                    "index": START + facts.spent + 8 * (facts.videos + facts.tested) * clip, "report": PAGE}


def total(facts: Facts, values: Mapping[str, Any]) -> float:
    each, pair = costs(facts, values), 1 if facts.side_by_side else 2  # of what does not need each other
    checked = facts.tested > 0 and "retrieval" not in facts.skip
    trained = [kind for kind in ("probe", "finetune") if facts.tested and facts.labels and kind not in facts.skip]
    retrievals = 1 if facts.side_by_side else 4 if facts.labels else 2  # the others run beside a training
    times = {"infonce": pair, "coclr": 2 * values["cycles"], "retrieval": retrievals * checked, "index": 1, "report": 1,
             **dict.fromkeys(trained, pair), "test": len(trained) * pair, "both": checked + len(trained)}
    return sum(number * each[kind] for kind, number in times.items())


def read_facts(dataset: str, data_root: str | None, split_root: str | None, second_view: str, hours: float | None,
               spent: float) -> Facts:
    spec = catalog.parse(f"{dataset}-2stream-2clip", second_view)
    splits = Path(split_root or catalog.SPLIT_ROOT)
    paths, frames = read_rows(spec.csv(splits, 1, train=True))
    test = spec.csv(splits, 1, train=False)
    reader = spec.readers(Path(data_root or catalog.DATA_ROOT), train=True)[0]
    names = [name for name in map(video_name, paths) if name in reader][::max(1, len(paths) // 10)]
    sides = [min(reader.frames(name, [0]).shape[1:3]) for name in names]
    memory = [torch.cuda.get_device_properties(gpu).total_memory for gpu in range(torch.cuda.device_count())]
    return Facts(len(paths), len(test.read_text(encoding="utf-8").splitlines()), int(np.median(frames)),
                 int(np.median(sides)) if sides else SIDES[0], len(catalog.class_names(dataset, split_root)) > 1,
                 len(memory), min(memory, default=0) / 2**30, allotted_cores(), hours, spent)


def seconds_per_step(task: PretrainTask) -> float:
    """Time training steps, from the videos to the new weights; the task cannot be used afterwards."""
    loader = task.make_loader("train")
    task.set_monitors(videos_of(loader))
    done, begun = 0, 0.0
    for epoch in count():
        task.begin_epoch(epoch)
        for batch in batches(loader, epoch):
            with redirect_stdout(StringIO()):  # hide lines about a training
                values = task.step(batch, epoch, done)
            if values["loss"].requires_grad:
                task.optimizer.zero_grad()
                task.optimizer.backward(values["loss"])
                task.optimizer.step()
            float(values["loss"].detach())  # waits for the device
            done += 1
            seconds = time.perf_counter() - begun
            if done <= WARM_UP:
                begun = time.perf_counter()
            elif done >= WARM_UP + FEWEST and seconds > LONG:
                return seconds / (done - WARM_UP)
    raise AssertionError("unreachable")
