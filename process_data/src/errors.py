"""The exception of the data-preparation scripts, and how it reaches the user."""

import sys
from collections.abc import Callable


class PrepareError(ValueError):
    """Wrong input or settings of a data-preparation script: what is wrong, where, and what to do, on one line."""


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; a PrepareError, or a file that cannot be read or written, becomes one line on stderr and
    exit code 2, Ctrl-C exit code 130."""
    try:
        main()
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        where = "" if error.filename is None else f" {error.filename}"
        print(f"error: cannot read or write{where} ({error.strerror or error}): check the path, the rights and the "
              "free space", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
