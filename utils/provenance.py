"""Code version, packages and machine, as recorded in run.json, checkpoints and results."""

import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "torchvision", "numpy", "opencv-contrib-python-headless", "simplejpeg", "lmdb", "msgpack")


def code_version() -> dict[str, str | bool]:
    """Return {"commit": ..., "changed": whether tracked files differ from it}; {"commit": "unknown"} without git."""
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True,
                              timeout=20).stdout.strip()
    with suppress(OSError, subprocess.SubprocessError):
        if (ROOT / ".git").exists():
            return {"commit": git("rev-parse", "HEAD"),
                    "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    return {"commit": "unknown"}


def environment() -> dict[str, object]:
    packages = {each.name: each.version for each in metadata.distributions() if each.name in PACKAGES}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"python": platform.python_version(), "packages": dict.fromkeys(PACKAGES) | packages,
            "system": platform.platform(), "host": platform.node(), "gpus": gpus, "threads": torch.get_num_threads()}
