"""Two machines on one: network namespaces joined by a cable (Linux, root), or else two addresses of the loopback."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

PORT = 29400  # of a machine that has a network of its own
INTERFACE = "cable"
_numbers = count()


@dataclass(frozen=True)
class Machine:
    """One of the two. namespace: its name; "" on the loopback. is_first: whether agents meet on it."""

    namespace: str
    address: str
    interface: str
    is_first: bool = False

    @property
    def prefix(self) -> list[str]:
        """What a command begins with that shall run on this machine."""
        return ["ip", "netns", "exec", self.namespace] if self.namespace else []

    def agent(self, meeting: str, *options: str) -> list[str]:
        """The command of a torchrun agent on this machine, without the script that its one process runs.

        The addresses' order, which ``--local-addr`` tells, decides which machine has process 0.

        Args:
            meeting: HOST:PORT where the agents meet.
        """
        return [*self.prefix, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
                "--rdzv_backend", "c10d", "--rdzv_endpoint", meeting, "--rdzv_id", "two-machines", "--rdzv_conf",
                f"is_host={int(self.is_first)}", "--local-addr", self.address, *options]

    def environment(self) -> dict[str, str]:
        """This process's environment for a process of that machine, on one thread and without GPUs."""
        kept = {key: value for key, value in os.environ.items()
                if not key.startswith(("SLURM", "MASTER", "RANK", "WORLD_SIZE", "LOCAL_RANK"))}
        return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": self.interface}


def meeting_on(machine: Machine) -> str:
    """HOST:PORT where agents can meet."""
    if machine.namespace:
        return f"{machine.address}:{PORT}"
    with socket.socket() as free:
        free.bind((machine.address, 0))
        return f"{machine.address}:{free.getsockname()[1]}"


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines, the first one with the lower address; on leaving, nothing remains of them."""
    with ExitStack() as made:
        try:
            machines = _namespaces(made)
        except (OSError, subprocess.CalledProcessError):  # not root, not Linux, no iproute2
            made.close()
            machines = Machine("", "127.0.0.1", "lo", True), Machine("", "127.0.0.2", "lo")
        yield machines


def _namespaces(made: ExitStack) -> tuple[Machine, Machine]:
    """Two namespaces with nothing but their loopbacks and a cable between them; ``made`` removes them."""
    mark = f"cpr-{os.getpid()}-{next(_numbers)}"
    machines = tuple(Machine(f"{mark}-{end}", f"10.0.0.{end}", INTERFACE, end == 1) for end in (1, 2))
    for machine in machines:
        _ip("netns", "add", machine.namespace)
        made.callback(_ip, "netns", "del", machine.namespace)
    one, two = machines
    _ip("link", "add", INTERFACE, "netns", one.namespace, "type", "veth", "peer", "name", INTERFACE, "netns",
        two.namespace)
    for machine in machines:
        _ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", INTERFACE)
        for interface in ("lo", INTERFACE):
            _ip("-n", machine.namespace, "link", "set", interface, "up")
    return one, two


def start(machine: Machine, command: Sequence[str], folder: Path) -> subprocess.Popen:
    """Start a command of :meth:`Machine.agent` in a working directory of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(list(command), cwd=folder, env=machine.environment(), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
