"""Train in forked processes that are stopped at a chosen point, and compare the files they leave.

A fork has the packages loaded already, so a run takes a fraction of a second; it computes on one thread.
"""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo  # tensors on the meta device need it: loaded here, once for all forks
from processes import fork, free_port, launched

from engine import checkpoint
from engine.trainer import EpochLog

SIGNALS = {"term": signal.SIGTERM, "usr1": signal.SIGUSR1, "kill": signal.SIGKILL}


@dataclass(frozen=True)
class Stop:
    """A signal that a process sends to itself.

    Attributes:
        how: "term", "usr1" or "kill" after ``number`` training steps; "write": SIGKILL half-way through writing
            checkpoint ``number``, from 1.
        number: see ``how``.
        rank: the process that gets it, None for all.
    """

    how: str
    number: int
    rank: int | None = None

    def __str__(self) -> str:
        return f"{self.how}-{self.number}" + ("" if self.rank is None else f"-rank{self.rank}")

    def install(self) -> None:
        """Set up the signal in this process."""
        if self.how in SIGNALS:
            self._after_steps()
        else:
            self._while_writing()

    def _after_steps(self) -> None:
        add, left = EpochLog.add, [self.number]

        def counted(log: EpochLog, *given: object, **more: object) -> bool:
            left[0] -= log.title == "train"
            if left[0] == 0 and log.title == "train":
                os.kill(os.getpid(), SIGNALS[self.how])
            return add(log, *given, **more)
        EpochLog.add = counted

    def _while_writing(self) -> None:
        save, left = torch.save, [self.number]

        def cut(content: object, file: object) -> None:
            save(content, file)
            left[0] -= 1
            if left[0] == 0:
                file.flush()
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        torch.save = cut


def train(main: Callable[[], int | None], *, processes: int = 1, stop: Stop | None = None) -> list[int]:
    """Run ``main`` in new processes, and return their exit codes (-9: SIGKILL)."""
    port = free_port()
    forks = [fork(main, f"process{rank}", environment=launched(rank, processes, port) if processes > 1 else {},
                  before=stop.install if stop and stop.rank in (None, rank) else lambda: None)
             for rank in range(processes)]
    return [each.end(200) for each in forks]


def said(rank: int = 0) -> str:
    """Return the output of a process of the last run, errors last."""
    return "".join(Path(f"process{rank}.{end}").read_text() for end in ("out", "err"))


def state(path: Path) -> dict[str, object]:
    """Return the content of a checkpoint by dotted key, except how it was started."""
    content = checkpoint.load(path)
    return flat({key: value for key, value in content.items() if key not in ("options", "code")})


def flat(value: object, key: str = "") -> dict[str, object]:
    """Flatten nested dicts and lists to their leaves by dotted key; tensors become type, shape and bytes."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: leaf for k, v in pairs for name, leaf in flat(v, f"{key}.{k}").items()}
    if isinstance(value, torch.Tensor):
        return {key: (value.dtype, value.shape, value.contiguous().numpy().tobytes())}
    return {key: value}


def metrics(folder: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without seconds."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def differences(one: Path, two: Path, epoch: int) -> list[str]:
    """Return where two run folders differ at the end of an epoch: keys of its checkpoint, and metrics."""
    a, b = (state(folder / f"model/epoch{epoch}.pth.tar") for folder in (one, two))
    keys = [key for key in a.keys() | b.keys() if a.get(key, "none") != b.get(key, "none")]
    return sorted(keys) + (["metrics.jsonl"] if metrics(one) != metrics(two) else [])
