"""A folder in which documented commands can run: miniature data where they look for it, and files of the names that
the pages have for a reader's own, such as CKPT or {rgb_infoNCE_checkpoint.pth.tar}."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import miniature
import numpy as np
import torch
from documented import ROOT, Command, smaller

from eval import network
from model.pretrain import InfoNCE

SETS = ("ucf101", "hmdb51", "k400", "mine", "fights", "rendered")
K400 = ["abseiling", "air drumming", "answering questions"]
PRETRAINED = ("CKPT", "RGB_CKPT", "FLOW_CKPT", "RGB_INFONCE.pth.tar", "FLOW_INFONCE.pth.tar", "RGB_CYCLE1.pth.tar",
              "PRETRAINED.pth.tar", "{rgb_infoNCE_checkpoint.pth.tar}", "{flow_infoNCE_checkpoint.pth.tar}",
              "{rgb_cycle1_checkpoint.pth.tar}", "{selected_rgb_pretrained_checkpoint.pth.tar}")
FINETUNED = ("FINETUNED_CKPT", "FINETUNED.pth.tar", "{selected_rgb_finetuned_checkpoint.pth.tar}")
# Features of retrieval: folder that holds `feature/`, dataset.
FEATURES = ((".", "ucf101"), (".", "mine"), ("RGB_RUN/model", "ucf101"), ("RGB_RUN/model", "rendered"),
            ("FLOW_RUN/model", "ucf101-f"), ("FLOW_RUN/model", "rendered-f"))
# What commands leave behind: their words, the name that pages have for it, and where it is.
PRODUCTS = (("main_nce.py", "epoch7.pth.tar", "ckpt/log-pretrain/infonce*/model/epoch0.pth.tar"),
            ("main_coclr.py --dataset ucf101-2stream-2clip --cascade --pretrain CKPT CKPT", "RUN",
             "ckpt/log-pretrain/coclr*"),
            ("process_data/src/extract_ff.py --videos UCF101/videos", "UCF101/frames", "made"),
            ("-m tools.search index CKPT videos", "video_index", "made"))


def make(place: Path, run: Callable[[Command], int]) -> None:
    """Fill an empty folder.

    Args:
        place: the folder; large files are put beside it, and links to them inside.
        run: runs a command in the folder and returns its exit code.
    """
    store = place.with_name("store")
    store.mkdir()
    (place / "data").symlink_to(store)
    sets = {name: miniature.make(place, name, classes=3, groups=(1, 8), clips=3, frames=12,
                                 class_names=K400 if name == "k400" else None) for name in SETS}
    _checkpoints(place, store)
    for folder, dataset in FEATURES:
        (place / folder).mkdir(parents=True, exist_ok=True)
        _link(place / folder / "CKPT", store / "pretrained")
        words = f"eval/main_classifier.py --dataset {dataset} --test {folder}/CKPT --retrieval"
        assert run(smaller(Command(("python", *words.split())))) == 0, words
    for stream in ("RGB", "FLOW"):
        prob = {f"/somewhere/frame/{video}/": {"mean_prob": np.random.default_rng(0).dirichlet([1] * 3, 1).tolist()}
                for video in sets["ucf101"].test}
        (place / f"{stream}-prob-ten.json").write_text(json.dumps(prob))
    for folder in ("videos/Slide", "videos/Spin", "UCF101/videos/Slide"):
        for group in (1, 2):
            write_video(place / folder / f"v_{Path(folder).name}_g0{group}_c01.avi")
    write_video(place / "clip.mp4")
    _option_files(place)
    _official_lists(place, sets["hmdb51"], sets["k400"])
    for words, name, product in PRODUCTS:
        assert run(smaller(Command(("python", *words.split())))) == 0, words
        [made] = place.glob(product)
        made.rename(place / name)
    shutil.rmtree(place / "ckpt")
    (place / "ckpt/log-pretrain").mkdir(parents=True)
    for name in ("RUN", "ANOTHER_RUN"):
        _link(place / "ckpt/log-pretrain" / name, place / "RUN")
    _link(place / "RUN/model/epoch99.pth.tar", place / "RUN/model/epoch0.pth.tar")
    (place / "RUN/model/feature").symlink_to((place / "feature").resolve())


def _link(path: Path, target: Path) -> None:
    if not path.exists():
        path.symlink_to(target.resolve())


def _checkpoints(place: Path, store: Path) -> None:
    torch.save({"state_dict": InfoNCE("s3d", K=16).state_dict(), "epoch": 0}, store / "pretrained")
    torch.save({"state_dict": network.build(3, "s3d", "ft", dropout=0.5).state_dict(), "epoch": 0}, store / "finetuned")
    for kind, names in (("pretrained", PRETRAINED), ("finetuned", FINETUNED)):
        for name in names:
            _link(place / name, store / kind)


def write_video(path: Path, frames: int = 6) -> None:
    """Write a small video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = "mp4v" if path.suffix == ".mp4" else "MJPG"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 25, (48, 32))
    for number in range(frames):
        writer.write(np.ascontiguousarray(miniature.frame(path.stem, number, (32, 48))[..., ::-1]))
    writer.release()


def _option_files(place: Path) -> None:
    """Write the options that the page on the console shows, and the mistake that it shows."""
    page = (ROOT / "docs/console.md").read_text()
    [(name, text)] = re.findall(r"^```yaml\n# (\S+): .*\n((?s:.*?))^```", page, re.MULTILINE)
    (place / name).parent.mkdir()
    (place / name).write_text(text)
    (place / "run.yaml").write_text("dataset: ucf101-2clip\n\n\n\n\nbatchsize: 16\n")


def _official_lists(place: Path, hmdb51: miniature.Miniature, k400: miniature.Miniature) -> None:
    """Write HMDB51's and K400's own lists of their miniatures."""
    folder = place / "testTrainMulti_7030_splits"
    folder.mkdir()
    for name in hmdb51.classes:
        lines = [f"{video.split('/')[1]}.avi {use}\n" for use, videos in ((1, hmdb51.train), (2, hmdb51.test))
                 for video in videos if video.startswith(f"{name}/")]
        for split in (1, 2, 3):
            (folder / f"{name}_test_split{split}.txt").write_text("".join(lines))
    (place / "kinetics400").mkdir()
    for file, videos in (("train.csv", k400.train), ("val.csv", k400.test)):
        rows = "".join(f"{video.replace('/', ',')},0,10\n" for video in videos)
        (place / "kinetics400" / file).write_text(f"label,youtube_id,time_start,time_end\n{rows}")
