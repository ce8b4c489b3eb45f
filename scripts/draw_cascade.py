"""The old name of `python -m tools.figures cascade`."""

import sys

if __name__ == "__main__":
    print("error: this command has moved: python -m tools.figures cascade", file=sys.stderr)
    sys.exit(2)
