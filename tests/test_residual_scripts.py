"""Residual frames as the second view (--second_view residual): scripts, run folders, resume."""

import json
from pathlib import Path

import miniature
import noise
import pytest
from test_residual import without_flow

import main_coclr
import main_nce
from engine import checkpoint
from eval import main_classifier
from utils import launch

pytestmark = pytest.mark.usefixtures("in_place")
CLIP = "--seq_len 4 --img_dim 32 --batch_size 4 -j 0 --print_freq 2"
RESIDUAL = "--second_view residual"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with 18 training and 6 test videos, of RGB alone."""
    folder = tmp_path_factory.mktemp("residual")
    without_flow(miniature.make(folder, classes=3, groups=8, clips=1, frames=10, seed=1))
    return folder


def pretrain(script, dataset: str, options: str, name: str) -> int:
    words = f"{CLIP} --moco-k 8 --moco-dim 8 --dataset {dataset} --data_root data --split_root splits --name_prefix"
    return launch.exit_code(lambda: script.work(script.parse([*words.split(), name, *options.split()])))


def evaluate(options: str) -> int:
    words = f"{CLIP} --data_root data --split_root splits {options}".split()
    return launch.exit_code(lambda: main_classifier.main(words))


def only(pattern: str) -> Path:
    [path] = Path().glob(pattern)
    return path


@pytest.fixture(scope="module")
def flow_model(place):
    """InfoNCE of residual frames, trained for an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        noise.install_network(patch.setattr)
        patch.setattr(launch, "_started", False)
        patch.chdir(place)
        assert pretrain(main_nce, "ucf101-f-2clip", f"--epochs 1 {RESIDUAL}", "alone") == 0
        return only("ckpt/log-pretrain/alone*/model/epoch0.pth.tar").resolve()


@pytest.mark.parametrize("options", ["", "--reverse --ds 2"])
def test_coclr_trains_from_rgb_alone(options, flow_model, capsys):
    name = f"co{options.replace(' ', '')}"
    files = f"{flow_model} random" if "--reverse" in options else f"random {flow_model}"
    words = f"--epochs 2 --topk 2 --cascade --stage 2 --pretrain {files} {RESIDUAL} {options}"
    assert pretrain(main_coclr, "ucf101-2stream-2clip", words, name) == 0
    assert "ucf101-2stream-2clip_residual: 18 videos" in capsys.readouterr().out
    saved = checkpoint.load(only(f"ckpt/log-pretrain/{name}coclr-top2*/model/epoch1.pth.tar"))
    assert saved["options"]["second_view"] == "residual" and saved["iteration"] == 8
    trained = {int(step["step"]) for step in saved["optimizer"]["state"].values()}
    assert trained == {6}  # two of eight steps fill the queue


def test_retrieval_notes_the_view_of_its_features(flow_model, capsys, tmp_path):
    (tmp_path / "model").mkdir()
    path = tmp_path / "model/epoch0.pth.tar"
    path.write_bytes(flow_model.read_bytes())
    words = f"--dataset ucf101-f --test {path} --retrieval"
    assert evaluate(f"{words} {RESIDUAL}") == 0
    out = capsys.readouterr().out
    assert "R@50" in out and "ucf101-f_residual, split 1" in out and out.count("computing features") == 2
    note = json.loads((path.parent / "feature/ucf101-f_test_made_from.json").read_text())
    assert note["second_view"] == "residual"
