"""What a run was made with: code, packages, machine. Kept in run.json and in checkpoints."""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from utils.files import regular, replace

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "numpy", "opencv-contrib-python-headless", "simplejpeg", "lmdb", "msgpack")
FILE = "run.json"


def code_version() -> dict[str, str | bool]:
    """{"commit": ..., "changed": ...} of the git checkout the code lies in, else {"package": version}.

    changed: whether files that git knows differ from the commit.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is not None:
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    try:
        return {"package": metadata.version("cpr-video")}
    except metadata.PackageNotFoundError:
        return {"package": "unknown"}


def _git(*words: str) -> str | None:
    """What a git command prints; None outside of a checkout of this project, or without git."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment() -> dict[str, object]:
    """Versions of Python and of the packages that results depend on, the machine and its devices."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"python": platform.python_version(), "packages": {name: _version(name) for name in PACKAGES},
            "system": platform.platform(), "host": platform.node(), "gpus": gpus, "threads": torch.get_num_threads()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def write_run(folder: Path, about: dict[str, object]) -> None:
    """Write run.json: command, time, code and environment of this start, and ``about``; earlier starts stay in it.

    {"starts": [{"command": [...], "started": ..., "code": ..., "environment": ..., **about}, ...]}, the latest last.
    """
    path = folder / FILE
    starts = _starts(path)
    starts.append({"command": [sys.executable, *sys.argv], "started": datetime.now(UTC).isoformat(timespec="seconds"),
                   "code": code_version(), "environment": environment(), **about})
    replace(path, (json.dumps({"starts": starts}, indent=1, default=str) + "\n").encode())


def _starts(path: Path) -> list:
    try:
        with open(path, encoding="utf-8", opener=regular) as file:
            starts = json.load(file)["starts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return starts if isinstance(starts, list) else []
