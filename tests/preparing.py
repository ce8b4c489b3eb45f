"""Helpers to test the preparation scripts: small videos, and LMDBs read by hand."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import lmdb
import miniature
import msgpack
import numpy as np
import pytest

from utils import launch

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "process_data" / "src"


def script(name: str, *words: object, **settings) -> subprocess.CompletedProcess:
    """Run a script as a user does."""
    command = [sys.executable, SOURCE / name, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **settings)


def call(main: Callable[[], None], *words: object) -> int:
    """Run a script's main in this process, which is faster, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", *map(str, words)])
        return launch.exit_code(main)


def refusal(capsys, main: Callable[[], None], *words: object) -> str:
    """Return the only line, progress aside, on standard error of a script that ends with exit code 2."""
    capsys.readouterr()
    assert call(main, *words) == 2
    lines = capsys.readouterr().err.split("\n")[:-1]
    [line] = [line for line in lines if not re.search(r": \d+ of \d+ videos", line)]
    assert line.startswith("error: ")
    return line


def write_video(path: Path, frames: int = 4, size: tuple[int, int] = (32, 48), code: str = "MJPG",
                rate: float = 15) -> Path:
    """Write a video of a texture, (height, width) pixels, that moves; it differs from that of any other name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, size[::-1])
    if not writer.isOpened():
        pytest.skip(f"this OpenCV writes no {path.suffix} with {code}")
    texture = miniature.frame(path.stem, 0, (size[0], size[1] + frames))
    for number in range(frames):
        writer.write(texture[:, number:number + size[1]])
    writer.release()
    return path


def decoded(path: Path) -> list[np.ndarray]:
    """Return the frames of a video file."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def stored(path: Path) -> dict[str, list[bytes]]:
    """Read an LMDB by hand: {"Class/video": JPEGs}."""
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment, environment.begin() as values:
        order = msgpack.unpackb(values.get(b"__order__"))
        return {order[int(key)]: msgpack.unpackb(values.get(key)) for key in msgpack.unpackb(values.get(b"__keys__"))}


def killed_after(script_name: str, function: str, calls: int, words: tuple) -> None:
    """Run a script whose process is killed when ``function`` is called once more than ``calls`` times."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from process_data.src import {script_name.removesuffix(".py")} as script
original, called = script.{function}, []
def counted(*args, **kwargs):
    called.append(1)
    if len(called) > {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
script.{function} = counted
sys.argv[1:] = {[str(word) for word in words]!r}
script.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
