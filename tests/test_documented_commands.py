"""Every command in README.md and docs/*.md is one that its script takes; those of the first hour run, made smaller."""

import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import miniature
import noise
import numpy as np
import pytest
from documented import PAGES, ROOT, Command, commands, shell_text
from torch.distributed.launch import parse_args

from engine.settings import joined
from eval import main_classifier, options
from utils import launch
from utils.parser import Parser

COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page.read_text())))
# Commands of which only the files that they name are looked at, by their first words, with the reason.
NOT_OURS = {"conda env create", "pip install", "python3.11 -m venv", ".", "echo", "mkdir", "sbatch", "tensorboard",
            "bash scripts/test.sh", "bash scripts/demo.sh"}


def parser_of(words: list[str]) -> tuple[Parser, list[str]]:
    """Return the parser of the script that Python is started with, and the words for it."""
    path, given = (words[1].replace(".", "/"), words[2:]) if words[0] == "-m" else (words[0][:-3], words[1:])
    if not (ROOT / f"{path}.py").is_file():
        path = next(each for each in (f"{path}/__main__", f"eval/{path}") if (ROOT / f"{each}.py").is_file())
    if path == "eval/main_classifier":
        return options.make_parser(main_classifier.__doc__), given
    given = joined(given) if path == "cotrain" else given
    return importlib.import_module(path.replace("/", ".")).make_parser(), given


def started_by(script: list[str], variables: tuple[str, ...], folder: Path) -> list[list[str]]:
    """Return the words of each program that a shell script of the project starts."""
    (folder / "words").write_text("")
    for name in ("python", "torchrun"):
        (folder / name).write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@" "" >> {folder}/words\n')
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.defpath}"} | dict(each.split("=", 1) for each in variables)
    subprocess.run(["/bin/bash", ROOT / script[0], *script[1:]], env=environment, check=True)
    return [part.splitlines() for part in (folder / "words").read_text().split("\n\n") if part]


def parse(command: Command, folder: Path) -> None:
    """Check the files that a command names, and let its script's parser read its options."""
    words = [word for word in command.words if word != "..."]
    files = [word for word in words[1:] if re.search(r"\.(yml|sh|sbatch)$", word)]
    assert [word for word in files if not (ROOT / word).is_file()] == []
    if any(f"{command} ".startswith(f"{start} ") for start in NOT_OURS):
        return
    for each in started_by(words[1:], command.variables, folder) if words[0] == "bash" else [words]:
        parse_words(each)


def parse_words(words: list[str]) -> None:
    """Let the parser of the script that is started read its options."""
    if words[0] == "srun":
        del words[0]
    if words[0] == "torchrun" or words[:3] == ["python", "-m", "torch.distributed.launch"]:
        launched = parse_args(words[1 if words[0] == "torchrun" else 3:])
        words = ["python", launched.training_script, *launched.training_script_args]
    parser, given = parser_of(words[1:])
    parser.parse_args(given)


def parsed(command: Command, folder: Path) -> int:
    """Return the exit code of a command whose script ends after reading its options."""
    try:
        return launch.exit_code(lambda: parse(command, folder) or 0)
    except SystemExit as end:  # --print-completion
        return end.code or 0


@pytest.fixture
def option_files(tmp_path, monkeypatch):
    """The options that the page on training shows, and the mistake that it shows."""
    monkeypatch.chdir(tmp_path)
    [(name, text)] = re.findall(r"^```yaml\n# (\S+): .*\n((?s:.*?))^```", (ROOT / "docs/training.md").read_text(),
                                re.MULTILINE)
    Path(name).parent.mkdir()
    Path(name).write_text(text)
    Path("run.yaml").write_text("dataset: ucf101-2clip\nbatchsize: 16\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_scripts_take_the_documented_commands(page, tmp_path, option_files, capsys):
    assert subprocess.run(["bash", "-n", "-c", shell_text(page.read_text())], check=False).returncode == 0
    for command in commands(page.read_text()):
        ends = {"python main_nce.py --config run.yaml": 2}.get(str(command), 0)  # shown with its error
        assert parsed(command, tmp_path) == ends, f"{command}: {capsys.readouterr().err}"


def test_commands_of_a_page():
    page = ("Set `SIZE=\"--a 1 --b x\"`, then\n```\nX=2 python one.py $SIZE \\\n  --c  # none\n```\n"
            "or `python two.py ...`, not `python` and not\n```text\npython three.py\n```\n"
            "```\n$ python four.py \\\n   --d > out && bash e.sh\nIt (says) so\n$ python five.py\n```\n")
    assert commands(page) == [
        Command(("python", "one.py", "--a", "1", "--b", "x", "--c"), ("X=2",)), Command(("python", "two.py", "...")),
        Command(("python", "four.py", "--d")), Command(("bash", "e.sh")), Command(("python", "five.py",))]


CLIPS, ROOTS = "--seq_len 8 --ds 1 --img_dim 32", "--data_root data --split_root splits"
TRAINING = f"{CLIPS} -j 0 --batch_size 4 --moco-k 4 --epochs 1 --schedule 1 {ROOTS}"
# The first hour: how commands begin, what makes them small (of an option given twice the last one counts), and what
# they leave, with the name that the pages have for it.
FIRST_HOUR = [
    ("process_data/src/prepare.py --videos videos --name mine", f"--workers 1 --flow dis {ROOTS}", {}),
    ("-m tools.inspect_dataset mine-2stream-2clip", f"--seq_len 8 --clips 1 {ROOTS}", {}),
    ("main_nce.py --dataset mine-2clip", TRAINING,
     {"ckpt/log-pretrain/*mine-2clip*/model/epoch0.pth.tar": "{rgb_infoNCE_checkpoint.pth.tar}"}),
    ("main_nce.py --dataset mine-f-2clip", TRAINING,
     {"ckpt/log-pretrain/*mine-f-2clip*/model/epoch0.pth.tar": "{flow_infoNCE_checkpoint.pth.tar}"}),
    ("main_coclr.py --dataset mine-2stream-2clip", f"{TRAINING} --health_clips 4 --topk 2 --stage 2",
     {"ckpt/log-pretrain/coclr*/model/epoch0.pth.tar": "{rgb_cycle1_checkpoint.pth.tar}",
      "ckpt/log-pretrain/coclr*": "ckpt/log-pretrain/RUN"}),
    ("cotrain.py --dataset mine", f"--seq_len 8 --batch_size 4 --moco-k 320 {ROOTS} --dry_run --cycles 1 --gpus 1 "
     "--probe_options '--batch_size 2' --finetune_options '--batch_size 2'", {}),
    ("eval/main_classifier.py --dataset mine --test {rgb_cycle1_checkpoint.pth.tar} --retrieval",
     f"{CLIPS} -j 0 {ROOTS}", {"{rgb_cycle1_checkpoint.pth.tar}": "CKPT"}),
    ("-m tools.report ckpt/log-pretrain/RUN", f"--mining_clips 4 {ROOTS}", {}),
    ("-m tools.search index CKPT videos", f"{CLIPS} --net s3d --batch_size 4", {}),
    ("-m tools.search search video_index clip.mp4", "", {}),
    ("-m tools.search export video_index", "", {})]


def write_video(path: Path, frames: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*("mp4v" if path.suffix == ".mp4" else "MJPG"))
    writer = cv2.VideoWriter(str(path), code, 25, (48, 32))
    for number in range(frames):
        writer.write(np.ascontiguousarray(miniature.frame(path.stem, number, (32, 48))[..., ::-1]))
    writer.release()


def test_the_first_hour_runs_as_documented(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    noise.install_network(monkeypatch.setattr)
    for name, group in ((name, group) for name in ("Slide", "Spin") for group in range(1, 9)):
        write_video(Path(f"videos/{name}/v_{name}_g0{group}_c01.avi"))
    write_video(Path("clip.mp4"))
    for start, small, products in FIRST_HOUR:
        command = next(each for each in COMMANDS if " ".join(each.words).startswith(f"python {start}"))
        words = [*command.words[1:], *shlex.split(small)]
        monkeypatch.setattr(launch, "_started", False)
        monkeypatch.setattr(sys, "argv", words if words[0] != "-m" else words[1:])
        with pytest.raises(SystemExit) as ended:
            if words[0] == "-m":
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
        assert ended.value.code in (0, None), f"{command}: {''.join(capfd.readouterr())[-3000:]}"
        for pattern, name in products.items():
            [product] = tmp_path.glob(pattern)
            shutil.copytree(product, name) if product.is_dir() else shutil.copy(product, name)
