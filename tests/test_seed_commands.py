"""The published commands, as README and docs have them, on miniature UCF101 and K400 trees in a copy of the checkout.

Verbatim but for sizes: options of size are appended, and the names in braces replaced by files.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import miniature
import pytest
import torch

from model.pretrain import InfoNCE

ROOT = Path(__file__).parents[1]
SEED = ROOT.parent / "shared" / "seed_readme.md"
SMALL = "--seq_len 8 --img_dim 32 --batch_size 2 -j 0 --epochs 1 --print_freq 1"
QUEUE = "--moco-k 320"  # 7 stages of 0.5 leave 5 of it
PAGES = [ROOT / "README.md", ROOT / "docs" / "training.md", ROOT / "docs" / "evaluation.md"]
# Words that one published command has, and one that it lacks.
PUBLISHED = {
    "ucf101 rgb": ("main_coclr.py ucf101-2stream-2clip", "--reverse"),
    "ucf101 flow": ("main_coclr.py ucf101-2stream-2clip --reverse", ""),
    "k400 rgb": ("main_coclr.py k400-2stream-2clip", "--reverse"),
    "k400 flow": ("main_coclr.py k400-2stream-2clip --reverse", ""),
    "ubernce": ("main_nce.py ubernce", ""),
    "retrieval": ("main_classifier.py --retrieval", ""),
    "finetune": ("main_classifier.py --pretrain ft", ""),
    "test": ("main_classifier.py --ten_crop", ""),
}


def commands(page: Path) -> list[str]:
    """The commands of a page's code blocks that choose their GPUs, on one line each."""
    blocks = re.findall(r"```\s*\n(CUDA_VISIBLE_DEVICES=.*?)```", page.read_text(), flags=re.DOTALL)
    return [" ".join(block.replace("\\\n", " ").split()) for block in blocks]


def published(name: str) -> str:
    """The one command of our pages that has the words of PUBLISHED, and not the other."""
    words, absent = PUBLISHED[name]
    found = {c for page in PAGES for c in commands(page)
             if set(words.split()) <= set(c.split()) and absent not in c.split()}
    assert len(found) == 1, (words, found)
    return found.pop()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the code with miniature UCF101 and K400 in the default places, and InfoNCE files to start from."""
    root = tmp_path_factory.mktemp("checkout")
    for package in ("backbone", "dataset", "eval", "model", "utils", "process_data"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "*.csv"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, root)
    for name in ("ucf101", "k400"):
        made = miniature.make(root / f"made_{name}", name, classes=2, groups=4, clips=4, frames=12)
        shutil.copytree(made.data_root, root / "data", dirs_exist_ok=True)
        shutil.copytree(made.split_root, root / "process_data" / "data", dirs_exist_ok=True)
    for stream in ("rgb", "flow"):
        state = InfoNCE("s3d", K=16).state_dict()
        torch.save({"state_dict": state, "epoch": 0}, root / f"{stream}_infoNCE_checkpoint.pth.tar")
    yield root
    shutil.rmtree(root)  # more than a gigabyte of checkpoints


def run(checkout: Path, text: str, sizes: str, folder: str = ".", **files: Path) -> str:
    """Run a command in a folder of the checkout; its output."""
    for name, path in files.items():
        text = text.replace("{" + name + ".pth.tar}", str(path))
    assert "{" not in text, text
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(f"{text} {sizes}", shell=True, cwd=checkout / folder, env=environment, text=True,
                          capture_output=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def newest(checkout: Path, pattern: str) -> Path:
    """The checkpoint of the only run folder that fits."""
    (found,) = checkout.glob(f"{pattern}/model/epoch0.pth.tar")
    return found


def cycle(checkout: Path, dataset: str) -> tuple[Path, Path]:
    """One cycle of CoCLR+CPR, RGB and then flow: the two checkpoints."""
    rgb, flow = (checkout / f"{stream}_infoNCE_checkpoint.pth.tar" for stream in ("rgb", "flow"))
    first, second = published(f"{dataset} rgb"), published(f"{dataset} flow")
    run(checkout, first, f"{SMALL} {QUEUE}", rgb_infoNCE_checkpoint=rgb, flow_infoNCE_checkpoint=flow)
    own = newest(checkout, f"ckpt/log-pretrain/*coclr-top5_k320_{dataset}-*")
    run(checkout, second, f"{SMALL} {QUEUE}", flow_infoNCE_checkpoint=flow, rgb_cycle1_checkpoint=own)
    return own, newest(checkout, f"ckpt/log-pretrain/*coclr-top5-R_k320_{dataset}-*")


def test_our_pages_have_every_command_of_the_page_they_were_asked_for_from():
    if not SEED.exists():
        pytest.skip("the page lies beside the checkout only where the project is developed")
    ours = [published(name) for name in PUBLISHED]
    for theirs in commands(SEED):
        assert theirs in ours


def test_ucf101(checkout):
    own, reverse = cycle(checkout, "ucf101")
    saved = torch.load(own, weights_only=True)
    assert {"epoch", "state_dict", "best_acc", "optimizer", "iteration"} <= set(saved)
    assert own.parents[1].name == ("Cycle1-FlowMining_Cascade_flow_debugcoclr-top5_k320_ucf101-2stream-2clip-32_s3d_bs2"
                                   "_lr0.001_seq2_len8_ds1")
    assert reverse.parents[1].name.startswith("Cycle1-RGBMining_Cascade_Sg_5_Rt_0.50_coclr-top5-R_k320_")
    sizes = "--seq_len 8 --img_dim 32 --batch_size 2 -j 0"
    text = run(checkout, published("retrieval"), sizes, "eval", selected_rgb_pretrained_checkpoint=own)
    assert re.search(r"R@1\s+R@5\s+R@10\s+R@20\s+R@50", text)
    assert (own.parent / "feature" / "ucf101_sim.pth.tar").is_file()
    run(checkout, published("finetune"), f"{SMALL} --eval_freq 1", "eval", selected_rgb_pretrained_checkpoint=own)
    tuned = newest(checkout, "eval/log-eval-linclr/*train-ft*")
    text = run(checkout, published("test"), sizes, "eval", selected_rgb_finetuned_checkpoint=tuned)
    assert "ten crops" in text and tuned.with_name(tuned.name + "-prob-ten.json").is_file()


def test_ubernce(checkout):
    run(checkout, published("ubernce"), f"{SMALL} {QUEUE}")
    state = torch.load(newest(checkout, "ckpt/log-pretrain/scratch_ubernce*"), weights_only=True)["state_dict"]
    assert (state["queue_label"] >= 0).sum() == 2 * 3 * 4  # one epoch of the training videos


def test_k400(checkout):
    own, reverse = cycle(checkout, "k400")
    assert own != reverse
