"""Runs an entry script's main function: errors that a user can mend are one line and exit code 2."""

import os
import re
import sys
from collections.abc import Callable

from backbone.select_backbone import UnknownNetworkError
from dataset.errors import DataError
from model.errors import ModelError
from process_data.src.errors import PrepareError
from utils import distributed
from utils.errors import CheckpointError, OptionError

_started = False
USER_ERRORS = (OptionError, CheckpointError, DataError, ModelError, UnknownNetworkError, PrepareError)


def run(main: Callable[[], int | None]) -> None:
    """Call ``main`` and end the program: exit code 0, or what it returns; 2 for a user's error; 130 for Ctrl-C.

    While a run starts, all processes meet the same errors and the main one says so; after :func:`started` each speaks.
    """
    sys.exit(exit_code(main))


def exit_code(main: Callable[[], int | None]) -> int:
    """Like :func:`run`, for callers that go on."""
    try:
        return main() or 0
    except USER_ERRORS as error:
        if _speaks():
            print(f"error{_who()}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        distributed.stop()


def started() -> None:
    """From now on an error may be of one process alone, which then has to report it itself."""
    global _started
    _started = True


def one_line(error: Exception) -> str:
    """An error's message; of one that a loader's worker passed on, the message at the end of its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^[\w.]+Error: ", "", lines[-1])


def _rank() -> int:
    if distributed.is_initialized():
        return distributed.rank()
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))


def _speaks() -> bool:
    return _started or _rank() == 0


def _who() -> str:
    return f" (process {_rank()})" if _started and _rank() > 0 else ""
