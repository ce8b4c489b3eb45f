"""The published commands: our pages have them all, and one of them runs as it stands, on two processes.

test_documented_commands.py runs the others, made smaller.
"""

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import miniature
import pytest
import torch
from documented import PAGES, ROOT, Command, commands

from backbone.s3dg import S3D
from backbone.select_backbone import NETWORKS
from model.pretrain import InfoNCE

SEED = ROOT.parent / "shared" / "seed_readme.md"


def published(page: Path) -> list[Command]:
    """Return the commands of a page that choose their GPUs."""
    return [command for command in commands(page.read_text())
            if any(each.startswith("CUDA_VISIBLE_DEVICES=") for each in command.variables)]


def test_our_pages_have_every_published_command():
    if not SEED.exists():
        pytest.skip("the published page lies beside the checkout only where the project is developed")
    ours = {command for page in PAGES for command in published(page)}
    theirs = published(SEED)
    assert len(theirs) == 7 and set(theirs) <= ours


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the code with a miniature UCF101 in the default places, InfoNCE files, and a narrow S3D."""
    for path in ROOT.iterdir():
        if (path / "__init__.py").exists():
            shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("__pycache__", "*.csv"))
        elif path.suffix == ".py":
            shutil.copy(path, tmp_path)
    with open(tmp_path / "backbone" / "select_backbone.py", "a") as file:
        file.write('\nNETWORKS["s3d"] = partial(S3D, scale=0.25)\n')
    monkeypatch.setitem(NETWORKS, "s3d", partial(S3D, scale=0.25))
    made = miniature.make(tmp_path / "made", classes=2, groups=(1, 8), clips=2, frames=12)
    shutil.copytree(made.data_root, tmp_path / "data", dirs_exist_ok=True)
    shutil.copytree(made.split_root, tmp_path / "process_data" / "data", dirs_exist_ok=True)
    for stream in ("rgb", "flow"):
        path = tmp_path / f"{{{stream}_infoNCE_checkpoint.pth.tar}}"  # the page's own name, with braces
        torch.save({"state_dict": InfoNCE("s3d", K=16).state_dict(), "epoch": 0}, path)
    return tmp_path


def test_training_runs_as_published(checkout):
    command = next(each for each in published(ROOT / "docs/training.md") if "main_coclr.py" in each.words)
    small = "--seq_len 8 --img_dim 32 --batch_size 2 -j 0 --epochs 6 --moco-k 20 --ratio 0.9 --health_clips 4"
    done = subprocess.run([sys.executable, *command.words[1:], *small.split()], cwd=checkout, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = checkout.glob("ckpt/log-pretrain/*/model/epoch5.pth.tar")
    assert path.parents[1].name == ("Cycle1-FlowMining_Cascade_flow_debugcoclr-top5_k20_ucf101-2stream-2clip-32_s3d_"
                                    "bs2_lr0.001_seq2_len8_ds1")
    saved = torch.load(path, weights_only=True)
    assert {"epoch", "state_dict", "best_acc", "optimizer", "iteration"} <= set(saved)
