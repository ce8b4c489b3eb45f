"""Several processes for a test: forks that have torch loaded already."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from utils import launch


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@dataclass(frozen=True)
class Fork:
    """A process that `fork` has started; it leads a session, to which its own children belong."""

    pid: int
    out: Path
    err: Path

    def end(self, seconds: float = 60) -> int:
        """Wait for the end, and return the exit code (-9: SIGKILL)."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"it did not end:\n{self.out.read_text()}\n{self.err.read_text()}")

    def errors(self) -> list[str]:
        """Return the lines on standard error that report an error."""
        text = self.err.read_text()
        assert "Traceback" not in text and "terminate called" not in text, text
        return [line for line in text.splitlines() if line.startswith("error")]

    def session(self) -> list[int]:
        """Return the processes of its session that still run."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, _, session = place.read_text().rpartition(")")[2].split()[:4]
            except OSError:  # it has just ended
                continue
            if int(session) == self.pid and state != "Z":
                found.append(int(place.parent.name))
        return found


def fork(main: Callable[[], int | None], name: str, *, environment: dict[str, str] | None = None,
         before: Callable[[], None] = lambda: None) -> Fork:
    """Run a script's main function in a fork, as `launch.run` does.

    Args:
        name: its output goes to NAME.out and NAME.err.
        before: called first in the new process.
    """
    forked = Fork(0, *(Path(f"{name}.{end}").absolute() for end in ("out", "err")))
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Fork(pid, forked.out, forked.err)
    code: object = 70
    try:
        os.setsid()
        for handle, file in ((1, forked.out), (2, forked.err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        torch.set_num_threads(1)
        os.environ.update(environment or {})
        before()
        launch.run(main)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 0)


def launched(rank: int, processes: int = 2, port: int = 0) -> dict[str, str]:
    """Return the variables that torchrun sets for a process."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port)}
