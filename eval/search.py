"""The old name of `python -m tools.search`."""

import sys

if __name__ == "__main__":
    print("error: this command has moved: python -m tools.search", file=sys.stderr)
    sys.exit(2)
