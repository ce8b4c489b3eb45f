"""The old name of `python -m tools.benchmarks`."""

import sys

if __name__ == "__main__":
    print("error: this command has moved: python -m tools.benchmarks", file=sys.stderr)
    sys.exit(2)
