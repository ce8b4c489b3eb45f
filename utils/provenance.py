"""Code version, packages and machine, as recorded in run.json, checkpoints and results."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "numpy", "opencv-contrib-python-headless", "simplejpeg", "lmdb", "msgpack")


def code_version() -> dict[str, str | bool]:
    """Return {"commit": ..., "changed": whether tracked files differ from it}; {"commit": "unknown"} without git."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": "unknown"}
    return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*words: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment() -> dict[str, object]:
    """Return the versions that results depend on, and the machine with its devices."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"python": platform.python_version(), "packages": {name: _version(name) for name in PACKAGES},
            "system": platform.platform(), "host": platform.node(), "gpus": gpus, "threads": torch.get_num_threads()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
