"""Runs an entry script's main function: errors that a user can mend are one line and exit code 2."""

import errno
import multiprocessing
import os
import re
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess

import torch
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from backbone.select_backbone import UnknownNetworkError
from dataset.errors import DataError
from model.errors import ModelError
from process_data.src.errors import PrepareError
from utils import distributed
from utils.console import printable
from utils.errors import CheckpointError, OptionError, TrainingError
from utils.stop import EXIT_CODE, SIGNALS, StopRequested, leave_early
from utils.terminal import painted

_started = False
_in_group = False  # whether this process has been one of several
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # may come without the name of a file
USER_ERRORS = (OptionError, CheckpointError, TrainingError, DataError, ModelError, UnknownNetworkError, PrepareError)
# How gloo and nccl say that another process has gone.
LOST_PROCESS = re.compile(r"gloo|Connection (closed|reset)|[Tt]imed out|NCCL|ProcessGroup")


def run(main: Callable[[], int | None]) -> None:
    """Call ``main`` and end the program.

    Exit code: 0, or what it returns; 2 for a user's error or a broken training; 1 where another process was lost; 75
    where a signal asked to stop, and the run can go on; 130 for Ctrl-C.

    While a run starts, an error of one process ends all, and one says so; after :func:`started` each speaks.
    """
    leave_early()
    code = exit_code(main)
    for child in multiprocessing.active_children():  # a loader's workers, which may be in the middle of a sample
        child.kill()
    if _in_group:
        # Now and then a process of a gloo group aborts while the interpreter takes its threads down ("terminate called
        # without an active exception"), long after its work is done and written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def exit_code(main: Callable[[], int | None]) -> int:
    """Like :func:`run`, for callers that go on."""
    global _in_group
    try:
        return main() or 0
    except USER_ERRORS as error:
        return _refuse(one_line(error))
    except OSError as error:
        if error.filename is None and error.errno not in DISK_ERRORS:
            raise
        place = "a file" if error.filename is None else error.filename
        return _refuse(f"cannot read or write {place} ({error.strerror}): check the path, the rights and the space")
    except RuntimeError as error:
        if not (distributed.is_initialized() and LOST_PROCESS.search(str(error))):
            raise
        _print(f"another process of this run has ended, or does not answer ({one_line(error)[:200]}): see what it "
               "said; --resume auto goes on from the last checkpoint")
        return 1
    except StopRequested:
        return EXIT_CODE
    except KeyboardInterrupt:
        return 130
    finally:
        _in_group = distributed.is_initialized()
        distributed.stop()


def _refuse(message: str) -> int:
    """Say why this process ends; while all of them start, the first that failed says so and all end.

    Before they have met, the first one of each machine says so: what is wrong may be wrong on that machine alone.
    """
    if distributed.is_initialized():
        speaks = _started or _rank() == distributed.failed(True)[0]
    else:
        known = "LOCAL_RANK" in os.environ or "SLURM_LOCALID" in os.environ
        speaks = _started or (_number("LOCAL_RANK", "SLURM_LOCALID") if known else _rank()) == 0
    if speaks:
        _print(message)
    return 2


def _print(message: str) -> None:
    who = f" (process {_rank()})" if _rank() > 0 else ""
    line = f"error{who}: {message}".replace("\n", "\\n")  # a name may hold a line break
    print(painted(printable(line), "error", sys.stderr), file=sys.stderr)


def begin(work: Callable[[Namespace], int | None], args: Namespace) -> int:
    """Run ``work(args)`` in this process, or with ``--multiprocessing-distributed`` in one per GPU; the exit code."""
    return spread(work, args) if args.multiprocessing_distributed else work(args) or 0


def spread(work: Callable[[Namespace], int | None], args: Namespace) -> int:
    """Run ``work(args)`` in one process per GPU of this node, or one where there is no GPU; the exit code.

    Here ``args.world_size`` counts nodes and ``args.rank`` is this node's number, both optional with one node.

    Raises:
        OptionError: with several nodes, the node's number or the place to meet is missing.
    """
    nodes, node, here = max(1, args.world_size), max(0, args.rank), max(1, torch.cuda.device_count())
    if node >= nodes or (nodes > 1 and args.rank < 0):
        raise OptionError(f"with --multiprocessing-distributed on {nodes} nodes, --rank is the node's number, "
                          f"0 ... {nodes - 1}, but is {args.rank}")
    if nodes * here == 1:
        args.world_size, args.rank = -1, -1
        return work(args) or 0
    address = _meeting_place(args.dist_url, nodes)
    children = spawn(_child, (work, args, nodes * here, node * here, address), nprocs=here, join=False)
    with _passing_on(children.processes):
        try:
            while not children.join():
                pass
        except ProcessExitedException as error:
            return error.exit_code
    return 0


@contextmanager
def _passing_on(children: Sequence[BaseProcess]) -> Iterator[None]:
    """Meanwhile, requests to stop go on to the processes that train."""
    def pass_on(number: int, frame: object) -> None:
        for child in children:
            if child.pid is not None and child.is_alive():
                os.kill(child.pid, number)
    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _child(local_rank: int, work: Callable[[Namespace], int | None], args: Namespace, world_size: int, first: int,
           address: dict[str, str]) -> None:
    """One of the processes, with the environment that torchrun would give it."""
    os.environ |= address | {"RANK": str(first + local_rank), "WORLD_SIZE": str(world_size),
                             "LOCAL_RANK": str(local_rank)}
    run(partial(work, args))


def _meeting_place(dist_url: str, nodes: int) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT of tcp://HOST:PORT; of env:// those that are set, or a free port for one node."""
    match = re.fullmatch(r"tcp://(.+):(\d+)", dist_url)
    if match:
        return {"MASTER_ADDR": match.group(1), "MASTER_PORT": match.group(2)}
    if dist_url != "env://" or "MASTER_ADDR" in os.environ:
        return {}
    if nodes > 1:
        raise OptionError("several nodes need --dist-url tcp://HOST:PORT, the same on each, HOST being the first node")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}


def started() -> None:
    """Wait until all processes are ready to train or measure; if one has failed, this one ends too.

    From now on an error may be of one process alone, which then has to report it itself.
    """
    global _started
    if distributed.failed(False):
        sys.exit(2)
    _started = True


def one_line(error: Exception) -> str:
    """An error's message, shown in one line; of a loader's worker's error, the message at the end of its traceback."""
    text = str(error).strip() or type(error).__name__
    if text.startswith("Caught "):
        text = re.split(r"\n(?=[\w.]+Error: )", text)[-1]
    return re.sub(r"^[\w.]+Error: ", "", text)


def _rank() -> int:
    if distributed.is_initialized():
        return distributed.rank()
    return _number("RANK", "SLURM_PROCID")


def _number(*names: str) -> int:
    """The first of these variables of the environment that is set; 0 if none is, or if that is no number."""
    text = next((os.environ[name] for name in names if name in os.environ), "0")
    return int(text) if text.isdecimal() else 0
