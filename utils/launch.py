"""Run a script's main function, show what a user can fix as one line, and exit with a meaningful code.

torch is imported only for several processes, so that data preparation starts fast.
"""

import errno
import math
import multiprocessing
import os
import re
import socket
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from utils.console import protect_streams, say_error, set_rank
from utils.errors import OptionError, UserError
from utils.files import naming
from utils.stop import EXIT_CODE, StopRequested, handle_signals

CGROUPS, CGROUPS_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_started = False
_was_distributed = False
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # may come without a file name
# How gloo and nccl report that another process is gone.
LOST_PROCESS = re.compile(r"gloo|Connection (closed|reset)|[Tt]imed out|NCCL|ProcessGroup")
COMPILERS = ("torch._dynamo", "torch._inductor")  # whose errors torch.compile raises


def run(main: Callable[[], int | None]) -> None:
    """Call ``main`` and exit: with its result or 0; 2 for a :class:`UserError`; 1 if another process was lost; 75 after
    a signal, if the run can be resumed; 130 for Ctrl-C.
    """
    protect_streams()
    code = exit_code(main)
    for child in multiprocessing.active_children():  # loader workers, possibly in the middle of a sample
        child.kill()
    if _was_distributed:
        # gloo sometimes aborts at interpreter shutdown, long after all results are on disk.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_code(main: Callable[[], int | None]) -> int:
    """Call ``main`` like :func:`run`, but return the exit code."""
    global _was_distributed
    try:
        code = main() or 0
        with naming("standard output"):  # if its disk was too full for what was printed
            getattr(sys.stdout, "buffer", sys.stdout).flush()
        return code
    except UserError as error:
        return _refuse(message_of(error))
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:
            raise
        return _refuse(f"cannot read or write {error.filename or 'a file'} ({error.strerror}): check the path, the "
                       "rights and the space")
    except RuntimeError as error:
        if type(error).__module__.startswith(COMPILERS):
            return _refuse(f"--compile does not work here ({message_of(error).splitlines()[0]}): install a C++ "
                           "compiler (g++, or the one that CXX names), or leave --compile away")
        if not (_in_group() and LOST_PROCESS.search(str(error))):
            raise
        say_error(f"another process of this run has ended or does not answer ({message_of(error)[:200]}): see its "
                  "output; --resume auto continues from the last checkpoint")
        return 1
    except StopRequested:
        return EXIT_CODE
    except KeyboardInterrupt:
        return 130
    finally:
        _was_distributed = _in_group()
        if _was_distributed:
            from utils import distributed
            distributed.destroy()


def allotted_cores() -> int:
    """Return how many cores this process may use: by CPU affinity, control groups and launcher."""
    cores = float(len(os.sched_getaffinity(0)))
    with suppress(OSError):
        own = CGROUPS / CGROUPS_OF_PROCESS.read_text().rpartition("0::/")[2].rstrip()  # of version 2
        for group in (own, *own.parents):  # the limits of all parents hold, too
            with suppress(OSError, ValueError):  # no such file; "max"
                quota, period = map(int, (group / "cpu.max").read_text().split())
                cores = min(cores, quota / period)
    return max(1, math.ceil(cores / max(1, _number("LOCAL_WORLD_SIZE"))))


def started() -> None:
    """Wait until all processes are ready, or exit if one has failed; from here on each reports its own errors."""
    global _started
    if _in_group():
        from utils import distributed
        if distributed.failed(False):
            sys.exit(2)
    _started = True


def message_of(error: Exception) -> str:
    """Return an error's message; if a loader worker raised it, take it from the end of the worker's traceback."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught "):
        text = re.split(r"\n(?=[\w.]+Error: )", text)[-1]
    return re.sub(r"^[\w.]+Error: ", "", text)


def _refuse(message: str) -> int:
    """Print why this process ends; during start-up only one process does, or one per machine. Returns 2."""
    if _in_group():
        from utils import distributed
        reports = _started or distributed.rank() == distributed.failed(True)[0]
    else:
        reports = _started or _number("LOCAL_RANK", "SLURM_LOCALID", "RANK", "SLURM_PROCID") == 0
        set_rank(_number("RANK", "SLURM_PROCID"))
    if reports:
        say_error(message)
    return 2


def _in_group() -> bool:
    """Return whether a process group exists, without importing torch."""
    torch_distributed = sys.modules.get("torch.distributed")
    return torch_distributed is not None and torch_distributed.is_initialized()


def _number(*names: str) -> int:
    """Return the first of these environment variables that is set; 0 if none is, or it is not a number."""
    text = next((os.environ[name] for name in names if name in os.environ), "0")
    return int(text) if text.isdecimal() else 0


def begin(work: Callable[[Namespace], int | None], options: Namespace) -> int:
    """Run ``work(options)`` here, or with ``--multiprocessing-distributed`` in one process per GPU.

    With that option ``--world-size`` counts nodes, and ``--rank`` is the number of this node. Returns the exit code.
    """
    if not options.multiprocessing_distributed:
        return work(options) or 0
    import torch
    nodes, node, local = max(1, options.world_size), max(0, options.rank), max(1, torch.cuda.device_count())
    unmet = options.dist_url == "env://" and "MASTER_ADDR" not in os.environ
    if node >= nodes or (nodes > 1 and (options.rank < 0 or unmet)):
        raise OptionError(f"--multiprocessing-distributed on {nodes} nodes needs --rank 0 ... {nodes - 1}, the node's "
                          f"number (it is {options.rank}), and --dist-url tcp://HOST:PORT, HOST being the first node")
    if nodes * local == 1:
        return work(Namespace(**vars(options) | {"world_size": -1, "rank": -1})) or 0
    env = {"WORLD_SIZE": str(nodes * local)}  # variables that torchrun would set
    if unmet:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = torch.multiprocessing.spawn(_child, (work, options, node * local, env), nprocs=local, join=False)

    def forward(number: int, _: object) -> None:
        for child in children.processes:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, number)

    with handle_signals(forward):
        try:
            while not children.join():
                pass
        except torch.multiprocessing.ProcessExitedException as error:
            return error.exit_code
    return 0


def _child(local_rank: int, work: Callable[[Namespace], int | None], options: Namespace, first_rank: int,
           env: dict[str, str]) -> None:
    os.environ |= env | {"RANK": str(first_rank + local_rank), "LOCAL_RANK": str(local_rank)}
    run(partial(work, options))
