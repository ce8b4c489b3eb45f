"""The exception of the data-preparation scripts, and how it reaches the user."""

import sys
from collections.abc import Callable


class PrepareError(ValueError):
    """Wrong input or settings of a data-preparation script: what is wrong, where, and what to do, on one line."""


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; a PrepareError becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    try:
        main()
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
