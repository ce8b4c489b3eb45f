"""The commands of README.md and docs/*.md, and how each of them runs in a test: in this process, on miniature data.

A block between fences is a block of commands unless it names another language. In one that shows a prompt, "$ ", the
lines behind it are the commands. A span in backticks that starts a program with a script is one, too.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.distributed.launch import parse_args

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL, OTHER = {"", "bash"}, {"text", "bibtex", "json", "yaml", "python"}  # languages of blocks
INLINE = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python|bash|torchrun|srun|sbatch|tensorboard|pip) "
                    r".*(?:\.py|\.sh|\.sbatch|-m \w|--logdir)")
ASSIGNMENT = re.compile(r"[A-Z_]+=")
ENDS = {";", "&&", "||", "|"}  # of a command in a line


@dataclass(frozen=True)
class Command:
    """Words of a command, and the variables that are set for it, as NAME=VALUE."""

    words: tuple[str, ...]
    variables: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((*self.variables, *self.words))


def shell_text(page: str) -> str:
    """Return all shell text of a page in order."""
    parts = re.split(r"^```(.*)\n((?s:.*?))^```$", page, flags=re.MULTILINE)  # prose, language, block, prose, ...
    found = []
    for number, part in enumerate(parts):
        if number % 3 == 0:
            spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", part))
            found += [span for span in spans if INLINE.match(span) or re.fullmatch(r'[A-Z_]+="[^"]*"', span)]
        elif number % 3 == 1:
            assert part.strip() in SHELL | OTHER, f"a block of {part!r}, which is none of {sorted(OTHER)}"
        elif parts[number - 1].strip() in SHELL:
            prompted = re.findall(r"^\$ ((?:.*\\\n)*.*)$", part, flags=re.MULTILINE)
            found += prompted if part.lstrip().startswith("$ ") else [part]
    return "\n".join(found).replace("\\\n", " ")


def commands(page: str) -> list[Command]:
    """Return the commands of a page in order, with the page's variables put in."""
    values: dict[str, str] = {}
    found = []
    for line in shell_text(page).splitlines():
        for name, value in values.items():
            line = line.replace(f"${name}", value)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ENDS:
                words.append(word)
                continue
            count = next((i for i, each in enumerate(words) if not ASSIGNMENT.match(each)), len(words))
            variables, rest = words[:count], words[count:]
            if rest:
                end = next((i for i, each in enumerate(rest) if each in (">", ">>")), len(rest))
                found.append(Command(tuple(rest[:end]), tuple(variables)))
            else:
                values |= dict(each.split("=", 1) for each in variables)
            words = []
    return found


ROOTS = "--data_root data --split_root splits"
CLIPS = "--seq_len 8 --ds 1 --img_dim 32 -j 0"
TRAINING = f"{CLIPS} --batch_size 8 --moco-k 320 --epochs 1 {ROOTS}"
# What is put behind the documented words of a script to make it small; of an option given twice the last one counts.
SMALLER = {
    "main_nce.py": TRAINING,
    "main_coclr.py": f"{TRAINING} --health_clips 4",
    "cotrain.py": f"--seq_len 8 --batch_size 8 --moco-k 320 {ROOTS} --dry_run --cycles 1 --gpus 1 "
                  "--probe_options '--batch_size 2' --finetune_options '--batch_size 2'",
    "eval/main_classifier.py": f"{CLIPS} --batch_size 2 --epochs 1 --eval_freq 1 {ROOTS}",
    "eval/feature_linear_probe.py": "--epochs 5 --split_root splits",
    "eval/merge_2stream_prob.py": "--split_root splits",
    "process_data/src/prepare.py": "--workers 1 --data_root made --split_root made",
    "process_data/src/extract_ff.py": "--workers 1 --out made",
    "process_data/src/convert_video_to_lmdb.py": "--out made.lmdb",
    "process_data/src/write_csv.py": "--split_root splits --overwrite",
    "-m tools.figures cascade": "--output made.png",
    "-m tools.figures gallery": "--output made.jpg --data_root data",
    "experiments/study.py": f"{CLIPS} --batch_size 8 --moco-k 8 --topk 2 --health_clips 9 {ROOTS}",
    "-m tools.report": f"{ROOTS} --mining_clips 4",
    "-m tools.search index": f"{CLIPS} --net s3d --batch_size 4 --out made",
    "-m tools.search search": "",
    "-m tools.inspect_dataset": f"--seq_len 8 --ds 1 --clips 0 {ROOTS}",
    "-m tools.verify": "",
    "-m tools.benchmarks": "--rounds 1 --rows cascade",
    "-m experiments.run": "--dry_run --seeds 0 --sets rendered",
    "-m experiments.report": "--out made",
}
FIRST = {"-m tools.benchmarks": "tiny"}  # what is put before the documented words
CODES = {"-m tools.verify": 2}  # other exit codes than 0: no such run was published
FAILS = {"python main_nce.py --config run.yaml": "batchsize"}  # shown with its error: code 2, and this word
# Commands of which only the files that they name are looked at, by their first words, with the reason.
NOT_RUN = {
    "conda env create": "downloads", "pip install": "downloads", "python3.11 -m venv": "downloads",
    ".": "needs an environment", "echo": "writes no file of ours", "mkdir": "makes a folder of the user's",
    "bash scripts/test.sh": "is about tests",
    "bash scripts/demo.sh": "takes minutes", "sbatch": "needs SLURM; see test_scripts.py",
    "tensorboard": "is not a package of the project",
}


def not_run(command: Command) -> str:
    """Return why a command is not run, "" where it is."""
    text = f"{' '.join(command.words)} "
    return next((reason for start, reason in NOT_RUN.items() if text.startswith(f"{start} ")), "")


def missing_files(command: Command) -> list[str]:
    """Return the project's files that a command names and that are not there, or are no script that bash reads."""
    paths = [ROOT / word for word in command.words[1:] if re.search(r"\.(py|yml|sh|sbatch)$", word)]
    return [str(path) for path in paths if not path.is_file() or (
        path.suffix in (".sh", ".sbatch") and subprocess.run(["bash", "-n", path], check=False).returncode)]


def unwrapped(command: Command, folder: Path) -> Command:
    """Return the command of Python that a command starts in the end: behind a launcher, or in a shell script.

    Args:
        command: a documented command.
        folder: where stand-ins for programs can be written.
    """
    words = tuple(word for word in command.words if word != "...")
    if words[0] == "bash":
        return unwrapped(replace(command, words=started_by(words[1:], command.variables, folder)), folder)
    if words[0] == "torchrun" or words[:3] == ("python", "-m", "torch.distributed.launch"):
        launched = parse_args(list(words[1 if words[0] == "torchrun" else 3:]))
        return replace(command, words=("python", launched.training_script, *launched.training_script_args))
    return replace(command, words=words[1:] if words[0] == "srun" else words)


def started_by(script: tuple[str, ...], variables: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return the words of the one program that a shell script of the project starts."""
    folder.mkdir(exist_ok=True)
    told = folder / "told"
    for name in ("python", "torchrun"):
        (folder / name).write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@" > {told}\n')
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.defpath}"} | dict(each.split("=", 1) for each in variables)
    subprocess.run(["/bin/bash", ROOT / script[0], *script[1:]], env=environment, check=True)
    return tuple(told.read_text().splitlines())


def smaller(command: Command) -> Command:
    """Return a command of Python with the options that make it small.

    Raises:
        KeyError: SMALLER does not have its script.
    """
    _, *words = command.words
    names = [" ".join(words[:3]), " ".join(words[:2])] if words[0] == "-m" else [words[0], f"eval/{words[0]}"]
    name = next((each for each in names if each in SMALLER), None)
    if name is None:
        raise KeyError(f"{command}: add {names[-1]} to SMALLER in tests/documented.py")
    given = words[len(name.split()):]
    return replace(command, words=(*name.split(), *FIRST.get(name, "").split(), *given, *shlex.split(SMALLER[name])))


def run(command: Command, folder: Path, patch: pytest.MonkeyPatch) -> int:
    """Run what :func:`smaller` returned in a folder, in this process; returns its exit code."""
    patch.chdir(folder)
    for variable in command.variables:
        patch.setenv(*variable.split("=", 1))
    words = command.words[1:] if command.words[0] == "-m" else command.words
    patch.setattr(sys, "argv", [words[0] if command.words[0] == "-m" else str(ROOT / words[0]), *words[1:]])
    try:
        if command.words[0] == "-m":
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def check(command: Command, folder: Path, patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> str:
    """Run a documented command in a folder; returns what is wrong with it, "" for nothing."""
    if not_run(command):
        return "".join(missing_files(command))
    if command.words[0] == "bash" and (missing := missing_files(command)):
        return f"there is no {missing[0]}"
    small = smaller(unwrapped(command, folder / "stand-ins"))
    if small in _found:
        return _found[small]
    code = run(small, folder, patch)
    output = "".join(capfd.readouterr())
    no_gpu = "cuda" in command.words and not torch.cuda.is_available()
    says = "no GPU" if no_gpu else FAILS.get(" ".join(command.words), "")
    name = " ".join(small.words[:2])
    expected = 2 if says else CODES.get(name, 0)
    good = code == expected and says in output
    _found[small] = "" if good else f"{small} ended with {code}:\n{output[-3000:]}"
    return _found[small]


_found: dict[Command, str] = {}  # what was wrong with commands that have run
