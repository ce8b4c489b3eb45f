import sys

print("error: this command has moved: python -m tools.search", file=sys.stderr)
sys.exit(2)
