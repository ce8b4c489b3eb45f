"""The exception of the data-preparation scripts, and how it reaches the user."""

import sys
from collections.abc import Callable
from typing import NoReturn

from process_data.src.console import complain


class PrepareError(ValueError):
    """Wrong input or settings of a data-preparation script: what is wrong, where, and what to do, on one line."""


class VideoError(PrepareError):
    """A video that cannot be used, and is left out: why, without its name."""


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; a PrepareError, or a file that cannot be read or written, becomes one line on stderr and
    exit code 2, Ctrl-C exit code 130."""
    try:
        main()
    except PrepareError as error:
        _end(str(error))
    except OSError as error:
        where = "" if error.filename is None else f" {error.filename}"
        _end(f"cannot read or write{where} ({error.strerror or error}): check the path, the rights and the free space")
    except KeyboardInterrupt:
        complain("stopped; run the same command again to continue")
        sys.exit(130)


def _end(message: str) -> NoReturn:
    """Say what is wrong, on one line whatever names are in it, and end the script."""
    complain("error: " + message.replace("\n", "\\n"))
    sys.exit(2)
