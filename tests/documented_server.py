"""Runs programs of Python in forks of a process that has the packages loaded: each starts in a fraction of a second.

The process is apart from the tests', since libraries that have started threads do not survive a fork.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from documented import ROOT, Command

PATIENCE = 120  # seconds
# What programs import, loaded once for all of them; they themselves are not.
LOADED = ("torch._dynamo", "torch._refs", "torchvision", "main_nce", "main_coclr", "cotrain", "eval.main_classifier",
          "eval.feature_linear_probe", "eval.merge_2stream_prob", "experiments.plan", "experiments.results",
          "experiments.video_sets", "benchmarks.report", "benchmarks.measure", "benchmarks.rows_cascade",
          "benchmarks.rows_loader", "benchmarks.rows_step", "benchmarks.rows_evaluation", "benchmarks.rows_preparation",
          "benchmarks.rows_startup", "process_data.src.prepare")


class Server:
    """The process, from the tests' side."""

    @contextmanager
    def open(self) -> Iterator["Server"]:
        """Start it, and end it afterwards."""
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, cwd=ROOT)
        try:
            yield self
        finally:
            self.process.stdin.close()
            self.process.wait(PATIENCE)

    def run(self, command: Command, folder: Path) -> tuple[int, str]:
        """Run a command of Python in a folder; its exit code (124: it took too long), and what it said."""
        job = {"words": command.words, "variables": command.variables, "folder": str(folder)}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        code = self.process.stdout.readline()
        assert code, "the process that runs commands has ended"
        return int(code), (folder / "said.txt").read_text()


def serve() -> None:
    """Run what comes in lines of standard input, one after another."""
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            become(**job)
        print(wait_for(child), flush=True)


def wait_for(child: int) -> int:
    """A process's exit code; 124 if it had to be killed."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


def become(words: list[str], variables: list[str], folder: str) -> None:
    """In a new process: be ``python SCRIPT ...`` or ``python -m MODULE ...``, and end."""
    code = 70
    try:
        speak_into(os.path.join(folder, "said.txt"))
        os.chdir(folder)
        os.environ.update(each.replace("=PORT", f"={free_port()}").split("=", 1) for each in variables)
        if words[1] == "-m":
            sys.argv, sys.path[0] = words[2:], str(ROOT)
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / words[1]), *words[2:]]
            sys.path[0] = str(Path(sys.argv[0]).parent)
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def speak_into(path: str) -> None:
    """Have a file in place of standard output and error, and nothing to read."""
    for number, (file, mode) in enumerate(((os.devnull, os.O_RDONLY), (path, os.O_WRONLY | os.O_CREAT))):
        os.dup2(os.open(file, mode, 0o644), number)
    os.dup2(1, 2)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def load() -> None:
    """Load what programs need, and prepare autograd, before there is any thread.

    In place of S3D there is a network that learns in a moment; test_seed_commands.py trains S3D by published commands.
    """
    sys.path.insert(1, str(ROOT))
    import torch

    torch.set_num_threads(1)
    torch.zeros(1, requires_grad=True).sum().backward()
    for name in LOADED:
        importlib.import_module(name)
    import noise

    from model import classifier, momentum

    for module in (classifier, momentum):
        module.select_backbone = noise.small_backbone
    gc.freeze()  # what is loaded is not looked through again in every fork


if __name__ == "__main__":
    load()
    serve()
