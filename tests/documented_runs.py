"""How a documented command runs in a test: the one table of what is made smaller, and of what is not run, and why."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from documented import ROOT, TELL, Command, told
from documented_server import Server
from torch.distributed.launch import parse_args

ROOTS = "--data_root data --split_root splits"
CLIPS = "--seq_len 8 --ds 1 --img_dim 32 -j 0"
TRAINED = f"{CLIPS} --batch_size 8 --moco-k 320 --epochs 1 {ROOTS}"


@dataclass(frozen=True)
class Smaller:
    """What is put before and after a script's documented words, and the exit code to expect.

    The documented words all stay, so that none may be wrong; of an option given twice the last one counts.
    """

    last: str = ""
    first: str = ""
    code: int = 0


RUN = {
    "main_nce.py": Smaller(TRAINED),
    "main_coclr.py": Smaller(f"{TRAINED} --health_clips 4"),
    # All its steps run in test_cotrain.py.
    "cotrain.py": Smaller(f"--seq_len 8 --batch_size 8 --moco-k 320 {ROOTS} --dry_run --cycles 1 --gpus 1 "
                          "--probe_options '--batch_size 2' --finetune_options '--batch_size 2'"),
    "eval/main_classifier.py": Smaller(f"{CLIPS} --batch_size 2 --epochs 1 --eval_freq 1 {ROOTS}"),
    "eval/feature_linear_probe.py": Smaller("--epochs 5 --split_root splits"),
    "eval/merge_2stream_prob.py": Smaller("--split_root splits"),
    "process_data/src/prepare.py": Smaller("--workers 1 --data_root made --split_root made"),
    "process_data/src/extract_ff.py": Smaller("--workers 1 --out made"),
    "process_data/src/convert_video_to_lmdb.py": Smaller("--out made.lmdb"),
    "process_data/src/write_csv.py": Smaller("--split_root splits --overwrite"),
    "process_data/src/index_lmdb.py": Smaller(),
    "scripts/draw_cascade.py": Smaller("--output made.png"),
    "scripts/draw_gallery.py": Smaller("--output made.jpg --data_root data"),
    "experiments/oracles.py": Smaller(f"{CLIPS} --batch_size 8 --moco-k 8 --topk 2 --health_clips 9 {ROOTS}"),
    "experiments/cascades.py": Smaller(f"{CLIPS} --batch_size 8 --moco-k 8 --topk 2 --health_clips 9 {ROOTS}"),
    "-m report": Smaller("--data_root data --split_root splits --mining_clips 4"),
    "-m eval.search index": Smaller(f"{CLIPS} --net s3d --batch_size 4 --out made"),
    "-m eval.search search": Smaller(),
    "-m eval.search recall": Smaller("--clips 200 --width 16"),
    "-m dataset.inspect": Smaller("--seq_len 8 --ds 1 --clips 0 --data_root data --split_root splits"),
    "-m experiments.run": Smaller("--dry_run --seeds 0 --sets rendered"),  # a grid runs in test_experiment.py
    "-m experiments.report": Smaller("--out made"),
    "-m experiments.verify": Smaller(code=1),  # what is compared is no published run
    "-m experiments.cost": Smaller(),
    "-m benchmarks": Smaller("--rounds 1 --rows bytes", first="tiny"),  # all rows run in test_benchmarks.py
    "-m benchmarks.fidelity": Smaller(f"--name ucf101 --precisions fp32 --steps 1 --window 1 --seeds 2 {ROOTS}"),
    "-m benchmarks.needs": Smaller(),
}
# They show what an error says: exit code 2, and these words.
FAILS = {"python main_nce.py --config run.yaml": "there is no option 'batchsize'"}
# Only their words are looked at: each one's options must be those that --help lists.
TOO_LONG = {
    "-m benchmarks.soak": "trains for minutes; test_soak.py has a short one",
    "-m benchmarks.wire": "makes network namespaces, which need a superuser",
    "-m tests.fuzz": "test_fuzz.py gives every reader some inputs",
}
# Only the files that they name are looked at.
NOT_RUN = {
    "conda env create -f": "downloads; test_structure.py compares the file with pyproject.toml",
    "pip install": "downloads",
    "python3.11 -m venv": "the tests run in an environment already",
    "source .venv/bin/activate": "the tests run in an environment already",
    "python -m pytest": "is about tests, which run in this suite",
    "tensorboard --logdir": "is not one of the project's packages",
    "cd": "leads to a folder",
    "bash scripts/demo.sh": "takes a quarter of an hour; its steps are commands of the project",
    "bash scripts/test.sh": "runs these tests",
    "sbatch": "needs SLURM; test_scripts.py runs the job with stand-ins",
}


class Unlisted(Exception):
    """A command that no table here knows."""


def key(command: Command) -> str:
    """The entry of RUN or TOO_LONG for a command of Python.

    Raises:
        Unlisted: there is none.
    """
    program, *words = command.words
    if program != "python" or not words:
        raise Unlisted(f"{command}: add its script to a table of tests/documented_runs.py")
    names = [" ".join(words[:3]), " ".join(words[:2])] if words[0] == "-m" else [words[0], f"eval/{words[0]}"]
    for place in names:
        if place in RUN or place in TOO_LONG:
            return place
    raise Unlisted(f"{command}: add {names[-1]} to a table of tests/documented_runs.py")


def resolved(command: Command, stand_ins: Path) -> Command:
    """What a command starts in the end, as a command of Python: a launcher's script, or a shell script's program.

    Raises:
        Unlisted, SystemExit: it is none of the known ones, or its launcher does not know an option.
    """
    words = tuple(word for word in command.words if word != "...")
    if words[:3] == ("python", "-m", "torch.distributed.launch"):
        args = parse_args(list(words[3:]))
        return replace(command, words=("python", args.training_script, "--local-rank=0", *args.training_script_args),
                       variables=(*command.variables, *ONE_OF_ONE))
    if words[0] == "torchrun":
        args = parse_args(list(words[1:]))
        return replace(command, words=("python", args.training_script, *args.training_script_args),
                       variables=(*command.variables, *ONE_OF_ONE))
    if words[:2] == ("srun", "python"):
        return replace(command, words=words[1:], variables=(*command.variables, *ONE_TASK))
    if words[0] == "bash" and (ROOT / words[1]).suffix == ".sh":
        return resolved(inside(command, stand_ins), stand_ins)
    return replace(command, words=words)


# What a launcher sets for the only process of a run.
ONE_OF_ONE = ("RANK=0", "LOCAL_RANK=0", "WORLD_SIZE=1", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=PORT")
ONE_TASK = ("SLURM_PROCID=0", "SLURM_LOCALID=0", "SLURM_STEP_NUM_TASKS=1", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=PORT")


def inside(command: Command, stand_ins: Path) -> Command:
    """What a shell script of the project starts, told by stand-ins for the programs.

    Raises:
        Unlisted: there is no such script.
    """
    if not (ROOT / command.words[1]).is_file():
        raise Unlisted(f"there is no {command.words[1]}")
    stand_ins.mkdir(exist_ok=True)
    for name in ("python", "torchrun"):
        (stand_ins / name).write_text(f'#!/bin/bash\n{TELL}\ncommand_not_found_handle {name} "$@"\n')
        (stand_ins / name).chmod(0o755)
    path = stand_ins / "told"
    path.unlink(missing_ok=True)
    environment = dict(each.split("=", 1) for each in command.variables) | {"PATH": f"{stand_ins}:{os.defpath}",
                                                                             "TOLD": str(path)}
    subprocess.run(["/bin/bash", ROOT / command.words[1], *command.words[2:]], env=environment, check=True)
    [found] = told(path.read_text())
    return found


def smaller(command: Command) -> Command:
    """A command of Python on miniature data; of one that takes too long, only its help."""
    name = key(command)
    if name in TOO_LONG:
        return replace(command, words=(*name_words(name), "--help"))
    given = command.words[1 + (len(name.split()) if name.startswith("-m ") else 1):]
    return replace(command, words=(*name_words(name), *RUN[name].first.split(), *given, *shlex.split(RUN[name].last)))


def name_words(name: str) -> tuple[str, ...]:
    """How a command of Python begins."""
    return ("python", *name.split())


def check(server: Server, command: Command, place: Path, folder: Path) -> str:
    """Run a documented command in a new folder, a copy of the place; what is wrong with it, "" for nothing."""
    if skipped(command):
        return missing_files(command)
    command = resolved(command, folder.with_name("stand-ins"))
    name, made_smaller = key(command), smaller(command)
    if name in RUN and (wrong := _seen.get(made_smaller)) is not None:
        return wrong
    shutil.copytree(place, folder, symlinks=True)
    code, output = server.run(made_smaller, folder)
    no_gpu = "cuda" in command.words and not torch.cuda.is_available() and name in RUN
    says = "no GPU" if no_gpu else FAILS.get(" ".join(command.words), "")
    if says:
        wrong = "" if code == 2 and says in output else f"{code}, {output[-2000:]}"
    elif name in TOO_LONG:
        unknown = [word for word in command.words if word.startswith("-") and word not in {*output.split(), "-m"}]
        wrong = "" if code == 0 and not unknown else f"{code}, unknown {unknown}: {output[-2000:]}"
    else:
        wrong = "" if code == RUN[name].code else f"{made_smaller} ended with {code}:\n{output[-3000:]}"
    shutil.rmtree(folder)
    _seen[made_smaller] = wrong
    return wrong


_seen: dict[Command, str] = {}


def skipped(command: Command) -> str:
    """Why a command is not run, "" where it is."""
    text = " ".join(command.words)
    return next((reason for start, reason in NOT_RUN.items() if f"{text} ".startswith(f"{start} ")), "")


def missing_files(command: Command) -> str:
    """Which of the project's files that a command names do not exist, or are no script that bash reads."""
    for word in command.words[1:]:
        path = ROOT / word
        if re.search(r"\.(py|yml|sh|sbatch)$|^\w+/$", word) and not path.exists():
            return f"there is no {word}"
        if path.suffix in (".sh", ".sbatch") and subprocess.run(["/bin/bash", "-n", path], check=False).returncode:
            return f"{word} is no script"
    return ""
