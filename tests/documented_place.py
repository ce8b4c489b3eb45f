"""A folder in which documented commands can run: miniature data where they look for it, and files of the names that
the pages have for a reader's own, such as CKPT or {rgb_infoNCE_checkpoint.pth.tar}."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import cv2
import miniature
import noise
import numpy as np
import pytest
import torch
from documented import ROOT

from eval import feature_files, network
from model import classifier, momentum
from model.pretrain import InfoNCE
from process_data.src.render_demo import Look, render

SETS = ("ucf101", "hmdb51", "k400", "mine", "fights", "rendered", "motions")
PRETRAINED = ("CKPT", "RGB_CKPT", "FLOW_CKPT", "INFONCE_RGB", "INFONCE_FLOW", "CPR_RGB", "CPR_FLOW",
              "RGB_INFONCE.pth.tar", "FLOW_INFONCE.pth.tar", "RGB_CYCLE1.pth.tar", "PRETRAINED.pth.tar",
              "{rgb_infoNCE_checkpoint.pth.tar}", "{flow_infoNCE_checkpoint.pth.tar}",
              "{rgb_cycle1_checkpoint.pth.tar}", "{selected_rgb_pretrained_checkpoint.pth.tar}")
FINETUNED = ("FINETUNED", "FINETUNED_CKPT", "{selected_rgb_finetuned_checkpoint.pth.tar}", "FINETUNED.pth.tar")
K400 = ["abseiling", "air drumming", "answering questions"]
CLASSES, FEATURES = 3, 16


def make(place: Path) -> Path:
    """Fill an empty folder; files that are large are links to ``place.parent / "store"``."""
    sets = {name: miniature.make(place, name, classes=CLASSES, groups=(1, 8), clips=3, frames=12,
                                 class_names=K400 if name == "k400" else None) for name in SETS}
    made = sets["ucf101"]
    _checkpoints(place, place.parent / "store")
    for folder, datasets in ((place / "feature", ("ucf101", "mine")),
                             (place / "RGB_RUN/model/feature", ("ucf101", "fights", "rendered")),
                             (place / "FLOW_RUN/model/feature", ("ucf101-f", "fights-f", "rendered-f"))):
        for dataset in datasets:
            _features(folder, dataset, made)
    for stream in ("RGB", "FLOW"):
        rng = np.random.default_rng(len(stream))
        prob = {f"/somewhere/frame/{video}/": {"mean_prob": rng.dirichlet([1] * CLASSES, 1).tolist()}
                for video in made.test}
        (place / f"{stream}-prob-ten.json").write_text(json.dumps(prob))
    _videos(place)
    _option_files(place)
    _frames(place / "UCF101/frames", made.train[:2])
    _official_lists(place, sets)
    return place


def _checkpoints(place: Path, store: Path) -> None:
    store.mkdir()
    with pytest.MonkeyPatch.context() as patch:  # as documented_server.load does
        for module in (classifier, momentum):
            patch.setattr(module, "select_backbone", noise.small_backbone)
        pretrained, finetuned = InfoNCE("s3d", K=16), network.build(CLASSES, "s3d", "ft", dropout=0.5)
    torch.save({"state_dict": pretrained.state_dict(), "epoch": 0}, store / "pretrained")
    torch.save({"state_dict": finetuned.state_dict(), "epoch": 0}, store / "finetuned")
    for kind, names in (("pretrained", PRETRAINED), ("finetuned", FINETUNED)):
        for name in names:
            (place / name).symlink_to(store / kind)


def _features(folder: Path, dataset: str, made: miniature.Miniature) -> None:
    for split, videos in (("train", made.train), ("test", made.test)):
        labels = torch.tensor([made.classes.index(video.split("/")[0]) for video in videos])
        paths = [f"/somewhere/frame/{video}/" for video in videos]
        feature_files.save(folder, dataset, split,
                           feature_files.FeatureSet(torch.randn(len(videos), FEATURES), labels, paths), {})


def _videos(place: Path) -> None:
    """Folders of videos, labelled ones and, in videos/all, some without labels."""
    look = Look(frames=6, size=(48, 32), seed=0)
    for folder in ("videos", "UCF101/videos", "FIGHTS/videos"):
        render(place / folder, ["Slide", "Spin"], look, groups=2, clips=1)
    (place / "clip.mp4").write_bytes((place / "videos/Slide/v_Slide_g01_c01.avi").read_bytes())
    splits = place / "FIGHTS/splits"
    splits.mkdir()
    (splits / "classInd.txt").write_text("1 Slide\n2 Spin\n")
    for side, group in (("train", 2), ("test", 1)):
        names = [f"{name}/v_{name}_g0{group}_c01.avi" for name in ("Slide", "Spin")]
        for split in (1, 2, 3):
            (splits / f"{side}list0{split}.txt").write_text("".join(f"{each}\n" for each in names))


def _option_files(place: Path) -> None:
    """The file of options that the page on the console shows, and one with the mistake that it shows."""
    [shown] = re.findall(r"^```yaml\n# (\S+): .*\n((?s:.*?))^```", (ROOT / "docs/console.md").read_text(), re.MULTILINE)
    (place / shown[0]).parent.mkdir()
    (place / shown[0]).write_text(shown[1])
    (place / "run.yaml").write_text("dataset: ucf101-2clip\n\n\n\n\nbatchsize: 16\n")


def _frames(folder: Path, videos: list[str]) -> None:
    for video in videos:
        (folder / video).mkdir(parents=True)
        for number in range(1, 4):
            for kind in ("image", "flow")[:1 + (number < 3)]:
                cv2.imwrite(str(folder / video / f"{kind}_{number:05d}.jpg"), miniature.frame(video, number))


def _official_lists(place: Path, made: Mapping[str, miniature.Miniature]) -> None:
    """HMDB51's and K400's lists of their miniatures."""
    hmdb51, k400 = place / "testTrainMulti_7030_splits", place / "kinetics400"
    hmdb51.mkdir()
    for name in made["hmdb51"].classes:
        lines = [f"{video.split('/')[1]}.avi {use}\n" for use, side in ((1, "train"), (2, "test"))
                 for video in getattr(made["hmdb51"], side) if video.startswith(f"{name}/")]
        for split in (1, 2, 3):
            (hmdb51 / f"{name}_test_split{split}.txt").write_text("".join(lines))
    k400.mkdir()
    for file, videos in (("train.csv", made["k400"].train), ("val.csv", made["k400"].test)):
        rows = "".join(f"{video.replace('/', ',')},0,10\n" for video in videos)
        (k400 / file).write_text(f"label,youtube_id,time_start,time_end\n{rows}")


def add_runs(place: Path, run: Path) -> None:
    """A finished run under the names that pages have for it."""
    (place / "ckpt/log-pretrain").mkdir(parents=True)
    for name in ("RUN", "ANOTHER_RUN"):
        (place / "ckpt/log-pretrain" / name).symlink_to(run.resolve())
    (run / "model/epoch99.pth.tar").symlink_to(run.resolve() / "model/epoch0.pth.tar")
    for file in (place / "feature").glob("ucf101_*"):
        (run / "model/feature").mkdir(exist_ok=True)
        shutil.copy(file, run / "model/feature")
